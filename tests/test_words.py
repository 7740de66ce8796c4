"""The field's words wherever a user looks: each place is a case of its own, and each finding names the better word.

docs/adr and CHANGELOG.md are left out: they tell what was decided and renamed, in the words of their time.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

import export.__main__ as exporting
import training.__main__ as training
from deploy.dashboards import FOLDER
from deploy.panels import DASHBOARDS
from latentserve.bundle import REPORT
from service.__main__ import main as serve
from service.api.access import tokens
from service.observing.metric_table import declared
from training.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
BANNED = {
    r"strange\w*": "out-of-distribution",
    r"usual (rows?|images?|sets?)": "in-distribution",
    r"floor:|\bfloors\b": "baseline",
    r"\bcards?\b": "evaluation report",
    r"\bmarks?\b": "metric",
    r"\blanes?\b|waiting lines?": "queue",
    r"\bknobs?\b": "option, hyperparameter",
    r"in the clear": "plaintext",
    r"\bproven\b": "verified",
    r"\bdeals\b": "random splits",
    r"\bverdicts?\b": "decisions",
    r"\bjudge[sd]?\b": "decide",
    r"batch-mates?": "co-batched requests",
    r"what the model kept": "reconstruction",
}
NO_WORDS = re.compile(r"pytest\.mark|data:image/\w+;base64,[\w+/=]+")
"""Not for people, or not ours to name."""
PACKAGES = ("latentserve", "service", "training", "export", "deploy", "benchmarks", "demo")


def findings(text: str) -> list[str]:
    """What stands in a text that has a better word; two words of one may stand on two lines."""
    text = NO_WORDS.sub(" ", text)
    found = []
    for word, better in BANNED.items():
        for match in re.finditer(word.replace(" ", r"\s+"), text, re.IGNORECASE):
            start, end = match.span()
            around = " ".join(text[max(0, start - 40) : end + 40].split())
            found.append(f"line {text.count(chr(10), 0, start) + 1}: {match[0]!r} in ...{around}...: say {better}")
    return found


def clean(text: str) -> None:
    assert len(text) > 20, "nothing was read"
    assert not (found := findings(text)), "\n".join(found)


def files(*patterns: str) -> list[str]:
    """Tracked files; all that are there where git is not."""
    done = subprocess.run(["git", "ls-files", *patterns], capture_output=True, text=True, cwd=ROOT)
    listed = done.stdout.split() if done.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.glob("*.md")]
    return [name for name in listed if not name.startswith("docs/adr/") and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", [name for name in files("*.md", "docs/*.md") if name != "CHANGELOG.md"])
def test_pages(name: str) -> None:
    clean((ROOT / name).read_text())


@pytest.mark.parametrize(
    "name", files("protos/*.proto", "Makefile", "docker-compose.yml", "deploy/*.yml", "deploy/*.sh")
)
def test_protos_and_deployment(name: str) -> None:
    clean((ROOT / name).read_text())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards(name: str) -> None:
    clean(json.dumps(json.loads((FOLDER / f"{name}.json").read_text()), indent=0))


@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_rules_have_no_old_names(name: str) -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["groups"]
    clean(yaml.safe_dump(groups, width=1000).replace("_", " "))


def test_metrics() -> None:
    told = (f"{one.name.replace('_', ' ')} {' '.join(one.labels)}: {one.help}" for one in declared().values())
    clean("\n".join(told))


def helped(capsys: pytest.CaptureFixture[str], run: Any, *arguments: Any) -> str:
    """What a command prints that was asked for its help, without the frames."""
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(run(*arguments))
    assert not stopped.value.code
    return re.sub(r"[\u2500-\u257f]", " ", capsys.readouterr().out)


COMMANDS = {
    "service": (serve, ["--help"]),
    "tokens": (tokens.main, ["--help"]),
    "tokens new": (tokens.main, ["new", "--help"]),
    "training": (training.main, ["--help"]),
    "training evaluate": (training.main, ["evaluate", "--help"]),
    "export": (exporting.main, ["--help"]),
    "export import": (exporting.main, ["import", "--help"]),
    "export evaluate": (exporting.main, ["evaluate", "--help"]),
    "export ood": (exporting.main, ["ood", "--help"]),
    "export compare": (exporting.main, ["compare", "--help"]),
} | {f"training {name}": (training.main, [name, "--help"]) for name in METHODS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments = COMMANDS[name]
    clean(helped(capsys, main, arguments))


def commands_of_options() -> list[str]:
    """Modules whose command line is their dataclass `Options`."""
    paths = [path for package in ("benchmarks", "demo") for path in sorted((ROOT / package).rglob("*.py"))]
    found = [path for path in paths if "tyro.cli(Options" in path.read_text()]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]


@pytest.mark.parametrize("module", commands_of_options())
def test_help_of_benchmarks_and_demo(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(module, exc_type=ImportError)  # some measure libraries that are not everywhere
    command = importlib.import_module(module)

    def run() -> None:
        tyro.cli(command.Options, args=["--help"])

    clean(f"{inspect.getdoc(command)}\n{helped(capsys, run)}")


@pytest.mark.parametrize("module", ["latentserve.health", "deploy.dashboards", "deploy.metrics_page", "demo.__main__"])
def test_usage_of_commands_without_help(module: str) -> None:
    clean(inspect.getdoc(importlib.import_module(module)) or "")


def test_report_of_a_bundle(bundle_folder: Path) -> None:
    clean((bundle_folder / REPORT).read_text())


def test_report_of_out_of_distribution_sets(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ["--json", str(tmp_path / "ood.json"), "--html", str(tmp_path / "ood.html")]
    assert exporting.main(["ood", str(bundle_folder), "--rows", "100", "--against", "noise", *written]) == 0
    clean((tmp_path / "ood.html").read_text())
    clean((tmp_path / "ood.json").read_text())
    clean(capsys.readouterr().out)


def messages(path: Path) -> Iterator[str]:
    """Strings of a source file that are no docstrings: errors, log lines, captions and printed tables among them."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("package", PACKAGES)
def test_messages(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {message}: {', '.join(findings(message))}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for message in messages(path)
        if "_pb2" not in path.name and findings(message)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("Larger is stranger.", 1),
        ("the report card, and a mark", 2),
        ("floor(alpha (n + 1)), a benchmark, `@pytest.mark.slow`, discarded, as usual, judgement", 0),
        ("Usual\nrows wait in lanes", 2),
    ],
)
def test_words_are_found_where_they_are_meant(text: str, num: int) -> None:
    assert len(findings(text)) == num
