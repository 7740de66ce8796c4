"""Two bundles on one data set: `latentserve compare A B`. One file a question; `examination.py` asks them all.

Shape legend: N rows, D features of A, E features of B.
"""
