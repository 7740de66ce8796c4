"""What one peer can do to the others: attacks on the running server, each with an honest client beside it.

    python -m benchmarks.abuse                               every attack on both transports: half an hour
    python -m benchmarks.abuse ping windows --transport http2
    python -m benchmarks.abuse --quick                       a second or two of each, a tenth of the connections
    python -m benchmarks.abuse --record                      writes docs/results/abuse.json, row by row
    python -m benchmarks.abuse --table                       what is recorded, as Markdown

Each attack meets a server of its own (bundle of `make demo`). Targets: the honest client's p99 is at most 100 ms, none
of its calls fails, the server's memory is back within 16 MiB of before once the attacker is gone, and it stops when
told. `nothing` is the control: what this machine does to an honest client without any attack.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import tyro

from benchmarks.abuse.attacks import FLOODS, Attack, Effort, Held
from benchmarks.abuse.honest import HonestClient
from benchmarks.abuse.peer import Peer
from benchmarks.abuse.slow_peers import SLOW
from benchmarks.processes.served import ServedProcess
from latentserve import records

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "abuse.json"
MODELS = Path("build") / "demo-digits" / "models"
Transport = Literal["http2", "grpcio"]
MOST_P99_MS, MOST_MIB = 100.0, 16.0
FILE_DESCRIPTORS = 64
SETTLE_SECONDS = 5.0
"""For the server to notice that the attacker has gone, and to give back what it held for it."""
QUICK = Effort(seconds=1.5, share=0.1, patience_seconds=3.0)


@dataclass(frozen=True)
class Options:
    """Attacks a server.

    Attributes:
        names: attacks to run; default: all.
        transport: transport of the server, http2 or grpcio; default: both.
        models: model repository; `make demo` makes the default one.
        quick: run each attack for a second or two.
        record: write docs/results/abuse.json.
        table: print what is recorded, attack nothing.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    transport: Transport | None = None
    models: Path = MODELS
    quick: bool = False
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Effect:
    """Of one attack.

    Attributes:
        attack: its name.
        transport: of the server.
        did: what the attacker got done.
        calls: of the honest client.
        failed: of them.
        p50_ms: of them.
        p99_ms: of them.
        max_ms: of them.
        before_mib: the server's resident memory.
        peak_mib: while it was attacked.
        after_mib: once the attacker had gone.
        stop_seconds: from SIGTERM to its end; 0 if it had to be killed.
    """

    attack: str
    transport: str
    did: str
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    before_mib: float
    peak_mib: float
    after_mib: float
    stop_seconds: float

    @property
    def misses(self) -> list[str]:
        """Targets that were missed."""
        return [
            name
            for name, missed in (
                ("p99", self.p99_ms > MOST_P99_MS),
                ("failed", self.failed > 0),
                ("memory", self.after_mib > self.before_mib + MOST_MIB),
                ("open", self.attack == "slow_senders" and not self.did.startswith("0 of")),
                ("stop", self.stop_seconds == 0),
            )
            if missed
        ]


@dataclass(frozen=True)
class Results:
    """What was measured."""

    effects: tuple[Effect, ...]


class Memory:
    """Watches a process's resident memory."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def now_mib(self) -> float:
        """Now; 0 if the process has gone."""
        try:
            (kibibytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        except (OSError, ValueError):
            return 0.0
        return int(kibibytes) / 1024

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak_mib = max(self.peak_mib, self.now_mib())


def nothing(_: str, effort: Effort, __: Held) -> str:
    """No attack."""
    time.sleep(effort.seconds)
    return "nothing"


def file_descriptors(target: str, effort: Effort, held: Held) -> str:
    """More connections than the server may have files: 64, of which it needs a third itself."""
    held.extend(Peer(target) for _ in range(100))
    time.sleep(effort.seconds)
    return f"{sum(peer.taken() for peer in held)} of {len(held)} open"


ALL: dict[str, Attack] = {one.__name__: one for one in (nothing, *FLOODS, *SLOW, file_descriptors)}


def main(options: Options) -> int:
    """Attacks, and prints a table; returns the exit status."""
    unknown = [name for name in options.names if name not in ALL]
    if unknown:
        print(f"error: names: got {unknown[0]}, expected some of {', '.join(ALL)}", file=sys.stderr)
        return 1
    if options.table:
        print("\n".join(table(records.read(Results, RESULTS))))
    else:
        transports: Sequence[Transport] = (options.transport,) if options.transport else ("http2", "grpcio")
        effort = QUICK if options.quick else Effort()
        print("\n".join(table(Results(()))))
        for name in options.names or tuple(ALL):
            for transport in transports:
                effect = measured(name, transport, options.models, effort)
                print(table(Results((effect,)))[-1], flush=True)
                if options.record:
                    record(effect)
    return 0


def record(effect: Effect) -> None:
    """Puts it in the place of what was recorded of that attack on that transport."""
    known = records.read(Results, RESULTS).effects if RESULTS.exists() else ()
    by_place = {(one.attack, one.transport): one for one in known}
    by_place[effect.attack, effect.transport] = effect
    places = [(name, transport) for name in ALL for transport in ("http2", "grpcio")]
    records.write(Results(tuple(by_place[place] for place in places if place in by_place)), RESULTS)


def table(found: Results) -> list[str]:
    """As Markdown."""
    return [
        "| attack | transport | p50 | p99 | max ms | failed | MiB before | peak | after | stop s | missed | did |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.attack} | {one.transport} | {one.p50_ms:.0f} | {one.p99_ms:.0f} | {one.max_ms:.0f}"
            f" | {one.failed} of {one.calls} | {one.before_mib:.0f} | {one.peak_mib:.0f} | {one.after_mib:.0f}"
            f" | {one.stop_seconds:.1f} | {', '.join(one.misses)} | {one.did} |"
            for one in found.effects
        ),
    ]


def measured(name: str, transport: Transport, models: Path, effort: Effort) -> Effect:
    """One attack on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServedProcess(models, Path(folder) / "log", ("--transport", transport)).__enter__()
        try:
            with Memory(server.pid) as memory:
                with HonestClient(server.target) as client:
                    time.sleep(1)
                    before = memory.now_mib()
                    if name == "file_descriptors":
                        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (FILE_DESCRIPTORS, FILE_DESCRIPTORS))
                    did = _attack(ALL[name], server.target, effort)
                time.sleep(SETTLE_SECONDS)
                after = memory.now_mib()
        finally:
            stop_seconds = _stopped(server)
        seen = client.seen
        failed = sum(seen.failed.values())
        quantiles = seen.p50_ms, seen.p99_ms, seen.max_ms
        memories = round(before, 1), round(memory.peak_mib, 1), round(after, 1)
        return Effect(name, transport, did, seen.calls, failed, *quantiles, *memories, round(stop_seconds, 1))


def _attack(attack: Attack, target: str, effort: Effort) -> str:
    """Attacks, then lets go of all connections; returns what was done."""
    held: Held = []
    try:
        return attack(target, effort, held)
    except OSError as error:
        return f"stopped by {error}"
    finally:
        for peer in held:
            peer.close()


def _stopped(server: ServedProcess) -> float:
    began = time.monotonic()
    try:
        server.stop()
    except subprocess.TimeoutExpired:
        return 0.0
    return max(0.1, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.abuse")))
