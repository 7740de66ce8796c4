"""Options of the client's commands, and the client they ask for."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, NoReturn, get_args

from latentserve.calls import Decision, Guarantee, Priority
from latentserve.cli.sinks import FORMATS
from latentserve.client import Client
from latentserve.errors import InvalidInput

TARGET = "localhost:50051"
DEVICES = ("auto", "cpu", "cuda", "tensorrt")


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in a sentence, and names the option that was meant."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with status 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown.split()[0].partition("=")[0], known, 1)
            message = f"options: got {unknown}, which is none{f'; did you mean {near[0]}?' if near else ''}"
        print(f"error: {message} ({self.prog} --help lists all)", file=sys.stderr)
        sys.exit(2)


def parser(command: str, about: str) -> argparse.ArgumentParser:
    """One that knows the server."""
    made = Parser(f"latentserve {command}", description=about, allow_abbrev=False)
    server = made.add_argument_group("server")
    server.add_argument(
        "--target", "--server", default=TARGET, metavar="HOST:PORT", help=f"of gRPC (default: {TARGET})"
    )
    server.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="of each request (default: 30)")
    server.add_argument("--tls", action="store_true", help="speak TLS, trusting the system's authorities")
    server.add_argument("--tls-ca", type=Path, metavar="FILE", help="speak TLS, trusting these authorities (PEM)")
    server.add_argument("--tls-certificate", type=Path, metavar="FILE", help="our certificate, for mutual TLS (PEM)")
    server.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    server.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token (default: $LATENTSERVE_TOKEN)")
    server.add_argument(
        "--priority", choices=get_args(Priority), default="normal", help="low: nobody waits for this (default: normal)"
    )
    return made


def with_model(made: argparse.ArgumentParser) -> None:
    """Which model."""
    made.add_argument("--model", default="", metavar="NAME", help="default: the only one")
    made.add_argument("--version", type=int, default=0, metavar="N", help="default: the newest")


def with_items(made: argparse.ArgumentParser, out: str) -> None:
    """What to send, and where to write."""
    made.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, patterns, .npy arrays of rows, or - for paths (or a .npy array) on standard input; "
        "with --to also shards (.tar) and, with --column, Parquet",
    )
    with_model(made)
    with_out(made, out)


def with_out(made: argparse.ArgumentParser, out: str) -> None:
    """Where to write."""
    made.add_argument("--out", type=Path, metavar="PATH", help=out)
    made.add_argument("--format", choices=FORMATS, help="on standard output (default: table)")
    made.add_argument("--force", action="store_true", help="write over a file that exists")


def with_job(made: argparse.ArgumentParser) -> None:
    """A job that goes on where it was killed."""
    job = made.add_argument_group("job")
    job.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER.parquet",
        help="as a job: parts of Parquet go there, and the same command goes on where it was stopped",
    )
    with_bundle(job)
    job.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="the bundle on a Ray cluster: auto, HOST:PORT, or local for one that is started here",
    )
    job.add_argument(
        "--actors", type=int, default=0, metavar="N", help="of --ray, at most (default: all there is room for)"
    )
    job.add_argument("--actor-cpus", type=int, default=1, metavar="N", help="of each actor (default: 1)")
    job.add_argument(
        "--actor-gpus", type=float, default=0.0, metavar="N", help="of each, 0.5: two share one (default: 0)"
    )
    job.add_argument("--column", metavar="NAME", help="of Parquet files as inputs: holds the bytes of items, or paths")
    job.add_argument("--half", action="store_true", help="embeddings of float16")
    job.add_argument("--part-rows", type=int, metavar="N", help="rows of a part (default: 1024)")


def with_bundle(made: Any) -> None:
    """A bundle in this process, or patience with a server."""
    made.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="models/NAME/VERSION, run in this process: no server"
    )
    made.add_argument(
        "--device", choices=DEVICES, default="auto", help="of a bundle, as serve --device (default: auto)"
    )
    made.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long a server that does not answer is come back to (default: 120)",
    )


def with_decision(made: argparse.ArgumentParser) -> None:
    """How scores are decided on."""
    made.add_argument("--alpha", type=float, metavar="LEVEL", help="level of the decision (default: the bundle's)")
    made.add_argument("--guarantee", choices=get_args(Guarantee), default="marginal", help="default: marginal")
    made.add_argument("--decision", choices=get_args(Decision), default="per_row", help="default: per_row")


def with_maps(made: argparse.ArgumentParser) -> None:
    """Where items are out of distribution."""
    made.add_argument("--maps", action="store_true", help="tell the regions of each item, too")
    made.add_argument("--overlays", type=Path, metavar="FOLDER", help="write a PNG of each flagged item with its map")
    made.add_argument("--overlay-every", action="store_true", help="of each item, flagged or not")


def client(options: argparse.Namespace) -> Client:
    """The client that the options ask for.

    Raises:
        InvalidInput: a file cannot be read, or one of two that belong together is missing.
    """
    return Client(options.target, options.timeout, _credentials(options), options.priority, token(options))


def token(options: argparse.Namespace) -> str | None:
    """What stands in the file of --token-file. Raises InvalidInput: it cannot be read."""
    return _text(options.token_file, "token-file") if options.token_file else None


def _credentials(options: argparse.Namespace) -> Any:
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise InvalidInput("tls-certificate and tls-key: got one of them, expected both or neither")
    if not (options.tls or options.tls_ca or options.tls_certificate):
        return None
    import grpc

    files = {name: getattr(options, name) for name in ("tls_ca", "tls_key", "tls_certificate")}
    read = {name: _bytes(path, name.replace("_", "-")) if path else None for name, path in files.items()}
    return grpc.ssl_channel_credentials(read["tls_ca"], read["tls_key"], read["tls_certificate"])


def _bytes(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput.at(option, got=str(path), expected=f"a file that can be read ({error.strerror})") from error


def _text(path: Path, option: str) -> str:
    return _bytes(path, option).decode("ascii", "replace").strip()
