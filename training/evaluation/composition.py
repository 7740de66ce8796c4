"""Are factors read apart, or only in the combinations that were seen?

The probe for the label never meets class k together with level k of another factor (say, squares on the left,
ellipses in the middle, hearts on the right), and is tested on exactly those combinations. In what it was trained on
the other factor speaks against the truth, so a probe that reads both mixed up falls below chance.

Shape legend: N rows, D features, F factors, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.probes import FEW_LABELS_INVERSE_L2, Features, Labels, linear_probe_accuracy


def held_out_combinations(labels_N: Labels, factor_N: Labels, num_classes: int) -> NDArray[np.bool_]:
    """True for rows of class k at level k of the factor, whose values 0 and up are cut into K equal levels."""
    level_N = factor_N * num_classes // (int(factor_N.max()) + 1)
    held_out: NDArray[np.bool_] = level_N == labels_N
    return held_out


def composition_accuracies(
    train_ND: Features,
    train_labels_N: Labels,
    train_factors_NF: Labels,
    test_ND: Features,
    test_labels_N: Labels,
    test_factors_NF: Labels,
) -> NDArray[np.float64]:
    """Accuracy on combinations that the probe never saw, one figure for each factor that has K values or more.

    A factor that is the label itself is left out. No factor left: an empty array.
    """
    num_classes = int(train_labels_N.max()) + 1
    accuracies = []
    for train_factor_N, test_factor_N in zip(train_factors_NF.T, test_factors_NF.T, strict=True):
        if np.array_equal(train_factor_N, train_labels_N) or train_factor_N.max() + 1 < num_classes:
            continue
        seen = ~held_out_combinations(train_labels_N, train_factor_N, num_classes)
        unseen = held_out_combinations(test_labels_N, test_factor_N, num_classes)
        if len(np.unique(train_labels_N[seen])) == num_classes and unseen.any():
            arrays = (train_ND[seen], train_labels_N[seen], test_ND[unseen], test_labels_N[unseen])
            accuracies.append(linear_probe_accuracy(*arrays, FEW_LABELS_INVERSE_L2))
    return np.array(accuracies)
