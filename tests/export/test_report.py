"""The page of a bundle: what comes first, what false alarms it announces, its pictures, and that nothing in it acts."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import pyplot as plt
from PIL import Image
from scipy.stats import beta, binom

from export.exporter import export_run
from export.figures import Measured
from export.graphs import GraphRunner
from export.report.alarms import Alarms, band, band_of_test
from export.report.confusion import confusion_counts
from export.report.flagged import most_flagged, most_typical
from export.report.learning import recognised
from export.report.pictures import picture, waveform
from export.report.speed import NUM_RUNS, median_seconds
from export.report.words import count, percent, size
from latentserve import bundle
from latentserve.conformal import at_most, p_values
from training.__main__ import Options, run_training
from training.data import Data, Rows, load_data
from training.evaluation.page import Section, chart, element, render_report
from training.evaluation.probes import knn_accuracy
from training.evaluation.transforms import GENERATORS
from training.methods.cpc_audio import CpcAudioConfig
from training.methods.simclr import SimClrConfig

EVIL = '<img src=x onerror=alert(1)> & "it\'s" $x$'


class Outline(HTMLParser):
    """Headings in their order, ids of what is folded, attributes of every element, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[tuple[int, str]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = [*self._inside, tag] if tag not in ("img", "meta", "br") else self._inside
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._inside and re.fullmatch("h[1-6]", self._inside[-1]):
            level, text = self.headings.pop()
            self.headings.append((level, text + data))
        if not {"style", "script"} & set(self._inside):
            self.text += data


@pytest.fixture(scope="module")
def page(bundle_folder: Path) -> str:
    return (bundle_folder / bundle.REPORT).read_text()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a folder whose names want to act, in two kinds; exported once with labels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(240):
        kind = folder / ("plain" if i % 2 else EVIL)
        kind.mkdir(exist_ok=True)
        pixels = rng.integers(0, 90, (16, 16, 3)) + (120 if i % 2 else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(kind / f"{i} {EVIL}.png")
    options = Options(data=f"folder:{folder}", image_size=16, smoke=True, run=folder.parent / "photos-run")
    run = run_training("simclr", SimClrConfig(), options)
    return export_run(run, folder.parent / "photos-models", "photos")


def test_what_matters_comes_first_and_the_rest_is_folded(page: str) -> None:
    outline = Outline(page)
    assert [text for level, text in outline.headings if level < 3] == [
        "digits-vae, version 1",
        "In short",
        "Is it trained?",
        "What it flags",
        "What it confuses",
        "How large and how fast it is",
        "Everything else that was measured",
    ]
    levels = [level for level, _ in outline.headings]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    rest = page[page.index("Everything else that was measured") :]
    assert rest.count("<details>") == page.count("<details>") == page.count("</details>") > 10
    for late in ("Evaluation report", "equivariance", "auroc", "Parity"):
        assert late.lower() in rest.lower()
        assert late.lower() not in page[: page.index("Everything else")].lower()


def test_the_page_says_the_band_and_what_was_measured(page: str, bundle_folder: Path) -> None:
    said = Outline(page).text.replace("\u00a0", " ")
    assert "512 images of digits, without labels, for 2 epochs" in said
    assert "at alpha 5 % about 5 % of in-distribution images are flagged" in said
    assert "300 images that it was not trained on" in said
    assert "the share flagged lies between 2.8 % and 7.7 % (in 95 % of calibration sets)" in said
    (share,) = (
        one.value for one in bundle.load(bundle_folder).evaluations if one.name == "share_flagged_at_alpha_0.05"
    )
    assert (
        f"{round(300 * share)} of 300 images held out for this test are flagged, {percent(share)}".replace(
            "\u00a0", " "
        )
        in said
    )


@pytest.mark.parametrize(("num", "alpha"), [(300, 0.05), (19, 0.05), (95, 0.013), (2000, 0.5)])
def test_the_band_is_that_of_simulated_calibration_sets(num: int, alpha: float) -> None:
    """The share of in-distribution rows flagged, of 4,000 calibration sets of uniform scores that are sorted."""
    rng = np.random.default_rng(0)
    k = int(alpha * (num + 1) + 1e-9)
    shares = 1 - np.sort(rng.random((4000, num)), axis=1)[:, num - k]  # flagged: above the k-th largest score
    low, high = band(num, alpha)
    assert np.mean(shares < low) == pytest.approx(0.025, abs=0.008)
    assert np.mean(shares > high) == pytest.approx(0.025, abs=0.008)
    in_test = rng.binomial(200, shares) / 200
    low, high = band_of_test(num, alpha, 200)
    assert np.mean((in_test < low) | (in_test > high)) <= 0.06
    assert np.mean((in_test <= low) | (in_test >= high)) >= 0.04


def test_the_band_is_wider_than_either_chance_alone_and_empty_where_nothing_can_be_flagged() -> None:
    low, high = band_of_test(300, 0.05, 300)
    assert low < min(beta.ppf(0.025, 15, 286), binom.ppf(0.025, 300, 0.05) / 300)
    assert high > max(beta.ppf(0.975, 15, 286), binom.ppf(0.975, 300, 0.05) / 300)
    assert band(10, 0.05) == band_of_test(10, 0.05, 100) == (0.0, 0.0)


def test_a_share_is_of_the_test_rows() -> None:
    assert Alarms(0.05, 300, 40, 3, (0, 1), (0, 1)).share == 0.075


def test_the_flagged_pictures_are_the_test_rows_with_the_smallest_p_values(page: str, bundle_folder: Path) -> None:
    manifest, data = bundle.load(bundle_folder), load_data("digits")
    test = GraphRunner(bundle_folder, manifest.graphs.values()).run(data.test.values)
    sorted_scores = bundle.load_calibration(bundle_folder, manifest)[manifest.detectors[0].name]
    p = p_values(test["scores"][:, 0], sorted_scores)
    first = np.argsort(p, kind="stable")[:12]
    part = page[page.index("What it flags") : page.index("Typical ones")]
    shown = re.findall(r'alt="flagged test row (\d+)" src="data:image/png;base64,([^"]+)"', part)
    assert sorted(p[int(row)] for row, _ in shown) == sorted(p[first])
    for row, data_uri in shown:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri))))
        np.testing.assert_array_equal(pixels, data.test.values[int(row), ..., 0])
    said = re.findall(r'<b class="(flagged|passed)">p = ([\d.]+)</b>', part)
    assert [(f"{p[int(row)]:.2g}", bool(at_most(p[int(row)], 0.05))) for row, _ in shown] == [
        (shown_p, kind == "flagged") for kind, shown_p in said
    ]
    assert part.count("reconstruction of test row") == 12
    typical = page[page.index("Typical ones") : page.index("What it confuses")]
    assert all(0.4 < float(one) < 0.6 for one in re.findall(r"p = ([\d.]+)", typical))
    assert typical.count('alt="typical test row') == 6


def measured(p: list[float], scores: list[float]) -> Measured:
    return Measured((), (), {}, {"scores": np.array([scores], np.float32).T}, np.array(p))


def test_of_equal_p_values_the_larger_score_comes_first_and_nothing_is_shown_twice() -> None:
    found = measured([0.5, 0.1, 0.1, 0.1], [1, 2, np.nan, 3])
    assert most_flagged(found) == [2, 3, 1, 0]  # a score that is no number is the furthest out
    assert most_typical(found) == []
    many = measured([i / 41 for i in range(1, 41)], [float(-i) for i in range(40)])
    assert most_flagged(many) == [*range(12)]
    assert sorted(most_typical(many)) == [17, 18, 19, 20, 21, 22]


def test_names_of_files_and_classes_cannot_act(photos: Path) -> None:
    page = (photos / bundle.REPORT).read_text()
    outline = Outline(page)
    assert EVIL in outline.text  # as it is on the disk
    assert 'class="confusion"' in page
    for tag, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        source = attributes.get("src", "data:")
        assert source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "data:"))
    assert page.count("<script>") == 1


def test_a_page_needs_no_network_and_says_so(page: str) -> None:
    for loads in ("http://", "https://", "url(", "@import", "<link", "<iframe"):
        assert loads not in page
    assert "Content-Security-Policy" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert 'content="width=device-width, initial-scale=1"' in page
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_without_labels_neighbours_are_shown_and_what_can_be_said_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(37):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    options = Options(data=f"folder:{tmp_path}", image_size=16, smoke=True, run=tmp_path / "run")
    folder = export_run(run_training("simclr", SimClrConfig(), options), tmp_path / "models", "photos")
    page = (folder / bundle.REPORT).read_text()
    first = page[: page.index("Everything else")]
    assert "have no labels" in first
    assert "untrained network" in first
    assert first.count('alt="neighbour') == 3 * 5
    assert "taken for" not in page
    assert "It gives no p-values" in first  # three calibration rows
    assert "What it flags" in first


def test_a_page_of_sounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        tone = np.sin(np.arange(3000) * rng.uniform(0.1, 1)) * 8000 + rng.normal(0, 500, 3000)
        soundfile.write(tmp_path / f"{i}.wav", tone.astype(np.int16), 8000)
    options = Options(data=f"audio:{tmp_path}", smoke=True, run=tmp_path / "run")
    folder = export_run(run_training("cpc_audio", CpcAudioConfig(), options), tmp_path / "models", "tones")
    page = (folder / bundle.REPORT).read_text()
    assert "a clip of sound (1 s at 8,000 Hz)" in page
    assert "the curve is all there is" in page
    part = page[page.index("What it flags") : page.index("What it confuses")]
    assert part.count('class="wave"') == part.count("<audio") == 12 + 6
    assert re.search(r"p = 0\.\d+</b><br>\d+\.wav", part)
    assert page.count('aria-label="neighbour') == 2 * 6 * 5  # of the drawing and of the player


def test_pictures_of_sounds() -> None:
    rising = (np.linspace(0, 1, 8000) * 20000).astype(np.int16)
    drawn = waveform(rising, 'a "tone"')
    assert 'aria-label="a &quot;tone&quot;"' in drawn
    heights = [float(y) for y in re.findall(r"\d+,([\d.-]+)", drawn)]
    assert min(heights) == pytest.approx(-0.3, abs=0.1)  # the loudest moment reaches the top
    assert "<audio" in picture(rising, "short", 8000)
    assert "<audio" not in picture(np.zeros(60_000, np.int16), "long", 8000)
    assert "nan" not in waveform(np.zeros(8000, np.int16), "silence")
    assert "nan" not in waveform(np.array([-32768], np.int16), "one sample")


def test_large_images_are_made_small_and_small_ones_stay_as_they_are() -> None:
    large = picture(np.full((400, 400, 3), 7, np.uint8), "large")
    assert len(large) < 5000
    found = re.search(r"data:image/(\w+);base64,([^\"]+)", large)
    assert found
    assert found[1] == "jpeg"
    assert max(Image.open(io.BytesIO(base64.b64decode(found[2]))).size) == 160
    small = picture(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1), "reconstruction")
    assert "coarse" in small
    assert "data:image/png" in small


def test_the_confusion_table_counts_the_votes_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400) * 2  # 0, 2, 4: classes that do not occur take no place
    features = (np.eye(5)[labels] + rng.normal(0, 0.5, (400, 5))).astype(np.float32)
    rows = Rows(np.zeros((400, 8, 8, 1), np.uint8), labels)
    data = Data("made", rows.take(slice(0, 300)), rows.take(slice(0, 0)), rows.take(slice(300, 400)))
    found = Measured((), (), {"embedding": features[:300]}, {"embedding": features[300:]}, np.empty(0))
    counts = confusion_counts(data, found)
    assert counts.shape == (3, 3)
    np.testing.assert_array_equal(counts.sum(axis=1), np.unique(labels[300:], return_counts=True)[1])
    assert np.trace(counts) / 100 == knn_accuracy(features[:300], labels[:300], features[300:], labels[300:])
    assert 0 < np.trace(counts) < 100


def test_an_image_is_recognised_if_nothing_else_is_nearer() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (50, 8, 8, 1)).astype(np.uint8)
    changed = {name: change(images) for name, change in GENERATORS.items()}
    found = recognised(lambda rows: rows.reshape(len(rows), -1).astype(np.float32), images, changed)
    assert found["brighten"] == 1.0
    assert found["flip"] < 0.3
    noise = recognised(lambda rows: rng.normal(size=(len(rows), 8)).astype(np.float32), images, changed)
    assert max(noise.values()) < 0.3


def test_times_are_medians_after_a_warm_up_within_a_budget() -> None:
    def clocked(takes: list[float]) -> tuple[float, int]:
        now, calls = [0.0], [0]

        def run() -> None:
            now[0] += takes[min(calls[0], len(takes) - 1)]
            calls[0] += 1

        return median_seconds(run, lambda: now[0], budget=0.5), calls[0]

    assert clocked([0.4, 0.01, 0.03, 0.02, 0.01, 0.03]) == pytest.approx((0.02, 1 + NUM_RUNS))
    assert clocked([0.4, 0.3, 0.3]) == pytest.approx((0.3, 3))
    assert clocked([2.0]) == pytest.approx((2.0, 1))


def test_speed_and_size_are_of_this_bundle(page: str, bundle_folder: Path) -> None:
    part = page[page.index("How large") : page.index("Everything else")]
    for graph in bundle_folder.glob("*.onnx"):
        assert f'{graph.name}</th><td class="figure">{size(graph.stat().st_size)}' in part
    assert "64 at a time" in part
    assert "1 at a time" in part
    assert "32 numbers, 128\u00a0bytes as float32" in part


def test_words() -> None:
    assert [percent(share) for share in (0, 0.0033, 0.0501, 0.0995, 0.1249, 1)] == [
        f"{text}\u00a0%" for text in ("0", "0.33", "5", "10", "12", "100")
    ]
    assert [count(1, "clip of sound"), count(1200, "clip of sound"), count(2, "image")] == [
        "1 clip of sound",
        "1,200 clips of sound",
        "2 images",
    ]
    assert [size(num) for num in (12, 1234, 5_670_000, 2_000_000_000)] == [
        f"{text}".replace(" ", "\u00a0") for text in ("12 bytes", "1.23 kB", "5.67 MB", "2 GB")
    ]


def test_everything_on_a_page_is_escaped_but_html() -> None:
    others = plt.get_fignums()
    figure, _ = plt.subplots()
    sections = [Section(EVIL, EVIL, (EVIL, EVIL), ((EVIL, EVIL),), figure, (EVIL, element("p", EVIL)))]
    page = render_report(EVIL, sections, sections[:0] or [Section(EVIL, EVIL)], EVIL)
    outline = Outline(page)
    images = [attributes for tag, attributes in outline.elements if tag == "img"]
    assert len(images) == 1  # the chart
    assert images[0]["alt"] == f"Chart: {EVIL}"
    assert outline.text.count(EVIL) == 1 + 1 + 8 + 3
    assert plt.get_fignums() == others  # the chart's own is closed


def test_a_chart_has_no_ground_so_that_it_can_be_shown_in_the_dark() -> None:
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.plot([0, 1], [0, 1])
    found = re.search(r"base64,([^\"]+)\"[^>]*width=\"(\d+)\"", chart(figure, "line"))
    assert found
    drawn = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert drawn.mode == "RGBA"
    assert drawn.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert drawn.size[0] == pytest.approx(1.6 * int(found[2]), abs=2)
