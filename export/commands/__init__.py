"""What `python -m export` does: export, evaluate, ood."""
