"""Measures a GPU, all stages in one command: `python -m benchmarks.gpu` (`make gpu`).

__main__   the command: stages one after another, each in a process of its own, and the table
stage      one stage in that process: its time box, what is done already, what went wrong
cells      its figures, written to JSON one by one
check      requirements on them
machine    the GPU, or in the rehearsal the CPU behind the same code
prepared   bundles made beforehand on a CPU, and the encoders that speed is measured with
facts, parity, engine, serve, score, train      the stages
table      what was recorded, for people
"""
