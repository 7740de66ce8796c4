"""What the model is, in plain words, and what false alarms to expect."""

from __future__ import annotations

from export.draft import Training
from export.origin import Imported
from export.report.alarms import CONFIDENCE, Alarms
from export.report.words import NO_BREAK, between, count, item, percent, plural
from latentserve.bundle import Manifest
from latentserve.inputs import ImageInput
from training.data.units import count as count_units
from training.evaluation.page import Html, Section, element

LEARNS = {
    "vae": "It learned to reconstruct its inputs through a bottleneck (method: vae).",
    "simclr": "It learned to find two changed views of one image among those of many (method: simclr).",
    "distill": "It learned what a bigger model makes of the same images (method: distill).",
    "rotation": "It learned to tell by how many quarters an image was turned (method: rotation).",
    "deepcluster": "It learned to tell into which of its own clusters an image falls (method: deepcluster).",
    "relative_position": "It learned to tell how two parts of an image lie to each other (method: relative_position).",
    "colorization": "It learned to tell the colours of an image from its lightness (method: colorization).",
    "cpc": "It learned to predict parts of an image from other parts (method: cpc).",
    "cpc_audio": "It learned to predict the next moments of a sound from those before (method: cpc_audio).",
    "bigbigan": "It learned to generate images and to find what they are generated from (method: bigbigan).",
}


def summary(manifest: Manifest, training: Training, alarms: Alarms | None) -> Section:
    """The first thing on the page."""
    one = item(manifest)
    body = [_what(manifest, training, one), *_alarms(alarms, one, len(training.data.calibration))]
    return Section("In short", body=(body[0], _facts(manifest, training, alarms), *body[1:]))


def _what(manifest: Manifest, training: Training, one: str) -> str:
    outputs = manifest.outputs
    (dim,) = outputs["embedding"].shape
    does = [f"turns {_input(manifest)} into {dim:,} numbers, its embedding"]
    if "reconstruction" in outputs:
        does.append("reconstructs it")
    if manifest.detectors:
        imported = isinstance(training.origin, Imported)
        fitted = "its detectors were fitted on" if imported else "the model was trained on"
        does.append(f"says by a p-value how far it is from what {fitted}")
    what = f"This model {', '.join(does[:-1])}{', and ' if len(does) > 1 else ''}{does[-1]}."
    return f"{what} {_history(manifest, training, count(len(training.data.train), one))}"


def _history(manifest: Manifest, training: Training, rows: str) -> str:
    data, origin = manifest.provenance.data, training.origin
    if isinstance(origin, Imported):
        fitted = f" Its detectors were fitted on {rows} of {data}, without labels." if manifest.detectors else ""
        return f"It was trained elsewhere and imported from {origin.source}.{fitted}"
    method, trained = origin.run.method, origin.trained
    return (
        f"It was trained on {rows} of {data}, without labels,"
        f" for {count(trained.epochs, 'epoch')} in {trained.seconds:,.0f} s."
        f" {LEARNS.get(method, f'The method is {method}.')}"
    )


def _input(manifest: Manifest) -> str:
    given = manifest.input
    if isinstance(given, ImageInput):
        colour = "a grey" if given.channels == 1 else "a colour"
        return f"{colour} image of {given.width} by {given.height} pixels"
    seconds = given.num_samples / given.sample_rate_hz
    return f"a clip of sound ({seconds:.3g} s at {given.sample_rate_hz:,} Hz)"


def _alarms(alarms: Alarms | None, one: str, num_calibration: int) -> list[str]:
    if alarms is None:
        return [
            f"It gives no p-values: {count(num_calibration, one)} for calibration are too few."
            " It flags nothing; its embeddings can be used."
        ]
    rows, many = count(alarms.num_calibration, one), plural(one)
    inside = alarms.expected[0] <= alarms.share <= alarms.expected[1]
    return [
        f"False alarms to expect: at alpha {percent(alarms.alpha)} about {percent(alarms.alpha)} of in-distribution"
        f" {many} are flagged, as an average over calibration sets. This model has one such set, {rows} that it was not"
        f" trained on; with so many, the share flagged lies {between(alarms.band)} (in {percent(CONFIDENCE)} of"
        " calibration sets).",
        f"Measured: {alarms.num_flagged:,} of {count(alarms.num_test, one)} held out for this test are flagged,"
        f" {percent(alarms.share)}. That is {'within' if inside else 'outside'} what chance allows for so many:"
        f" {between(alarms.expected)} (in {percent(CONFIDENCE)} of calibration and test sets).",
        f"This holds for {many} like those of training and calibration. How many unlike ones are found is another"
        " question, which only unlike ones of your own can answer.",
    ]


def _facts(manifest: Manifest, training: Training, alarms: Alarms | None) -> Html:
    one = item(manifest)
    (dim,) = manifest.outputs["embedding"].shape
    num_different = count_units(training.data.train.units_N, len(training.data.train))
    imported = isinstance(training.origin, Imported)
    facts = [("fitted on" if imported else "trained on", count(len(training.data.train), one))]
    if num_different < len(training.data.train):
        facts.append(("of them in different groups, or not equal", f"{num_different:,}"))
    if alarms is not None:
        low, high = map(percent, alarms.band)
        low = low.removesuffix(f"{NO_BREAK}%")
        facts += [
            ("calibrated on", count(alarms.num_calibration, one)),
            (f"false alarms to expect at alpha {percent(alarms.alpha)}", f"{low} to {high}".replace(" ", NO_BREAK)),
            ("false alarms measured", f"{alarms.num_flagged:,} of {alarms.num_test:,}, {percent(alarms.share)}"),
        ]
    facts.append(("embedding", f"{dim:,} numbers"))
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts))
