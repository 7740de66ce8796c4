"""Small torch modules that a user could bring: factories for `python:tests.export.sources.tiny:NAME`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 24


class Net(nn.Module):
    """A convolution, and pooling unless the map is wanted."""

    def __init__(self, pooled: bool = True, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.pooled = nn.Conv2d(3, 8, 5, 4), norm or nn.BatchNorm2d(8), pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return x.mean(dim=(2, 3)) if self.pooled else x


def net() -> nn.Module:
    return Net()


def broken() -> nn.Module:
    network = Net()
    nn.init.constant_(network.conv.weight, float("nan"))
    return network


def dead() -> nn.Module:
    network = Net()
    nn.init.constant_(network.conv.bias, -1000.0)
    return network


def places() -> nn.Module:
    return Net(pooled=False)


def batch_norm_of_the_batch() -> nn.Module:
    return Net(norm=nn.BatchNorm2d(8, track_running_stats=False))


class Sequence(nn.Module):
    """Nine tokens, the first of the class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x[:, :, :4, :4].flatten(2).transpose(1, 2))
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


def sequence() -> nn.Module:
    return Sequence()


class NotFinite(Net):
    """Divides by what a black image has none of."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / x.sum(dim=(1, 2, 3))[:, None]


def not_finite() -> nn.Module:
    return NotFinite()


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 8, 64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, None]).abs().mean(dim=2)


def sound() -> nn.Module:
    return Sound()


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def two() -> nn.Module:
    return Two()


def number() -> int:
    return 7


def with_arguments(path: str) -> nn.Module:
    return net()


def fails() -> nn.Module:
    raise OSError("no weights here")


not_a_function = 3


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * 2**28, device="meta"))


def large() -> nn.Module:
    return Large()


class Otherwise(nn.Module):
    """Rows by themselves have no deviation."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        embedding = x.mean(dim=(2, 3))
        if self.dtype is not None:
            return embedding.to(self.dtype)
        off = embedding - embedding.mean(dim=0)
        return off / (off.square().sum(dim=0) / (len(x) - 1)).sqrt()


def deviation_of_the_batch() -> nn.Module:
    return Otherwise(None)


class Dropout(Net):
    """Left on, whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), training=True)


def dropout() -> nn.Module:
    return Dropout()


class Talking(Net):
    def forward(self, x: Tensor) -> Tensor:
        print("forward", list(x.shape))
        return super().forward(x)


def talking() -> nn.Module:
    print("loading weights")
    return Talking()


def halves() -> nn.Module:
    return Otherwise(torch.float16)


def scripted() -> nn.Module:
    return torch.jit.ScriptModule()


def ends() -> nn.Module:
    raise SystemExit("no network here")
