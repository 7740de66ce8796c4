"""The model repository: bundles found, loaded, verified and warmed up; the broken ones are rejected by name.

Its folder is scanned at the start and again when asked to: what is new is loaded beside what is served, and models
whose folders have been removed are unloaded (`scan`, `Repository.take`). A bundle never changes in place: what is
served is not loaded again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from latentserve import bundle
from latentserve.errors import BundleError, InvalidInput, ModelNotFound
from latentserve.records import printable
from service.engine.providers import DeviceError
from service.models.engines import Workers
from service.models.model import ModelsConfig, ServedModel, load
from service.observing.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejected:
    """A bundle that is not served, and why; `device` if it was the required device that does not run it."""

    name: str
    version: int
    reason: str
    device: DeviceError | None = None


@dataclass
class Repository:
    """Every model by name and version.

    Attributes:
        models: served, by name, then version.
        rejected: found but not served.
    """

    models: dict[str, dict[int, ServedModel]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def find(self, name: str, version: int, sees: Callable[[str], bool] = bool) -> ServedModel:
        """The model that a request names; without a name the only one that the caller sees. Version 0 is the newest.

        Raises:
            ModelNotFound: no such model or version.
            BundleError: it was found but rejected.
            InvalidInput: the name was left out although there are several, or the version is negative.
        """
        if version < 0:
            raise InvalidInput.at("model.version", got=version, expected="0 (newest) or greater")
        names = sorted(filter(sees, self.models))
        if not name:
            if len(names) != 1:
                raise InvalidInput.at("model.name", got="no name", expected=f"one of {names}")
            (name,) = names
        for one in self.rejected:
            if one.name == name and version in (one.version, 0) and (version or name not in self.models):
                raise BundleError(f"model {name} version {one.version} was rejected: {one.reason}")
        versions = self.models.get(name)
        if versions is None:
            raise ModelNotFound(f"model.name: got {name!r}, expected one of {names}")
        if version and version not in versions:
            raise ModelNotFound(f"model.version: got {version} of {name!r}, expected one of {sorted(versions)}")
        return versions[version or max(versions)]

    def take(self, found: Scan) -> None:
        """From now on the loaded models answer, and the unloaded ones do not. The newest version is the default one."""
        for model in found.loaded:
            name, version = model.key
            self.models.setdefault(name, {})[version] = model
        for model in found.unloaded:
            name, version = model.key
            del self.models[name][version]
            if not self.models[name]:
                del self.models[name]
        self.rejected = found.rejected

    def served(self) -> list[ServedModel]:
        """Every model, by name, then newest first."""
        return [
            versions[version]
            for _, versions in sorted(self.models.items())
            for version in sorted(versions, reverse=True)
        ]


@dataclass(frozen=True)
class Scan:
    """What a scan of the folder found, beside what is served.

    Attributes:
        loaded: not served before, verified and warm.
        rejected: found but not to be served.
        unloaded: served, but their folders are no longer there.
    """

    loaded: list[ServedModel]
    rejected: list[Rejected]
    unloaded: list[ServedModel]


def scan(
    config: ModelsConfig, metrics: Metrics, workers: Workers, repository: Repository, leaving: Event | None = None
) -> Scan:
    """Loads every bundle under `config.folder` that is not served, one after another. Slow; takes nothing over.

    Args:
        config: the folder, and what models are served with.
        metrics: record what is loaded and rejected.
        workers: of the models.
        repository: what is served.
        leaving: once set, no further bundle is loaded.

    Raises:
        BundleError: there is no bundle, or none can be served, or the server is leaving.
        DeviceError: the required device is not there for any of them.
    """
    named = {(folder.parent.name, int(folder.name)): folder for folder in find_bundles(config.folder)}
    served = {model.key: model for model in repository.served()}
    loaded: list[ServedModel] = []
    rejected: list[Rejected] = []
    try:
        for (name, version), folder in named.items():
            if leaving and leaving.is_set():
                raise BundleError("models: not scanned, the server is stopping")
            if (name, version) not in served:
                one = _load_or_reject(folder, partial(load, folder, config, metrics, workers), metrics)
                loaded.append(one) if isinstance(one, ServedModel) else rejected.append(one)
    except BaseException:
        for model in loaded:
            metrics.forget(model.manifest.name, str(model.manifest.version))
        raise
    unloaded = [model for key, model in served.items() if key not in named]
    if len(served) - len(unloaded) + len(loaded) == 0:
        if device := next((one.device for one in rejected if one.device), None):
            raise device
        raise BundleError(f"models: none of {len(named)} bundles under {config.folder} can be served")
    metrics.rejected_bundles.set(len(rejected))
    return Scan(loaded, rejected, unloaded)


def _load_or_reject(folder: Path, load_it: Callable[[], ServedModel], metrics: Metrics) -> ServedModel | Rejected:
    """Whatever is wrong with one bundle, or with loading it, is reported of this bundle and touches no other."""
    # A name that is no text could be written nowhere: not in an answer, not on the page of metrics.
    name, version = printable(folder.parent.name), int(folder.name)
    try:
        model = load_it()
    except Exception as error:
        metrics.forget(name, str(version))
        expected = isinstance(error, (BundleError, DeviceError))
        reason = printable(str(error) if expected else f"{folder}: cannot be loaded: {type(error).__name__}: {error}")
        log.error("rejected %s version %d: %s", name, version, reason, exc_info=not expected)
        return Rejected(name, version, reason, error if isinstance(error, DeviceError) else None)
    log.info("model %s version %d is warm on %s", name, version, model.execution_provider)
    return model


def find_bundles(models: Path) -> list[Path]:
    """Folders <models>/<name>/<version>, whether what is in them is whole or not. BundleError: there are none."""
    if not models.is_dir():
        raise BundleError(f"models: got {models}, expected a folder")
    found = sorted(
        (
            folder
            for folder in models.glob("*/*")
            if _is_version(folder.name) and not folder.parent.name.startswith(".") and _is_folder(folder)
        ),
        key=lambda folder: (folder.parent.name, int(folder.name)),
    )
    if not found:
        raise BundleError(f"models: got no bundle under {models}, expected <name>/<version>/{bundle.MANIFEST}")
    return found


def _is_version(name: str) -> bool:
    return name.isdecimal() and str(int(name)) == name and int(name) < 2**63  # int64 in the proto


def _is_folder(path: Path) -> bool:
    """Also if that cannot be known: loading it will say why."""
    try:
        return path.is_dir()
    except OSError:
        return True
