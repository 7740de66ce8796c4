"""Child processes for benchmarks and tests: the server, Envoy, Prometheus. Imports no other benchmark."""
