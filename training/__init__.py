"""Self-supervised encoders: one file per method in `methods`, everything they share beside it.

`data` loads rows, `networks` are what methods are built of, `running` trains and keeps runs, `evaluation` measures.

Knows neither ONNX nor gRPC. Run it as `python -m training METHOD --data SPEC`.
"""

from latentserve.cpus import sleep_while_waiting

sleep_while_waiting()  # here, as torch is not imported yet
