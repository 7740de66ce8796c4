"""What an operator may set: on the command line, as LATENTSERVE_<NAME> in the environment, or in a TOML file.

The file is read again on SIGHUP. What may change while the server runs is `AT_RUN_TIME`; the rest needs a restart.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from latentserve.cpus import available_cpus as available_cpus
from latentserve.spelling import as_typed
from service.engine.devices import checked_cache, devices_of
from service.engine.providers import ENGINE_CACHE, DeviceConfig
from service.models.decoding import Limits
from service.models.model import ModelsConfig
from service.observing.monitor import MonitorConfig
from service.scheduling.batching import QueueConfig
from service.scheduling.decoding_queue import DecodingConfig
from service.transport.addresses import ListenConfig
from service.transport.http2.limits import Limits as TransportLimits
from service.transport.tls import TlsFiles

PREFIX = "LATENTSERVE_"
MOST, MOST_BYTES, A_DAY = 2**31 - 1, 2**50, 86_400.0
"""No limit is larger: grpcio takes 31 bits, the proto 63, and nobody drains for longer."""
OF_OTHERS = {"LATENTSERVE_DATA"}
"""Variables with our prefix that training reads. Not LATENTSERVE_TOKEN, a client's: to mistake it for
LATENTSERVE_TOKENS would open the server to everybody."""
AT_RUN_TIME = (
    *("batch_window_seconds", "max_queue_rows", "max_queue_bytes"),
    *("lame_duck_seconds", "drain_seconds", "log_level"),
)
"""Settings that SIGHUP changes."""


class ConfigError(ValueError):
    """A setting is unknown or out of range. The message names it, what was got and expected."""


class _SettingsFile(PydanticBaseSettingsSource):
    """The file that a stronger source named, if one did."""

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("settings")
        if path is None:
            return {}
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, no text, or no path
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"settings: got {path}, expected a TOML file: {why}") from error
        if "settings" in found:
            raise ConfigError(f"settings: {path} names another file, expected it to hold the settings themselves")
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not called: the whole file is given at once."""
        raise NotImplementedError


class Config(BaseSettings):
    """Serves every bundle of a model repository over gRPC; the command `tokens` makes bearer tokens."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    settings: Path | None = Field(None, description="TOML file of these settings, for those not given elsewhere")
    models: Path = Field(description="model repository: <name>/<version>/bundle.json")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 for any free one")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus port; 0 for any free one")
    transport: Literal["http2", "grpcio"] = Field("http2", description="http2: our own HTTP/2; grpcio: grpcio's server")
    tls_certificate: Path | None = Field(None, description="PEM file: our certificate, then its chain; gRPC speaks TLS")
    tls_key: Path | None = Field(None, description="PEM file: the certificate's key, not encrypted")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: only clients with certificates that these have signed"
    )
    tokens: Path | None = Field(None, description="TOML file of bearer tokens: only clients with one of them may call")
    open_health: bool = Field(True, description="health, and /ready beside the metrics, need no token")
    open_reflection: bool = Field(False, description="reflection needs no token")
    open_metrics: bool = Field(False, description="the page of metrics needs no token; else an administrator's")
    metrics_tls: bool = Field(False, description="the page of metrics speaks TLS, with the certificate of gRPC")
    device: str = Field("auto", description="auto: CUDA, else the CPU; cpu, cuda, tensorrt, or cuda:0,cuda:1: no other")
    instances: int = Field(1, ge=1, le=64, description="engines on each device, each with a thread of its own")
    cuda_graphs: bool = Field(False, description="on CUDA: record each batch size once and replay it")
    tensorrt_cache: Path = Field(ENGINE_CACHE, description="folder where TensorRT keeps the engines it built")
    intra_op_threads: int = Field(
        0, ge=0, le=1024, description="threads of an operator on the CPU; 0: CPUs / instances"
    )
    max_batch_rows: int = Field(64, ge=1, le=4096, description="rows of a batch")
    batch_window_seconds: float = Field(0.0, ge=0, le=1, description="how long a batch waits for more rows")
    max_queue_rows: int = Field(4096, ge=1, le=MOST, description="rows that may wait for one model")
    max_queue_bytes: int = Field(256 * 2**20, ge=1, le=MOST_BYTES, description="bytes that may wait for one model")
    max_request_rows: int = Field(1024, ge=1, le=MOST, description="rows of one request")
    max_request_bytes: int = Field(64 * 2**20, ge=1024, le=MOST, description="bytes of one request")
    max_receive_bytes: int = Field(
        0, ge=0, le=MOST_BYTES, description="bytes of requests held at once; 0: 512 MiB or four requests, the larger"
    )
    max_connections: int = Field(4096, ge=1, le=1_000_000, description="connections open at once")
    keepalive_seconds: float = Field(
        60.0, gt=0, le=A_DAY, description="a connection that sends nothing for so long is pinged"
    )
    compress_answers: bool = Field(False, description="gzip answers for clients that accept it")
    max_item_bytes: int = Field(16 * 2**20, ge=1, le=MOST, description="bytes of one encoded item")
    max_item_pixels: int = Field(
        50_000_000, ge=1, le=MOST, description="pixels of one image, checked before it is decoded"
    )
    max_request_pixels: int = Field(
        500_000_000, ge=1, le=MOST_BYTES, description="pixels of one request's images, checked before any is decoded"
    )
    max_decoding_bytes: int = Field(
        256 * 2**20, ge=1, le=MOST_BYTES, description="bytes of files that may wait to be decoded, of all models"
    )
    max_decoding_pixels: int = Field(
        2_000_000_000, ge=1, le=MOST_BYTES, description="pixels of images that may wait to be decoded, of all models"
    )
    monitor_window_rows: int = Field(1000, ge=10, le=1_000_000, description="scored rows that the monitor compares")
    monitor_level: float = Field(0.01, gt=0, le=0.2, description="probability of a false alarm of the monitor")
    stuck_batch_seconds: float = Field(
        30.0, gt=0, le=A_DAY, description="a batch that runs longer is stuck: the server is not ready until it ends"
    )
    lame_duck_seconds: float = Field(
        0.0, ge=0, le=A_DAY, description="how long new calls are accepted after SIGTERM, while health is NOT_SERVING"
    )
    drain_seconds: float = Field(20.0, ge=0, le=A_DAY, description="how long accepted calls may take after that")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file; the command line, which `load_config` reads, comes before both."""
        return sources["init_settings"], sources["env_settings"], _SettingsFile(settings_cls)

    @field_validator(
        *("settings", "models", "tls_certificate", "tls_key", "tls_client_ca", "tokens", "tensorrt_cache", "host"),
        mode="before",
    )
    @classmethod
    def _is_named(cls, value: Any) -> Any:
        """An empty path would be the folder we are in, an empty host every address there is."""
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError("a name")
        return value

    @field_validator("device")
    @classmethod
    def _is_of_devices(cls, value: str) -> str:
        return ",".join(devices_of(value))

    @field_validator("tensorrt_cache")
    @classmethod
    def _can_be_a_folder(cls, value: Path) -> Path:
        return checked_cache(value)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.port == self.metrics_port != 0:
            raise ValueError(f"port and metrics_port: got {self.port} for both, expected two ports")
        return self

    @model_validator(mode="after")
    def _cores_are_enough(self) -> Self:
        if self.device == "cpu" and self.instances > (cpus := available_cpus()):
            raise ValueError(f"instances: got {self.instances}, expected at most {cpus}, one for each CPU")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: got one of them, expected both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca: expected tls_certificate and tls_key with it")
        if self.metrics_tls and self.tls_certificate is None:
            raise ValueError("metrics_tls: expected tls_certificate and tls_key with it")
        return self

    @model_validator(mode="after")
    def _requests_fit(self) -> Self:
        if self.max_receive_bytes and self.max_receive_bytes < 2 * self.max_request_bytes:
            least = f"{2 * self.max_request_bytes}, twice max_request_bytes"
            raise ValueError(f"max_receive_bytes: got {self.max_receive_bytes}, expected 0 or at least {least}")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Where the certificates are; None: gRPC in plaintext."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def queue(self) -> QueueConfig:
        """Bounds of each model's queue."""
        return QueueConfig(self.max_batch_rows, self.max_queue_rows, self.max_queue_bytes, self.batch_window_seconds)

    @property
    def devices(self) -> list[str]:
        """Each on which graphs run."""
        return self.device.split(",")

    @property
    def device_config(self) -> DeviceConfig:
        """On what graphs run."""
        return DeviceConfig(self.devices[0], self.threads, self.max_batch_rows, self.cuda_graphs, self.tensorrt_cache)

    @property
    def limits(self) -> Limits:
        """What one request may bring."""
        most_pixels = min(self.max_request_pixels, self.max_decoding_pixels)  # more would never be let in
        return Limits(self.max_request_rows, self.max_item_bytes, self.max_item_pixels, most_pixels)

    @property
    def models_config(self) -> ModelsConfig:
        """Where models are found, and what they are served with."""
        return ModelsConfig(self.models, self.device_config, self.queue, self.limits, self.monitor)

    @property
    def listen(self) -> ListenConfig:
        """Where we listen, and what protects it."""
        addresses = self.host, self.port, self.metrics_port, self.transport == "grpcio"
        guards = self.tls is not None, self.tls_client_ca is not None, self.tokens is not None
        return ListenConfig(*addresses, *guards, self.open_metrics, self.metrics_tls)

    @property
    def decoding(self) -> DecodingConfig:
        """What may wait to be decoded."""
        return DecodingConfig(self.max_decoding_bytes, self.max_decoding_pixels)

    @property
    def transport_limits(self) -> TransportLimits:
        """What peers may ask of a transport."""
        receive_bytes = self.max_receive_bytes or max(TransportLimits.receive_bytes, 4 * self.max_request_bytes)
        limits = TransportLimits(receive_bytes=receive_bytes, keepalive_seconds=self.keepalive_seconds)
        return replace(limits, max_connections=self.max_connections, compress_answers=self.compress_answers)

    @property
    def monitor(self) -> MonitorConfig:
        """What counts as a shift of what is scored."""
        return MonitorConfig(self.monitor_window_rows, self.monitor_level)

    @property
    def threads(self) -> int:
        """Threads of one operator on the CPU, of each instance."""
        return self.intra_op_threads or max(1, available_cpus() // self.instances)


def load_config(arguments: Sequence[str]) -> Config:
    """Reads the command line, then the environment, then the settings file, then the defaults.

    Raises:
        ConfigError: unknown variable, or a value out of range.
        SystemExit: unknown argument, or --help.
    """
    known = {PREFIX + name.upper() for name in Config.model_fields} | OF_OTHERS
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigError(f"environment: got unknown variable {unknown[0]}, expected one of {', '.join(sorted(known))}")
    try:
        called = as_typed("python -m service")
        source: CliSettingsSource[object] = CliSettingsSource(Config, called, cli_parse_args=list(arguments))
        return Config(_cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        faults = [_sentence(fault) for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from error


def changed(old: Config, new: Config) -> tuple[set[str], set[str]]:
    """Names of the settings that differ: those that may change at run time, and those that may not."""
    names = {name for name in Config.model_fields if getattr(old, name) != getattr(new, name)}
    return names & set(AT_RUN_TIME), names - set(AT_RUN_TIME)


def _sentence(fault: object) -> str:
    assert isinstance(fault, dict)
    name = ".".join(str(part) for part in fault["loc"])
    if not name:  # of several settings together: it names them itself
        return str(fault["ctx"]["error"])
    if fault["type"] == "missing":
        return f"{name}: missing, expected --{name.replace('_', '-')} or {PREFIX}{name.upper()}"
    return f"{name}: got {fault['input']!r}, expected: {fault['msg'].removeprefix('Value error, ')}"
