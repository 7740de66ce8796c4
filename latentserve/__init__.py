"""The contract of latentserve, and its client.

    from latentserve import Client

* `client`   Client and AsyncClient: numpy arrays, files or bytes in, numpy arrays out
* `maps`     where images are out of distribution (a picture of it, `overlay`, needs Pillow)
* `streaming` an endless stream of items in, scores out as they come (`Client.score_stream`)
* `bundle`   the manifest that export writes and service reads
* `errors`   the tree of errors, and the gRPC code of each
* `audio`    how a WAV or FLAC file becomes the samples a model was trained on
* `images`   how an encoded image becomes the pixels a model was trained on (needs Pillow)
* `tensors`  numpy arrays to protobuf tensors and back
* `cli`      the command `latentserve`
* `health`   whether a server is ready
* `spelling` commands as their user typed them
* `records`  frozen dataclasses to JSON and back, strictly
* `v1`       stubs generated from `protos/latentserve/v1`

Nothing here imports `service`, `training` or `export`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentserve.answers import Analysis as Analysis
    from latentserve.answers import Scores as Scores
    from latentserve.client import AsyncClient as AsyncClient
    from latentserve.client import Client as Client
    from latentserve.errors import LatentserveError as LatentserveError

__version__ = "0.1.0"
__all__ = ["Analysis", "AsyncClient", "Client", "LatentserveError", "Scores", "__version__"]
_PLACES = {
    **dict.fromkeys(("Analysis", "Scores"), "latentserve.answers"),
    **dict.fromkeys(("AsyncClient", "Client"), "latentserve.client"),
    "LatentserveError": "latentserve.errors",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is: gRPC takes a moment that reading a bundle need not wait for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'latentserve' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
