"""The clients' matrix: Python's clients always, the others where they are; and that a fault is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clients.__main__ import Options, clients, reasons
from benchmarks.clients.asked import joined, parted
from benchmarks.clients.matrix import ARGUMENTS, CHECKS, Matrix
from benchmarks.clients.outcomes import Cell, Heard, cell_of, cell_of_stream
from benchmarks.clients.programs import Program
from benchmarks.clients.questions import Expected, Questions, questions
from benchmarks.clients.running import checks, run, run_drain, run_idle
from benchmarks.processes.served import ServedProcess
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

TOOLS = Path(__file__).resolve().parents[3] / "build" / "clients"
PYTHON = ("grpcio", "grpcio asyncio", "tritonclient")
OTHERS = ("grpc-js", "connect-node", "buf curl", "grpc++")
PROXIES = tuple(f"grpcio through {name}" for name in ("Envoy", "nginx", "haproxy"))


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with ServedProcess(repository, tmp_path_factory.mktemp("clients") / "log", ARGUMENTS) as process:
        yield process


@pytest.fixture(scope="module")
def found(served: ServedProcess) -> Questions:
    return questions(served.target)


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(300)  # five servers, one after another
def test_pythons_clients_get_what_they_ask_for(repository: Path, tmp_path: Path) -> None:
    rows = Matrix(repository, "http2", clients(TOOLS, PYTHON), CHECKS, 1, tmp_path).rows()
    assert [row.client for row in rows] == list(PYTHON)
    outcomes = {(row.client, name): cell.outcome for row in rows for name, cell in row.cells.items()}
    assert outcomes.pop(("tritonclient", "stream")) == "not run"
    for client in PYTHON:  # our own HTTP/2 does not decompress
        assert outcomes.pop((client, "gzip")) == "ok"
    assert set(outcomes.values()) == {"ok"}, list(reasons(rows))


@pytest.mark.parametrize("name", [*OTHERS, *PROXIES])
def test_others_do_where_they_are(name: str, served: ServedProcess, found: Questions, tmp_path: Path) -> None:
    (client,) = clients(TOOLS, (name,))
    if why := client.cannot("unary"):
        pytest.skip(why)
    client.program.build()
    with client.at(served, tmp_path / "proxy") as target:
        for check in (checks(found)[one] for one in ("unary", "error", "stream", "cancel")):
            if not client.cannot(check.name):
                assert run(client.program, target, check, found, tmp_path / check.name) == Cell("ok"), check.name


def test_what_is_missing_is_not_run_and_says_why(tmp_path: Path) -> None:
    (client,) = clients(tmp_path, ("buf curl",))
    assert client.cannot("unary") == "@bufbuild/buf is not installed (--install)"


def test_a_name_that_is_nobodys_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clients: got 'curl', expected some of grpcio, "):
        clients(tmp_path, ("curl",))
    with pytest.raises(ValueError, match="checks: got 'uanry', expected some of unary, "):
        Options(checks=("uanry",))


def embeddings(value: float) -> pb.Tensor:
    return to_tensor(np.full((2, 3), value, np.float32))


def answer(value: float) -> bytes:
    return pb.EmbedResponse(embeddings=embeddings(value)).SerializeToString()


GOOD = Heard(0, "", answer(1))
RIGHT = Expected(embeddings=embeddings(1))


@pytest.mark.parametrize(
    ("heard", "expected", "cell"),
    [
        ([GOOD], [RIGHT], Cell("ok")),
        ([GOOD, Heard(4, "late", b"")], [RIGHT, Expected(4)], Cell("ok")),
        ([Heard(0, "", answer(2))], [RIGHT], Cell("wrong", "other embeddings than grpcio's")),
        ([Heard(12, "gzip", b"")], [RIGHT], Cell("refused", "UNIMPLEMENTED gzip")),
        ([Heard(8, "", b"")], [RIGHT], Cell("refused", "RESOURCE_EXHAUSTED")),
        (
            [Heard(8, "", b"")],
            [Expected(5, "größe")],
            Cell("wrong", "got RESOURCE_EXHAUSTED, expected NOT_FOUND größe"),
        ),
        ([Heard(5, "gr?", b"")], [Expected(5, "größe")], Cell("wrong", "got NOT_FOUND gr?, expected NOT_FOUND größe")),
        ([GOOD], [RIGHT, RIGHT], Cell("wrong", "the client ended after 1 of 2 calls")),
        ([GOOD, Heard(14, "gone", b"")], [RIGHT] * 2, Cell("wrong", "call 2 of 2: got UNAVAILABLE gone, expected OK")),
    ],
)
def test_calls_are_checked(heard: list[Heard], expected: list[Expected], cell: Cell) -> None:
    assert cell_of(heard, expected) == cell


@pytest.fixture
def streamed(found: Questions) -> list[pb.ScoreStreamResponse]:
    """The right answers."""
    made = []
    for number, p_value in enumerate(found.p_values):
        scored = pb.OutOfDistribution(scores=to_tensor(found.scores[number][None]), p_values=[p_value])
        made.append(pb.ScoreStreamResponse(id=number, response=pb.ScoreResponse(out_of_distribution=scored)))
    return made


def test_streams_are_checked(found: Questions, streamed: list[pb.ScoreStreamResponse]) -> None:
    def cell() -> Cell:
        return cell_of_stream([Heard(0, "", joined(one.SerializeToString() for one in streamed))], found)

    assert cell() == Cell("ok")
    streamed[3], streamed[4] = streamed[4], streamed[3]
    assert cell() == Cell("wrong", "got 1000 answers, expected 1000 in their order")
    streamed[3], streamed[4] = streamed[4], streamed[3]
    streamed[7].response.out_of_distribution.p_values[0] /= 2
    assert cell() == Cell("wrong", "item 7: another p-value than Score's")
    streamed[5].response.out_of_distribution.scores.data = bytes(
        len(streamed[5].response.out_of_distribution.scores.data)
    )
    assert cell() == Cell("wrong", "item 5: other scores than Score's")
    streamed[2].code = 8
    assert cell().why.startswith("item 2: RESOURCE_EXHAUSTED")
    del streamed[-1]
    assert cell() == Cell("wrong", "got 999 answers, expected 1000 in their order")


def test_messages_are_parted_as_they_were_joined() -> None:
    messages = [b"", b"a", b"b" * 70_000]
    assert parted(joined(messages)) == messages


def program(folder: Path, script: str) -> Program:
    """A client of a few lines of shell; its arguments are those of any client."""
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return Program("shell", command=(str(file),))


def test_a_client_that_breaks_off_is_wrong_in_its_own_words(found: Questions, tmp_path: Path) -> None:
    broken = program(tmp_path, "echo first >&2; echo no such symbol >&2; exit 3")
    cell = run(broken, "127.0.0.1:1", checks(found)["unary"], found, tmp_path / "work")
    why = "the client ended after 0 of 1 calls (the client ended with status 3: no such symbol)"
    assert cell == Cell("wrong", why)


@pytest.mark.parametrize(("connections", "outcome"), [(1, "ok"), (2, "refused")])
def test_an_idle_connection_that_was_replaced_is_seen(
    connections: int, outcome: str, served: ServedProcess, found: Questions, tmp_path: Path
) -> None:
    (tmp_path / "answer.bin").write_bytes(
        pb.EmbedResponse(embeddings=found.small.expected.embeddings).SerializeToString()
    )
    port = served.target.split(":")[1]
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{port}; sleep 0.5; exec 3>&-"
    calls = "; ".join([connect] * connections)
    heard = "printf '0\\t../answer.bin\\t\\n0\\t../answer.bin\\t\\n'"
    idle = program(tmp_path, f'exec bash -c "{calls}; {heard}"')
    assert run_idle(idle, served.target, 1, found, tmp_path / "work").outcome == outcome


def test_a_call_that_a_drain_loses_is_wrong(repository: Path, found: Questions, tmp_path: Path) -> None:
    """The server has so little time to end that it must cut calls off."""
    (client,) = clients(TOOLS, ("grpcio",))
    with ServedProcess(repository, tmp_path / "log", (*ARGUMENTS, "--drain-seconds", "0")) as server:
        cell = run_drain(client.program, server.target, server, found, tmp_path / "work")
    assert cell.outcome == "wrong"
