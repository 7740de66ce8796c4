"""Every option of every command, with values that cannot be: one sentence, status 1 or 2, and nothing left behind."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import export.__main__ as exporting
import training.__main__ as training
from export.commands import compare, imports, ood
from export.commands import evaluate as report
from export.commands import export as export_command
from export.ood_data import OTHERS
from service.__main__ import main as serve
from service.config import Config
from training.evaluation import command as evaluate
from training.evaluation.ood_sets import CONTROL, IMAGES, SOUNDS
from training.methods import METHODS

NEVER = {
    int: ("", "x", "1.5", "-1", str(10**30), "-" + str(10**30), "٣x", "0x10"),
    float: ("", "x", "nan", "inf", "-inf", "1e999", "-1e999", "½"),
    str: ("", " ", "\udcff", "no\0thing"),
    Path: ("", "no\0thing", "x" * 300 + "/y", "x" * 300),
}
"""Values that no option of such a type takes."""
SPELLINGS = {"1.5", "-" + str(10**30), "٣x", "0x10", "nan", "-inf", "-1e999", "½", "1e999"}
"""Of those in `NEVER`: what is no number, or as large as others there."""
ALSO_NEVER = {
    "seed": (str(2**32),),
    "epochs": ("0",),
    "batch_rows": ("0", "1"),
    "image_size": ("0", "7", "100000"),
    "data": ("digts", "folder:/nowhere", "folder:", "folder:~nobody/x", "digits:", "digits[label=x]", "größe", "MNIST"),
    "transfer": ("digts", "folder:/nowhere", "größe"),
    "against": ("nois", "digts", "größe", "wdz:x", "folder:/nowhere"),
    "name": ("größe", "a b", "a/b", "..", ".hidden", "-", "x" * 101),
    "backbone": ("resnt18", "größe"),
    "learning_rate": ("0", "-1"),
    "width": ("0", str(2**31)),
    "alpha": ("0", "1", "-0.1", "1.5", "0.001"),
    "delta": ("0", "1", "-0.1", "1.5"),
    "rows": ("0",),
    "run": ("/dev/null", "/dev/null/run"),
    "to": ("/dev/null", "/dev/null/models"),
    "json": ("/dev/null/x", "/nowhere/x.json", "/tmp"),
    "html": ("/dev/null/x", "/nowhere/x.html", "/tmp"),
    "bundle": ("/nowhere", "/dev/null"),
    "models": ("/nowhere", "/dev/null"),
    "host": ("größe", "256.1.1.1", "no.such.host.invalid", "a b"),
    "settings": ("/nowhere", "/dev", "/dev/null/x"),
    "tls_certificate": ("/nowhere", "/dev/null"),
    "tokens": ("/nowhere", "/dev", "/dev/null"),
    "tensorrt_cache": ("/dev/null", "/dev/null/x"),
    "intra_op_threads": ("100000",),
}
GOOD = {("vae", "alpha", "1"), ("cpc", "width", str(2**31))}
"""What another command's option of that name may not be; `cpc` has no layer of that width where patches are small."""
MET_WHEN_READ = ("/nowhere", "/dev/null", "x" * 300 + "/y", "x" * 300)
"""By `serve`, which these tests keep from its work."""


def options(kind: Any) -> Iterator[tuple[str, Any]]:
    """Name and type of each option in a dataclass of options, those of dataclasses in it included."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested = "" if field.name in ("loop", "report", "promise", "encoder") else f"{field.name}."
            yield from ((nested + name, one) for name, one in options(hint))
        else:
            yield field.name, hint


def values(name: str, hint: Any) -> Iterator[str]:
    kinds = [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) not in (None, Literal) else []
    plain = hint if not kinds else kinds[0]
    if get_origin(plain) is Literal:
        yield from ("", "x", "größe")
    yield from NEVER.get(plain, ())
    yield from ALSO_NEVER.get(name.split(".")[-1], ())


def walk(kind: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, hint in options(kind) for value in values(name, hint)]


def without_spellings(walked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of numbers that are misspelt one of each kind: all methods read them alike."""
    return [(name, value) for name, value in walked if value not in SPELLINGS]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to work on a wrong option fails."""

    def began(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    for place in (
        *("training.__main__.train", "training.evaluation.command.make_report", "export.exporter.write_bundle"),
        "export.importer.write_bundle",
        *(
            "export.onnx_evaluation.make_report",
            "export.examination.GraphRunner",
            "export.comparison.sides.GraphRunner",
            "service.__main__.serve",
        ),
    ):
        monkeypatch.setattr(place, began)


def said(main: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that must fail says: one sentence, without what is meant for us alone."""
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    out = capsys.readouterr()
    text = out.err + out.out
    assert status in (1, 2), (arguments, status, text)
    assert not re.search(r"Traceback|\[Errno|Error:|site-packages", text), text
    if status == 1:
        splits = r"(\S+: \d+ (images|clips): [^\n]+ to test\n)?"  # said before a network is found to be too large
        assert re.fullmatch(rf"{splits}error: [^\n]+\n", out.err), (arguments, out.err)
        assert len(out.err) < 1500, out.err
    return text


def flag(name: str, value: str) -> str:
    return f"--{name.replace('_', '-')}={value}"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].modality == "image"])
def test_training(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = walk(METHODS[method].config)
    for name, value in [*walk(training.Options), *own] if method == "vae" else without_spellings(own):
        if (method, name, value) not in GOOD:
            said(training.main, [method, "--data", "digits", "--run", "run", flag(name, value)], capsys)
            assert list(tmp_path.iterdir()) == [], (name, value)


@pytest.mark.usefixtures("no_work")
def test_training_on_sound(tmp_path: Path, tones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in walk(METHODS["cpc_audio"].config):
        said(training.main, ["cpc_audio", "--data", f"audio:{tones}", "--run", "run", flag(name, value)], capsys)
        assert list(tmp_path.iterdir()) == [], (name, value)


@pytest.mark.usefixtures("no_work")
def test_evaluating_a_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in walk(evaluate.Options):
        arguments = [value] if name == "run" else [str(run_folder), flag(name, value)]
        said(training.main, ["evaluate", *arguments], capsys)


@pytest.mark.usefixtures("no_work")
def test_exporting(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in walk(export_command.Options):
        if name == "run":
            said(exporting.main, [value, "--to", "models"], capsys)
        else:
            said(exporting.main, [str(run_folder), "--to", "models", flag(name, value)], capsys)
        assert list(tmp_path.iterdir()) == [], (name, value)


@pytest.mark.usefixtures("no_work")
def test_importing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, size = "python:tests.export.sources.tiny:net", ["--image-size", "24", "24"]
    for name, value in walk(imports.Options):
        given = {"data": "digits", "to": "models"} | ({} if name == "source" else {name: value})
        flags = [flag(*pair) for pair in given.items()]
        said(exporting.main, ["import", value if name == "source" else source, *size, *flags], capsys)
        assert list(tmp_path.iterdir()) == [], (name, value)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["evaluate", "ood"])
def test_measuring_a_bundle(command: str, bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in walk({"evaluate": report, "ood": ood}[command].Options):
        if name == "bundle":
            said(exporting.main, [command, value], capsys)
        elif name == "against":
            said(exporting.main, [command, str(bundle_folder), "--against", "noise", value], capsys)
        else:
            said(exporting.main, [command, str(bundle_folder), flag(name, value)], capsys)


@pytest.mark.usefixtures("no_work")
def test_comparing_bundles(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(bundle_folder)
    for name, value in walk(compare.Options):
        if name in ("a", "b"):
            said(exporting.main, ["compare", *([value, bundle] if name == "a" else [bundle, value])], capsys)
        else:
            said(exporting.main, ["compare", bundle, bundle, flag(name, value)], capsys)


@pytest.mark.usefixtures("no_work")
def test_serving(repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.info", lambda *_: None)
    for name, field in Config.model_fields.items():
        for value in values(name, field.annotation):
            if name in ("models", "tls_certificate") and value in MET_WHEN_READ:
                continue
            models = [] if name == "models" else ["--models", str(repository)]
            given = [*models, "--port", "0", "--metrics-port", "0", flag(name, value)]
            said(serve, given, capsys)


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_a_port_that_is_taken_is_met_before_any_bundle_is_loaded(
    name: str, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("service.server.scan", opened)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        free = {"port": "0", "metrics_port": "0"} | {name: number}
        given = [flag(one, value) for one, value in free.items()]
        text = said(serve, ["--models", str(repository), "--log-level", "error", *given], capsys)
    assert f"{name}: got {number}, expected a port that can be listened on (Address already in use)" in text
    text = said(serve, ["--models", str(repository), "--port", number, "--metrics-port", number], capsys)
    assert f"got {number} for both, expected two ports" in text


@pytest.mark.parametrize(
    ("got", "meant"),
    [("nois", "noise"), ("horizontal-flip", "horizontal_flip"), ("digts", "digits"), ("folders:x", "folder")],
)
def test_the_nearest_name_is_named(
    got: str, meant: str, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {meant!r}?" in said(exporting.main, ["ood", str(bundle_folder), "--against", got], capsys)


def test_help_lists_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exporting.main(["ood", "--help"])
    text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    for name in (*IMAGES, *SOUNDS, CONTROL, OTHERS, "digits", "mnist", "cifar10", "shapes", "folder:PATH"):
        assert name in text, name
