"""The whole pipeline on real data. Run it as `python -m demo digits`."""
