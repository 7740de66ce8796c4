"""Do the classes form clusters of their own? K-means without labels, compared with the labels afterwards."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from training.evaluation.probes import Features, Labels, unit_rows

STARTS = 3


def cluster_agreement(features_ND: Features, labels_N: Labels, num_seeds: int) -> dict[str, NDArray[np.float64]]:
    """Agreement of k-means, with as many clusters as there are classes, with the classes; one figure a seed.

    Returns:
        nmi: normalised mutual information, 0 to 1.
        ari: adjusted Rand index, 0 for chance, 1 for the same partition.
    """
    features = unit_rows(features_ND)
    num_classes = len(np.unique(labels_N))
    found = []
    for seed in range(num_seeds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: a figure near 0
            clusters = KMeans(num_classes, n_init=STARTS, random_state=seed).fit_predict(features)
        found.append((normalized_mutual_info_score(labels_N, clusters), float(adjusted_rand_score(labels_N, clusters))))
    nmi, ari = np.array(found).T
    return {"nmi": nmi, "ari": ari}
