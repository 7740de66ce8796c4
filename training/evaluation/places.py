"""How well a map of scores finds the pixels at fault: pixel AUROC and AUPRO.

AUPRO asks for regions, so that one large fault does not outweigh ten small ones: at each threshold the per-region
overlap is the share of a region's pixels at or above it, averaged over all regions (connected pixels of a mask, corners
too); its area over the share of usual pixels at or above it, up to 0.3, divided by 0.3.

Source: Bergmann et al., The MVTec anomaly detection dataset, Int. J. Computer Vision 129 (2021) 1038, section 5.2.

Shape legend: N images, H height, W width, h and w places, M all pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label
from torch.nn import functional as F

LARGEST_FPR = 0.3
CORNERS = np.ones((3, 3), np.int64)
ROWS_AT_ONCE = 64
Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class PlaceFigures:
    """Figures of maps of some faulty images and of usual ones.

    Attributes:
        pixel_auroc: probability that a pixel at fault scores higher than a usual one, ties counting half.
        aupro: see the file; 1 at most.
        num_regions: of all masks.
    """

    pixel_auroc: float
    aupro: float
    num_regions: int


def place_figures(maps_NHW: Maps, masks_NHW: Masks) -> PlaceFigures:
    """Figures of maps of the masks' size; the mask of an in-distribution image is empty.

    Raises:
        ValueError: other shapes, no pixel at fault, or no usual one.
    """
    if maps_NHW.shape != masks_NHW.shape:
        raise ValueError(f"masks: got {list(masks_NHW.shape)}, expected {list(maps_NHW.shape)} as the maps are")
    if not masks_NHW.any() or masks_NHW.all():
        raise ValueError("masks: got pixels of one kind alone, expected some at fault and some that are not")
    weights_M, num_regions = _weights(masks_NHW)
    scores_M = np.where(np.isfinite(maps_NHW), maps_NHW, np.inf).ravel()
    order = np.argsort(-scores_M, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores_M[order]) != 0, True))  # equal pixels are flagged together
    faulty_M = masks_NHW.ravel()[order]
    found, alarms = (np.append(0.0, shares(of)[ends]) for of in (faulty_M, ~faulty_M))
    overlap = np.append(0.0, np.cumsum(weights_M[order])[ends])
    area = float(np.trapezoid(found, alarms))
    return PlaceFigures(area, area_up_to(overlap, alarms, LARGEST_FPR) / LARGEST_FPR, num_regions)


def shares(of_M: Masks) -> NDArray[np.float64]:
    """Of the pixels that are meant, the share among the first so many."""
    found: NDArray[np.float64] = np.cumsum(of_M) / of_M.sum()
    return found


def area_up_to(y: NDArray[np.float64], x: NDArray[np.float64], limit: float) -> float:
    """The area under straight lines through points of ascending x, from 0 to the limit."""
    inside = x < limit
    at_limit = np.interp(limit, x, y)
    return float(np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], limit)))


def _weights(masks_NHW: Masks) -> tuple[NDArray[np.float64], int]:
    """What each pixel adds to the mean overlap, [M], and how many regions there are."""
    weights_NHW, num_regions = np.zeros(masks_NHW.shape), 0
    for weights_HW, mask_HW in zip(weights_NHW, masks_NHW, strict=True):
        regions_HW, num = label(mask_HW, structure=CORNERS)
        if num:
            sizes = np.bincount(regions_HW.ravel()).astype(np.float64)
            weights_HW[mask_HW] = 1 / sizes[regions_HW[mask_HW]]
            num_regions += int(num)
    return weights_NHW.ravel() / num_regions, num_regions


def upsampled(maps_Nhw: Maps, height: int, width: int) -> Maps:
    """Maps at the size of images, bilinearly; corners of pixels, not their centres, meet those of images."""
    out = np.empty((len(maps_Nhw), height, width), np.float32)
    for start in range(0, len(maps_Nhw), ROWS_AT_ONCE):
        some = torch.from_numpy(maps_Nhw[start : start + ROWS_AT_ONCE])[:, None]
        out[start : start + ROWS_AT_ONCE] = F.interpolate(some, (height, width), mode="bilinear")[:, 0].numpy()
    return out
