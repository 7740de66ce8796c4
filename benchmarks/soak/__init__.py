"""The server under load and faults for half an hour, each answer checked: `python -m benchmarks.soak`."""
