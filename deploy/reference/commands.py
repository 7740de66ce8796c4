"""The command line, from each command's `--help`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from deploy.reference.markdown import head
from latentserve.cli.main import COMMANDS, main, usage

WIDTH = 100
BELOW = {
    "train": (
        *("vae", "simclr", "distill", "cpc", "cpc_audio", "bigbigan"),
        *("rotation", "relative_position", "colorization", "deepcluster"),
    ),
    "tokens": ("new", "renew", "settle"),
}
"""Commands that have commands, each with options of its own."""


def page() -> str:
    """The page as Markdown."""
    text = "`latentserve COMMAND` where the package is installed; in a checkout `.venv/bin/latentserve COMMAND`."
    out = [head("Command line", "the `--help` of each command", text), fenced(usage())]
    for name, command in COMMANDS.items():
        needs = f" Needs the extra `latentserve[{command.extra}]`." if command.extra else ""
        out.append(f"## latentserve {name}\n\n{command.about[0].upper()}{command.about[1:]}.{needs}\n")
        out.append(fenced(help_of(name)))
        out += [f"### latentserve {name} {one}\n\n{fenced(help_of(name, one))}" for one in BELOW.get(name, ())]
    return "\n".join(out)


def help_of(*command: str) -> str:
    """What `latentserve COMMAND --help` prints on a terminal of WIDTH columns."""
    printed = io.StringIO()
    with _columns(WIDTH), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def fenced(text: str) -> str:
    """A block of text."""
    return f"```text\n{text}\n```\n"


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
