"""Threads of the libraries that compute, where a container's quota allows fewer than they would take."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from latentserve.cpus import available_cpus, cpu_set


def keep_to_quota() -> None:
    """Limits threads for the rest of the process. Without a quota nothing changes: numbers may depend on the number."""
    num = available_cpus()
    if num < cpu_set():
        torch.set_num_threads(min(num, torch.get_num_threads()))
        threadpool_limits(num)  # of numpy's and scikit-learn's libraries
