"""One mutant and the tests of its module, in a forked process: nothing is written, nothing else sees it."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

Outcome = Literal["killed", "timed out", "survived"]
ROOT = Path(__file__).resolve().parents[2]
LOG = Path(tempfile.gettempdir()) / f"mutants-{os.getuid()}.log"
SLOWLY = 3
FEWEST_SECONDS = 5
"""A mutant that takes so much longer than the module as it is hangs: other work runs beside the trials."""
LIBRARIES = ("numpy", "scipy.stats", "hypothesis", "PIL.Image", "torch", "lightning", "onnxruntime", "grpc", "sklearn")


class NoTests(RuntimeError):
    """The tests fail with the module as it is, or there are none."""


class Mutated(importlib.abc.MetaPathFinder):
    """Finds one module, changed."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self._name, self._path, self._tree = file.removesuffix(".py").replace("/", "."), ROOT / file, tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name != self._name:
            return None
        loader = _Loader(name, str(self._path))
        loader.tree = self._tree
        return importlib.util.spec_from_file_location(name, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, self.path, "exec")


class Prepared:
    """Stands in for the run and the repository that slow fixtures make. Their own tests are elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._values = {"run_folder": folder / "run", "repository": folder / "models"}

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        """See pytest."""
        if (value := self._values.get(fixturedef.argname)) is None:
            return None
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value


def prepare(folder: Path) -> None:
    """Libraries are imported, and a run and its bundle made unless they are there; no module that mutates is imported.

    Hypothesis draws the same cases for each mutant and does not look for the smallest one.
    """
    for library in LIBRARIES:
        importlib.import_module(library)
    from hypothesis import Phase, settings

    settings.register_profile("mutants", database=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")
    if not (folder / "models").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if _forked(lambda: _make(folder), 600) != 0:
            raise NoTests(f"no run and bundle could be made in {folder}; see {LOG}")
    gc.collect()
    gc.freeze()  # what is here now is not looked through again by each child


def _make(folder: Path) -> int:
    from export.exporter import export_run
    from training.__main__ import Options, run_training
    from training.methods.vae import VaeConfig

    config = VaeConfig(latent_dim=8, embedding_dim=32, width=8)  # as in tests/conftest.py
    run = run_training("vae", config, Options(smoke=True, run=folder / "run"))
    export_run(run, folder / "new")
    (folder / "new").rename(folder / "models")
    return 0


def seconds_unchanged(tests: Sequence[str], folder: Path) -> float:
    """How long the tests take with the module as it is.

    Raises:
        NoTests: they fail, or there are none.
    """
    started = time.monotonic()
    if (code := _forked(lambda: _pytest(tests, folder), 600)) != 0:
        raise NoTests(f"{' '.join(tests)}: got exit code {code} from pytest without a mutant, expected 0; see {LOG}")
    return time.monotonic() - started


def tried(file: str, tree: ast.Module, tests: Sequence[str], folder: Path, seconds: float) -> Outcome:
    """Whether the tests go red, `seconds` being what they take without a mutant."""

    def attempt() -> int:
        sys.meta_path.insert(0, Mutated(file, tree))
        return _pytest(tests, folder)

    code = _forked(attempt, FEWEST_SECONDS + SLOWLY * seconds)
    return "timed out" if code is None else "killed" if code else "survived"


def _pytest(tests: Sequence[str], folder: Path) -> int:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # of seven plugins found beside pytest one is needed
    options = ["-x", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}", *tests]
    return int(pytest.main(options, plugins=[Prepared(folder)]))


def _forked(body: Any, seconds: float) -> int | None:
    """Runs it in a process of its own, which says what it says to LOG; its exit code, or None if it took too long."""
    if (pid := os.fork()) == 0:
        os.setsid()
        said = os.open(LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in range(3):
            os.dup2(said, stream)
        code = 99
        try:
            code = body()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    ended = select.select([os.pidfd_open(pid)], [], [], seconds)[0]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status) if ended else None
