"""TLS on both transports: who is let in, who is not, and keys that are replaced while calls go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client
from latentserve.errors import LatentserveError, Unavailable
from service.config import ConfigError, load_config
from service.transport.tls import Tls, TlsError, TlsFiles, watch
from tests.waiting import eventually

TRANSPORTS = pytest.mark.parametrize("transport", ["http2", "grpcio"])


def keys(folder: Path, authority: trustme.CA, name: str = "server") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, written as PEM."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def trusting(
    authority: trustme.CA, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    own = (None if path is None else path.read_bytes() for path in (key, certificate))
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *own)


def flags(certificate: Path, key: Path, transport: str) -> tuple[str, ...]:
    return ("--tls-certificate", str(certificate), "--tls-key", str(key), "--transport", transport)


@TRANSPORTS
def test_calls_are_encrypted_and_nothing_else_is_answered(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    arguments = flags(*keys(tmp_path, authority), transport)
    with ServedProcess(repository, tmp_path / "log", arguments) as process:
        with Client(process.target, credentials=trusting(authority)) as client:
            assert client.embed(digits).shape[0] == len(digits)
            assert len(list(client.score_stream(iter(digits[:40])))) == 40
        for credentials in (None, trusting(stranger)):
            with Client(process.target, 2, credentials) as client, pytest.raises(LatentserveError):
                client.embed(digits[:1])
        host, port = process.target.split(":")
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2"])
        old = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection((host, int(port))) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname=host)
        with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host) as tls:
            assert tls.selected_alpn_protocol() == "h2"
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
        assert process.stop() == 0


@TRANSPORTS
def test_clients_show_a_certificate_where_one_is_asked_for(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    authority, of_clients, stranger = trustme.CA(), trustme.CA(), trustme.CA()
    of_clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    arguments = (*flags(*keys(tmp_path, authority), transport), "--tls-client-ca", str(tmp_path / "clients.pem"))
    known = trusting(authority, *keys(tmp_path, of_clients, "known"))
    unknown = trusting(authority, *keys(tmp_path, stranger, "unknown"))
    with ServedProcess(repository, tmp_path / "log", arguments) as process:
        with Client(process.target, credentials=known) as client:
            assert len(client.embed(digits[:3])) == 3
        for credentials in (unknown, trusting(authority)):
            with Client(process.target, 2, credentials) as client, pytest.raises(LatentserveError):
                client.embed(digits[:1])


@TRANSPORTS
def test_an_authority_that_is_withdrawn_is_trusted_no_more(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    authority, first, second, log = trustme.CA(), trustme.CA(), trustme.CA(), tmp_path / "log"
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(first.cert_pem.bytes())
    of_first, of_second = (
        trusting(authority, *keys(tmp_path, one, name)) for one, name in ((first, "first"), (second, "second"))
    )

    def lets_in(credentials: grpc.ChannelCredentials) -> bool:
        with Client(process.target, 2, credentials) as client:
            try:
                return len(client.embed(digits[:1])) == 1
            except LatentserveError:
                return False

    arguments = (*flags(*keys(tmp_path, authority), transport), "--tls-client-ca", str(trusted))
    with ServedProcess(repository, log, arguments) as process:
        assert lets_in(of_first)
        assert not lets_in(of_second)
        trusted.write_bytes(second.cert_pem.bytes())
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: "certificates reloaded" in log.read_text())
        assert not lets_in(of_first)
        assert lets_in(of_second)


@pytest.mark.parametrize(("transport", "drain_seconds"), [("http2", "15"), ("grpcio", "3")])  # grpcio waits them out
def test_a_client_that_does_not_close_does_not_hold_up_a_stop(
    repository: Path, tmp_path: Path, transport: str, drain_seconds: str
) -> None:
    authority = trustme.CA()
    arguments = (*flags(*keys(tmp_path, authority), transport), "--drain-seconds", drain_seconds)
    with ServedProcess(repository, tmp_path / "log", arguments) as process:
        host, port = process.target.split(":")
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host) as deaf:
            deaf.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            deaf.recv(1)  # it listens to us no more
            started = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - started < 12


@TRANSPORTS
def test_new_keys_are_taken_on_sighup_and_wrong_ones_change_nothing(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    first, second, log = trustme.CA(), trustme.CA(), tmp_path / "log"
    certificate, key = keys(tmp_path, first)

    def is_trusted(authority: trustme.CA) -> bool:
        with Client(process.target, 5, trusting(authority)) as client:
            try:
                return len(client.embed(digits[:1])) == 1
            except Unavailable:
                return False

    def reload(said: str) -> float:
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: said in log.read_text())
        return process.metrics()["latentserve_config_last_reload_successful"]

    with ServedProcess(repository, log, flags(certificate, key, transport)) as process:
        with Client(process.target, credentials=trusting(first)) as staying:
            assert len(staying.embed(digits[:1])) == 1
            certificate.write_text("no certificate")
            assert reload("certificates not reloaded: tls_certificate, tls_key: got") == 0
            assert is_trusted(first)
            keys(tmp_path, second)
            os.kill(process.pid, signal.SIGHUP)
            eventually(lambda: is_trusted(second))
            assert not is_trusted(first)
            assert len(staying.embed(digits[:1])) == 1  # connections that stand are left alone
        eventually(lambda: process.metrics()["latentserve_config_last_reload_successful"] == 1)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(*keys(tmp_path, trustme.CA()))


def handshake(server: ssl.SSLContext, authority: trustme.CA, own: tuple[Path, Path] | None = None) -> bytes:
    """The certificate that a client, with or without one of its own, gets from a server's context, in memory."""
    client = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if own is not None:
        client.load_cert_chain(*own)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="127.0.0.1")
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                done.add(side)
    return theirs.getpeercert(True) or b""


def test_what_does_not_fit_leaves_what_is_in_force_as_it_was(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = Tls(TlsFiles(*keys(tmp_path, authority)))
    before = handshake(tls.context, authority)
    assert not tls.changed()
    keys(tmp_path, authority, "other")
    (tmp_path / "other.pem").replace(tmp_path / "server.pem")  # a new certificate without its key
    assert tls.changed()
    with pytest.raises(TlsError, match="tls_certificate, tls_key"):
        tls.renew()
    assert handshake(tls.context, authority) == before
    assert tls.changed()  # and it is looked at again
    (tmp_path / "other.key").replace(tmp_path / "server.key")
    tls.renew()
    assert handshake(tls.context, authority) != before
    assert not tls.changed()


def test_files_that_change_are_found_without_a_signal(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls, renewed = Tls(TlsFiles(*keys(tmp_path, authority))), list[bool]()

    async def run() -> None:
        task = asyncio.create_task(watch(tls, lambda: renewed.append(tls.changed()), every_seconds=0.01))
        await asyncio.sleep(0.05)
        assert renewed == []
        keys(tmp_path, authority)
        async with asyncio.timeout(5):
            while not renewed:
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(run())
    assert tls.expires > time.time()


def test_an_intermediate_may_be_the_authority_of_clients(tmp_path: Path) -> None:
    root = trustme.CA()
    between = root.create_child_ca()
    (tmp_path / "between.pem").write_bytes(between.cert_pem.bytes())
    tls = Tls(TlsFiles(*keys(tmp_path, root), tmp_path / "between.pem"))
    assert handshake(tls.context, root, keys(tmp_path, between, "friend"))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(tls.context, root, keys(tmp_path, root, "cousin"))


def _other_key(files: TlsFiles, folder: Path) -> None:
    files.key.write_bytes(keys(folder, trustme.CA(), "other")[1].read_bytes())


def _encrypted(files: TlsFiles, folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(files.key.read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files, folder: files.key.unlink(), "tls_key: got .*server.key, expected a file that can be read"),
        (_other_key, "tls_certificate, tls_key: got .* expected a certificate and its own"),
        (_encrypted, "tls_certificate, tls_key: got .* unencrypted key"),
    ],
)
def test_files_that_do_not_fit_are_named(
    files: TlsFiles, tmp_path: Path, spoil: Callable[[TlsFiles, Path], None], message: str
) -> None:
    kept = Tls(files)
    spoil(files, tmp_path)
    with pytest.raises(TlsError, match=message):
        Tls(files)
    with pytest.raises(TlsError, match=message):
        kept.renew()
    kept.credentials()  # the old pair is still there


def test_authorities_of_clients_that_are_none_are_named(files: TlsFiles, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(TlsError, match="tls_client_ca: got .*ca.pem, expected certificates in PEM"):
        Tls(TlsFiles(files.certificate, files.key, tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls-key", "k"], "tls_certificate and tls_key: got one of them, expected both or neither"),
        (["--tls-client-ca", "c"], "tls_client_ca: expected tls_certificate and tls_key with it"),
    ],
)
def test_half_a_pair_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["--models", "m", *arguments])
