"""What a client program is told, and how it says what it heard.

    PROGRAM TARGET FOLDER VERB NUMBER

FOLDER holds `small.bin` and `request.bin`, each an EmbedRequest; `stream.bin`, ScoreStreamRequests with their lengths
(32 bits, little-endian) before them; `descriptors.bin`, a FileDescriptorSet; and `ca.pem` if TLS is to be spoken.

| verb | what to do | NUMBER |
| --- | --- | --- |
| `call` | ask `request` once | |
| `gzip` | the same with the request compressed | |
| `deadline` | `small`, `request` with a deadline, `small` | milliseconds |
| `cancel` | `small`, `request` cancelled once it is under way, `small` | milliseconds until then |
| `stream` | send every message of `stream`, reading answers meanwhile | |
| `idle` | `small`, nothing but pings, `small`, a second more | seconds of nothing |
| `many` | `small`, then `request` many times at once | how many times |

All calls of a program go over one channel. For each call it prints a line `CODE<tab>FILE<tab>MESSAGE`, in the order of
the calls; FILE, in FOLDER, is the answer, an EmbedResponse or ScoreStreamResponses written as in `stream.bin`.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

EMBED = "/latentserve.v1.EmbeddingService/Embed"
SCORE_STREAM = "/latentserve.v1.EmbeddingService/ScoreStream"
PING_SECONDS = 10
"""The most eager a client of gRPC may be with pings on a connection without calls.

Source: gRFC A8, https://github.com/grpc/proposal/blob/master/A8-client-side-keepalive.md."""
PING_TIMEOUT_SECONDS = 10
"""An answer to a ping that takes longer ends the connection, which is then seen. Nobody looks at an idle connection of
grpc++ but a timer of its own, every five seconds."""
MOST_BYTES = 2**31 - 1
"""Of an answer: no limit of the client's own is to be met."""


@dataclass
class Work:
    """What a program is told.

    Attributes:
        target: HOST:PORT.
        folder: of what is asked and of answers.
        verb: what to do.
        number: see above.
    """

    target: str
    folder: Path
    verb: str
    number: int
    _answers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def read(cls) -> Work:
        """From the command line."""
        target, folder, verb, number = sys.argv[1:]
        return cls(target, Path(folder), verb, int(number))

    @property
    def small(self) -> bytes:
        """An EmbedRequest that is answered at once."""
        return (self.folder / "small.bin").read_bytes()

    @property
    def request(self) -> bytes:
        """The EmbedRequest that it is about."""
        return (self.folder / "request.bin").read_bytes()

    @property
    def stream(self) -> list[bytes]:
        """ScoreStreamRequests."""
        return parted((self.folder / "stream.bin").read_bytes())

    @property
    def ca(self) -> bytes | None:
        """Who signed the server's certificate; None: plaintext gRPC."""
        file = self.folder / "ca.pem"
        return file.read_bytes() if file.exists() else None

    def heard(self, code: int, message: str, answer: bytes = b"") -> None:
        """Says how a call ended."""
        name = f"answer{next(self._answers)}.bin"
        (self.folder / name).write_bytes(answer)
        print(code, name, " ".join(message.split()), sep="\t", flush=True)


def joined(messages: Iterable[bytes]) -> bytes:
    """Messages with their lengths before them."""
    return b"".join(struct.pack("<I", len(message)) + message for message in messages)


def parted(data: bytes) -> list[bytes]:
    """What `joined` joined."""
    found, start = [], 0
    while start < len(data):
        (size,) = struct.unpack_from("<I", data, start)
        found.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    return found
