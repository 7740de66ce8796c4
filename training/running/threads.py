"""Threads of the libraries that compute, where a container's quota allows fewer than they would take."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from latentserve.cpus import available_cpus, cpu_set


def keep_to_quota() -> None:
    """For the rest of the process. Without a quota nothing is changed: numbers may depend on the number of threads."""
    num = available_cpus()
    if num < cpu_set():
        torch.set_num_threads(min(num, torch.get_num_threads()))
        threadpool_limits(num)  # of numpy's and scikit-learn's libraries
