"""The simulated replicas, and Kubernetes' autoscaler by the words of its documentation."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from benchmarks.autoscaling.__main__ import ROOT, Options, engine_of
from benchmarks.autoscaling.autoscaler import Autoscaler, Down, Up
from benchmarks.autoscaling.fleet import arrivals, by, simulate
from benchmarks.autoscaling.replicas import Engine, Replica


def test_what_waits_becomes_one_batch_when_the_engine_is_free() -> None:
    replica = Replica(Engine(fixed=1.0, per_row=0.5, rows=3))
    queued, seconds, work = replica.run(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 9.0]), 10.0)
    # 0 alone until 1.5; 0.1, 0.2 and 0.3 until 4; 0.4 until 5.5; 9 alone
    np.testing.assert_allclose(queued, [0, 1.4, 1.3, 1.2, 3.6, 0])
    np.testing.assert_allclose(seconds, [1.5, 3.9, 3.8, 3.7, 5.1, 1.5])
    assert work == pytest.approx(7.0)


def test_what_is_cut_in_pieces_comes_out_the_same() -> None:
    load = arrivals(np.full(60, 40.0))
    engine = Engine(0.01, 0.01)
    whole, _, _ = Replica(engine).run(load, 1e9)
    replica, parts = Replica(engine), []
    for until in range(1, 200):
        parts.append(replica.run(load[(load >= until - 1) & (load < until)], until)[0])
    np.testing.assert_allclose(np.concatenate(parts), whole)


def test_full_batches_are_the_most_that_a_replica_does() -> None:
    engine = Engine(0.01, 0.01)
    _, seconds, work = Replica(engine).run(np.zeros(6400), 1e9)
    assert 6400 / seconds.max() == pytest.approx(engine.rate)
    assert work == pytest.approx(seconds.max())


def test_wanted_is_the_ready_ones_times_the_ratio_and_a_tenth_is_no_reason() -> None:
    assert Autoscaler(1.0, up=Up(0)).replicas(0, 3, 3, 1.05) == 3
    assert Autoscaler(1.0, up=Up(0)).replicas(0, 3, 3, 1.5) == 5
    assert Autoscaler(1.0, up=Up(0), most=4).replicas(0, 3, 3, 1.5) == 4
    assert Autoscaler(1.0, up=Up(0)).replicas(0, 4, 2, 1.5) == 4  # those that start are counted on


def test_growth_waits_for_the_lowest_of_its_window_and_at_most_doubles() -> None:
    scaler = Autoscaler(1.0, most=100)
    found = [scaler.replicas(now, 4, 4, metric) for now, metric in ((0, 1.0), (15, 9.0), (30, 9.0))]
    assert found == [4, 4, 8]
    assert scaler.replicas(45, 8, 4, 9.0) == 8  # the doubling was within thirty seconds


def test_the_fleet_shrinks_one_by_one_after_five_minutes() -> None:
    scaler, current, when = Autoscaler(1.0, fewest=1, down=Down()), 5, []
    scaler.replicas(0, 5, 5, 1.0)
    for now in range(15, 600, 15):
        new = scaler.replicas(now, current, current, 0.1)
        if new != current:
            when.append((now, new))
        current = new
    assert when == [(300, 4), (360, 3), (420, 2), (480, 1)]


def test_by_the_queue_replicas_come_and_go_under_a_steady_load() -> None:
    engine = Engine(0.0024, 0.0005)
    load = arrivals(np.full(480, 2.15 * engine.rate))
    queue = simulate(engine, load, 3, 20, by(2, 10, queue_ms=20))
    rows = simulate(engine, load, 3, 20, by(2, 10, rate=0.72 * engine.rate))
    assert len(np.concatenate(rows.seconds)) == len(load)
    assert {one.replicas for one in rows.periods} == {3}
    assert len({one.replicas for one in queue.periods}) > 2
    assert rows.late(0.25, 0, 99) < 0.01 < queue.late(0.25, 0, 99)


def test_numbers_are_those_of_the_manifest() -> None:
    manifest = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "autoscaling.yml").read_text())["spec"]
    up, down = manifest["behavior"]["scaleUp"], manifest["behavior"]["scaleDown"]
    scaler = Autoscaler(0.7)
    assert (manifest["minReplicas"], manifest["maxReplicas"]) == (scaler.fewest, scaler.most)
    assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (30, 300)
    assert (scaler.up.stabilization, scaler.down.stabilization) == (30, 300)
    assert up["policies"] == [{"type": "Percent", "value": scaler.up.percent, "periodSeconds": scaler.up.period}]
    assert down["policies"] == [{"type": "Pods", "value": scaler.down.pods, "periodSeconds": scaler.down.period}]
    assert manifest["metrics"][0]["pods"]["target"]["averageValue"] == "700m"


def test_a_batch_takes_what_was_measured() -> None:
    engine = engine_of(Options.bundle)
    assert engine.fixed > 0
    assert 1000 < engine.rate < 4000
    with pytest.raises(SystemExit, match="bundle: got 'none'"):
        engine_of("none")
