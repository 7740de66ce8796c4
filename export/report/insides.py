"""What a model is made of, as pictures: filters of its first layer, its codes and where they occur, samples.

Each is one picture, not one for each filter: a page is mailed. None of it is a figure to compare models by.

Shape legend: N rows or pictures, H height, W width, C channels, h and w places, K codes.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from export.draft import Training
from export.figures import Measured
from export.report.pictures import strip
from training.data import Data
from training.evaluation.page import Html, Section, image
from training.evaluation.plots import ACCENT, plain
from training.methods.encoding import Dreamer, Sampler
from training.preprocessing import floats_from_rows

MOST_FILTERS, IN_LINE = 64, 16
NUM_SAMPLES = 32
NUM_DREAMS = 6
MOST_CODES, OCCURRENCES = 12, 16
AROUND = 1
"""Places on either side of a code's own that are shown with it."""
LARGEST_SIDE, WIDEST, PIXELS_PER_REM = 1200, 600, 16
"""Pixels of one of these pictures, and how wide it is shown at most."""
SEED = 0


def insides(training: Training, measured: Measured) -> list[Section]:
    """The sections that such a model has."""
    data, found = training.data, list[Section]()
    if data.sample_rate_hz is None and isinstance(training.model, nn.Module):
        if (filters := first_filters(training.model, data)) is not None:
            found.append(_filters(filters))
        if isinstance(training.model, Sampler):
            found += _samples(training.model)
        if isinstance(training.model, Dreamer):
            found.append(_daydreams(training.model, data))
    if "codes" in measured.test:
        found += codes_of(measured.test["codes"].astype(np.int64), data)
    return found


def first_filters(model: nn.Module, data: Data) -> NDArray[np.float32] | None:
    """Weights of the layer that sees the pixels, [N, H, W, C], if it is a convolution or linear in all of them."""
    height, width, channels = data.test.values.shape[1:]
    called: list[nn.Module] = []
    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = [one.register_forward_pre_hook(lambda module, _: called.append(module)) for one in layers]
    with torch.no_grad():
        model.encode(floats_from_rows(torch.from_numpy(np.asarray(data.test.values[:1]))))  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    first = called[0] if called else None
    if isinstance(first, nn.Conv2d) and first.in_channels == channels and min(first.kernel_size) > 1:
        return first.weight.detach().permute(0, 2, 3, 1).numpy()
    if isinstance(first, nn.Linear) and first.in_features == height * width * channels:
        return first.weight.detach().view(-1, channels, height, width).permute(0, 2, 3, 1).numpy()
    return None


def _filters(weights_NHWC: NDArray[np.float32]) -> Section:
    """The largest, each by its own largest weight: grey is 0."""
    size_N = np.square(weights_NHWC).sum(axis=(1, 2, 3))
    shown = weights_NHWC[np.argsort(-size_N, kind="stable")[:MOST_FILTERS]]
    largest_N111 = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    pixels = 0.5 + 0.5 * shown / np.maximum(largest_N111, 1e-12)
    num, (height, width) = len(weights_NHWC), shown.shape[1:3]
    note = (
        f"What the first layer looks for: {len(shown)} of its {num} filters, of {height} x {width} pixels, those of the"
        " largest weights first. Bright is a weight above 0, dark below it, middle grey 0."
    )
    return Section("Filters of the first layer", note, body=(_picture(pixels, "filters of the first layer"),))


def _samples(model: Sampler) -> list[Section]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        images_BCHW = model.samples(NUM_SAMPLES)
    if not len(images_BCHW):
        return []
    note = f"{len(images_BCHW)} images that the model makes of noise: drawn, not chosen. None is of the data."
    pixels = images_BCHW.permute(0, 2, 3, 1).clamp(0, 1).numpy()
    return [Section("Samples", note, body=(_picture(pixels, "samples of the model"),))]


def _daydreams(model: Dreamer, data: Data) -> Section:
    x_BCHW = floats_from_rows(torch.from_numpy(np.asarray(data.test.values[:NUM_DREAMS])))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        images = [x_BCHW, *model.daydream(x_BCHW, IN_LINE - 1)]
    pixels = torch.stack(images, dim=1).flatten(0, 1).permute(0, 2, 3, 1).clamp(0, 1).numpy()
    note = (
        "Each line begins with a test image. The next one is drawn from a code that the model expects near that of the"
        " image before it, and so on: what stays the same along a line is what neighbouring codes have in common."
    )
    return Section("Daydreams", note, body=(_picture(pixels, "daydreams of the model"),))


def codes_of(codes_Nhw: NDArray[np.int64], data: Data) -> list[Section]:
    """How often each code occurs in the test rows, and where the most frequent ones do."""
    counts_K = np.bincount(codes_Nhw.ravel())
    share_K = counts_K[counts_K > 0] / counts_K.sum()
    perplexity = float(np.exp(-(share_K * np.log(share_K)).sum()))
    usage = Section(
        "Codebook usage",
        f"{len(share_K)} codes occur in the test rows, as unevenly as if there were {perplexity:.0f} of them, all as"
        " frequent (perplexity).",
        figure=_usage(np.sort(share_K)[::-1]),
    )
    note = (
        "Each line is a code, the most frequent first, and shows places of test rows that became it, with what is"
        " around them. What a line has in common is what the code says."
    )
    most = np.argsort(-counts_K, kind="stable")[:MOST_CODES]
    lines = [occurrences(codes_Nhw, int(code), data) for code in most if counts_K[code]]
    return [usage, Section("Codes and where they occur", note, body=(_picture(np.concatenate(lines), "codes"),))]


def occurrences(codes_Nhw: NDArray[np.int64], code: int, data: Data) -> NDArray[np.float32]:
    """Pieces of images [OCCURRENCES, H, W, C] around places that became a code, each of another row; then white."""
    rows, tops, lefts = np.nonzero(codes_Nhw == code)
    _, firsts = np.unique(rows, return_index=True)  # one place of a row, for another row says more than another place
    height, width, channels = data.test.values.shape[1:]
    cell = (height / codes_Nhw.shape[1], width / codes_Nhw.shape[2])
    size = tuple(max(1, math.ceil(side * (1 + 2 * AROUND))) for side in cell)
    pieces = np.ones((OCCURRENCES, *size, channels), np.float32)
    for piece, at in enumerate(firsts[:: max(1, len(firsts) // OCCURRENCES)][:OCCURRENCES]):
        row = np.pad(np.asarray(data.test.values[rows[at]]), ((size[0], size[0]), (size[1], size[1]), (0, 0)))
        top, left = (
            size[axis] + round((place - AROUND) * cell[axis]) for axis, place in enumerate((tops[at], lefts[at]))
        )
        pieces[piece] = row[top : top + size[0], left : left + size[1]] / np.float32(255)
    return pieces


def _usage(share_K: NDArray[Any]) -> Figure:
    figure, axis = plt.subplots(figsize=(5.6, 2.4))
    axis.plot(np.arange(1, len(share_K) + 1), share_K, color=ACCENT)
    axis.set(xlabel="codes, the most frequent first", ylabel="share of all places", yscale="log")
    plain(axis)
    return figure


def _picture(images_NHWC: NDArray[Any], alt: str) -> Html:
    """Images side by side, IN_LINE of them in a line, as one PNG."""
    num, height, width, channels = images_NHWC.shape
    columns = min(num, IN_LINE)
    lines = -(-num // columns)
    mosaic = np.ones((lines * (height + 1) - 1, columns * (width + 1) - 1, channels), np.float32)
    for place, one in enumerate(images_NHWC):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = one
    pixels = np.rint(mosaic * 255).astype(np.uint8)
    drawn = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if (times := 480 // drawn.width) > 1:
        drawn = drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST)
    drawn.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    drawn.save(buffer, "png", optimize=True)
    return strip(
        [image(buffer.getvalue(), "png", alt, class_="picture coarse")], min(drawn.width, WIDEST) / PIXELS_PER_REM
    )
