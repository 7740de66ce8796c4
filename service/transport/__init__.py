"""Bytes in and out: our HTTP/2, grpcio, TLS, and the page of metrics."""
