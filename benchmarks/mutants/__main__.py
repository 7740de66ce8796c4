"""How many mutants of a file its tests kill.

    python -m benchmarks.mutants FILE           tries its mutants, writes docs/results/mutants.json
    python -m benchmarks.mutants FILE --anew    also those that were killed before
    python -m benchmarks.mutants                prints what is recorded, as Markdown

A mutant that was killed is not tried again while the file is the same, so that a run that was stopped goes on, and
after a new test only survivors are tried. A reason written into the record, beside a survivor, stays. One file at a
time: a run and a bundle that slow fixtures would make are made once, in the temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.mutants.changes import Mutant, mutants
from benchmarks.mutants.trial import ROOT, prepare, seconds_unchanged, tried

RECORD = ROOT / "docs" / "results" / "mutants.json"
MOST = 150
"""Of a file with more mutants so many are drawn, by seed 0."""
TESTS: dict[str, tuple[str, ...]] = {
    "service/scheduling/batching.py": ("tests/service/scheduling/test_batching.py", "tests/service/test_config.py"),
    "latentserve/conformal.py": ("tests/latentserve/test_conformal.py",),
    "service/models/decisions.py": ("tests/service/models/test_decisions.py",),
    "latentserve/bundle.py": ("tests/latentserve/test_bundle.py",),
    "export/detectors/fusion.py": (
        *("tests/export/test_fusion.py", "tests/export/test_detectors.py", "tests/export/test_resolution.py"),
        "-k",
        "fus or beyond or step",
    ),
    "training/data/rows.py": (
        "tests/training/data/test_rows.py",
        "tests/training/data/test_units.py",
        "-k",
        "not shapes",
    ),
    "training/data/units.py": ("tests/training/data/test_units.py", "-k", "not shapes"),
}


@dataclass(frozen=True)
class Options:
    """Tries the mutants of a file.

    Attributes:
        file: file to mutate; default: none, print the record.
        anew: also try mutants that were killed before.
    """

    file: Annotated[str | None, tyro.conf.Positional] = None
    anew: bool = False


def drawn(all_of_them: list[Mutant]) -> list[Mutant]:
    """All, or MOST of them in their order."""
    places = range(len(all_of_them))
    if len(all_of_them) > MOST:
        places = sorted(random.Random(0).sample(places, MOST))  # type: ignore[assignment]
    return [all_of_them[place] for place in places]


def examine(file: str, before: dict[str, Any], anew: bool) -> dict[str, Any]:
    """Tries the mutants of a file; what to record of it."""
    every = mutants((ROOT / file).read_text())
    folder = Path(tempfile.gettempdir()) / f"mutants-{os.getuid()}"
    prepare(folder)
    seconds = seconds_unchanged(TESTS[file], folder)
    known = {one["key"]: one for one in before.get("mutants", [])}
    record: dict[str, Any] = {"sha256": digest(file), "tests": " ".join(TESTS[file]), "of": len(every), "mutants": []}
    for place, mutant in enumerate(drawn(every), 1):
        one: dict[str, Any] = {"line": mutant.line, "change": mutant.change, "key": mutant.key}
        old = known.get(mutant.key, {})
        kept = not anew and before.get("sha256") == record["sha256"] and old.get("outcome") in ("killed", "timed out")
        one["outcome"] = old["outcome"] if kept else tried(file, mutant.tree, TESTS[file], folder, seconds)
        if one["outcome"] == "survived" and "reason" in old:
            one["reason"] = old["reason"]
        record["mutants"].append(one)
        if not kept:
            print(
                f"{place}/{min(MOST, len(every))} {one['outcome']}: {file}:{mutant.line}: {mutant.change}", flush=True
            )
            write(file, record | {"mutants": record["mutants"] + before.get("mutants", [])[place:]})
    return record


def digest(file: str) -> str:
    """sha256 of a file of ours; `removed` if it is."""
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest() if (ROOT / file).exists() else "removed"


def read() -> dict[str, Any]:
    """What is recorded, by file."""
    found: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return found


def write(file: str, record: dict[str, Any]) -> None:
    """Puts a file's record beside the others'."""
    RECORD.write_text(json.dumps(read() | {file: record}, indent=1) + "\n")


def table(record: dict[str, Any]) -> str:
    """Killed and tried by file, then the survivors."""
    lines = [
        "| file | mutants | tried | killed | of them timed out | killed |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    survivors = []
    for file, of_file in record.items():
        outcomes = [one["outcome"] for one in of_file["mutants"]]
        num_killed = len(outcomes) - outcomes.count("survived")
        share = num_killed / len(outcomes)
        numbers = (of_file["of"], len(outcomes), num_killed, outcomes.count("timed out"), f"{share:.1%}")
        since = "" if digest(file) == of_file["sha256"] else ", changed since"
        lines.append(f"| {file}{since} | " + " | ".join(map(str, numbers)) + " |")
        survivors += [
            f"- {file}:{one['line']}: `{one['change']}`: {one.get('reason', 'no reason yet')}"
            for one in of_file["mutants"]
            if one["outcome"] == "survived"
        ]
    return "\n".join([*lines, "", "Survivors:", "", *survivors])


def main(options: Options) -> None:
    """See the file's docstring."""
    if options.file is not None:
        before = read().get(options.file, {})
        write(options.file, examine(options.file, before, options.anew))
    print(table(read()))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.mutants"))
