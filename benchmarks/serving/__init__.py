"""Speed of serving, as ratios in one run. Run it as `python -m benchmarks.serving`."""
