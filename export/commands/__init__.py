"""The commands of `python -m export`: what they call lies beside this folder."""
