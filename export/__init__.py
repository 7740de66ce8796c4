"""Makes a bundle of a training run: graphs, parity, calibration, evaluation, report.

Run it as `python -m export RUN --to models/`. `commands` holds the command lines; start reading at `exporter`.
"""
