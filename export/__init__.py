"""Makes a bundle of a training run: graphs, parity, calibration, evaluation, report.

Run it as `python -m export RUN --to models/`. `commands` holds the command lines; start reading at `exporter`.
"""

from latentserve.cpus import sleep_while_waiting

sleep_while_waiting()  # here, as torch is not imported yet
