"""Writes nonconform.json, what the library nonconform makes of a few numbers: the oracle of test_nonconform.py.

    pip install nonconform==2.0.0 scikit-learn      in an environment of its own: it needs Python 3.12
    python tests/export/nonconform_oracle.py

Source: https://github.com/OliverHennhoefer/nonconform
"""

# mypy: ignore-errors

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nonconform import CrossValidation
from nonconform.scoring import ConditionalEmpirical, Empirical

HERE = Path(__file__).resolve().parent
NUM, DIM, FOLDS, DELTA = 40, 3, 5, 0.1


class Distance:
    """A detector: how far a row is from the mean of those that it was fitted on."""

    def fit(self, rows, labels=None):
        """Takes the mean."""
        self.mean = rows.mean(0)
        return self

    def decision_function(self, rows):
        """Larger is stranger."""
        return np.linalg.norm(rows - self.mean, axis=1)

    def get_params(self, deep=True):
        """None."""
        return {}

    def set_params(self, **parameters):
        """None."""
        return self


def main() -> None:
    """Writes the file."""
    generator = np.random.default_rng(7)
    rows, new = (np.round(generator.normal(0, 1, (num, DIM)), 3) for num in (NUM, 25))
    strategy = CrossValidation(k=FOLDS, mode="single_model")
    _, scores = strategy.fit_calibrate(rows, Distance(), seed=1)
    new_scores = np.concatenate([Distance().fit(rows).decision_function(new), scores[:5]])  # some are ties
    ids = np.asarray(strategy.calibration_ids)
    folds = np.empty(NUM, int)
    folds[ids] = np.repeat(np.arange(FOLDS), NUM // FOLDS)
    said = {
        "rows": rows.tolist(),
        "folds": folds.tolist(),
        "scores": scores[np.argsort(ids)].tolist(),
        "new_scores": new_scores.tolist(),
        "p": Empirical().compute_p_values(new_scores, scores).tolist(),
        "delta": DELTA,
        "simes": ConditionalEmpirical(delta=DELTA, method="simes").compute_p_values(new_scores, scores).tolist(),
    }
    (HERE / "nonconform.json").write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
