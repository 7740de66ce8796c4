"""What the model confuses: classes whose neighbours are of another class.

Shape legend: N rows, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.figures import Measured
from export.report.pictures import picture, strip
from export.report.words import count, item, percent, plural
from latentserve.bundle import Manifest
from training.data import Data
from training.evaluation.page import Html, Section, element, scrolled, table
from training.evaluation.probes import knn_labels, nearest_rows
from training.evaluation.report import has_classes

MOST_CLASSES = 16
"""Of the whole table: a larger one cannot be read. What is confused most is listed for any number."""
MOST_ROWS = 2000
"""Of the test split: of MNIST all 10,000 would take half a minute."""
NUM_PAIRS = 6
NUM_QUERIES, NUM_NEIGHBOURS = 6, 5
TITLE = "What it confuses"
SHORT, LONG = 3, 18
"""Letters of a name that fit on top of a narrow column; longer ones are turned, and cut at the other number."""


def confusion(manifest: Manifest, data: Data, measured: Measured) -> Section:
    """The table where the test rows have labels, and pictures where they have none."""
    if not has_classes(data):
        return _pictures(manifest, data, measured)
    counts_KK = confusion_counts(data, measured)
    num, right = int(counts_KK.sum()), int(np.trace(counts_KK))
    shown = "" if num == len(data.test) else f" (the first of {len(data.test):,})"
    note = (
        f"Each of {count(num, item(manifest))} held out{shown} gets the class that its 20 nearest training rows vote"
        f" for, by their embeddings: {percent(right / num)} are right. Labels are used for figures such as these, never"
        " in training."
    )
    pairs = table(("class", "taken for", "how often"), _pairs(counts_KK, data), "what is confused most")
    body = [pairs if right < num else element("p", "None was wrong.")]
    if len(counts_KK) <= MOST_CLASSES:
        caption = "Lines: the class of a row; columns: the class that was voted for; a darker cell is a larger share."
        body += [element("h3", "Every class"), element("p", caption, class_="note"), _table(counts_KK, data)]
    return Section(TITLE, note, body=tuple(body))


def confusion_counts(data: Data, measured: Measured) -> NDArray[np.int64]:
    """How many test rows of each class (lines) got each class (columns), [K, K], of the classes that occur."""
    assert data.train.labels_N is not None
    assert data.test.labels_N is not None
    true_N = data.test.labels_N[:MOST_ROWS]
    voted_N = knn_labels(measured.train["embedding"], data.train.labels_N, measured.test["embedding"][: len(true_N)])
    classes = classes_of(data)
    counts_KK = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts_KK, (np.searchsorted(classes, true_N), np.searchsorted(classes, voted_N)), 1)
    return counts_KK


def classes_of(data: Data) -> NDArray[np.int64]:
    """The numbers of the classes of training and test rows, ascending."""
    assert data.train.labels_N is not None
    assert data.test.labels_N is not None
    return np.unique(np.concatenate([data.train.labels_N, data.test.labels_N]))


def _names(data: Data) -> list[str]:
    return [data.train.name_of(int(label)) for label in classes_of(data)]


def _pairs(counts_KK: NDArray[np.int64], data: Data) -> list[tuple[str, ...]]:
    """What is confused most often, first."""
    wrong_KK = counts_KK - np.diag(np.diag(counts_KK))
    names, totals_K = _names(data), counts_KK.sum(axis=1)
    places = np.argsort(-wrong_KK, axis=None, kind="stable")[:NUM_PAIRS]
    found = [divmod(int(place), len(names)) for place in places]
    return [
        (names[true], names[voted], f"{num} of {totals_K[true]} ({percent(num / totals_K[true])})")
        for true, voted in found
        if (num := int(wrong_KK[true, voted]))
    ]


def _table(counts_KK: NDArray[np.int64], data: Data) -> Html:
    names = [_short(name) for name in _names(data)]
    turned = {"class_": "turned"} if max(map(len, names)) > SHORT else {}
    head = element(
        "tr", element("td", ""), *(element("th", element("span", name, **turned), scope="col") for name in names)
    )
    lines = []
    for true, name in enumerate(names):
        total = max(1, int(counts_KK[true].sum()))
        cells = [
            element(
                "td",
                f"{num}" if num else "",
                class_="hit" if voted == true else "miss",
                style=f"--share: {num / total:.2f}",
            )
            for voted, num in enumerate(counts_KK[true].tolist())
        ]
        lines.append(element("tr", element("th", name, scope="row"), *cells))
    whole = element("table", element("thead", head), element("tbody", *lines), class_="confusion")
    return scrolled(whole, "confusion table")


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[: LONG - 1]}…"


def _pictures(manifest: Manifest, data: Data, measured: Measured) -> Section:
    note = (
        f"The {plural(item(manifest))} have no labels, so nothing can be counted. Look: on the left is one that was"
        f" held out, beside it are the {NUM_NEIGHBOURS} trained on whose embeddings are nearest. The model takes them"
        " to be alike; are they?"
    )
    return Section(TITLE, note, body=neighbours(data, measured))


def neighbours(data: Data, measured: Measured) -> tuple[Html, ...]:
    """A line for each of a few test rows, with its nearest training rows by cosine."""
    embeddings = measured.test["embedding"]
    rows = np.linspace(0, len(embeddings) - 1, min(NUM_QUERIES, len(embeddings))).astype(int)
    nearest = nearest_rows(measured.train["embedding"], embeddings[rows], NUM_NEIGHBOURS)
    return tuple(_line(int(row), found, data) for row, found in zip(rows, nearest, strict=True))


def _line(row: int, nearest: NDArray[np.int64], data: Data) -> Html:
    query = picture(data.test.values[row], f"test row {row}", data.sample_rate_hz)
    found = [
        picture(data.train.values[one], f"neighbour {place} of test row {row}", data.sample_rate_hz)
        for place, one in enumerate(nearest.tolist(), 1)
    ]
    return strip([element("div", query, class_="query"), *found])
