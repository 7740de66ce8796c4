"""Where `service.http2.server` was: scripts of before import it from here."""

from service.http2.exchange import Exchange as Exchange
from service.http2.server import Http2Server as Http2Server
