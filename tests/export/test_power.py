"""What detectors see of damaged rows, and the weights that follow."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from export.crossing import crossed
from export.deciding import spared, why
from export.detectors import power, scorer
from export.detectors.fusion import Fusion
from export.detectors.places import PlaceDetector
from export.detectors.power import FEWEST_REFERENCE_ROWS, Power, power_of
from latentserve.inputs import INPUT


def test_power_is_the_auroc_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    usual, damaged = rng.normal(0, 1, (70, 4)), rng.normal([0, 0.5, 2, -1], 1, (33, 4))
    usual[:, 3], damaged[:, 3] = usual[:, 3].round(), damaged[:, 3].round()  # ties
    kinds = np.array(["spot", "scar", "blur"])[np.arange(33) % 3]
    got = power_of(usual, damaged, kinds)

    def expected(some: NDArray[Any]) -> list[float]:
        labels = np.repeat([0, 1], [70, len(some)])
        return [float(roc_auc_score(labels, np.r_[usual[:, k], some[:, k]])) for k in range(4)]

    np.testing.assert_allclose(got.auroc_K, expected(damaged), atol=1e-12)
    for row, kind in enumerate(["blur", "scar", "spot"]):
        np.testing.assert_allclose(got.auroc_DK[row], expected(damaged[kinds == kind]), atol=1e-12)
    assert (got.num_usual, got.num_damaged, *got.num_damaged_D) == (70, 33, 11, 11, 11)
    seen = np.maximum(0, got.auroc_DK - 0.5 - np.sqrt((70 + 11 + 1) / (12 * 70 * 11))) ** 4
    expected_K = seen.mean(axis=0) + 0.1**4
    np.testing.assert_allclose(got.weights, expected_K / expected_K.sum(), rtol=1e-12)


def test_what_is_blind_has_no_weight_and_what_sees_has_the_rest() -> None:
    rng, kinds = np.random.default_rng(1), np.arange(390) % 13
    got = power_of(rng.standard_normal((300, 3)), rng.normal([0, 1, -1], 1, (390, 3)), kinds)
    # damaged rows have lower scores in the last: turned round it would see, but that is no detector
    assert max(got.weights[0], got.weights[2]) < 0.04
    assert got.weights.sum() == pytest.approx(1)
    blind = power_of(rng.standard_normal((300, 2)), rng.normal(-0.2, 1, (390, 2)), kinds)
    assert (blind.auroc_DK > 0.5).any()
    assert not blind.weights.any()


def test_where_all_see_little_they_weigh_much_alike() -> None:
    rng, kinds = np.random.default_rng(1), np.arange(390) % 13
    got = power_of(rng.standard_normal((300, 5)), rng.normal([0.3, 0.2, 0.1, 0, 0], 1, (390, 5)), kinds)
    assert got.auroc_K[0] > 0.55
    assert 0.1 < got.weights.min() < got.weights[0] < 0.4


def test_what_sees_one_kind_as_nobody_else_does_keeps_a_weight() -> None:
    rng, kinds = np.random.default_rng(1), np.arange(400) % 4
    damaged = rng.standard_normal((400, 2))
    damaged[:, 0] += 1.5 * (kinds != 3)
    damaged[:, 1] += 2.5 * (kinds == 3)
    got = power_of(rng.standard_normal((300, 2)), damaged, kinds)
    assert got.auroc_K[0] > got.auroc_K[1] + 0.1
    assert got.weights[1] > 0.3


def test_the_weighted_column_is_the_mean_of_inverse_roots_of_p() -> None:
    rng = np.random.default_rng(2)
    reference, weights = rng.standard_normal((500, 3)).astype(np.float32), np.array([0.7, 0.3, 0.0])
    fusion, scores = Fusion(reference, None, weights), torch.from_numpy(rng.uniform(-2, 3, (40, 3)).astype(np.float32))
    got = fusion(scores).numpy()
    assert fusion.names == ("weighted", "cauchy", "bonferroni")
    p = np.exp(-fusion.surprise(scores).numpy())
    np.testing.assert_allclose(got[:, 0], np.log((weights / np.sqrt(p)).sum(axis=1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[:, 1:], Fusion(reference)(scores).numpy())
    for rows in (slice(3, 4), slice(3, 10)):
        np.testing.assert_array_equal(fusion(scores[rows]).numpy(), got[rows])


class Exposure(nn.Module):
    """Sees what is planted: another mean."""

    name: ClassVar[str] = "exposure"
    method: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)

    @classmethod
    def fit(cls, train: Any) -> Self:
        return cls()

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return (x_BHWC.flatten(1).float().mean(dim=1) - 97).abs()


class Blind(nn.Module):
    """Its score is a number that has nothing to do with the image."""

    name: ClassVar[str] = "blind"
    method: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)

    @classmethod
    def fit(cls, train: Any) -> Self:
        return cls()

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return embedding_BD[:, 0]


def images(num: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    values = (np.arange(12)[:, None, None] * 6 + rng.integers(60, 69, (num, 12, 12, 1))).astype(np.uint8)
    return {INPUT: values, "embedding": noise(values)["embedding"]}


def noise(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    seed = int(values.astype(np.int64).sum())
    return {"embedding": np.random.default_rng(seed).standard_normal((len(values), 2)).astype(np.float32)}


def lower(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"embedding": noise(values)["embedding"] - 9}


@pytest.fixture
def one_that_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [type(f"Blind{i}", (Blind,), {"name": f"blind_{i}"}) for i in range(6)]
    monkeypatch.setattr(scorer, "FITTED", (Exposure, *others))
    monkeypatch.setattr(scorer, "PLACES", ())


def auroc(usual: NDArray[Any], other: NDArray[Any]) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(usual), len(other)]), np.r_[usual, other]))


@pytest.mark.usefixtures("one_that_sees")
def test_one_that_sees_is_not_diluted_by_six_that_do_not() -> None:
    made = scorer.Scorer.fit(nn.Module(), images(800, 0), embed=noise)
    usual, faulty = images(300, 1), images(300, 2)
    faulty[INPUT][:, :4] += 1
    found = [auroc(*pair) for pair in zip(made.scores(usual).T, made.scores(faulty).T, strict=True)]
    of_name = dict(zip(made.names, found, strict=True))
    assert made.names[0] == "weighted"
    assert of_name["exposure"] > of_name["cauchy"] + 0.03
    assert of_name["weighted"] > of_name["exposure"] - 0.005
    assert made.weight_of("exposure")[1] > 0.9
    assert made.weight_of("weighted") == (None, 0.0)
    said = why(made)
    assert re.match(
        r"weighted decides, weighted by what detectors see of \d+ training rows that were damaged on purpose", said
    )
    assert "exposure 9" in said or "exposure 100%" in said
    again = scorer.Scorer.fit(nn.Module(), images(800, 0), embed=noise)
    np.testing.assert_array_equal(again.scores(usual), made.scores(usual))


@pytest.mark.usefixtures("one_that_sees")
def test_without_enough_rows_or_any_that_sees_the_fusion_of_all_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    few = scorer.Scorer.fit(nn.Module(), images(5 * (FEWEST_REFERENCE_ROWS - 1), 0), embed=noise)
    assert (few.names[0], few.power) == ("cauchy", None)
    assert "too few training rows are left" in why(few)
    monkeypatch.setattr(power, "damage", lambda values, seed: power_damage(values[:0]))
    assert scorer.Scorer.fit(nn.Module(), images(800, 0), embed=noise).power is None
    monkeypatch.setattr(power, "damage", lambda values, seed: power_damage(values))
    unseen = scorer.Scorer.fit(
        nn.Module(), images(800, 0), embed=lambda values: {"embedding": noise(values)["embedding"] - 9}
    )
    assert unseen.names[0] == "cauchy"
    assert unseen.power is not None
    assert not unseen.power.weights.any()
    assert why(unseen).startswith("cauchy decides; no detector tells apart 500 training rows that were damaged")


def power_damage(values: NDArray[Any]) -> Any:
    from export.damage import Damaged

    return Damaged(values, np.arange(len(values)), np.full(len(values), "nothing"), np.zeros(len(values)))


@pytest.mark.usefixtures("one_that_sees")
def test_what_is_dear_and_sees_no_more_than_others_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, usual = images(800, 0), images(300, 1)
    whole = scorer.Scorer.fit(nn.Module(), rows, embed=noise)
    monkeypatch.setattr(scorer, "DEAR", ("blind_2",))
    made = scorer.Scorer.fit(nn.Module(), rows, embed=noise)
    assert made.left_out == ("blind_2",)
    assert made.names == tuple(name for name in whole.names if name != "blind_2")
    assert spared(made).startswith("blind_2 is left out: other detectors see as much")
    columns = [whole.names.index(name) for name in made.names[3:]]
    np.testing.assert_array_equal(made.scores(usual)[:, 3:], whole.scores(usual)[:, columns])
    assert made.power is not None
    assert made.power.weights.sum() == pytest.approx(1)
    chosen = scorer.Scorer.fit(nn.Module(), rows, embed=noise, wanted=("blind_1", "blind_2", "exposure"))
    assert "blind_2" in chosen.names  # it was asked for
    monkeypatch.setattr(scorer, "DEAR", ("exposure",))
    seeing = scorer.Scorer.fit(nn.Module(), rows, embed=noise)
    assert (seeing.names, seeing.left_out) == (whole.names, ())


def test_what_is_dear_stays_where_it_sees_most_or_rows_are_too_few_to_tell() -> None:
    """The last column is the dear one: of every kind a little less than another that does not see the other kinds."""
    of_kinds, num = np.array([[0.9, 0.6, 0.88], [0.6, 0.9, 0.88]]), np.array([200, 200])
    assert Power(np.array([0.75, 0.75, 0.88]), of_kinds, 500, num).adds(2)
    assert not Power(np.array([0.89, 0.75, 0.88]), of_kinds, 500, num).adds(2)
    assert Power(np.array([0.89, 0.75, 0.88]), of_kinds, 99, num).adds(2)
    assert Power(np.array([0.89, 0.75, 0.88]), of_kinds + np.array([[0, 0, 0.06], [0, 0, 0]]), 500, num).adds(2)


@pytest.mark.usefixtures("one_that_sees")
def test_folds_have_the_detectors_of_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "DEAR", ("blind_2",))
    found = crossed(nn.Module(), images(800, 0), embed=noise)
    assert "blind_2" not in found.scorer.names
    assert found.scores.shape[1] == len(found.scorer.names)


def test_the_map_that_is_shown_is_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Map(PlaceDetector):
        name, method, inputs = "map", "", (INPUT,)

        @classmethod
        def fit(cls, train: Any) -> Self:
            return cls((1, 1))

        @staticmethod
        def features(*tensors: Tensor, shortest: float = 0.0) -> Tensor:
            return Exposure()(*tensors)[:, None, None, None]

        def raw(self, x_BhwF: Tensor) -> Tensor:
            return x_BhwF.squeeze(3)

    monkeypatch.setattr(scorer, "FITTED", (Exposure, Blind))
    monkeypatch.setattr(scorer, "PLACES", (Map,))
    monkeypatch.setattr(scorer, "DEAR", ("map",))
    made = scorer.Scorer.fit(nn.Module(), images(800, 0), embed=noise)  # it sees what `exposure` does
    assert (made.map_detector, made.left_out) == ("map", ())
