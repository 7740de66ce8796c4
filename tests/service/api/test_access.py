"""Tokens: what a file may say, who is let in, how much each may ask for."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentserve.errors import Overloaded, PermissionDenied, Unauthenticated
from latentserve.v1 import embedding_pb2 as pb
from service.api.access.callers import ANYBODY, NOT_ONE_OF_OURS, Access, Bucket, Caller, rows_of
from service.api.access.grants import Grant, TokenFile, TokensError, grants_of, read_grants
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.observing.metrics import Metrics
from tests.fakes import FakeClock

EMBED, SCORE = "/latentserve.v1.EmbeddingService/Embed", "/latentserve.v1.EmbeddingService/Score"
LIVE, INFER = "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ModelInfer"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def grant(name: str, **fields: Any) -> Grant:
    return Grant(name=name, **{"sha256": (digest(name),), **fields})


def access(*grants: Grant, **options: bool) -> tuple[Access, Metrics]:
    metrics = Metrics()
    return Access(grants, metrics, **options), metrics


def refused(metrics: Metrics) -> dict[tuple[str, str], float]:
    samples = (sample for metric in metrics.access_refused.collect() for sample in metric.samples)
    return {(one.labels["token"], one.labels["why"]): one.value for one in samples}


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer nobody", "Basic known", "known", "Bearer  known x", "Bearer old"),
        *("Bearer " + "known" * 1000, "Bearer kn\xf6wn", digest("known"), f"Bearer {digest('known')}"),
    ],
)
def test_whoever_is_not_known_hears_one_sentence_whatever_they_showed(header: str | None) -> None:
    gates, _ = access(grant("known"), grant("old", expires=YESTERDAY))
    with pytest.raises(Unauthenticated) as told:
        gates.admit(EMBED, header)
    assert str(told.value) == NOT_ONE_OF_OURS


def test_a_header_that_is_too_long_is_not_cut_to_one_that_fits() -> None:
    gates, _ = access(grant("known", sha256=(digest("x" * 506),)))
    with pytest.raises(Unauthenticated):
        gates.admit(EMBED, "Bearer " + "x" * 600)


@pytest.mark.parametrize("header", ["Bearer known", "bearer known", "BEARER  known "])
def test_whoever_is_known_gets_in(header: str) -> None:
    gates, metrics = access(grant("other"), grant("known"))
    assert gates.admit(EMBED, header).name == "known"
    assert refused(metrics) == {}


def test_every_hash_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, shown: bytes) -> bool:
        compared.append(known)
        return known == shown

    monkeypatch.setattr("service.api.access.callers.hmac.compare_digest", compare)
    names = ["a", "b", "c"]
    gates, _ = access(*map(grant, names))
    for shown in (*names, "nobody"):
        compared.clear()
        try:
            gates.admit(EMBED, f"Bearer {shown}")
        except Unauthenticated:
            assert shown == "nobody"
        assert compared == [bytes.fromhex(digest(name)) for name in names]


def test_a_method_must_be_among_those_of_the_token() -> None:
    gates, metrics = access(grant("a", methods=("Score*", "GetModel")))
    assert gates.admit(SCORE, "Bearer a").name == "a"
    for path in (EMBED, INFER):
        with pytest.raises(PermissionDenied):
            gates.admit(path, "Bearer a")
    assert gates.admit("/x/Unknown", "Bearer a").name == "a"  # the transport says that there is none
    assert refused(metrics) == {("a", "method"): 2}


def test_an_administrator_describes_and_calls_no_model_unless_its_entry_says_so() -> None:
    gates, _ = access(grant("boss", admin=True), grant("both", admin=True, methods=("Embed",)), grant("user"))
    assert gates.admit("/latentserve.v1.EmbeddingService/ListModels", "Bearer boss").admin
    with pytest.raises(PermissionDenied):
        gates.admit(EMBED, "Bearer boss")
    assert gates.admit(EMBED, "Bearer both").admin
    user = gates.admit(EMBED, "Bearer user")
    assert not user.admin
    with pytest.raises(PermissionDenied):
        user.check_admin()


@pytest.mark.parametrize("health", [True, False])
@pytest.mark.parametrize("reflection", [True, False])
def test_health_and_reflection_are_open_or_not_by_a_setting(health: bool, reflection: bool) -> None:
    gates, _ = access(grant("a", methods=("Embed",)), open_health=health, open_reflection=reflection)
    for path, is_open in ((CHECK, health), (LIVE, health), (REFLECTION, reflection), (EMBED, False)):
        assert gates.admit(path, "Bearer a")  # any token does
        if is_open:
            assert gates.admit(path, None) is ANYBODY
        else:
            with pytest.raises(Unauthenticated):
                gates.admit(path, None)


def test_models_are_denied_by_name_whether_they_are_there_or_not() -> None:
    gates, metrics = access(grant("a", models=("mnist-*", "digits")))
    caller = gates.admit(EMBED, "Bearer a")
    for name in ("mnist-vae", "digits"):
        caller.check_model(name)
    for name in ("digits-vae", "none", "MNIST-VAE"):
        with pytest.raises(PermissionDenied):
            caller.check_model(name)
    assert refused(metrics) == {("a", "model"): 3}


@pytest.mark.parametrize(("ceiling", "got"), [("low", [-1, -1, -1]), ("normal", [-1, 0, 0]), ("high", [-1, 0, 1])])
def test_a_priority_above_the_ceiling_is_lowered_to_it(ceiling: str, got: list[int]) -> None:
    caller = Caller(grant("a", priority=ceiling))
    assert [caller.lowered(priority) for priority in (-1, 0, 1)] == got


def test_a_bucket_says_when_to_come_again_and_then_it_is_so() -> None:
    clock = FakeClock()
    bucket = Bucket(10.0, 20.0, clock)
    assert bucket.take(20) == 0
    assert bucket.take(5) == pytest.approx(0.5)
    clock.now += 0.499
    assert bucket.take(5) > 0
    clock.now += 0.002
    assert bucket.take(5) == 0


def test_a_request_larger_than_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    clock = FakeClock()
    bucket = Bucket(10.0, 20.0, clock)
    assert bucket.take(1) == 0
    assert bucket.take(100) == pytest.approx(0.1)
    clock.now += 0.11
    assert bucket.take(100) == 0
    assert bucket.take(1) == pytest.approx(8.1)


@given(
    st.floats(0.5, 1e4),
    st.floats(1, 1e4),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 1024)), min_size=1, max_size=50),
)
def test_never_more_than_burst_and_rate_and_one_request(
    rate: float, burst: float, asked: list[tuple[float, int]]
) -> None:
    clock = FakeClock()
    bucket = Bucket(rate, burst, clock)
    taken, largest = 0, max(rows for _, rows in asked)
    for pause, rows in asked:
        clock.now += pause
        if bucket.take(rows) == 0:
            taken += rows
        assert taken <= burst + rate * clock.now + largest + 1e-6 * taken


def test_over_the_rate_a_caller_is_told_when_to_come_again_and_calls_without_rows_count_too() -> None:
    gates, metrics = access(grant("a", rows_per_second=0.001, burst_rows=3))
    caller = gates.admit(EMBED, "Bearer a")
    caller.charge(0)
    caller.charge(2)
    with pytest.raises(Overloaded) as told:
        caller.charge(1)
    assert 900 < told.value.retry_after_seconds <= 1000
    assert refused(metrics) == {("a", "rate"): 1}
    assert metrics.registry.get_sample_value("latentserve_access_rows_total", {"token": "a"}) == 3


def test_two_tokens_of_a_name_share_its_rate_and_one_that_is_replaced_starts_with_its_debt() -> None:
    gates, _ = access(grant("a", sha256=(digest("new"), digest("old")), rows_per_second=0.001, burst_rows=2))
    gates.admit(EMBED, "Bearer old").charge(1)
    gates.admit(EMBED, "Bearer new").charge(1)
    gates.take([grant("a", sha256=(digest("third"),), rows_per_second=0.001, burst_rows=2)])
    with pytest.raises(Overloaded):
        gates.admit(EMBED, "Bearer third").charge(1)


def test_what_is_read_anew_holds_for_callers_who_are_in_already() -> None:
    gates, metrics = access(grant("stays"), grant("goes"), grant("renewed", sha256=(digest("x"),)))
    stays, goes = gates.admit(EMBED, "Bearer stays"), gates.admit(EMBED, "Bearer goes")
    renewed = gates.admit(EMBED, "Bearer x")
    goes.charge(1)
    gates.take([grant("stays", models=("only",), priority="low"), grant("renewed", sha256=(digest("y"),))])
    assert stays.lowered(1) == -1
    with pytest.raises(PermissionDenied):
        stays.check_model("another")
    for caller in (goes, renewed):
        with pytest.raises(Unauthenticated):
            caller.charge(1)
    with pytest.raises(Unauthenticated):
        gates.admit(EMBED, "Bearer x")
    assert gates.admit(EMBED, "Bearer y").name == "renewed"
    assert metrics.registry.get_sample_value("latentserve_access_rows_total", {"token": "goes"}) is None


def test_a_hash_that_moves_to_another_name_is_another_caller() -> None:
    gates, _ = access(grant("a", sha256=(digest("x"),)))
    before = gates.admit(EMBED, "Bearer x")
    gates.take([grant("b", sha256=(digest("x"),))])
    assert gates.admit(EMBED, "Bearer x").name == "b"
    with pytest.raises(Unauthenticated):
        before.check()


def test_where_there_are_no_tokens_anybody_may_do_anything() -> None:
    ANYBODY.check()
    ANYBODY.check_admin()
    ANYBODY.check_model("x")
    ANYBODY.charge(10**9)
    assert ANYBODY.lowered(1) == 1


def tensor(*shape: int) -> pb.Tensor:
    return pb.Tensor(shape=shape)


@pytest.mark.parametrize(
    ("request_of", "rows"),
    [
        (pb.EmbedRequest(input=pb.Input(tensor=tensor(5, 8, 8, 1))), 5),
        (pb.ScoreStreamRequest(request=pb.ScoreRequest(input=pb.Input(tensor=tensor(7, 8)))), 7),
        (pb.AnalyzeRequest(input=pb.Input(encoded=pb.EncodedItems(items=[b"a", b"b"]))), 2),
        (pb.DecodeRequest(latents=tensor(3, 4)), 3),
        (open_pb.ModelInferRequest(inputs=[open_pb.ModelInferRequest.InferInputTensor(shape=[4, 8])]), 4),
        (open_pb.ModelInferRequest(), 0),
        (pb.EmbedRequest(), 0),
        (pb.EmbedRequest(input=pb.Input(tensor=tensor())), 0),
        (pb.EmbedRequest(input=pb.Input(tensor=tensor(-5, 8))), 0),
        (pb.EmbedRequest(input=pb.Input(tensor=tensor(10**12, 8))), 100),
        (pb.EmbedRequest(input=pb.Input(encoded=pb.EncodedItems(items=[b""] * 200))), 100),
        (pb.GetModelRequest(), 0),
        (open_pb.ServerLiveRequest(), 0),
    ],
)
def test_rows_are_counted_before_they_are_read(request_of: Any, rows: int) -> None:
    assert rows_of(request_of, 100) == rows


ENTRY = f'[[token]]\nname = "a"\nsha256 = ["{digest("a")}"]\n'


def test_a_file_says_what_each_may_do() -> None:
    text = ENTRY + 'models = ["m-*"]\nrows_per_second = 5\nexpires = 2027-01-01\n' + ENTRY.replace('"a"', '"b"', 1)
    text = text.replace(digest("a"), digest("b"), 1)
    a, b = grants_of(text)
    assert (a.models, a.rows_per_second, a.ends) == (("m-*",), 5.0, datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    assert (b.models, b.admin, b.priority, b.ends) == (("*",), False, "high", float("inf"))
    (there,) = grants_of(ENTRY + "expires = 2027-01-01T12:00:00+02:00\n")
    assert there.ends == datetime(2027, 1, 1, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got 0 entries"),
        ("token = 3\n", "got one table entries"),
        ("tokens = []\n", "got 'tokens'"),
        (ENTRY + ENTRY, "token[1].name: got that of another"),
        (ENTRY + ENTRY.replace('"a"', '"b"', 1), "token[1].sha256: got that of another"),
        (ENTRY + "rate = 5\n", "token[0].rate"),
        (ENTRY + "rows_per_second = 0\n", "token[0].rows_per_second"),
        (ENTRY + "rows_per_second = nan\n", "token[0].rows_per_second"),
        (ENTRY + "burst_rows = inf\n", "token[0].burst_rows"),
        (ENTRY + 'methods = ["Embde"]\n', "got 'Embde', expected a pattern of"),
        (ENTRY + 'methods = ["GRPC*"]\n', "expected a pattern of"),
        (ENTRY + 'models = [""]\n', "token[0].models.0"),
        (ENTRY + "models = []\n", "token[0].models"),
        (ENTRY + 'priority = "urgent"\n', "token[0].priority"),
        (ENTRY + 'expires = "soon"\n', "token[0].expires"),
        (ENTRY.replace('"a"', '"a b"', 1), "token[0].name"),
        (ENTRY.replace('"a"', '"größe"', 1), "token[0].name"),
        (ENTRY.replace(digest("a"), "hunter2"), "token[0].sha256.0"),
        (ENTRY.replace(f'["{digest("a")}"]', "[]"), "token[0].sha256"),
        ('[[token]]\nname = "a"\n', "token[0].sha256"),
        ("[[token", "Expected"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_its_secrets_are_not_repeated(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(TokensError) as error:
        read_grants(path)
    assert str(error.value).startswith(f"tokens: got {path}, expected a TOML file of [[token]]: ")
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)
    assert digest("a") not in str(error.value)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    for content in (b"#" * (2**20 + 1), b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(TokensError):
            read_grants(path)


def test_a_file_is_seen_to_change_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(ENTRY)
    file = TokenFile(path)
    assert not file.changed()
    path.write_text("broken")
    assert file.changed()
    with pytest.raises(TokensError):
        file.renew()
    assert [one.name for one in file.grants] == ["a"]
    assert file.changed()  # it is looked at again until it is right
    path.unlink()
    assert file.changed()
    path.write_text(ENTRY.replace('"a"', '"b"', 1))
    os.utime(path, (1, 1))
    assert [one.name for one in file.renew()] == ["b"]
    assert not file.changed()


def test_a_rate_may_come_and_go_while_a_caller_is_in() -> None:
    gates, _ = access(grant("a"))
    caller = gates.admit(EMBED, "Bearer a")
    caller.charge(1000)
    gates.take([grant("a", rows_per_second=0.001)])
    caller.charge(1)
    with pytest.raises(Overloaded):
        caller.charge(1)
    gates.take([grant("a")])
    caller.charge(1000)
