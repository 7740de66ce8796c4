"""The commands of `python -m export`: export, imports, evaluate, ood, compare. What they call lies beside this folder."""
