from __future__ import annotations

import asyncio
import json
import logging
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from latentserve.bundle import CALIBRATION, EMBEDDING_STATISTICS, MANIFEST, sha256_of_file
from latentserve.conformal import at_most, p_values
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.api.embedding import EmbeddingServicer
from service.api.inference import Context, Inference
from service.config import Config, load_config
from service.models.engines import Workers
from service.observing.metrics import Metrics
from service.observing.monitor import EmbeddingDrift, Monitor, MonitorConfig, band
from service.observing.ranks import Ranks
from service.scheduling.instances import Instances
from tests.service.models.test_repository import load_repository

AUROC_95 = math.sqrt(2) * stats.norm.ppf(0.95)
"""A shift of a normal by so much gives this AUROC."""


def monitor(calibration: NDArray[Any], config: MonitorConfig | None = None, alpha: float = 0.05) -> Monitor:
    """Ties are drawn by a seed, so that a test does the same each time."""
    return Monitor("m/1", calibration, alpha, config or MonitorConfig(), ranks=Ranks(calibration, 0))


def feed(watching: Monitor, scores: Any) -> None:
    watching.observe(np.asarray(scores, np.float64)[:, None], None)


def contaminated(rng: np.random.Generator, num: int, share: float) -> NDArray[np.float64]:
    return rng.normal(size=num) + AUROC_95 * (rng.random(num) < share)


def test_without_a_shift_there_is_hardly_ever_an_alarm() -> None:
    """40 services of 1,000 rows at level 0.05: even at the bound more than 6 alarms come once in 70 times."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        watching = monitor(rng.normal(size=300), MonitorConfig(level=0.05))
        feed(watching, rng.normal(size=1000))
        alarms += watching.alarm_row is not None
    assert alarms <= 6


@pytest.mark.parametrize("num_clean", [0, 4000])
def test_contamination_is_seen_within_500_rows(num_clean: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        watching = monitor(rng.normal(size=1000))
        feed(watching, rng.normal(size=num_clean))
        assert watching.alarm_row is None
        feed(watching, contaminated(rng, 500, 0.2))
        assert watching.alarm_row is not None


def test_the_alarm_stays_while_window_and_wealth_say_what_is_so_now(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    watching = monitor(rng.normal(size=200), MonitorConfig(window_rows=300))
    feed(watching, contaminated(rng, 3000, 0.2))
    assert watching.alarms == {"e_process": True, "window": True}
    assert watching.log10_wealth > 8  # also after 3,000 rows: a shift that lasts does not become the norm
    feed(watching, rng.normal(size=1500))
    assert watching.alarms == {"e_process": True, "window": False}
    assert watching.log10_wealth < 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"m/1: scored rows are not like the calibration rows (row {watching.alarm_row})"]


def test_the_level_decides_how_much_wealth_is_needed() -> None:
    rows = []
    for level in (0.1, 0.01, 1e-6):
        rng = np.random.default_rng(0)
        watching = monitor(rng.normal(size=1000), MonitorConfig(level=level))
        for score in contaminated(rng, 500, 0.2):
            before = watching.log10_wealth
            feed(watching, [score])
            if watching.alarm_row:
                assert before < -math.log10(level) <= watching.log10_wealth
                break
        rows.append(watching.num_rows)
    assert rows == sorted(set(rows))


def test_one_request_of_many_rows_is_many_of_one() -> None:
    rng = np.random.default_rng(0)
    calibration, scores = rng.normal(size=400), contaminated(rng, 300, 0.1)
    together, apart = monitor(calibration), monitor(calibration)
    feed(together, scores)
    for score in scores:
        feed(apart, [score])
    assert (together.log10_wealth, together.share, together.num_rows) == (
        apart.log10_wealth,
        apart.share,
        apart.num_rows,
    )


def test_scores_that_are_not_finite_are_the_most_out_of_distribution() -> None:
    watching = monitor(np.arange(1000.0))
    feed(watching, [math.nan, math.inf, -math.inf, 500.0])
    assert watching.share == 0.75
    feed(watching, [math.nan] * 10)
    assert watching.alarm_row is not None


def test_a_single_outlier_now_and_then_is_no_shift() -> None:
    rng = np.random.default_rng(0)
    watching = monitor(rng.normal(size=5000))
    feed(watching, [math.nan])
    for _ in range(10):
        feed(watching, [*rng.normal(size=300), math.nan])
    assert watching.alarms == {"e_process": False, "window": False}


def test_scores_that_are_all_the_same_raise_nothing() -> None:
    watching = monitor(np.ones(1000, np.float32))
    feed(watching, np.ones(3000))
    assert watching.alarms == {"e_process": False, "window": False}


def test_each_service_draws_ties_of_its_own() -> None:
    """One seed for all put every service's ties on the same side of its threshold: 12 % left a band of level 5 %."""
    shares = set()
    for _ in range(10):
        watching = Monitor("m/1", np.ones(100, np.float32), 0.05, MonitorConfig())
        feed(watching, np.ones(1000))
        shares.add(watching.share)
    assert len(shares) > 1


@pytest.mark.parametrize(
    ("num", "alpha", "num_small"), [(99, 0.29, 29), (9, 1 - 0.9, 1), (9, 0.0999, 0), (4, 0.999, 4)]
)
def test_the_p_values_that_are_small_are_counted_exactly(num: int, alpha: float, num_small: int) -> None:
    watching = monitor(np.arange(float(num)), alpha=alpha)
    feed(watching, [*np.arange(num) + 0.5, -1.0])  # one for each p-value
    assert watching.share == pytest.approx(num_small / (num + 1))


@settings(max_examples=30, deadline=None)
@given(num=st.integers(1, 60), alpha=st.floats(0.001, 0.9), seed=st.integers(0, 9), window=st.integers(1, 30))
def test_the_share_is_that_of_the_last_p_values(num: int, alpha: float, seed: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    calibration, scores = np.sort(rng.normal(size=num)), rng.normal(size=25) + 1
    watching = monitor(calibration, MonitorConfig(window_rows=window), alpha)
    feed(watching, scores)
    assert watching.share == np.mean(at_most(p_values(scores, calibration)[-window:], alpha))


@settings(max_examples=80, deadline=None)
@given(
    num=st.integers(0, 3000), num_calibration=st.integers(1, 5000), where=st.floats(0, 1), level=st.floats(1e-4, 0.2)
)
def test_the_band_is_that_of_the_beta_binomial(num: int, num_calibration: int, where: float, level: float) -> None:
    k = max(1, round(where * num_calibration))
    low, high = band(num, k, num_calibration, level)
    count = stats.betabinom(num, k, num_calibration + 1 - k)
    near = 1e-6  # lgamma in floats
    assert count.cdf(low - 1) <= level / 2 + near
    assert count.cdf(low) > level / 2 - near
    assert count.sf(high) <= level / 2 + near
    assert high == 0 or count.sf(high - 1) >= level / 2 - near


def test_the_band_is_wider_than_if_the_rate_were_alpha_itself() -> None:
    low, high = band(1000, 50, 999, 0.01)
    binomial = stats.binom(1000, 0.05)
    assert (low, high) == (28, 78)
    assert (binomial.ppf(0.005), binomial.ppf(0.995)) == (33, 69)


@pytest.mark.parametrize(("num_small", "alarm"), [(0, True), (26, True), (27, False), (77, False), (78, True)])
def test_the_window_alarms_outside_its_band_on_either_side(num_small: int, alarm: bool) -> None:
    assert band(1000, 50, 1000, 0.01) == (27, 77)
    watching = monitor(np.arange(1000.0))
    feed(watching, np.random.default_rng(0).permutation([1e9] * num_small + [0.5] * (1000 - num_small)))
    assert watching.share == num_small / 1000
    assert watching.alarms["window"] is alarm


def test_an_alpha_that_no_p_value_reaches_is_no_alarm() -> None:
    watching = monitor(np.arange(10.0), alpha=0.01)
    feed(watching, [100.0, math.nan])
    assert (watching.share, watching.band, watching.alarms["window"]) == (0, (0, 0), False)


def test_before_the_first_row_there_is_nothing_to_say() -> None:
    watching = monitor(np.arange(10.0))
    assert math.isnan(watching.share)
    assert all(math.isnan(edge) for edge in watching.band)
    assert (watching.log10_wealth, watching.alarms) == (0, {"e_process": False, "window": False})


def drift(seed: int, dims: int = 32, config: MonitorConfig | None = None) -> tuple[EmbeddingDrift, np.random.Generator]:
    rng = np.random.default_rng(seed)
    calibration = rng.normal(3, 2, (500, dims)).astype(np.float32)
    return EmbeddingDrift(calibration.mean(0), calibration.std(0), 500, config or MonitorConfig()), rng


@pytest.mark.parametrize("num_requests", [20, 60])
def test_without_a_shift_drift_is_1_however_few_or_many_rows(num_requests: int) -> None:
    """The window is 400 rows: 200 are averaged plainly, 600 with weights that fall."""
    values = []
    for seed in range(40):
        drifting, rng = drift(seed, config=MonitorConfig(window_rows=400))
        for _ in range(num_requests):
            drifting.observe(rng.normal(3, 2, (10, 32)).astype(np.float32))
        values.append(drifting.value)
        assert not drifting.alarm
    assert np.mean(values) == pytest.approx(1, abs=0.12)  # 1,280 squares: a standard error of 0.04


def test_the_level_holds_if_all_dimensions_are_one() -> None:
    alarms = 0
    for seed in range(300):
        drifting, rng = drift(seed, dims=1, config=MonitorConfig(level=0.1))
        drifting.observe(rng.normal(3, 2, (500, 1)).astype(np.float32))
        alarms += drifting.alarm
    assert stats.binomtest(alarms, 300, 0.1).pvalue > 0.01


def test_a_shift_of_the_mean_is_seen_and_forgotten() -> None:
    drifting, rng = drift(0)
    for shift, seen in ((0.5, True), (0.0, False)):
        for _ in range(300):
            drifting.observe(rng.normal(3 + shift, 2, (10, 32)).astype(np.float32))
        assert drifting.alarm is seen


def test_a_longer_window_takes_longer_to_forget() -> None:
    values = []
    for window in (50, 5000):
        drifting, rng = drift(0, config=MonitorConfig(window_rows=window))
        for shift in (1.0, 0.0):
            drifting.observe(rng.normal(3 + shift, 2, (500, 32)).astype(np.float32))
        values.append(drifting.value)
    assert values[0] < 2
    assert values[1] > 10


def test_embeddings_that_are_no_numbers_and_dimensions_that_never_vary_are_left_out() -> None:
    drifting = EmbeddingDrift(np.zeros(2, np.float32), np.array([1, 0], np.float32), 100, MonitorConfig())
    assert math.isnan(drifting.value)
    drifting.observe(np.array([[5.0, 9.0]], np.float32))
    drifting.observe(np.array([[np.nan, 0.0]], np.float32))
    drifting.observe(np.array([[np.inf, 0.0], [0.0, 0.0]], np.float32))
    assert drifting.num_rows == 1
    assert drifting.value == pytest.approx(25 / (1 + 1 / 100))
    assert not drifting.alarm  # too few
    drifting.observe(np.full((99, 2), 0.5, np.float32))
    assert drifting.alarm


@pytest.fixture
def models(copied_bundle: Path) -> Path:
    """Version 1 as it was exported, less what is said of embeddings, and version 2 with it."""
    with np.load(copied_bundle / CALIBRATION) as arrays:
        scores = {name: array for name, array in arrays.items() if name not in EMBEDDING_STATISTICS}
    other = copied_bundle.with_name("2")
    shutil.copytree(copied_bundle, other)
    statistics = {"embedding_mean": np.zeros(32, np.float32), "embedding_std": np.ones(32, np.float32)}
    for folder, held in ((copied_bundle, scores), (other, scores | statistics)):
        np.savez(folder / CALIBRATION, **held)
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"] | {CALIBRATION: sha256_of_file(folder / CALIBRATION)}
        (folder / MANIFEST).write_text(json.dumps(manifest | {"version": int(folder.name), "files": files}))
    return copied_bundle.parents[1]


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(Instances(), ThreadPoolExecutor(1))
    yield made
    made.shutdown()


def settings_of(models: Path, *arguments: str) -> Config:
    return load_config(["--models", str(models), "--device", "cpu", "--max-batch-rows", "8", *arguments])


def test_each_version_has_a_monitor_of_its_own_and_a_restart_begins_afresh(models: Path, workers: Workers) -> None:
    metrics = Metrics()
    config = settings_of(models, "--monitor-window-rows", "20", "--monitor-level", "0.1")
    repository = load_repository(config.models_config, metrics, workers)
    old, new = repository.find("", 1).monitor, repository.find("", 2).monitor
    assert old
    assert new
    old.observe(np.full((30, 1), 1e9, np.float32), None)
    new.observe(np.array([[-1e9], [1e9]], np.float32), np.ones((2, 32), np.float32))

    def value(name: str, version: str, **more: str) -> float | None:
        labels = {"model": "digits-vae", "version": version} | more
        return metrics.registry.get_sample_value(f"latentserve_monitor_{name}", labels)

    assert (value("rows", "1"), value("rows", "2")) == (30, 2)
    assert (value("window_share", "1"), value("window_share", "2")) == (1, 0.5)
    assert (value("band_low", "1"), value("band_high", "1")) == (0, 0.15)  # of 20 rows, at level 0.1
    assert value("alarm", "1", kind="e_process") == 1
    assert value("alarm", "2", kind="e_process") == 0
    assert value("alarm", "1", kind="window") == 1
    assert value("e_process_log10", "1") == old.log10_wealth > 10
    assert value("embedding_drift", "2") == pytest.approx(1 / (1 / 2 + 1 / 300))
    assert value("alarm", "2", kind="embedding") == 0
    assert value("embedding_drift", "1") is value("alarm", "1", kind="embedding") is None
    again = load_repository(settings_of(models).models_config, Metrics(), workers).find("", 1).monitor
    assert again
    assert (again.num_rows, again.alarm_row, again.log10_wealth) == (0, None, 0)


def test_what_is_scored_and_embedded_is_seen(models: Path, workers: Workers, digits: NDArray[np.uint8]) -> None:
    config, metrics = settings_of(models), Metrics()
    repository = load_repository(config.models_config, metrics, workers)
    servicer = EmbeddingServicer(Inference(repository, metrics), repository, config.max_request_bytes)

    async def ask() -> None:
        lanes = [lane for model in repository.served() for lane in model.queues.values()]
        running = [asyncio.create_task(lane.run()) for lane in lanes]
        five, three = (pb.Input(tensor=to_tensor(digits[:num])) for num in (5, 3))
        for version in (1, 2):
            model = pb.ModelSelector(version=version)
            await servicer.score(pb.ScoreRequest(model=model, input=five), Context("Score"))
            await servicer.embed(pb.EmbedRequest(model=model, input=three), Context("Embed"))
            outputs = [pb.OUTPUT_SCORE, pb.OUTPUT_LATENT]
            await servicer.analyze(pb.AnalyzeRequest(model=model, input=three, outputs=outputs), Context("Analyze"))
        for lane in lanes:
            lane.drain()
        await asyncio.gather(*running)

    asyncio.run(ask())
    old, new = repository.find("", 1).monitor, repository.find("", 2).monitor
    assert old
    assert new
    assert new.drift
    assert (old.num_rows, old.drift) == (8, None)
    assert (new.num_rows, new.drift.num_rows) == (8, 11)
    assert old.log10_wealth == new.log10_wealth
