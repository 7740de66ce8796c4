"""The commands of `python -m export`: export, evaluate, ood, compare. What they call lies beside this folder."""
