"""The server as it was while a JPEG's bits were read twice: by Pillow for its pixels, by libjpeg for its warnings.

    python -m benchmarks.decoding.twice --models FOLDER

`benchmarks.decoding.jpeg` compares with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from service.__main__ import main


@contextmanager
def twice() -> Iterator[None]:
    """What `simplejpeg` decodes is left to Pillow, and checked."""
    with mock.patch("latentserve.images.jpeg_pixels", return_value=None):
        yield


if __name__ == "__main__":
    with twice():
        sys.exit(main(sys.argv[1:]))
