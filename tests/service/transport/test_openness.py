"""What the log says at the start of what is open, and settings that must not be mistaken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trustme

from benchmarks.processes.served import ServedProcess
from latentserve.health import main as health
from service.config import ConfigError, load_config
from service.transport.addresses import warn_of_openness
from tests.service.transport.test_tls import keys

TOKENS, TLS, CA = ("--tokens", "t"), ("--tls-certificate", "c", "--tls-key", "k"), ("--tls-client-ca", "a")
PAGE, OPEN_PAGE = ("--metrics-tls", "true"), ("--open-metrics", "true")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), ["rows can be read", "may call", "reads the metrics"]),
        (TOKENS, ["tokens and rows can be read", "administrator's token can be read"]),
        (TLS, ["may call", "reads the metrics"]),
        ((*TLS, *TOKENS), ["administrator's token can be read"]),
        ((*TLS, *TOKENS, *OPEN_PAGE), ["reads the metrics"]),
        ((*TLS, *TOKENS, *PAGE), []),
        ((*TLS, *CA), ["reads the metrics"]),
        ((*TLS, *CA, *PAGE), []),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost", "::1", "::", "no.such.host.invalid"])
def test_what_is_open_beyond_loopback_is_said(
    host: str, arguments: tuple[str, ...], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_openness(load_config(["--models", "m", "--host", host, *arguments]).listen)
    expected = [] if host in ("127.0.0.1", "localhost", "::1") else said
    assert len(caplog.messages) == len(expected)
    for message, part in zip(caplog.messages, expected, strict=True):
        assert part in message
        assert f"listens on {host}, beyond loopback" in message


def test_a_server_says_so_in_its_log(repository: Path, tmp_path: Path) -> None:
    with ServedProcess(repository, tmp_path / "log", ("--host", "0.0.0.0")) as process:
        assert process.target.startswith("0.0.0.0:")
    assert "without tokens or tls_client_ca: whoever reaches port" in (tmp_path / "log").read_text()


def test_a_clients_token_is_not_mistaken_for_the_servers_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_TOKEN", "tokens.toml")
    with pytest.raises(ConfigError, match="unknown variable LATENTSERVE_TOKEN"):
        load_config(["--models", "m"])


def test_a_page_that_speaks_tls_needs_keys() -> None:
    with pytest.raises(ConfigError, match="metrics_tls: expected tls_certificate and tls_key with it"):
        load_config(["--models", "m", "--metrics-tls", "true"])


def test_a_probe_asks_a_page_that_speaks_tls(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = keys(tmp_path, trustme.CA())
    arguments = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--metrics-tls", "true")
    with ServedProcess(repository, tmp_path / "log", arguments) as process:
        ready = process.metrics_url.replace("http:", "https:").replace("/metrics", "/ready")
        assert health(ready) == 0
        assert health(ready.replace("https:", "http:")) == 1
    assert health(ready) == 1
    capsys.readouterr()
