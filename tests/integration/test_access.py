"""Who gets in, asked of the real server on both transports."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.calls import Scores
from latentserve.client import AsyncClient, Client
from latentserve.errors import InvalidInput, ModelNotFound, Overloaded, PermissionDenied, Unauthenticated
from latentserve.health import main as health
from latentserve.v1 import embedding_pb2 as pb
from service.api.access.tokens import main as tokens
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from tests.waiting import eventually

ENTRIES: dict[str, tuple[str, ...]] = {
    "all": (),
    "scores": ("--methods", "Score*"),
    "elsewhere": ("--models", "other-*"),
    "slow": ("--rows-per-second", "0.01", "--burst-rows", "4"),
    "streams": ("--rows-per-second", "0.01", "--burst-rows", "4"),
    "old": ("--expires", "2020-01-01"),
    "boss": ("--admin",),
}


@dataclass
class Guarded:
    process: ServedProcess
    file: Path
    log: Path
    tokens: dict[str, str]

    def client(self, name: str) -> Client:
        return Client(self.process.target, token=self.tokens.get(name, name))

    def page(self, path: str, token: str = "", method: str = "GET") -> tuple[int, str]:
        url = self.process.metrics_url.removesuffix("/metrics") + path
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method)) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        _, page = self.page("/metrics", self.tokens["boss"])
        return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{name} "))


def make(file: Path, name: str, capsys: pytest.CaptureFixture[str], verb: str = "new") -> str:
    options = ENTRIES.get(name, ()) if verb == "new" else ()
    assert tokens([verb, "--file", str(file), "--name", name, *options]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture(params=["http2", "grpcio"])
def guarded(
    repository: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[Guarded]:
    file, log = tmp_path / "tokens.toml", tmp_path / "log"
    made = {name: make(file, name, capsys) for name in ENTRIES}
    arguments = ("--transport", request.param, "--tokens", str(file), "--log-level", "debug")
    with ServedProcess(repository, log, arguments) as process:
        yield Guarded(process, file, log, made)
        page = guarded_page(process, made["boss"])
        assert process.stop() == 0
    for token in made.values():
        assert token not in log.read_text()
        assert token not in page


def guarded_page(process: ServedProcess, token: str) -> str:
    asked = urllib.request.Request(process.metrics_url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked) as page:
        text: str = page.read().decode()
    return text


def test_only_who_shows_a_token_of_ours_may_call_and_only_what_it_is_for(
    guarded: Guarded, digits: NDArray[np.uint8]
) -> None:
    told = set()
    for name in ("", "nobody", "old"):
        with guarded.client(name) as client:
            for call in (lambda c: c.embed(digits[:1]), lambda c: c.list_models(), lambda c: c.get_model("none")):
                with pytest.raises(Unauthenticated) as error:
                    call(client)
                told.add(str(error.value).partition(";")[0])  # then: how many rows were done
            with pytest.raises(Unauthenticated):
                next(client.score_stream(iter(digits[:1])))
    assert len(told) == 1
    with guarded.client("all") as client:
        assert len(client.embed(digits[:3])) == 3
        assert all(isinstance(one, Scores) for one in client.score_stream(iter(digits[:40])))
        assert [model.name for model in client.list_models().models] == ["digits-vae"]
    with guarded.client("scores") as client:
        assert len(client.score(digits[:3]).p_values) == 3
        with pytest.raises(PermissionDenied, match="may not call Embed"):
            client.embed(digits[:1])
    with guarded.client("elsewhere") as client:
        for model in ("digits-vae", "none"):
            with pytest.raises(PermissionDenied, match=f"got '{model}'"):
                client.embed(digits[:1], model)
        with pytest.raises(ModelNotFound, match=r"expected one of \[\]"):
            client.embed(digits[:1], "other-1")
        with pytest.raises(InvalidInput, match=r"expected one of \[\]"):
            client.embed(digits[:1])
        assert not client.list_models().models
    with guarded.client("boss") as client:
        assert [model.name for model in client.list_models().models] == ["digits-vae"]
        with pytest.raises(PermissionDenied):
            client.embed(digits[:1])

    async def again() -> None:
        async with AsyncClient(guarded.process.target, token=guarded.tokens["all"]) as client:
            assert len(await client.embed(digits[:3])) == 3
            assert len([one async for one in client.score_stream(iter(digits[:40]))]) == 40

    asyncio.run(again())


def test_over_its_rate_a_token_is_told_to_come_again_and_a_stream_goes_on(
    guarded: Guarded, digits: NDArray[np.uint8]
) -> None:
    with guarded.client("slow") as client:
        assert len(client.embed(digits[:3])) == 3
        with pytest.raises(Overloaded, match="0.01 rows a second") as error:
            client.embed(digits[:3])
        assert 100 < error.value.retry_after_seconds <= 200
    with guarded.client("streams") as client:
        results = list(client.score_stream(iter(digits[:9])))
        assert [isinstance(one, Scores) for one in results] == [True] * 4 + [False] * 5
        assert all(isinstance(one, Overloaded) and one.retry_after_seconds > 10 for one in results[4:])
    assert guarded.metric('latentserve_access_refused_total{token="streams",why="rate"}') == 5
    assert guarded.metric('latentserve_access_rows_total{token="streams"}') == 4


def test_open_inference_health_and_reflection_stand_behind_the_same_door(
    guarded: Guarded, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = (("authorization", f"Bearer {guarded.tokens['all']}"),)
    rows = open_pb.ModelInferRequest.InferInputTensor(name="input", datatype="UINT8", shape=[1, 8, 8, 1])
    infer = open_pb.ModelInferRequest(model_name="digits-vae", inputs=[rows], raw_input_contents=[digits[:1].tobytes()])
    with grpc.insecure_channel(guarded.process.target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            open_pb.ModelInferRequest.SerializeToString,
            open_pb.ModelInferResponse.FromString,
        )
        assert call(infer, metadata=shown).model_name == "digits-vae"
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"") == b"\x08\x01"
        unknown = channel.unary_unary("/x.Y/Z")
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        for refused in (lambda: call(infer), lambda: unknown(b""), lambda: next(reflect(iter([])))):
            with pytest.raises(grpc.RpcError) as error:
                refused()
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as error:
            unknown(b"", metadata=shown)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        (listed,) = reflect(listing, metadata=shown)
        assert "latentserve.v1.EmbeddingService" in str(listed)
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    assert health(guarded.process.target) == 0
    assert health(guarded.process.metrics_url.replace("/metrics", "/ready")) == 0
    capsys.readouterr()


def test_the_page_of_metrics_is_for_administrators(guarded: Guarded) -> None:
    assert guarded.page("/metrics")[0] == 401
    assert guarded.page("/metrics", "nobody")[0] == 401
    assert guarded.page("/metrics", guarded.tokens["all"])[0] == 403
    assert guarded.page("/metrics", guarded.tokens["boss"])[0] == 200
    assert guarded.page("/ready") == (200, "SERVING\n")
    assert guarded.page("/")[0] == 401


def test_a_call_is_refused_at_its_headers_before_anything_of_its_body_has_come(guarded: Guarded) -> None:
    never: queue.SimpleQueue[pb.EmbedRequest] = queue.SimpleQueue()
    with grpc.insecure_channel(guarded.process.target) as channel:
        for method in ("Embed", "ScoreStream"):
            call = channel.stream_unary(
                f"/latentserve.v1.EmbeddingService/{method}", pb.EmbedRequest.SerializeToString, None
            )
            with pytest.raises(grpc.RpcError) as error:
                call(iter(never.get, None), timeout=20)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            never.put(pb.EmbedRequest())  # lets the thread that would send go


def test_tokens_are_replaced_while_calls_go_on(
    guarded: Guarded, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    def reload() -> None:
        os.kill(guarded.process.pid, signal.SIGHUP)

    items: queue.SimpleQueue[NDArray[np.uint8] | None] = queue.SimpleQueue()
    with guarded.client("all") as old, guarded.client("scores") as other:
        stream = old.score_stream(given(items))
        items.put(digits[0])
        assert isinstance(next(stream), Scores)
        guarded.tokens["new"] = make(guarded.file, "all", capsys, "renew")
        reload()
        with guarded.client("new") as new:
            eventually(lambda: _embeds(new, digits))
            assert len(old.embed(digits[:1])) == 1  # both are good while it is being replaced
            good = guarded.file.read_text()
            guarded.file.write_text(good + "[[token]]\n")
            reload()
            eventually(lambda: guarded.metric("latentserve_config_last_reload_successful") == 0)
            assert len(new.embed(digits[:1])) == 1
            guarded.file.write_text(good)
            make(guarded.file, "all", capsys, "settle")
            reload()
            eventually(lambda: not _embeds(old, digits))
            assert len(new.embed(digits[:1])) == 1
            assert guarded.metric("latentserve_config_last_reload_successful") == 1
        items.put(digits[0])
        with pytest.raises(Unauthenticated):
            next(stream)
        items.put(None)
        assert len(other.score(digits[:1]).p_values) == 1
    assert "tokens not reloaded: tokens: got" in guarded.log.read_text()


def given(items: queue.SimpleQueue[NDArray[np.uint8] | None]) -> Iterator[NDArray[np.uint8]]:
    while (item := items.get()) is not None:
        yield item


def _embeds(client: Client, digits: NDArray[np.uint8]) -> bool:
    try:
        return len(client.embed(digits[:1])) == 1
    except Unauthenticated:
        return False


def test_a_broken_file_of_tokens_is_met_before_work(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text("")
    arguments = ("--tokens", str(tmp_path / "tokens.toml"))
    with (
        pytest.raises(RuntimeError, match="expected a TOML file of"),
        ServedProcess(repository, tmp_path / "log", arguments),
    ):
        pass


@pytest.mark.parametrize("token", ["a b", "a\nb", "größe", "a\0"])
def test_what_is_no_token_is_not_sent_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Client("localhost:1", token=token)
    assert token not in str(error.value)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("unix:/tmp/x", True),
        ("unix:///tmp/x", True),
        ("example.org:1", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("dns://127.0.0.1/example.org:1", False),
        ("localhost.example.org:1", False),
        ("[2001:db8::1]:1", False),
        ("xds:///localhost", False),
        ("", False),
    ],
)
def test_a_token_leaves_this_machine_in_the_clear_only_if_told_to(
    target: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = grpc.ssl_channel_credentials()
    for given in ("secret", None):
        if given is None:
            monkeypatch.setenv("LATENTSERVE_TOKEN", "secret")
        if local:
            Client(target, token=given).close()
        else:
            with pytest.raises(InvalidInput, match="over plaintext") as error:
                Client(target, token=given)
            assert "secret" not in str(error.value)
            with pytest.raises(InvalidInput, match="over plaintext"):
                AsyncClient(target, token=given)
        Client(target, token=given, token_over_plaintext=True).close()
        Client(target, token=given, credentials=credentials).close()
        Client(target, token="").close()
