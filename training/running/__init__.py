"""A training as it runs: the loop, its checkpoints, and the folder that it leaves."""
