"""The commands of `python -m export`: export, imports, evaluate, ood. What they call lies beside this folder."""
