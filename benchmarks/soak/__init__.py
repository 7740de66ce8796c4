"""A server under load and faults for a long time: see `python -m benchmarks.soak --help`."""
