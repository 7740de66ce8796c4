"""A bundle on the machines of a Ray cluster, for a job. Needs Ray (extra `ray`), and files that all machines see.

Ray Data hands tasks of some batches to a pool of actors, each of which loads and verifies the bundle once, and gives
their answers back in order. A machine that goes away is Ray's to notice: what it had in hand is done again by the rest.
Rows are written by the job alone, as with any engine (docs/adr/0032-ray.md), so a part is whole or not there, and a job
may be begun on a cluster and finished without one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from latentserve.bulk import engines
from latentserve.bulk.engines import Asked, Engine
from latentserve.bulk.listing import Item
from latentserve.bulk.schema import Answers
from latentserve.errors import InternalError, InvalidInput, LatentserveError, Unsupported

OLDEST = (2, 60)
"""That `make ray-test` runs on: what older ones do when a machine goes away is not known."""
BATCHES = 8
"""Of a task: what a machine that goes away loses for each of its actors."""
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""The job tells its progress itself."""
SECONDS_TO_CONNECT = 5.0
MOST_GPUS = 1024


@dataclass(frozen=True)
class Pool:
    """The actors.

    Attributes:
        address: of the cluster: `auto`, `host:port`, `ray://host:port`; `local`: one is started here.
        actors: at most; 0: as many as there are resources for.
        cpus: of each.
        gpus: of each; a fraction where several share one.
    """

    address: str
    actors: int = 0
    cpus: int = 1
    gpus: float = 0.0

    def check(self) -> None:
        """Raises InvalidInput for what cannot be."""
        if self.actors < 0:
            raise InvalidInput.at("actors", got=self.actors, expected="1 or more")
        if self.cpus < 1:
            raise InvalidInput.at("actor-cpus", got=self.cpus, expected="1 or more")
        if not (0 <= self.gpus < MOST_GPUS and (self.gpus <= 1 or self.gpus.is_integer())):
            raise InvalidInput.at("actor-gpus", got=self.gpus, expected="0, a fraction of one, or a whole number")


class Cluster:
    """See `latentserve.bulk.engines.Engine`; `connected` makes it.

    Args:
        ray: the module.
        pool: of actors.
        folder: of the bundle, on all machines.
        asked: of each item.
        device: see `engines.local`.
    """

    def __init__(self, ray: Any, pool: Pool, folder: Path, asked: Asked, device: str) -> None:
        self._ray, self._pool = ray, pool
        if device == "auto" and not pool.gpus:
            device = "cpu"  # Ray does not hide a GPU that was not asked for
        self._worker = {"folder": str(folder.resolve()), "asked": asked, "device": device, "cpus": pool.cpus}
        self._worker["place"] = str(Path.cwd())
        self.model = engines.local(folder, asked, device, pool.cpus).model

    def answers(self, batches: Iterable[Sequence[Item]]) -> Iterator[Answers]:
        """See `Engine`.

        Raises:
            InvalidInput: the cluster has no room for one actor.
            InternalError: the cluster is lost.
            LatentserveError: what an actor said of the bundle.
        """
        ray, tasks = self._ray, [{"task": pickle.dumps(some)} for some in _tasks(batches)]
        if not tasks:
            return
        actors = self.num_actors(len(tasks))
        found = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            Worker,
            fn_constructor_kwargs=self._worker,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=self._pool.cpus,
            num_gpus=self._pool.gpus or None,
        )
        try:
            for block in found.iter_batches(batch_size=None, prefetch_batches=0):
                for task in block["task"]:
                    yield from _told(pickle.loads(task))
        except ray.exceptions.RayError as error:
            raise InternalError(f"ray: {_first_line(error)}; the same command goes on") from error

    def num_actors(self, tasks: int) -> int:
        """At most, for so many tasks. Raises InvalidInput if there is no room for one."""
        resources = self._ray.cluster_resources()
        fit = int(resources.get("CPU", 0) // self._pool.cpus)
        if self._pool.gpus:
            fit = min(fit, int(resources.get("GPU", 0) / self._pool.gpus))
        if fit < 1:
            expected = f"room for an actor of {self._pool.cpus} CPUs and {self._pool.gpus:g} GPUs"
            raise InvalidInput.at("ray", got=f"a cluster of {_room(resources)}", expected=expected)
        return min(tasks, self._pool.actors or fit, fit)


class Worker:
    """An actor. What is wrong with the bundle is an answer: an actor that fails would be started again and again."""

    def __init__(self, folder: str, asked: Asked, device: str, cpus: int, place: str) -> None:
        self._fault: LatentserveError | None = None
        try:
            os.chdir(place)  # relative paths are those of the command
            self._engine: Engine = engines.local(Path(folder), asked, device, cpus)
        except OSError:
            self._fault = InvalidInput.at("ray", got=f"a machine without {place}", expected="one that has the files")
        except LatentserveError as error:
            self._fault = error

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Tasks to answers, both pickled."""
        return {"task": np.array([pickle.dumps(self._answers(pickle.loads(one))) for one in block["task"]], object)}

    def _answers(self, batches: Sequence[Sequence[Item]]) -> list[Answers] | LatentserveError:
        if self._fault is not None:
            return self._fault
        try:
            return list(self._engine.answers(batches))
        except LatentserveError as error:
            return error


@contextlib.contextmanager
def connected(pool: Pool, folder: Path, asked: Asked, device: str) -> Iterator[Cluster]:
    """A cluster, until the end of the block.

    Raises:
        Unsupported: Ray is missing or too old.
        InvalidInput: there is no cluster at this address.
    """
    pool.check()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray = _ray()
    try:
        _check_answers(pool.address)
        ray.init(pool.address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        expected = f"the address of a cluster ({_first_line(error)})"
        raise InvalidInput.at("ray", got=repr(pool.address), expected=expected) from error
    try:
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield Cluster(ray, pool, folder, asked, device)
    finally:
        ray.shutdown()


def _ray() -> Any:
    install = "pip install 'latentserve[ray]'"
    try:
        version = metadata.version("ray")
        import ray
        import ray.data
    except (ModuleNotFoundError, metadata.PackageNotFoundError) as error:
        raise Unsupported(f"ray: it is missing: {install}") from error
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise Unsupported(f"ray: got {version}, expected {'.'.join(map(str, OLDEST))} or newer: {install}")
    return ray


def _check_answers(address: str) -> None:
    """Raises OSError if nobody does: Ray would wait for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()


def _tasks(batches: Iterable[Sequence[Item]]) -> Iterator[list[Sequence[Item]]]:
    rest = iter(batches)
    while some := list(itertools.islice(rest, BATCHES)):
        yield some


def _told(answers: list[Answers] | LatentserveError) -> list[Answers]:
    if isinstance(answers, LatentserveError):
        raise answers
    return answers


def _room(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
