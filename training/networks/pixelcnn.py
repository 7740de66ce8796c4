"""Gated PixelCNN: a network whose output at a place depends on the places before it alone, in raster order.

Two stacks of convolutions go over the image. The vertical one sees all rows above a place, the horizontal one what lies
to the left of it in its own row and, at each layer, what the vertical one found there. So together they see everything
that comes before: a single stack of masked convolutions has a blind spot to the right above.

    v' = v + tanh(a_v) sigmoid(b_v),     a_v, b_v = conv(v) + V_v c                                     (eq. 2 and 4)
    h' = h + P tanh(a_h) sigmoid(b_h),   a_h, b_h = conv(h) + U v' + V_h c

c is a condition, if there is one: a vector, the same at each place, or a map. For pixels the first layers see x moved
down by a row and to the right by a pixel; after that a place may see itself. So nothing is masked: a kernel holds no
weight that is always zero, and a padded convolution takes the place of one with a mask.

Sources: van den Oord et al., Conditional image generation with PixelCNN decoders, https://arxiv.org/abs/1606.05328;
shifts in place of masks, and a channel of ones that tells a border from black: Salimans et al., PixelCNN++,
https://arxiv.org/abs/1701.05517.

What is ours: the vertical stack has a residual, too, and gives the horizontal one its F features after the gate, not
the 2 F before it, which would be a tenth more products.

Shape legend: B rows, C channels, H height, W width, F features, O outputs of a place, L layers, D condition vector,
M condition map's channels, K ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_KERNEL = 7  # as in table 1 of PixelRNN, https://arxiv.org/abs/1601.06759


@dataclass(frozen=True)
class PixelCnnSize:
    """How large the network is.

    Attributes:
        width: features of a place, F.
        num_layers: gated layers, L, the first one included.
        kernel: side of the square that a layer's receptive field is the upper half of; odd. The first one's is 7.
    """

    width: int = 32
    num_layers: int = 7
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.num_layers < 1:
            raise ValueError(f"width, num_layers: got {self.width}, {self.num_layers}, expected 1 or more")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel: got {self.kernel}, expected an odd number of 3 or more")

    @property
    def reach(self) -> int:
        """How many rows above, and columns to the left, a place sees."""
        return FIRST_KERNEL // 2 + (self.num_layers - 1) * (self.kernel // 2)


class Causal(nn.Conv2d):
    """A convolution over the rows down to a place's own, or over the columns up to its own: padded on one side."""

    def __init__(self, features: int, outputs: int, rows: int, before: int, after: int) -> None:
        """Takes `rows` rows, and of them `before` columns before a place, its own, and `after` after it."""
        super().__init__(features, outputs, (rows, before + 1 + after))
        self.margins = (before, after, rows - 1, 0)  # left, right, top, bottom

    def forward(self, x_BFHW: Tensor) -> Tensor:
        """As large as the input."""
        return super().forward(F.pad(x_BFHW, self.margins))


def gated(ab_BFHW: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of features [B, 2 F, H, W] -> [B, F, H, W]."""
    a_BFHW, b_BFHW = ab_BFHW.chunk(2, dim=1)
    return a_BFHW.tanh() * b_BFHW.sigmoid()


class Gated(nn.Module):
    """One layer of both stacks.

    Args:
        vertical: its convolution, to 2 F features.
        horizontal: the same.
        width: features, F.
        condition: channels of the condition, D or M; 0: there is none.
        residual: whether the stacks are of F features already.
    """

    def __init__(self, vertical: Causal, horizontal: Causal, width: int, condition: int, residual: bool) -> None:
        super().__init__()
        self.vertical, self.horizontal = vertical, horizontal
        self.down = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1)
        self.conditions = nn.Conv2d(condition, 4 * width, 1, bias=False) if condition else None
        self.residual = residual

    def forward(self, v_BFHW: Tensor, h_BFHW: Tensor, c_BMHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks' next features."""
        ab_v, ab_h = self.vertical(v_BFHW), self.horizontal(h_BFHW)
        if self.conditions is not None:
            c_v, c_h = self.conditions(c_BMHW).chunk(2, dim=1)
            ab_v, ab_h = ab_v + c_v, ab_h + c_h
        seen_BFHW = gated(ab_v) + v_BFHW if self.residual else gated(ab_v)
        left_BFHW = self.out(gated(ab_h + self.down(seen_BFHW)))
        return seen_BFHW, left_BFHW + h_BFHW if self.residual else left_BFHW


class PixelCnn(nn.Module):
    """float [B, C, H, W] -> outputs [B, O, H, W], of which those at a place depend on the places before it alone.

    Args:
        channels: of the input, C.
        outputs: of a place, O.
        size: of the network.
        condition: channels of the condition, D or M; 0: there is none.
    """

    def __init__(self, channels: int, outputs: int, size: PixelCnnSize, condition: int = 0) -> None:
        super().__init__()
        width, half, first = size.width, size.kernel // 2, FIRST_KERNEL // 2
        layers = [
            Gated(
                Causal(channels + 1, 2 * width, first, first, first),
                Causal(channels + 1, 2 * width, 1, first - 1, 0),
                *(width, condition, False),
            )
        ]
        for _ in range(size.num_layers - 1):
            vertical, horizontal = (
                Causal(width, 2 * width, half + 1, half, half),
                Causal(width, 2 * width, 1, half, 0),
            )
            layers.append(Gated(vertical, horizontal, width, condition, True))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, outputs, 1)
        )

    def features(self, x_BCHW: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The horizontal stack after each layer, [B, F, H, W] each.

        Args:
            x_BCHW: the image.
            condition: a vector [B, D] or a map [B, M, H, W]; of a map as many rows are taken as the image has.
        """
        if condition is not None:
            condition = condition[:, :, None, None] if condition.ndim == 2 else condition[:, :, : x_BCHW.shape[2]]
        ones_B1HW = torch.ones_like(x_BCHW[:, :1])
        x_BCHW = torch.cat([x_BCHW, ones_B1HW], dim=1)
        v_BFHW, h_BFHW = F.pad(x_BCHW, (0, 0, 1, 0))[:, :, :-1], F.pad(x_BCHW, (1, 0))[:, :, :, :-1]
        found = []
        for layer in self.layers:
            v_BFHW, h_BFHW = layer(v_BFHW, h_BFHW, condition)
            found.append(h_BFHW)
        return found

    def forward(self, x_BCHW: Tensor, condition: Tensor | None = None) -> Tensor:
        """See the class and `features`."""
        outputs_BOHW: Tensor = self.head(self.features(x_BCHW, condition)[-1])
        return outputs_BOHW


def drawn(net: Callable[[Tensor], Tensor], draw: Callable[[Tensor], Tensor], x_BCHW: Tensor) -> Tensor:
    """Fills images in, place by place in raster order: a pass of the network for each place, so for pictures only.

    Args:
        net: images [B, C, h, W], of all rows down to some place, to outputs [B, O, h, W].
        draw: outputs of one place [B, O] to what is there [B, C].
        x_BCHW: images whose content does not matter, for their shape.
    """
    x_BCHW = torch.zeros_like(x_BCHW)
    height, width = x_BCHW.shape[2:]
    with torch.no_grad():
        for row in range(height):
            for column in range(width):
                outputs_BOHW = net(x_BCHW[:, :, : row + 1])  # nothing below can matter
                x_BCHW[:, :, row, column] = draw(outputs_BOHW[:, :, row, column])
    return x_BCHW


class GridPrior(nn.Module):
    """p(codes) of grids [B, H, W] of integers from 0 to K - 1, with a softmax over K at each place.

    Args:
        num_ways: K.
        size: of the network.
        condition: channels of the condition; 0: there is none.
    """

    def __init__(self, num_ways: int, size: PixelCnnSize, condition: int = 0) -> None:
        super().__init__()
        self.embedded = nn.Embedding(num_ways, size.width)
        self.net = PixelCnn(size.width, num_ways, size, condition)

    def logits(self, codes_BHW: Tensor, condition: Tensor | None = None) -> Tensor:
        """[B, K, H, W], of the code at each place given those before it."""
        logits_BKHW: Tensor = self.net(self.embedded(codes_BHW).permute(0, 3, 1, 2), condition)
        return logits_BKHW

    def nll(self, codes_BHW: Tensor, condition: Tensor | None = None) -> Tensor:
        """-log p(codes) of each row, [B], nats."""
        # -sum_i log softmax(logits_i)[code_i]
        nll_BHW = F.cross_entropy(self.logits(codes_BHW, condition), codes_BHW, reduction="none")
        return nll_BHW.flatten(1).sum(dim=1)

    def sample(self, num_rows: int, height: int, width: int, condition: Tensor | None = None) -> Tensor:
        """Grids drawn from p, int64 [B, H, W]; one pass for each place."""
        grid_B1HW = torch.zeros(num_rows, 1, height, width, dtype=torch.long, device=self.embedded.weight.device)
        return drawn(
            lambda codes_B1hW: self.logits(codes_B1hW[:, 0], condition),
            lambda logits_BK: torch.multinomial(logits_BK.softmax(dim=1), 1),
            grid_B1HW,
        )[:, 0]
