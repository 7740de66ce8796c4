"""Commands that measure and check the project: `python -m benchmarks.NAME`, with `--help`.

processes  the server, Envoy and Prometheus as child processes; the other rooms start from it
serving    speed and memory of serving, beside peers and under overload
gpu        the same on a GPU, with parity and training, in one command
results    figures of encoders and scores: recipes, OOD detection, calibration, the monitor
decoding   cost and memory of decoding, odd and damaged files
clients    clients of other makes, and proxies
abuse      attacks on the server
soak       load and faults for half an hour
mutants    mutation testing; `guarantees` breaks what docs/guarantees.md promises
"""
