"""`latentserve COMMAND`: which command, and where it lives."""

from __future__ import annotations

import difflib
import errno
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from latentserve.errors import LatentserveError, Unavailable
from latentserve.spelling import by_latentserve


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        about: what it does, in a line.
        module: where it lives.
        function: of the module: takes the arguments, returns the exit status.
        extra: what must be installed beside the client; empty: nothing.
        first: arguments that go before those of the user.
    """

    about: str
    module: str
    function: str = "main"
    extra: str = ""
    first: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("train an encoder on images or sounds without labels", "training.__main__", extra="train"),
    "export": Command("turn a training run into a bundle", "export.__main__", extra="train"),
    "import": Command(
        "make a bundle of an encoder from elsewhere", "export.__main__", extra="import", first=("import",)
    ),
    "evaluate": Command("measure a run or a bundle", "latentserve.cli.evaluate", extra="train"),
    "ood": Command("how well a bundle detects other data", "export.__main__", extra="train", first=("ood",)),
    "compare": Command("two bundles on your own data", "export.__main__", extra="train", first=("compare",)),
    "serve": Command("serve bundles over gRPC", "service.__main__", extra="serve"),
    "tokens": Command("make bearer tokens for a server", "service.__main__", extra="serve", first=("tokens",)),
    "embed": Command("embeddings of files, from a server", "latentserve.cli.commands", "embed"),
    "score": Command("p-values of files, and which are flagged", "latentserve.cli.commands", "score"),
    "reconstruct": Command("reconstructions of files", "latentserve.cli.commands", "reconstruct"),
    "neighbours": Command("the items of a job that are most alike", "latentserve.neighbours.command", "neighbours"),
    "convert": Command("a job's embeddings to an array or a database", "latentserve.handover.command", "convert"),
    "models": Command("the models of a server", "latentserve.cli.commands", "models"),
    "health": Command("whether a server is ready", "latentserve.health", "command"),
}
ROOMS = Path(__file__).parents[1] / "rooms"
"""Where a wheel keeps `training`, `export` and `service`: names too general for site-packages."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        print(_version())
        return 0
    command = COMMANDS.get(given[0])
    if command is None:
        known = ", ".join(COMMANDS)
        print(f"error: command: got {given[0]!r}, expected one of {known}{_meant(given[0])}", file=sys.stderr)
        return 2
    try:
        run = _function(command)
    except ModuleNotFoundError as error:
        if not command.extra or (error.name or "").startswith("latentserve"):
            raise
        needs = f"{error.name} is missing: pip install 'latentserve[{command.extra}]'"
        print(f"error: latentserve {given[0]} needs more than the client, {needs}", file=sys.stderr)
        return 1
    return _told(run, [*command.first, *given[1:]])


def usage() -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: latentserve COMMAND ...", "", *lines, "", "latentserve COMMAND --help says more of one."])


def _function(command: Command) -> Callable[[list[str]], int]:
    # A wheel's, or a checkout's. Never both: beside a wheel stand other people's packages, whatever they are called.
    folder = ROOMS if ROOMS.is_dir() else ROOMS.parents[1]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: Callable[[list[str]], int] = getattr(importlib.import_module(command.module), command.function)
    return found


def _told(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Errors in one sentence; Ctrl-C without a traceback."""
    try:
        with by_latentserve():
            return run(arguments)
    except Unavailable as error:
        advice = "is `latentserve serve` running there? --target HOST:PORT names another server"
        if any(one.startswith("--tls") for one in arguments):
            advice = f"is its certificate one that --tls-ca trusts, and {advice}"
        print(f"error: no answer: {error}; {advice}", file=sys.stderr)
    except LatentserveError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has what it wanted
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except OSError as error:
        advice = "; make room and run it again" if error.errno == errno.ENOSPC else ""
        print(f"error: {error.filename or 'output'}: {error.strerror or error}{advice}", file=sys.stderr)
    return 1


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _version() -> str:
    try:
        return f"latentserve {version('latentserve')}"
    except PackageNotFoundError:
        return "latentserve"


if __name__ == "__main__":
    sys.exit(main())
