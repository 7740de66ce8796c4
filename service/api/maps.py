"""Anomaly maps as messages, and how large an answer of them may be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentserve.errors import InvalidInput
from latentserve.inputs import ANOMALY_MAP, AudioInput, ImageInput
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.models.decoding import Arriving
from service.models.maps import Maps
from service.models.model import ServedModel

BYTES_OF_A_PLACE = 8
"""Its value and its p-value."""


def anomaly_maps(model: ServedModel, maps: Maps) -> pb.AnomalyMaps:
    """What is answered."""
    return pb.AnomalyMaps(
        detector=model.manifest.map_detector,
        maps=to_tensor(maps.values),
        p_values=to_tensor(maps.p_values.astype(np.float32)),
        alpha=maps.options.alpha,
        threshold=maps.threshold,
        guarantee=f"GUARANTEE_{maps.options.guarantee.upper()}",
        regions=[pb.Region(**vars(region)) for region in maps.regions],
        image=image_format(model.manifest.input),
    )


def image_format(given: ImageInput | AudioInput) -> pb.ImageFormat | None:
    """How a file becomes a row, for programs; None for sounds."""
    if not isinstance(given, ImageInput):
        return None
    resize = given.resize
    return pb.ImageFormat(
        height=given.height,
        width=given.width,
        how=resize.how,
        shorter_side=resize.shorter_side or 0,
        halves=resize.halves,
    )


def bounded(arrive: Callable[[], Arriving], model: ServedModel, max_bytes: int) -> Callable[[], Arriving]:
    """Rows whose maps fit an answer: it may be as large as a request may.

    Args:
        arrive: says what the rows will take.
        model: that makes the maps.
        max_bytes: of the maps of all rows.
    """

    def checked() -> Arriving:
        arriving = arrive()
        height, width = model.manifest.outputs[ANOMALY_MAP].shape
        size = arriving.num_rows * height * width * BYTES_OF_A_PLACE
        if size > max_bytes:
            got = f"{arriving.num_rows} rows, whose maps of {height} x {width} places take {size} bytes"
            raise InvalidInput.at("maps", got=got, expected=f"at most {max_bytes} bytes: fewer rows in a request")
        return arriving

    return checked
