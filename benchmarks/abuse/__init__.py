"""What one peer can do to the others: attacks on the running server. Run it as `python -m benchmarks.abuse`."""
