"""What one peer can do to the others, a second or two of each attack; `python -m benchmarks.abuse` does all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.abuse import __main__ as abuse
from benchmarks.abuse import honest
from benchmarks.abuse.__main__ import ALL, QUICK, Effect, measured


@pytest.mark.ops
@pytest.mark.parametrize("transport", ["http2", "grpcio"])
@pytest.mark.parametrize(
    "attack", [name for name in ALL if name != "slow_senders"]
)  # whom a quick look does not outlast
def test_an_attack_fails_nobody_elses_call_and_leaves_nothing_behind(
    attack: str, transport: abuse.Transport, repository: Path
) -> None:
    effect = measured(attack, transport, repository, QUICK)
    assert not set(effect.misses) - {"p99"}, effect  # times are the benchmark's


@pytest.mark.slow
def test_an_attack_that_both_transports_stand_is_measured_beside_an_honest_caller(repository: Path) -> None:
    effect = measured("empty_continuation", "grpcio", repository, QUICK)
    assert not set(effect.misses) - {"p99"}, effect
    assert effect.calls > 0
    assert 0 < effect.before_mib <= effect.peak_mib
    assert effect.did.endswith("open")


def test_a_stall_counts_for_all_the_calls_that_it_kept_from_being_made() -> None:
    seconds = honest.due([0.001] * 98 + [5.0])
    assert len(seconds) == 98 + 100
    assert sorted(seconds)[98:] == pytest.approx([0.05 * number for number in range(1, 101)])
    assert honest.due([0.04, 0.09]) == [0.04, 0.09]


def effect(**changed: object) -> Effect:
    fields: dict[str, object] = {"attack": "ping", "transport": "http2", "did": "5 MiB", "calls": 9, "failed": 0}
    fields |= {"p50_ms": 1.0, "p99_ms": 100.0, "max_ms": 900.0, "before_mib": 100.0, "peak_mib": 999.0}
    return Effect(**{**fields, "after_mib": 116.0, "stop_seconds": 1.0, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"p99_ms": 100.1}, ["p99"]),
        ({"failed": 1}, ["failed"]),
        ({"after_mib": 116.1}, ["memory"]),
        ({"stop_seconds": 0.0}, ["stop"]),
        ({"attack": "slow_senders", "did": "0 of 300 open"}, []),
        ({"attack": "slow_senders", "did": "1 of 300 open"}, ["open"]),
    ],
)
def test_what_misses_an_aim_is_said(changed: dict[str, object], missed: list[str]) -> None:
    assert effect(**changed).misses == missed


def test_a_row_measured_again_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(abuse, "RESULTS", tmp_path / "abuse.json")
    for one in (effect(), effect(transport="grpcio"), effect(attack="idle"), effect(failed=3)):
        abuse.record(one)
    assert abuse.main(abuse.Options(table=True)) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("| ping", "http2", "3 of 9"),
        ("| ping", "grpcio", "0 of 9"),
        ("| idle", "http2", "0 of 9"),
    ]
    assert abuse.main(abuse.Options(names=("pong",))) == 1
    assert "expected some of nothing, rapid_reset" in capsys.readouterr().err
