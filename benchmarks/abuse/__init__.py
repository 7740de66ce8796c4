"""Attacks of one peer on the server, and what an honest client notices: `python -m benchmarks.abuse`."""
