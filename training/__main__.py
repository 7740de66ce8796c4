"""`python -m training METHOD --data SPEC`: trains a method on a data set and leaves a run folder.

`python -m training evaluate RUN` measures what such a run learned.
"""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from latentserve import records
from training.data import load_data
from training.loop import LoopConfig, TrainingDiverged, train
from training.methods import METHODS
from training.run import CHECKPOINT, RESULT, RUN, Run, RunError, git_revision

SMOKE_ROWS = 512


@dataclass(frozen=True)
class Options:
    """What to train on, and where the run goes.

    Attributes:
        data: digits, mnist, cifar10, shapes, folder:PATH, wds:PATTERN (WebDataset shards), fsdd or audio:PATH.
        image_size: height and width; default: the data set's own (folder, wds: 64).
        sample_rate_hz: of audio:PATH, take only clips of this rate; default: the one rate that all have.
        num_samples: of a row of audio; longer clips are cut, shorter ones padded; default: one second.
        group_by: rows that belong together and must not be parted between training and calibration: folder,
            name:REGEX (what its groups match in the file's name), exif:SECONDS (bursts) or near (nearly equal images);
            of folder:PATH; wds takes name and near, audio folder and name. Equal rows never are.
        run: folder of the run; default: runs/<method>-<data>-seed<seed>, and -smoke.
        resume: go on with a run that was interrupted.
        smoke: two epochs on 512 rows, to see that everything works.
    """

    data: str = "digits"
    image_size: int | None = None
    sample_rate_hz: int | None = None
    num_samples: int | None = None
    group_by: str | None = None
    run: Path | None = None
    resume: bool = False
    smoke: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if arguments[:1] == ["evaluate"]:
        from training import evaluate  # scikit-learn takes a second that no training needs

        return evaluate.main(arguments[1:])
    if not arguments or arguments[0] not in METHODS:
        got = f"got {arguments[0]!r}, " if arguments and not arguments[0].startswith("-") else ""
        print("usage: python -m training METHOD [OPTIONS]\n       python -m training evaluate RUN [OPTIONS]")
        print(f"METHOD: {got}expected one of {', '.join(METHODS)}")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    name = arguments[0]
    options, config = parse(name, arguments[1:])
    try:
        folder = run_training(name, config, options)
    except (TrainingDiverged, ValueError, OSError) as error:
        print(records.printable(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; go on with --resume", file=sys.stderr)
        return 130
    print(records.printable(f"{folder}"))
    return 0


def parse(name: str, arguments: list[str]) -> tuple[Options, Any]:
    """Options and the config of the method from the arguments after its name."""
    kind = METHODS[name].config
    command = make_dataclass(
        "Command", [("options", Options, field(default_factory=Options)), ("method", kind, field(default_factory=kind))]
    )
    parsed: Any = tyro.cli(
        command, args=arguments, prog=f"python -m training {name}", config=(tyro.conf.OmitArgPrefixes,)
    )
    return parsed.options, parsed.method


def run_training(name: str, config: Any, options: Options) -> Path:
    """Trains and writes the run's folder, which it returns.

    Raises:
        RunError: the folder holds another run, or one that is there already.
        DataError: the data cannot be loaded.
        CheckpointError: the one there is of another run, or none can be saved.
        TrainingDiverged: the loss became NaN or infinite.
    """
    if records.printable(str(options.run)) != str(options.run):
        raise RunError(f"run: got {options.run}, expected a name in UTF-8: no checkpoint can be read from another")
    quiet_lightning()
    loop = replace(options.loop, epochs=2) if options.smoke else options.loop
    sizes = (options.image_size, loop.seed, options.sample_rate_hz, options.num_samples)
    data = load_data(options.data, *sizes, options.group_by)
    if options.smoke:
        data = replace(data, train=data.train.take(slice(0, SMOKE_ROWS)))
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
    )
    plain = "".join(letter if letter.isalnum() else "-" for letter in data.spec)
    folder = options.run or Path("runs") / f"{name}-{plain}-seed{loop.seed}{'-smoke' if options.smoke else ''}"
    torch.manual_seed(loop.seed)
    module = run.build()
    _claim(folder, run, options.resume)
    trained = train(module, data, loop, folder / CHECKPOINT, run.identity)
    records.write(trained, folder / RESULT)
    return folder


def _claim(folder: Path, run: Run, resume: bool) -> None:
    """Writes run.json, or proves that the folder holds this very run."""
    if not (folder / RUN).exists():
        if (folder / CHECKPOINT).exists():
            raise RunError(f"{folder}: got {CHECKPOINT} without {RUN}, which says whose it is; pass another --run")
        folder.mkdir(parents=True, exist_ok=True)
        records.write(run, folder / RUN)
        return
    if not resume:
        raise RunError(f"{folder}: there is a run already; pass --resume to go on with it, or another --run")
    try:
        before = records.read(Run, folder / RUN)
    except records.RecordError as error:
        raise RunError(f"{folder / RUN}: {error}") from error
    if other := records.differences(run.identity, before.identity):
        raise RunError(f"{folder}: the run there has another config: {'; '.join(other)}")


def quiet_lightning() -> None:
    """Lightning gives advice that does not fit batches cut from memory."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
