"""BatchNorm over the rows of all ranks: torch's own, `SyncBatchNorm`, works on GPUs alone.

    mean = mean_r m_r,   variance = mean_r [v_r + (m_r - mean)^2]        m_r, v_r: of the rows of rank r, as many each

Shape legend: B rows, C channels, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.lightning import LayerSync
from training.ranks import gathered, num_of_all, num_ranks


class _OverRanks(nn.modules.batchnorm._BatchNorm):
    """In training: moments of the rows of all ranks, with the gradient of all. Else as ever."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] or [B, C, ...], the same shape out."""
        if not self.training or num_ranks() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalised(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        variance_C, mean_C = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
        means_RC, variances_RC = gathered(torch.stack([mean_C, variance_C])[None]).unbind(dim=1)
        mean_C = means_RC.mean(dim=0)
        variance_C = (variances_RC + (means_RC - mean_C).square()).mean(dim=0)
        self._remember(mean_C.detach(), variance_C.detach(), num_of_all(x.numel() // x.shape[1]))
        scale_C = (variance_C + self.eps).rsqrt()
        if self.affine:
            scale_C = scale_C * self.weight
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        y = (x - mean_C.view(shape)) * scale_C.view(shape)
        return y + self.bias.view(shape) if self.affine else y

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor, num: int) -> None:
        """Moves the running statistics as `nn.BatchNorm2d` does: the variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C * num / (num - 1), share)


class _BatchNorm1d(_OverRanks, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_OverRanks, nn.BatchNorm2d):
    pass


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: _BatchNorm1d, nn.BatchNorm2d: _BatchNorm2d}


class NormsOverRanks(LayerSync):
    """Has a module's BatchNorms see all ranks while it is trained, in place: names and weights stay what they are."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Begins."""
        return _exchanged(model, KINDS)

    def revert(self, model: nn.Module) -> nn.Module:
        """Ends."""
        return _exchanged(model, {over: kind for kind, over in KINDS.items()})


def _exchanged(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]  # the rest of it is the same, and others may hold it
    return model


def check_norms(model: nn.Module) -> None:
    """Raises ValueError if the model has a BatchNorm that would see one rank alone."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in KINDS:
            raise ValueError(
                f"backbone: got {name}, a {type(module).__name__}, which several processes cannot share, expected"
                " a backbone of BatchNorm1d and BatchNorm2d alone, such as small or resnet18, or one process"
            )
