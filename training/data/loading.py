"""Loads a data set by its spec."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from latentserve.inputs import Resize
from training.data.given_splits import told, with_calibration
from training.data.grouping import GroupBy
from training.data.rows import Data, DataError, Rows, say
from training.data.shares import Calibration
from training.data.sizes import Size, parsed, rule
from training.data.subset import Subset
from training.options import nearest

OWN_IMAGE_SIZE = 64
"""Height and width of a user's own images, unless said otherwise."""
OWN_RESIZE = Resize("stretch", scaled=True)
"""How a user's own images of other sizes become rows, unless said otherwise: nothing of them is lost."""
OWN_VALUES_A_PIXEL = {"digits": 1_797, "mnist": 70_000, "cifar10": 3 * 60_000, "shapes": 60_000}
FSDD_BYTES_A_SAMPLE = 2 * 3_000
LARGEST_OWN_BYTES = 2**35
"""Limit of a set whose rows are to have another size: more than most machines have, less than a slip would take."""
OWN = ("folder", "wds", "mvtec", "csv")
"""Names of a user's own images."""
LARGEST_OWN_PIXELS = 2**24
"""Of one row of a user's own images: more than any encoder takes, less than a slip would ask for."""
Sizes = tuple[int | str | None, int | None, int | None, Resize | str | None]
"""Image size, sample rate, samples and rule of `load_data`."""
WITHOUT = ("digits", "mnist", "cifar10", "shapes", "fsdd")
WITH_A_PLACE = {"folder": "PATH", "wds": "PATTERN", "mvtec": "PATH", "csv": "FILE", "audio": "PATH"}
"""Names of data sets, and what comes after a colon of those that lie anywhere."""


def check_spec(spec: str, also: Iterable[str] = (), group_by: str | None = None) -> None:
    """Raises DataError if a spec is that of no data set; nothing is loaded.

    Args:
        spec: of a data set.
        also: what else could have been meant.
        group_by: rows of it that no split may part, a rule that it must have.
    """
    base = subset.base if (subset := Subset.parse(spec)) is not None else spec
    name, colon, place = base.partition(":")
    if name not in WITH_A_PLACE and (name not in WITHOUT or colon):
        known = (*WITHOUT, *(f"{one}:{kind}" for one, kind in WITH_A_PLACE.items()))
        meant = nearest(name.split("[")[0], (*WITHOUT, *WITH_A_PLACE, *also))
        all_known = f"{', '.join(known[:-1])} or {known[-1]}, or some of its rows, as mnist[label=0] or fsdd[group!=2]"
        raise DataError(f"data: got {spec!r}, expected one of {all_known}{meant}")
    if group_by is not None:
        GroupBy.parse(group_by, name)
    there = os.path.isdir(os.path.expanduser(place))  # noqa: PTH111, PTH112 (these raise for no name whatever)
    if WITH_A_PLACE.get(name) == "PATH" and not there:
        kind = {"audio": "WAV or FLAC files", "mvtec": "good images in train/good"}.get(name, "JPEG or PNG images")
        raise DataError(f"{name}: got {place!r}, expected a folder of {kind} ({name}:PATH)")
    if name in ("mvtec", "csv"):
        from training.data import listed, mvtec  # they bring readers, which other sets do not need

        mvtec.check(place) if name == "mvtec" else listed.entries(place)


def load_data(
    spec: str,
    image_size: int | str | None = None,
    seed: int = 0,
    sample_rate_hz: int | None = None,
    num_samples: int | None = None,
    group_by: str | None = None,
    resize: Resize | str | None = None,
    calibration: Calibration | None = None,
) -> Data:
    """Loads a data set by its spec.

    Args:
        spec: `digits`, `mnist`, `cifar10`, `shapes`, `folder:PATH`, `wds:PATTERN`, `mvtec:PATH`, `csv:FILE`, `fsdd` or
            `audio:PATH`; of any of them some rows as `mnist[label=0]`: see `training.data.subset`.
        image_size: height and width, or `HEIGHTxWIDTH`; None for the set's own.
        seed: draws the splits where the set brings none, and the order of audio.
        sample_rate_hz: of the clips to take; None for the set's own.
        num_samples: of a row of audio; None for one second.
        group_by: rows of a user's own data that no split may part: see `training.data.grouping`.
        resize: how images of other sizes become rows, or the name of it; None: of a user's own `OWN_RESIZE`.

        calibration: what calibrates, of a user's own data, and a line is said of the splits; None: a tenth.

    Raises:
        DataError: unknown spec, missing or empty folder, failed download, or an option the data does not have.
    """
    check_spec(spec, group_by=group_by)
    check_calibration(calibration, spec)
    sizes = image_size, sample_rate_hz, num_samples, resize
    loaded = _load(spec, seed, sizes, group_by, calibration)
    if calibration is None or not is_own(spec):
        return loaded
    if calibration.data is not None:
        rate = loaded.sample_rate_hz if sample_rate_hz is None else sample_rate_hz
        others = usual_rows(calibration.data, image_size, rate, num_samples, resize)
        loaded = with_calibration(loaded, others, calibration.data, seed)
    say(told(loaded, calibration))
    return loaded


def _load(spec: str, seed: int, sizes: Sizes, group_by: str | None, calibration: Calibration | None) -> Data:
    image_size, sample_rate_hz, num_samples, resize = sizes
    if (subset := Subset.parse(spec)) is not None:
        return subset.of(_load(subset.base, seed, sizes, group_by, calibration), spec)
    name, _, place = spec.partition(":")
    grouped = None if group_by is None else GroupBy.parse(group_by, name)
    if name in ("audio", "fsdd"):
        _reject(spec, image_size=image_size, resize=resize)
        return _load_audio(name, place, sample_rate_hz, num_samples, seed, grouped, calibration)
    _reject(spec, sample_rate_hz=sample_rate_hz, num_samples=num_samples)
    loaded = _load_images(name, place, _size(name, image_size, resize), seed, grouped, calibration)
    return loaded if resize is None else replace(loaded, resize=rule(resize, scaled=name in OWN))


def check_calibration(calibration: Calibration | None, spec: str) -> None:
    """Raises DataError if a set brings its splits and is asked for others, or no rows lie where others should."""
    if calibration is None or (calibration.share is None and calibration.data is None):
        return
    option, got = ("share", calibration.share) if calibration.data is None else ("data", calibration.data)
    if not is_own(spec):
        raise DataError(f"calibration_{option}: got {got}, expected none: {spec} brings its own splits")
    if calibration.data is None:
        return
    if not is_own(calibration.data):
        raise DataError(f"calibration_data: got {got!r}, expected rows of your own, as folder:PATH")
    if spec.startswith("audio:") != calibration.data.startswith("audio:"):
        raise DataError(f"calibration_data: got {got!r}, expected rows of the kind of {spec}")
    check_spec(calibration.data)


def is_own(spec: str) -> bool:
    """Whether the rows are a user's own, that bring no splits."""
    return spec.partition(":")[0] in WITH_A_PLACE


def _load_audio(
    name: str,
    place: str,
    sample_rate_hz: int | None,
    num_samples: int | None,
    seed: int,
    grouped: GroupBy | None,
    calibration: Calibration | None,
) -> Data:
    from training.data import audio, fsdd

    for option, value in (("sample_rate_hz", sample_rate_hz), ("num_samples", num_samples)):
        if value is not None and value < 1:
            raise DataError(f"{option}: got {value}, expected 1 or more")
    if name == "audio":
        return audio.load(place, sample_rate_hz, num_samples, seed, grouped, calibration)
    _reject_too_large("num_samples", num_samples, FSDD_BYTES_A_SAMPLE * (num_samples or 0))
    return fsdd.load(sample_rate_hz, num_samples, seed)


def _size(name: str, image_size: int | str | None, resize: Resize | str | None) -> Size | None:
    """What is asked for; None: a set of ours, as it is."""
    if name not in OWN:
        default = Resize() if resize is None else rule(resize)
        return None if image_size is None else Size(*parsed(image_size), default)
    sides = parsed(OWN_IMAGE_SIZE if image_size is None else image_size)
    if sides[0] * sides[1] > LARGEST_OWN_PIXELS:
        got = f"{sides[0]} x {sides[1]} = {sides[0] * sides[1]} pixels"
        raise DataError(f"image_size: got {got}, expected at most {LARGEST_OWN_PIXELS}")
    return Size(*sides, OWN_RESIZE, chosen=False) if resize is None else Size(*sides, rule(resize, scaled=True))


def _load_images(
    name: str, place: str, size: Size | None, seed: int, grouped: GroupBy | None, calibration: Calibration | None
) -> Data:
    # Imported here: torchvision alone takes seconds, and the check of a spec does not need it.
    from training.data import cifar10, digits, folder, listed, mnist, mvtec, shapes, shards

    own = {"folder": folder.load, "wds": shards.load, "mvtec": mvtec.load, "csv": listed.load}
    if name in own:
        assert size is not None  # `_size` has one of these
        return replace(own[name](place, size, seed, grouped, calibration), resize=size.resize)
    loaders = {"digits": digits.load, "mnist": mnist.load, "cifar10": cifar10.load, "shapes": shapes.load}
    if size is not None:
        _reject_too_large("image_size", str(size), OWN_VALUES_A_PIXEL[name] * size.height * size.width)
    return loaders[name](size, seed)


def every_row(
    spec: str,
    image_size: int | str | None = None,
    sample_rate_hz: int | None = None,
    num_samples: int | None = None,
    resize: Resize | str | None = None,
    at_least: int = 1,
) -> Rows | None:
    """All rows of a user's own data in no splits; None of a set that brings its splits.

    Args:
        spec: `folder:PATH`, `wds:PATTERN`, `mvtec:PATH` (its faulty rows), `csv:FILE` or `audio:PATH`, or some of
            their rows.
        image_size: see `load_data`.
        sample_rate_hz: see `load_data`.
        num_samples: see `load_data`.
        resize: see `load_data`.
        at_least: so many files; by default however few.

    Raises:
        DataError: there are fewer, or nothing there can be read.
    """
    from training.data import audio, folder, listed, mvtec, shards

    if (subset := Subset.parse(spec)) is not None:
        whole = every_row(subset.base, image_size, sample_rate_hz, num_samples, resize, at_least)
        return None if whole is None else subset.kept(whole, spec)
    name, _, argument = spec.partition(":")
    if name in OWN and (size := _size(name, image_size, resize)) is not None:
        if name == "wds":
            return shards.read(shards.matching(argument), size, at_least=at_least)
        if name == "folder":
            return folder.read(argument, size, at_least=at_least)
        return (mvtec.faulty if name == "mvtec" else listed.every)(argument, size, at_least=at_least)
    if name == "audio":
        return audio.read(argument, sample_rate_hz, num_samples, at_least=at_least)[0]
    return None


def has_faulty(spec: str) -> bool:
    """Whether some of a user's own rows are marked as faulty, so that none of these trained."""
    from training.data import listed

    name, _, place = spec.partition(":")
    return name == "mvtec" or (name == "csv" and any(entry.mask for entry in listed.entries(place)))


def usual_rows(
    spec: str,
    image_size: int | str | None = None,
    sample_rate_hz: int | None = None,
    num_samples: int | None = None,
    resize: Resize | str | None = None,
) -> Rows:
    """All rows of a user's own data that are usual: of `mvtec:PATH` those of train/good, of others all.

    Raises:
        DataError: nothing there can be read, or the set brings its splits.
    """
    from training.data import mvtec

    name, _, argument = spec.partition(":")
    if name == "mvtec" and (size := _size(name, image_size, resize)) is not None:
        return mvtec.usual(argument, size, at_least=1)
    found = every_row(spec, image_size, sample_rate_hz, num_samples, resize)
    if found is None:
        raise DataError(f"calibration_data: got {spec!r}, expected rows of your own, as folder:PATH")
    return found


def _reject(spec: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise DataError(f"{name}: got {value}, expected none: {spec} has no such option")


def _reject_too_large(name: str, value: object, size: int) -> None:
    if size > LARGEST_OWN_BYTES:
        raise DataError(
            f"{name}: got {value}, with which the set has {size} bytes, expected at most {LARGEST_OWN_BYTES}"
        )
