from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from training.networks.pixelcnn import GridPrior, PixelCnn, PixelCnnSize, drawn

HEIGHT, WIDTH = 7, 9


def dependence(net: PixelCnn, condition: Tensor | None = None) -> Tensor:
    """Whether the outputs at a place depend on the input at another, [places, places]."""
    x = torch.randn(1, 2, HEIGHT, WIDTH, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, condition).sum(dim=1).flatten(), x)
    found: Tensor = jacobian[:, 0].abs().sum(dim=1).flatten(1) > 0
    return found


def expected(reach: int) -> Tensor:
    """All places before in raster order, as far as the receptive field reaches."""
    places = [*itertools.product(range(HEIGHT), range(WIDTH))]
    return torch.tensor(
        [
            [(r, c) < (row, column) and row - r <= reach and abs(column - c) <= reach for r, c in places]
            for row, column in places
        ]
    )


@pytest.mark.parametrize(("num_layers", "kernel"), [(1, 3), (2, 3), (2, 5), (4, 3)])
@pytest.mark.parametrize("condition", ["none", "vector", "map"])
def test_a_place_sees_every_place_before_it_within_reach_and_no_other(
    num_layers: int, kernel: int, condition: str
) -> None:
    torch.manual_seed(0)
    size = PixelCnnSize(4, num_layers, kernel)
    given = {"none": None, "vector": torch.randn(1, 3), "map": torch.randn(1, 3, HEIGHT, WIDTH)}[condition]
    net = PixelCnn(2, 3, size, 0 if given is None else 3).double()
    net.head[0] = net.head[2] = nn.Softplus()  # a ReLU that is off would hide what a place sees
    got = dependence(net, None if given is None else given.double())
    assert torch.equal(got, expected(size.reach))


def test_each_kind_of_condition_changes_every_place() -> None:
    torch.manual_seed(0)
    net = PixelCnn(1, 2, PixelCnnSize(4, 2), 3)
    x, vector = torch.rand(2, 1, HEIGHT, WIDTH), torch.randn(2, 3)
    assert ((net(x, vector) - net(x, vector + 1)).abs().sum(dim=1) > 0).all()
    same = vector[:, :, None, None].expand(-1, -1, HEIGHT, WIDTH)
    torch.testing.assert_close(net(x, same), net(x, vector))  # a vector is a map that is the same everywhere
    moved = same.clone()
    moved[:, :, 3, 4] += 1
    changed = (net(x, moved) - net(x, same)).abs().sum(dim=(0, 1)) > 0
    assert changed[3, 4]
    assert not changed[:3].any()  # a row above sees nothing of it
    assert changed[4, 3:6].all()
    torch.testing.assert_close(net(x[:, :, :2], moved), net(x, moved)[:, :, :2])  # the rows of a part of an image


def prior(num_ways: int = 3) -> GridPrior:
    torch.manual_seed(0)
    return GridPrior(num_ways, PixelCnnSize(8, 2)).double()


def test_the_probabilities_of_all_grids_sum_to_one() -> None:
    """Holds only if no place sees itself or what comes after it."""
    grids = torch.tensor([*itertools.product(range(3), repeat=6)]).view(-1, 2, 3)
    total = (-prior().nll(grids)).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-9)


def test_the_nll_of_a_grid_is_the_sum_over_its_places_one_at_a_time() -> None:
    codes, total = torch.randint(0, 3, (1, 3, 4)), 0.0
    for row, column in itertools.product(range(3), range(4)):
        seen = codes.clone()
        seen.flatten(1)[:, row * 4 + column :] = 0  # what is not known yet
        total -= prior().logits(seen).log_softmax(dim=1)[0, codes[0, row, column], row, column].item()
    assert prior().nll(codes).item() == pytest.approx(total)


def test_samples_are_as_frequent_as_they_are_likely() -> None:
    model = prior(2)
    torch.manual_seed(1)
    codes = model.sample(4000, 1, 2)
    assert codes.shape == (4000, 1, 2)
    for grid in itertools.product(range(2), repeat=2):
        share = (codes[:, 0] == torch.tensor(grid)).all(dim=1).double().mean().item()
        assert share == pytest.approx(math.exp(-model.nll(torch.tensor(grid).view(1, 1, 2)).item()), abs=0.03)


def test_images_are_filled_in_from_what_was_drawn_before() -> None:
    """Each place becomes one more than the mean of what is to the left of it: 0, 1, 1.5, ..."""

    def mean_of_left(x: Tensor) -> Tensor:
        return torch.stack([x[..., :column].mean(-1).nan_to_num(0) for column in range(x.shape[-1])], dim=-1)

    got = drawn(mean_of_left, lambda outputs: outputs + 1, torch.zeros(1, 1, 2, 3))
    assert got[0, 0].tolist() == [[1, 2, 2.5], [1, 2, 2.5]]


@pytest.mark.parametrize("size", [{"width": 0}, {"num_layers": 0}, {"kernel": 4}, {"kernel": 1}])
def test_a_size_that_makes_no_network_is_rejected(size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"got .*, expected"):
        PixelCnnSize(**size)
