"""Makes bearer tokens and keeps their file (`python -m service --tokens FILE`). A token is shown once, its hash kept.

    python -m service tokens new --file tokens.toml --name camera-7 --methods Embed 'Score*' --rows-per-second 500
    python -m service tokens renew --file tokens.toml --name camera-7     another token for it; the old one goes on
    python -m service tokens settle --file tokens.toml --name camera-7    from now on the newest is the only one

Without --file `new` prints the entry instead of writing it. To take a token away delete its entry. A running server
takes the file within 30 seconds, or at once on SIGHUP.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from latentserve.spelling import as_typed
from service.api.access.grants import Grant, TokensError, grants_of

TOKEN_BYTES = 32
"""Random ones, as many as the hash has: neither can be tried out."""
PREFIX = "latentserve_"
"""So that whoever finds one somewhere knows what it opens, scanners for secrets too."""
OPTIONS = ("models", "methods", "rows_per_second", "burst_rows", "priority", "admin", "expires")


def new_token() -> tuple[str, str]:
    """A token, and what is kept of it."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


def entry(name: str, digest: str, options: argparse.Namespace) -> str:
    """What to write into the file."""
    lines = ["[[token]]", f"name = {json.dumps(name)}", f"sha256 = [{json.dumps(digest)}]"]
    for field in OPTIONS:
        value = getattr(options, field)
        if value is not None and value is not False:
            said = datetime.fromisoformat(value).isoformat() if field == "expires" else json.dumps(value)
            lines.append(f"{field} = {said}")
    return "\n".join(lines) + "\n"


def with_another(text: str, name: str, digest: str) -> str:
    """The file's text with one more hash for a name, the newest first. Comments stay."""
    newest = _named(text, name).sha256[0]
    return text.replace(newest, f'{digest}", "{newest}', 1)


def with_newest(text: str, name: str) -> str:
    """The file's text with the newest hash of a name alone."""
    grant = _named(text, name)
    for digest in grant.sha256[1:]:
        start = text.index(digest) - 1
        before = text[:start].rstrip()
        text = before.removesuffix(",") + text[start + len(digest) + 2 :]
    return text


def _named(text: str, name: str) -> Grant:
    for grant in grants_of(text):
        if grant.name == name:
            return grant
    raise ValueError(f"name: got {name!r}, expected that of an entry")


def change(path: Path, make: Callable[[str], str]) -> None:
    """Replaces a file by what is made of it, whole or not at all.

    Raises:
        TokensError: what would be written is not what a server takes.
        OSError: it cannot be written, or somebody else is writing.
    """
    path = path.resolve()  # a link stays one
    there = path.exists()
    try:
        text = make(path.read_text(encoding="utf-8") if there else "")
        grants_of(text)
    except ValueError as error:
        raise TokensError(f"{path}: {error}") from None
    mode = stat.S_IMODE(path.stat().st_mode) if there else 0o600
    beside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        try:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink()
            raise


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=as_typed("python -m service tokens"),
        description=as_typed(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, needs_file in (("new", False), ("renew", True), ("settle", True)):
        one = verbs.add_parser(verb)
        one.add_argument("--name", required=True, help="whose it is, a label in metrics")
        one.add_argument("--file", type=Path, required=needs_file, help="the server's --tokens")
    new = verbs.choices["new"]
    new.add_argument("--models", nargs="+", help="patterns of models it may use; default: all")
    new.add_argument("--methods", nargs="+", help="patterns of methods it may call; default: all")
    new.add_argument("--rows-per-second", type=float, help="on average; default: as many as come")
    new.add_argument("--burst-rows", type=float, help="at once after a pause; default: what a second brings")
    new.add_argument("--priority", choices=("low", "normal", "high"), help="the highest it gets; default: high")
    new.add_argument("--admin", action="store_true", help="reads the metrics, sees rejected bundles")
    new.add_argument("--expires", help="date (2027-01-01: its first moment in UTC), or with a time")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status."""
    options = _options(arguments)
    token, digest = new_token()
    try:
        if options.verb == "settle":
            change(options.file, lambda text: with_newest(text, options.name))
            return 0
        if options.verb == "renew":
            change(options.file, lambda text: with_another(text, options.name, digest))
        else:
            made = entry(options.name, digest, options)
            grants_of(made)
            if options.file is None:
                print(made)
            else:
                change(options.file, lambda text: f"{text.rstrip()}\n\n{made}".lstrip())
    except (ValueError, OSError) as error:  # a TokensError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the token of {options.name}, shown this once:", file=sys.stderr)
    print(token)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
