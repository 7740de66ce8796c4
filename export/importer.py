"""Writes a bundle of an encoder that was trained elsewhere, as `export.exporter` writes one of a training run."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from export.draft import Choices, Training
from export.exporter import check_promise, write_bundle
from export.finite import check_finite
from export.origin import Imported
from export.sources import Network, SourceError, SourceOptions, check_source, open_source
from export.sources.imported import check_rows_alone
from export.versions import next_version
from export.wanted import check_detectors
from latentserve import bundle, records
from latentserve.inputs import ImageInput
from training.data import Data
from training.data.loading import check_calibration, check_spec, is_own
from training.data.shares import Calibration
from training.options import check_new_folder
from training.preprocessing import floats_from_rows

MOST_LICENCE_BYTES = 2**18
FIRST_ROWS = 4


@dataclass(frozen=True)
class Order:
    """What is to be imported, and whereto.

    Attributes:
        source: see `export.sources`.
        data: spec of the rows that detectors are fitted on and calibrated with.
        repository: where models lie, as <name>/<version>.
        name: of the model; default: the source's.
        seed: draws the splits.
        group_by: rows of the data that no split may part.
        licence: file with the text of the encoder's licence.
        calibration: what calibrates.
    """

    source: str
    data: str
    repository: Path
    name: str | None = None
    seed: int = 0
    group_by: str | None = None
    licence: Path | None = None
    calibration: Calibration = Calibration()  # noqa: RUF009 (frozen)


def import_encoder(order: Order, options: SourceOptions, choices: Choices) -> Path:
    """Imports an encoder as the next version of a model; returns the bundle's folder.

    Raises:
        SourceError: the encoder cannot be taken over.
        DataError: the data cannot be loaded.
        ExportError: the promise cannot be kept, or an ONNX output differs from the encoder's.
        ValueError: a model cannot be called so, or cannot be written there.
    """
    check_source(order.source)
    check_detectors(choices.promise)
    check_spec(order.data, group_by=order.group_by)
    check_calibration(order.calibration, order.data)
    name = default_name(order.source) if order.name is None else order.name
    bundle.check_name(name)
    check_new_folder("to", order.repository / name)
    licence = _read_licence(order.licence)
    _say(f"opens {order.source}")
    network = open_source(order.source, options)
    _say_what_is_cut_off(network, options)
    imported = _record(order, network, licence, options)
    with next_version(order.repository / name) as claim:
        data = imported.load_data()
        check_promise(choices.promise, data)
        _check_first_rows(network, data)
        imported = replace(imported, data_sha256=data.fingerprint)
        write_bundle(claim.folder, Training(imported, network.model, data), name, claim.version, choices)
        return claim.publish()


def default_name(source: str) -> str:
    """The name of an imported model if the user gives none: of a network its name, of a file or folder its own."""
    kind, _, argument = source.partition(":")
    named = argument.partition("=")[0] if kind in ("timm", "torchvision") else argument
    if kind in ("hf", "onnx"):
        named = Path(argument).expanduser().absolute().name.removesuffix(".onnx")
    return re.sub(r"[^A-Za-z0-9._]+", "-", named).strip("-._")[:100] or kind


def _record(order: Order, network: Network, licence: str | None, options: SourceOptions) -> Imported:
    given = {name: value for name, value in records.to_json(options).items() if value is not None}
    return Imported(
        source=records.printable(order.source),
        weights_sha256=network.weights_sha256,
        licence=network.licence if licence is None else licence,
        data=order.data,
        input=network.input,
        seed=order.seed,
        group_by=order.group_by,
        options=given,
        calibration=order.calibration if is_own(order.data) else None,
        versions=network.versions,
    )


def _read_licence(file: Path | None) -> str | None:
    if file is None:
        return None
    if not file.is_file():
        raise SourceError(f"licence: got {file}, expected a text file")
    data = file.read_bytes()
    if len(data) > MOST_LICENCE_BYTES:
        raise SourceError(f"licence: got {len(data)} bytes, expected at most {MOST_LICENCE_BYTES}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"licence: got {file}, expected text in UTF-8") from error


def _say_what_is_cut_off(network: Network, options: SourceOptions) -> None:
    """The user did not choose what the source does."""
    given = network.input
    if isinstance(given, ImageInput) and given.resize.how == "crop" and options.resize is None:
        _say("the source cuts the centre out of each image; --resize fit or --resize stretch keeps its border")


def _check_first_rows(network: Network, data: Data) -> None:
    """Of real rows too an embedding may not depend on the rows beside it; that it depends on its row is hoped for."""
    rows = floats_from_rows(torch.from_numpy(np.asarray(data.train.values[:FIRST_ROWS])))
    with torch.no_grad():
        together, alone = (network.model.encode(some).embedding for some in (rows, rows[:1]))
    check_finite(together.numpy(), data.train, "training")
    check_rows_alone(together, alone)
    if (rows != rows[0]).any() and (together == together[0]).all():
        _say(
            f"the first {len(rows)} training rows differ, and all have one embedding: are --mean, --std and"
            " --scale the network's, is it the tensor that you mean?"
        )


def _say(step: str) -> None:
    print(records.printable(f"import: {step}"), file=sys.stderr, flush=True)
