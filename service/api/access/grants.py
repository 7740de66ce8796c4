"""The file of tokens: it says who may do what. It is read, verified and watched for changes.

Each entry is a table `[[token]]` with the fields of `Grant`, of which `name` and `sha256` must be there.
`python -m service tokens` makes them.
"""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from latentserve.v1 import embedding_pb2 as pb
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb

METHODS = frozenset(
    method.name
    for service in (
        pb.DESCRIPTOR.services_by_name["EmbeddingService"],
        open_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    )
    for method in service.methods
)
DESCRIBING = ("GetModel", "ListModels", "ServerMetadata", "ModelMetadata", "ModelConfig", "RepositoryIndex")
"""What an administrator's token may call unless its entry says otherwise: it is for looking after models."""
MOST_TOKENS = 1000
"""Each is compared with what a client shows, and each name is a label of metrics."""
LARGEST_FILE_BYTES = 2**20


class TokensError(ValueError):
    """The file is not there, or says what cannot be. The message names it, and nothing of a token."""


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Grant(BaseModel):
    """What one name may do, as the file says it.

    Attributes:
        name: whose it is, in metrics; never a secret.
        sha256: of its tokens, the newest first; more than one while a token is being replaced.
        models: patterns of names (`*`, `?`, `[...]`).
        methods: patterns of method names; default: all, for an administrator those that describe.
        rows_per_second: on average; each call counts as one row at least.
        burst_rows: after a pause; 0: what a second brings.
        priority: the highest it gets; what asks for more is lowered to it.
        admin: whether it may read the page of metrics, and list every model and the rejected bundles.
        expires: from then on it is rejected; a date is its first moment in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    sha256: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=4)]
    models: Annotated[tuple[Pattern, ...], Field(min_length=1)] = ("*",)
    methods: tuple[Pattern, ...] = ()
    rows_per_second: float = Field(math.inf, gt=0)
    burst_rows: float = Field(0.0, ge=0, allow_inf_nan=False)
    priority: Literal["low", "normal", "high"] = "high"
    admin: bool = False
    expires: date | datetime | None = None

    @model_validator(mode="after")
    def _methods_are_there(self) -> Self:
        for pattern in self.methods:
            if not any(fnmatchcase(name, pattern) for name in METHODS):
                raise ValueError(f"methods: got {pattern!r}, expected a pattern of {', '.join(sorted(METHODS))}")
        return self

    @property
    def allowed(self) -> frozenset[str]:
        """Methods by name."""
        patterns = self.methods or (DESCRIBING if self.admin else ("*",))
        return frozenset(name for name in METHODS if any(fnmatchcase(name, pattern) for pattern in patterns))

    @property
    def ends(self) -> float:
        """Unix time."""
        if self.expires is None:
            return math.inf
        moment = self.expires
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def grants_of(text: str) -> list[Grant]:
    """The entries of a file's text.

    Raises:
        ValueError: one of them is not what it should be, or there is none; the message says which, but not its hash.
    """
    found = tomllib.loads(text)
    entries = found.pop("token", [])
    if found:
        raise ValueError(f"got {sorted(found)[0]!r}, expected nothing but [[token]]")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_TOKENS:
        got = len(entries) if isinstance(entries, list) else "one table"
        raise ValueError(f"got {got} entries, expected 1 to {MOST_TOKENS} of [[token]]")
    grants = [_grant(entry, number) for number, entry in enumerate(entries)]
    for what in ("name", "sha256"):
        seen: set[str] = set()
        for number, grant in enumerate(grants):
            for value in (grant.name,) if what == "name" else grant.sha256:
                if value in seen:
                    raise ValueError(f"token[{number}].{what}: got that of another entry, expected one of its own")
                seen.add(value)
    return grants


def read_grants(path: Path) -> list[Grant]:
    """The entries of a file. Raises TokensError: see there."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE_BYTES + 1)
        if len(raw) > LARGEST_FILE_BYTES:
            raise ValueError(f"more than {LARGEST_FILE_BYTES} bytes")
        return grants_of(raw.decode())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no TOML, or an entry that is wrong
        why = error.strerror if isinstance(error, OSError) else error
        raise TokensError(f"tokens: got {path}, expected a TOML file of [[token]]: {why}") from None


def _grant(entry: Any, number: int) -> Grant:
    try:
        return Grant.model_validate(entry)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]  # what was got may be a token put where its hash belongs
        place = ".".join(str(part) for part in ("", *fault["loc"]))
        raise ValueError(f"token[{number}]{place}: {fault['msg']}") from None


class TokenFile:
    """A file of tokens, and whether it has changed since it was read.

    Args:
        path: read at once.

    Attributes:
        grants: what it said when it was last right.

    Raises:
        TokensError: see there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.renew()

    def renew(self) -> list[Grant]:
        """Reads it again and returns what it says. Raises TokensError; then all stays as it was."""
        seen = self._stamp()
        self.grants = read_grants(self._path)
        self._seen = seen
        return self.grants

    def changed(self) -> bool:
        """Whether it is another one than was last read."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
