"""From a training run to a bundle: graphs, parity, calibration, evaluation, report.

Run it as `python -m export RUN --to models/`.
"""
