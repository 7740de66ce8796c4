"""Where `service.http2.frames` was: scripts of before import it from here."""

from service.http2.frames import *  # noqa: F403
from service.http2.headers import HeaderDecoder as HeaderDecoder
