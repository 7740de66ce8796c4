"""`python -m training METHOD --data SPEC`: trains a method on a data set and leaves a run folder.

`python -m training evaluate RUN` measures what such a run learned. With `--devices N`, or under torchrun, several
processes train together (`training.ranks`).
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from latentserve import records
from latentserve.inputs import Resize
from latentserve.spelling import as_typed
from training.data import Data, ImageShape, load_data
from training.data.loading import check_calibration, check_spec, is_own
from training.data.shares import Calibration
from training.methods import METHODS
from training.networks.batch_norms import check_norms
from training.options import Dataclass, check_options, in_words, is_out_of_memory, nearest, say_any_name
from training.ranks import rank
from training.running.diary import TrainingDiverged
from training.running.given import check_teacher, given_by, start
from training.running.launching import check_ranks, launch
from training.running.loop import check_rows, check_shared, train
from training.running.processes import (
    is_first_here,
    is_loss_of_a_rank,
    joined,
    leave,
    named,
    one_first,
    only_rank_0_talks,
    place,
    told_of_loss,
)
from training.running.revision import git_revision
from training.running.run import CHECKPOINT, RESULT, Run, RunError
from training.running.run_folder import RUNS, Found, check_folder, claimed, find, resumed
from training.running.threads import keep_to_quota
from training.schedule import LoopConfig
from training.teacher import TARGETS

SMOKE_ROWS = 512


@dataclass(frozen=True)
class Options:
    """Says what to train on, and where the run goes.

    Attributes:
        data: digits, mnist, cifar10, shapes, folder:PATH, wds:PATTERN (WebDataset shards), mvtec:PATH (its train/good),
            csv:FILE (columns path, label, mask, split), fsdd or audio:PATH.
        image_size: pixels of height and width, or HEIGHTxWIDTH; default: the data set's own (folder, wds: 64).
        resize: what becomes of images of another shape: crop (the border is never seen), fit (the whole of it on black)
            or stretch (the whole of it); default: of folder and wds stretch, else crop.
        sample_rate_hz: take only clips of this rate from audio:PATH; default: the one rate that all have.
        num_samples: samples of a row of audio; longer clips are cut, shorter ones padded; default: one second.
        group_by: rows that belong together and must not be parted between training and calibration: folder,
            name:REGEX (what its groups match in the file's name), exif:SECONDS (bursts) or near (nearly equal images).
            folder:PATH takes all of them, wds name and near, audio folder and name. Equal rows are never parted.
        calibration_share: share of your own rows that calibrates; default: 0.1, or as many as a level of 5 % needs (19)
            where that is too few, up to a half.
        calibration_data: rows that calibrate in place of any of these, as folder:PATH; twins of others are left out.
        run: folder of the run; default: runs/<method>-<data>-seed<seed>, and -smoke.
        resume: go on with a run that was interrupted; options that are not given again are as they were.
        smoke: two epochs on 512 rows, to see that everything works.
        devices: processes that share each batch, a device each: GPUs where there are any, else parts of the CPU.
        nodes: machines, where torchrun starts the training on several of them.
    """

    data: str = "digits"
    image_size: int | str | None = None
    resize: Literal["crop", "fit", "stretch"] | None = None
    sample_rate_hz: int | None = None
    num_samples: int | None = None
    group_by: str | None = None
    calibration_share: float | None = None
    calibration_data: str | None = None
    run: Path | None = None
    resume: bool = False
    smoke: bool = False
    devices: int | None = None
    nodes: int | None = None
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    say_any_name()
    keep_to_quota()
    if arguments[:1] == ["evaluate"]:
        from training.evaluation import command as evaluate  # scikit-learn takes a second that no training needs

        return evaluate.main(arguments[1:])
    try:
        found = resumed(arguments)
        if not arguments or (arguments[0] not in METHODS and (found is None or not arguments[0].startswith("-"))):
            return _usage(arguments)
        with only_rank_0_talks():
            name, config, options = _read(arguments, found)
            if check_ranks(options.devices, options.nodes, " ".join(arguments)):
                check_training(name, config, options)
                return launch(arguments, options.devices or 1)
            folder = run_training(name, config, options)
            print(records.printable(f"{folder}"))
    except (TrainingDiverged, ValueError, OSError, MemoryError) as error:
        print(named(f"error: {in_words(error)}"), file=sys.stderr)
        return leave(1)
    except RuntimeError as error:
        lost = is_loss_of_a_rank(error)
        if not (lost or is_out_of_memory(error)):
            raise
        print(named(f"error: {told_of_loss() if lost else in_words(error)}"), file=sys.stderr)
        return leave(1)
    except KeyboardInterrupt:
        if named("") == "":  # of several ranks one says so
            print("\nstopped; go on with --resume", file=sys.stderr)
        return leave(130)
    return leave(0)


def _usage(arguments: list[str]) -> int:
    got = f"got {arguments[0]!r}, " if arguments and not arguments[0].startswith("-") else ""
    meant = nearest(arguments[0], METHODS) if got else ""
    ways = ("METHOD [OPTIONS]", "evaluate RUN [OPTIONS]", "--resume [--run RUN]")
    print("usage: " + "\n       ".join(as_typed(f"python -m training {way}") for way in ways))
    print(f"METHOD: {got}expected one of {', '.join(METHODS)}{meant}")
    return 0 if arguments in (["-h"], ["--help"]) else 2


def _read(arguments: list[str], found: Found | None) -> tuple[str, Dataclass, Options]:
    """The method, its config and the options of a command line."""
    name, rest = (arguments[0], arguments[1:]) if arguments[0] in METHODS else ("", arguments)
    if found is None:
        options, config = parse(name, rest)
        if not options.resume:
            return name, config, options
        found = find(_folder(name, options, options.loop.seed))
    if name and name != found.run.method:
        raise RunError(f"{found.folder}: got method {name}, expected {found.run.method}, whose run it is")
    options, config = parse(found.run.method, rest, found)
    return found.run.method, config, options


def parse(name: str, arguments: list[str], found: Found | None = None) -> tuple[Options, Dataclass]:
    """The options and the method's config. Where a run is resumed, an option that is not given is as in that run."""
    if found is None:
        options, config = Options(), METHODS[name].config()
    else:
        run = found.run
        sizes = run.sizes
        how = sizes.pop("resize").how if "resize" in sizes else None
        asked = run.calibration or Calibration()
        sizes |= {"calibration_share": asked.share, "calibration_data": asked.data}
        options = Options(run.data, **sizes, resize=how, run=found.folder, resume=True, loop=run.loop)
        config = run.read_config()
    command = make_dataclass("Command", [("options", Options, options), ("method", type(config), config)], frozen=True)
    called = as_typed(f"python -m training {name}")
    parsed: Any = tyro.cli(command, args=arguments, prog=called, config=(tyro.conf.OmitArgPrefixes,))
    return parsed.options, parsed.method


def _folder(name: str, options: Options, seed: int) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in options.data)
    return options.run or RUNS / f"{name}-{plain}-seed{seed}{'-smoke' if options.smoke else ''}"


def check_training(name: str, config: Dataclass, options: Options) -> None:
    """Checks what can be checked without the data.

    Raises:
        OptionError: an option cannot be what it is.
        RunError: the folder holds another run, or one that is there already.
        DataError: the data has no such name.
    """
    if records.printable(str(options.run)) != str(options.run):
        raise RunError(f"run: got {options.run}, expected a name in UTF-8: no checkpoint can be read from another")
    for one in (options, config):
        check_options(one)
    check_spec(options.data, group_by=options.group_by)
    folder = _folder(name, options, options.loop.seed)
    with one_first(rank() == 0):  # afterwards rank 0 makes it
        check_folder(folder, options.resume)
    check_calibration(_calibration(options, folder), options.data)
    here = place()
    check_shared(options.loop, None, here.num_ranks if here is not None else options.devices or 1)


def run_training(name: str, config: Dataclass, options: Options) -> Path:
    """Trains and writes the run's folder, which it returns.

    Raises:
        OptionError: an option cannot be what it is.
        RunError: the folder holds another run, or one that is there already, or another training is at work there.
        DataError: the data cannot be loaded.
        CheckpointError: the one there is of another run, or none can be saved.
        TrainingDiverged: the loss became NaN or infinite.
        TeacherError: there is no such teacher, or it was changed or cannot be shown the rows.
        StartError: the weights to start with do not fit.
        RanksError: several processes cannot train together.
    """
    quiet_lightning()
    with joined():
        check_training(name, config, options)
        loop = replace(options.loop, epochs=2) if options.smoke else options.loop
        folder, given = _folder(name, options, loop.seed), given_by(config)
        with one_first(is_first_here()):
            data = _rows(options, folder)
        run = Run(
            method=name,
            data=data.spec,
            shape=data.shape,
            num_train_rows=len(data.train),
            data_sha256=data.fingerprint,
            git_revision=git_revision(),
            loop=loop,
            config=records.to_json(config),
            group_by=options.group_by,
            given=given,
            calibration=_calibration(options, folder),
        )
        torch.manual_seed(loop.seed)
        module = run.build()
        check_teacher(module)
        check_norms(module)
        check_rows(module, data)
        if not (folder / CHECKPOINT).exists():
            start(module, config)
        with claimed(folder, run, options.resume) if rank() == 0 else nullcontext():
            trained = train(module, data, loop, folder / CHECKPOINT, run.identity)
            if rank() == 0:
                records.write(trained, folder / RESULT)
                (folder / TARGETS).unlink(missing_ok=True)
    return folder


def _rows(options: Options, folder: Path) -> Data:
    """The data with the rows that are trained on: of a run that goes on, those that it began with."""
    sizes = (options.image_size, options.loop.seed, options.sample_rate_hz, options.num_samples)
    rule, calibration = _rule(options, folder), _calibration(options, folder)
    data = load_data(options.data, *sizes, options.group_by, rule, calibration)
    num_rows = find(folder).run.num_train_rows if options.resume else SMOKE_ROWS if options.smoke else len(data.train)
    return replace(data, train=data.train.take(slice(0, num_rows)))


def _rule(options: Options, folder: Path) -> Resize | str | None:
    """How images become rows: of a run that goes on, and is not asked for another rule, just as before."""
    if options.resume and isinstance(shape := find(folder).run.shape, ImageShape):
        return shape.resize if options.resize in (None, shape.resize.how) else options.resize
    return options.resize


def _calibration(options: Options, folder: Path) -> Calibration | None:
    """What calibrates: of a run that is older than the choice, and goes on unasked, a tenth as before."""
    asked = Calibration(options.calibration_share, data=options.calibration_data)
    if options.resume and asked == Calibration():
        return find(folder).run.calibration
    return asked if is_own(options.data) or asked != Calibration() else None


def quiet_lightning() -> None:
    """Silences Lightning's advice, which does not fit batches taken from memory."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
