"""The table of abuses: a row of it, from the real server with an honest client beside the attacker."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.abuse import __main__ as abuse
from benchmarks.abuse.__main__ import ALL, QUICK, Effect, Options, Results, main, measured, table

EFFECT = Effect("ping", "http2", "sent 5", 100, 0, 1.0, 2.0, 3.0, 80.0, 90.0, 95.0, 0.5)


def test_a_row_says_what_an_honest_client_measured(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abuse, "SETTLE_SECONDS", 0.5)
    effect = measured("hpack_bomb", "http2", repository, QUICK)
    assert (effect.attack, effect.transport, effect.failed) == ("hpack_bomb", "http2", 0)
    assert effect.calls > 5
    assert 0 < effect.before_mib <= effect.peak_mib
    assert effect.stop_seconds > 0  # it drained
    assert table(Results((effect,)))[-1].startswith("| hpack_bomb | http2 |")


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"p99_ms": 101.0}, ["p99"]),
        ({"failed": 1}, ["failed"]),
        ({"after_mib": 97.0}, ["memory"]),
        ({"attack": "slow_senders", "did": "3 of 300 open"}, ["open"]),
        ({"stop_seconds": 0.0}, ["stop"]),
    ],
)
def test_what_was_missed_is_named(changed: dict[str, object], missed: list[str]) -> None:
    assert Effect(**(vars(EFFECT) | changed)).misses == missed  # type: ignore[arg-type]


def test_an_unknown_attack_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options(("moon",))) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ALL)
