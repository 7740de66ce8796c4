"""The client's commands: embed, score, reconstruct, models.

Items go to the server many at a time. What is wrong with one item is told beside its name, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.bulk.command import check_alone
from latentserve.bulk.command import run as run_job
from latentserve.calls import Scores
from latentserve.cli import arguments
from latentserve.cli.asking import CHUNK, each
from latentserve.cli.meter import Meter
from latentserve.cli.overlays import Overlays
from latentserve.cli.sinks import Record, sink
from latentserve.cli.sources import Source, sources
from latentserve.errors import InvalidInput, LatentserveError

FLAGGED, FAILED, WELL = 3, 1, 0
Rows = NDArray[np.float32]


def embed(given: Sequence[str]) -> int:
    """`latentserve embed`."""
    made = arguments.parser("embed", "Embeddings of images or sounds: one vector an item.")
    arguments.with_items(made, "file for the embeddings: .npy, .csv or .jsonl")
    arguments.with_job(made)
    options = made.parse_args(given)
    if _is_job(options):
        return run_job(options, ("embedding",))
    with arguments.client(options) as client:
        return _tensors(options, partial(client.embed, model=options.model, version=options.version), "embedding")


def reconstruct(given: Sequence[str]) -> int:
    """`latentserve reconstruct`."""
    made = arguments.parser("reconstruct", "What a model that has a decoder reconstructs of each item.")
    arguments.with_items(made, "folder for pictures, or a .npy file")
    options = made.parse_args(given)
    with arguments.client(options) as client:
        call = partial(client.reconstruct, model=options.model, version=options.version)
        return _tensors(options, call, "reconstruction")


def score(given: Sequence[str]) -> int:
    """`latentserve score`."""
    made = arguments.parser("score", "Out-of-distribution p-values, and what is flagged at a level.")
    arguments.with_items(made, "file for the scores: .csv or .jsonl")
    arguments.with_decision(made)
    arguments.with_maps(made)
    made.add_argument("--exit-code", action="store_true", help=f"exit with {FLAGGED} if anything is flagged")
    arguments.with_job(made)
    made.add_argument("--embeddings", action="store_true", help="of a job: the embeddings, too")
    options = made.parse_args(given)
    if _is_job(options):
        return run_job(options, (*(["embedding"] if options.embeddings else []), "p_value", "flagged"))
    if options.overlay_every and options.overlays is None:
        raise InvalidInput("overlay-every: got it alone, expected --overlays FOLDER beside it")
    overlays = Overlays(options.overlays, options.overlay_every) if options.maps or options.overlays else None
    columns = ("item", "p_value", "flagged", "score", *(("regions",) if overlays else ()), "error")
    items, total = sources(options.inputs)
    chunk = CHUNK
    if options.decision == "false_discovery_rate":
        chunk = sys.maxsize  # its level is for all items together
    failed = flagged = 0
    with arguments.client(options) as client, sink(options.out, options.format, columns, force=options.force) as out:
        call = partial(
            client.score,
            alpha=options.alpha,
            model=options.model,
            version=options.version,
            guarantee=options.guarantee,
            decision=options.decision,
            maps=overlays is not None,
        )
        with Meter(total) as meter:
            for source, number, found in each(items, call, chunk):
                failed += isinstance(found, LatentserveError)
                record = _scored(source, number, found, overlays)
                flagged += record.get("flagged") is True
                out.write(record, None)
                meter.count()
    told = f"{meter.done:,} items in {meter.seconds():.1f} s: {flagged:,} flagged, {failed:,} failed"
    print(told, file=sys.stderr)
    return FAILED if failed else FLAGGED if flagged and options.exit_code else WELL


def _is_job(options: Any) -> bool:
    if options.to is None:
        check_alone(options)
    return options.to is not None


def models(given: Sequence[str]) -> int:
    """`latentserve models`."""
    made = arguments.parser("models", "The models that a server has, and the bundles that it rejected.")
    options = made.parse_args(given)
    with arguments.client(options) as client:
        listed = client.list_models()
    for model in listed.models:
        spec = model.input
        outputs = ", ".join(output.name for output in model.outputs)
        how = f"{model.method} of {model.source}, calibrated" if model.source else model.method
        print(f"{model.name} version {model.version}: {how} on {model.data}, {model.execution_provider}")
        print(f"  input {list(spec.shape)}, outputs {outputs}")
        if model.resize:
            print(f"  of a file {model.resize}")
        for detector in model.detectors[:1]:
            crosswise = ", crosswise" if detector.calibration == "cross" else ""
            calibrated = f"{detector.num_calibration_rows:,} calibration rows{crosswise}"
            print(f"  flags at alpha {model.default_alpha:g} by {detector.name}, {calibrated}")
        if model.map_detector:
            print(f"  maps by {model.map_detector}")
    return WELL


def _tensors(options: Any, call: Callable[[list[Any]], Rows], tensor: str) -> int:
    """One tensor an item, to wherever it is to go."""
    items, total = sources(options.inputs)
    failed = 0
    with sink(options.out, options.format, ("item", "error"), tensor, options.force) as out, Meter(total) as meter:
        for source, number, found in each(items, call):
            if isinstance(found, LatentserveError):
                failed += 1
                out.write({"item": source.name, "error": str(found)}, None)
            else:
                out.write({"item": source.name, "error": None}, found[number])
            meter.count()
    print(f"{meter.done:,} items in {meter.seconds():.1f} s, {failed:,} failed", file=sys.stderr)
    return FAILED if failed else WELL


def _scored(source: Source, number: int, found: Scores | LatentserveError, overlays: Overlays | None) -> Record:
    if isinstance(found, LatentserveError):
        return {"item": source.name, "p_value": None, "flagged": None, "score": None, "error": str(found)}
    at = found.detectors.index(found.deciding_detector)
    return {
        "item": source.name,
        "p_value": float(found.p_values[number]),
        "flagged": bool(found.flagged[number]),
        "score": float(found.scores[number, at]),
        **({} if overlays is None else {"regions": overlays.add(source, number, found)}),
        "error": None,
    }
