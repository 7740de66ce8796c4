"""How far each latent follows one known factor of variation and each factor one latent.

Four published figures, all 0 to 1, all read from codes and factors alone, so they need no model. None of them
is the truth: MIG and SAP ask for one latent a factor, DCI lets several latents share a factor, the beta-VAE metric
only asks whether a classifier can tell which factor was held fixed. Report them together.

    figures = disentanglement(codes_NL, factors_NF)    # {"mig": ..., "dci_disentanglement": ..., ...}

A factor that does not vary over the rows is left out: nothing can be said of it. Comparison with published
figures needs care: bins, classifiers and the factors themselves differ from paper to paper.

Shape legend: N rows, L latents, F factors, K values of a factor, V votes, P pairs a vote.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

NUM_BINS = 20  # Locatello et al., https://arxiv.org/abs/1811.12359, appendix C
PAIRS_PER_VOTE = 64  # Higgins et al., beta-VAE, ICLR 2017, appendix A.4: L = 64 for 2D shapes
NUM_VOTES = 3000
NUM_TREES = 50
MIN_LEAF_ROWS = 10  # grown to the last row, trees spend their importance on learning noise by heart

Codes = NDArray[np.floating]
Factors = NDArray[np.integer]


def disentanglement(codes_NL: Codes, factors_NF: Factors, seed: int = 0) -> dict[str, float]:
    """All figures by name: mig, dci_disentanglement, dci_completeness, dci_informativeness, sap, beta_vae_metric.

    Args:
        codes_NL: the posterior means of rows that were not trained on.
        factors_NF: the value of each factor of the same rows.
        seed: of the split that classifiers are scored on, of their forests and of the pairs drawn.

    Raises:
        ValueError: codes and factors do not fit together, codes are not finite, or fewer than two factors vary.
    """
    codes, factors = _checked(codes_NL, factors_NF)
    dci_disentanglement, completeness, informativeness = dci(codes, factors, seed)
    return {
        "mig": float(mutual_information_gaps(codes, factors).mean()),
        "dci_disentanglement": dci_disentanglement,
        "dci_completeness": completeness,
        "dci_informativeness": informativeness,
        "sap": sap(codes, factors, seed),
        "beta_vae_metric": beta_vae_metric(codes, factors, seed),
    }


def mutual_information_gaps(codes_NL: Codes, factors_NF: Factors) -> NDArray[np.float64]:
    """Per factor, how much more one latent tells of it than the next best does, as a share of its entropy, [F].

    MIG is their mean: 1/F sum_k (I(z_1st; v_k) - I(z_2nd; v_k)) / H(v_k), on codes cut into 20 bins of equal width.

    Source: Chen et al., https://arxiv.org/abs/1802.04942, eq. 6; bins: Locatello et al.
    """
    codes, factors = _checked(codes_NL, factors_NF)
    bins_NL = np.stack([_binned(codes_N) for codes_N in codes.T], axis=1)
    gaps = []
    for factor_N in factors.T:
        informations_L = [_mutual_information(bins_N, factor_N) for bins_N in bins_NL.T]
        second, first = sorted([0.0, *informations_L])[-2:]  # 0: the next best of a single latent
        gaps.append((first - second) / _mutual_information(factor_N, factor_N))  # I(v; v) = H(v)
    return np.array(gaps)


def dci(codes_NL: Codes, factors_NF: Factors, seed: int = 0) -> tuple[float, float, float]:
    """Disentanglement, completeness and informativeness, each 0 to 1.

    R_lk is how much a random forest relies on latent l to tell factor k. Disentanglement: each latent serves one
    factor, 1 - H_F(R_l / sum_k R_lk), latents weighted by their share of R. Completeness: each factor is served
    by one latent, 1 - H_L(R_k / sum_l R_lk). Informativeness: accuracy of the forests on the other half of the rows.

    Source: Eastwood and Williams, ICLR 2018, https://openreview.net/forum?id=By-7dz-AZ, section 2. Forests are
    one of its two regressors; classifiers as in Locatello et al., whose boosted trees take minutes for 40 classes.
    """
    codes, factors = _checked(codes_NL, factors_NF)
    fit, score = _halves(len(codes), seed)
    importances_LF = np.empty((codes.shape[1], factors.shape[1]))
    accuracies = []
    for factor, factor_N in enumerate(factors.T):
        forest = RandomForestClassifier(
            NUM_TREES, min_samples_leaf=MIN_LEAF_ROWS, max_features=None, random_state=seed
        ).fit(codes[fit], factor_N[fit])
        importances_LF[:, factor] = forest.feature_importances_
        accuracies.append(float(forest.score(codes[score], factor_N[score])))
    weight_L = importances_LF.sum(axis=1) / max(importances_LF.sum(), 1e-12)
    disentanglement_L, completeness_F = _concentration(importances_LF), _concentration(importances_LF.T)
    return float(weight_L @ disentanglement_L), float(completeness_F.mean()), float(np.mean(accuracies))


def sap(codes_NL: Codes, factors_NF: Factors, seed: int = 0) -> float:
    """Separated attribute predictability: mean gap in accuracy between the two latents that tell a factor best.

    A latent's accuracy is that of the nearest class mean on it alone, on rows the means do not come from. The
    paper's linear SVM, one class against the rest, cannot single out a class that lies between two others.

    Source: Kumar et al., https://arxiv.org/abs/1711.00848, section 3.
    """
    codes, factors = _checked(codes_NL, factors_NF)
    fit, score = _halves(len(codes), seed)
    gaps = []
    for factor_N in factors.T:
        values_K = np.unique(factor_N[fit])
        accuracies = []
        for code_N in codes.T:
            means_K = np.array([code_N[fit][factor_N[fit] == value].mean() for value in values_K])
            nearest_N = np.abs(code_N[score][:, None] - means_K).argmin(axis=1)
            accuracies.append(float((values_K[nearest_N] == factor_N[score]).mean()))
        second, first = sorted([0.0, *accuracies])[-2:]
        gaps.append(first - second)
    return float(np.mean(gaps))


def beta_vae_metric(codes_NL: Codes, factors_NF: Factors, seed: int = 0) -> float:
    """Accuracy of a linear classifier that says which factor was held fixed; 1/F is chance.

    A vote holds one factor at one value, draws pairs of rows with that value and averages |z_1 - z_2| over them.
    Latents are standardised first, as a unit of one is no unit of another. Half of the votes are scored.

    Source: Higgins et al., beta-VAE, ICLR 2017, https://openreview.net/forum?id=Sy2fzU9gl, section 3.
    """
    codes, factors = _checked(codes_NL, factors_NF)
    codes = StandardScaler().fit_transform(codes)
    rng = np.random.default_rng(seed)
    fixed_V = rng.integers(factors.shape[1], size=NUM_VOTES)
    votes_VL = np.empty((NUM_VOTES, codes.shape[1]))
    for factor, factor_N in enumerate(factors.T):
        rows_V2P = _rows_that_share(factor_N, int((fixed_V == factor).sum()), rng)
        votes_VL[fixed_V == factor] = np.abs(codes[rows_V2P[:, 0]] - codes[rows_V2P[:, 1]]).mean(axis=1)
    fit, score = slice(0, NUM_VOTES // 2), slice(NUM_VOTES // 2, None)
    classifier = LogisticRegression(C=100.0, max_iter=1000).fit(votes_VL[fit], fixed_V[fit])
    return float(classifier.score(votes_VL[score], fixed_V[score]))


def _checked(codes_NL: Codes, factors_NF: Factors) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Codes as float64, and the factors that vary, their values renumbered from 0."""
    if codes_NL.ndim != 2 or factors_NF.ndim != 2 or len(codes_NL) != len(factors_NF):
        raise ValueError(f"codes: got {codes_NL.shape} with factors {factors_NF.shape}, expected [N, L] and [N, F]")
    if not np.isfinite(codes_NL).all():
        raise ValueError("codes: got NaN or infinite values, expected finite ones")
    varying = [np.unique(factor_N, return_inverse=True)[1] for factor_N in factors_NF.T if np.ptp(factor_N) > 0]
    if len(varying) < 2:
        raise ValueError(f"factors: got {len(varying)} that vary, expected two or more")
    return codes_NL.astype(np.float64), np.stack(varying, axis=1).astype(np.int64)


def _halves(num_rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(num_rows)
    return order[: num_rows // 2], order[num_rows // 2 :]


def _binned(codes_N: NDArray[np.float64]) -> NDArray[np.int64]:
    edges = np.histogram_bin_edges(codes_N, NUM_BINS)
    return np.digitize(codes_N, edges[1:-1])


def _mutual_information(a_N: NDArray[np.int64], b_N: NDArray[np.int64]) -> float:
    """sum_ab p(a, b) log(p(a, b) / (p(a) p(b))) of two columns of small non-negative integers, nats."""
    num_b = int(b_N.max()) + 1
    joint = np.bincount(a_N * num_b + b_N, minlength=(int(a_N.max()) + 1) * num_b).reshape(-1, num_b) / len(a_N)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _concentration(importances: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row 1 if all its weight lies in one column, 0 if it is even, or if there is none."""
    num_columns = importances.shape[1]
    if num_columns == 1:
        return np.ones(len(importances))
    total = importances.sum(axis=1, keepdims=True)
    share = np.where(total > 0, importances / np.maximum(total, 1e-300), 1 / num_columns)
    entropy: NDArray[np.float64] = -(share * np.log(np.maximum(share, 1e-300))).sum(axis=1) / np.log(num_columns)
    return 1 - entropy


def _rows_that_share(factor_N: NDArray[np.int64], num_votes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[V, 2, P]: for each vote a value that occurs, drawn evenly, and rows that have it."""
    ordered = np.argsort(factor_N, kind="stable")
    counts = np.bincount(factor_N)
    starts = np.cumsum(counts) - counts
    value_V11 = rng.integers(len(counts), size=(num_votes, 1, 1))
    place = (rng.random((num_votes, 2, PAIRS_PER_VOTE)) * counts[value_V11]).astype(np.int64)
    rows_V2P: NDArray[np.int64] = ordered[starts[value_V11] + place]
    return rows_V2P
