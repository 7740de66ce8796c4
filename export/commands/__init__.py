"""The commands of `python -m export`: export, evaluate, ood. What they call lies beside this folder."""
