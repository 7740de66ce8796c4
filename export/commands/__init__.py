"""The commands of `python -m export`: one file each. What they call lies beside this folder."""
