"""Other programs as child processes: the server, Envoy, Prometheus, anybody's."""
