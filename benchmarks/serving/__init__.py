"""Speed and memory of serving: beside peers (`python -m benchmarks.serving`), overload, restarts, deadlines."""
