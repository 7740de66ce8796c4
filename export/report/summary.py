"""What the model is, in plain words, and what false alarms to expect."""

from __future__ import annotations

from export.draft import Training
from export.report.alarms import Alarms
from export.report.words import between, count, item, percent
from latentserve.bundle import Manifest
from latentserve.inputs import ImageInput
from training.data.units import count as count_units
from training.evaluation.page import Html, Section, element

LEARNS = {
    "vae": "It learned to reconstruct its inputs through a bottleneck (method: vae).",
    "simclr": "It learned to find two changed views of one image among those of many (method: simclr).",
    "cpc": "It learned to predict parts of an image from other parts (method: cpc).",
    "cpc_audio": "It learned to predict the next moments of a sound from those before (method: cpc_audio).",
    "bigbigan": "It learned to generate images and to find what they are generated from (method: bigbigan).",
}


def summary(manifest: Manifest, training: Training, alarms: Alarms | None) -> Section:
    """The first thing on the page."""
    one = item(manifest)
    body = [_what(manifest, training, one), *_alarms(alarms, one, len(training.data.calibration))]
    return Section("In short", body=(*body, _facts(manifest, training, alarms)))


def _what(manifest: Manifest, training: Training, one: str) -> str:
    outputs = manifest.outputs
    (dim,) = outputs["embedding"].shape
    does = [f"turns {_input(manifest)} into {dim:,} numbers, its embedding"]
    if "reconstruction" in outputs:
        does.append("reconstructs it")
    if manifest.detectors:
        does.append("says by a p-value how far it is from what the model was trained on")
    trained = training.trained
    rows = count(len(training.data.train), one)
    return (
        f"This model {', '.join(does[:-1])}{' and ' if len(does) > 1 else ''}{does[-1]}."
        f" It was trained on {rows} of {manifest.provenance.data}, without labels,"
        f" for {count(trained.epochs, 'epoch')} in {trained.seconds:,.0f} s."
        f" {LEARNS.get(training.run.method, f'The method is {training.run.method}.')}"
    )


def _input(manifest: Manifest) -> str:
    given = manifest.input
    if isinstance(given, ImageInput):
        colour = "a grey" if given.channels == 1 else "a colour"
        return f"{colour} image of {given.width} × {given.height} pixels"
    seconds = given.num_samples / given.sample_rate_hz
    return f"a clip of sound ({seconds:.3g} s at {given.sample_rate_hz:,} Hz)"


def _alarms(alarms: Alarms | None, one: str, num_calibration: int) -> list[str]:
    if alarms is None:
        return [
            f"It gives no p-values: {count(num_calibration, one)} for calibration are too few."
            " It flags nothing; its embeddings can be used."
        ]
    rows = count(alarms.num_calibration, one)
    within = alarms.expected[0] <= alarms.share <= alarms.expected[1]
    return [
        f"At alpha {percent(alarms.alpha)} about {percent(alarms.alpha)} of in-distribution {count(2, one)[2:]} are"
        " flagged: false alarms. That is an average over calibration sets. This model is calibrated on"
        f" {rows} that it was not trained on; with so many the share of false alarms lies {between(alarms.band)} (in"
        f" 95{chr(160)}% of calibration sets).",
        f"Measured: of {count(alarms.num_test, one)} held out for this test, {alarms.num_flagged:,} are flagged,"
        f" {percent(alarms.share)}. {'Between' if within else 'That is outside what chance explains: between'}"
        f" {percent(alarms.expected[0])} and {percent(alarms.expected[1])} were to be expected of so few"
        f" (95{chr(160)}%).",
        f"This holds for {count(2, one)[2:]} like those that it was trained and calibrated on. It says nothing of how"
        " many unlike ones are found.",
    ]


def _facts(manifest: Manifest, training: Training, alarms: Alarms | None) -> Html:
    one = item(manifest)
    (dim,) = manifest.outputs["embedding"].shape
    num_different = count_units(training.data.train.units_N, len(training.data.train))
    facts = [("trained on", count(len(training.data.train), one))]
    if num_different < len(training.data.train):
        facts.append(("of them in different groups, or not equal", f"{num_different:,}"))
    if alarms is not None:
        low, high = (percent(edge).replace(f"{chr(160)}%", "") for edge in alarms.band)
        facts += [
            ("calibrated on", count(alarms.num_calibration, one)),
            (f"false alarms to expect at alpha {percent(alarms.alpha)}", f"{low} to {high}{chr(160)}%"),
            ("false alarms measured", f"{percent(alarms.share)} of {alarms.num_test:,}"),
        ]
    facts.append(("embedding", f"{dim:,} numbers"))
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts))
