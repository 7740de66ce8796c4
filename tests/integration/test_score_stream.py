"""`score_stream` of both clients against the real server, on both transports."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve import streaming
from latentserve.client import AsyncClient, Client, Scores
from latentserve.errors import DeadlineExceeded, InvalidInput, ModelNotFound, Unavailable
from latentserve.streaming import ITEMS_AHEAD, Item


@pytest.fixture(params=["blocking", "asyncio"])
def either(request: pytest.FixtureRequest, server: ServedProcess) -> Iterator[Any]:
    """Asks by each client: `either(items, **options)`."""

    def asked(items: Any, **options: Any) -> list[Any]:
        if request.param == "blocking":
            with Client(server.target) as client:
                return list(client.score_stream(items, **options))

        async def run() -> list[Any]:
            async with AsyncClient(server.target) as client:
                return [result async for result in client.score_stream(items, **options)]

        return asyncio.run(run())

    return asked


def test_each_item_gets_the_scores_that_score_gives(
    client: Client, either: Any, digits: NDArray[np.uint8], encode: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encode(digits[3]))
    items: list[Item] = [digits[0], digits[1:2], digits[:100], encode(digits[2]), str(tmp_path / "a.png")]
    results = either(iter(items), alpha=0.2)
    whole = client.score(digits[:100], alpha=0.2)
    for result, rows in zip(results, ([0], [1], range(100), [2], [3]), strict=True):
        np.testing.assert_array_equal(result.scores, whole.scores[list(rows)])
        np.testing.assert_array_equal(result.p_values, whole.p_values[list(rows)])
        np.testing.assert_array_equal(result.flagged, whole.flagged[list(rows)])
        assert result.alpha == 0.2


def test_a_bad_item_is_its_own_result_and_the_order_is_kept(
    client: Client, either: Any, digits: NDArray[np.uint8], encode: Any
) -> None:
    good = encode(digits[0])
    bad: dict[int, Any] = {1: good[:60], 4: digits[0, :4], 5: "nowhere.png", 6: np.zeros((0, 8, 8, 1), np.uint8)}
    items = [bad.get(number, digits[number]) for number in range(60)]
    results = either(items)
    expected = client.score(digits[:60]).scores
    assert len(results) == 60
    for number, result in enumerate(results):
        if number in bad:
            assert isinstance(result, InvalidInput), number
        else:
            np.testing.assert_array_equal(result.scores, expected[number : number + 1])
    assert "expected uint8 [n, 8, 8, 1]" in str(results[4])
    assert "nowhere.png" in str(results[5])


def test_what_no_item_can_have_is_every_items_error(either: Any, digits: NDArray[np.uint8]) -> None:
    assert {type(result) for result in either(digits[:40], model="nobody")} == {ModelNotFound}
    assert {type(result) for result in either(digits[:3], alpha=7.0)} == {InvalidInput}
    assert either(iter(())) == []


def test_items_without_end_are_taken_a_few_ahead(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield digits[number % 300]

    with Client(server.target) as client:
        stream = client.score_stream(endless())
        assert taken == 0
        got = list(itertools.islice(stream, 100))
        assert all(isinstance(result, Scores) for result in got)
        time.sleep(0.3)  # a client that reads too far ahead has had the time
        assert 100 <= taken <= 100 + ITEMS_AHEAD
        stream.close()  # type: ignore[attr-defined]
    before = taken
    time.sleep(0.1)
    assert taken <= before + 1


def test_an_answer_does_not_wait_for_the_next_item(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    next_item = threading.Event()

    def slow() -> Iterator[Item]:
        yield digits[0]
        assert next_item.wait(10)
        yield digits[1]

    with Client(server.target) as client:
        stream = client.score_stream(slow())
        assert isinstance(next(stream), Scores)
        next_item.set()
        assert isinstance(next(stream), Scores)
        assert next(stream, None) is None


def test_asynchronous_items_without_end_are_taken_a_few_ahead(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    taken = 0

    async def endless() -> AsyncIterator[Item]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield digits[number % 300]

    async def run() -> None:
        async with AsyncClient(server.target) as client:
            stream: Any = client.score_stream(endless())
            for _ in range(100):
                assert isinstance(await anext(stream), Scores)
            await asyncio.sleep(0.3)
            assert 100 <= taken <= 100 + ITEMS_AHEAD
            await stream.aclose()
            assert not [task for task in asyncio.all_tasks() if "_feed" in repr(task)]

    asyncio.run(run())


def test_an_error_of_the_callers_own_items_comes_back_to_the_caller(either: Any, digits: NDArray[np.uint8]) -> None:
    def broken() -> Iterator[Item]:
        yield digits[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        either(broken())


def test_a_timeout_is_that_of_the_whole_stream(either: Any, digits: NDArray[np.uint8]) -> None:
    with pytest.raises(DeadlineExceeded):
        either(itertools.cycle(digits), timeout_seconds=0.3)


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_messages_share_batches_and_are_counted_as_calls(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    arguments = ("--transport", transport)
    with ServedProcess(repository, tmp_path / "log", arguments) as process, Client(process.target) as client:
        items = [*digits[:200], digits[0, :4]]
        stream = client.score_stream(items)
        next(stream)
        assert process.metrics()["latentserve_streams_open"] == 1
        assert len(list(stream)) == 200
        metrics = process.metrics()
    assert metrics['latentserve_requests_total{code="OK",method="ScoreStream",model="digits-vae"}'] == 200
    assert metrics['latentserve_requests_total{code="INVALID_ARGUMENT",method="ScoreStream",model="digits-vae"}'] == 1
    assert metrics['latentserve_request_rows_sum{method="ScoreStream",model="digits-vae"}'] == 200
    assert metrics['latentserve_batch_rows_count{model="digits-vae",queue="input",version="1"}'] < 150
    assert metrics["latentserve_streams_open"] == 0


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
@pytest.mark.parametrize("blocking", [True, False])
def test_sigterm_answers_what_was_read_and_says_that_the_server_goes(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str, blocking: bool
) -> None:
    got = 0

    def count() -> None:
        nonlocal got
        got += 1
        if got == 50:
            stopping.start()

    def ask_blocking() -> None:
        with Client(process.target) as client:
            for _ in client.score_stream(itertools.cycle(digits)):
                count()

    async def ask_async() -> None:
        async with AsyncClient(process.target) as client:
            async for _ in client.score_stream(itertools.cycle(digits)):
                count()

    with ServedProcess(repository, tmp_path / "log", ("--transport", transport)) as process:
        stopping = threading.Thread(target=process.stop)
        with pytest.raises(Unavailable, match="draining"):
            ask_blocking() if blocking else asyncio.run(ask_async())
        stopping.join()
        assert process.stop() == 0
    assert got >= 50
    assert "drained" in (tmp_path / "log").read_text()


def test_a_server_that_is_not_there_is_unavailable(digits: NDArray[np.uint8]) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        list(client.score_stream(itertools.cycle(digits)))

    async def run() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            async for _ in client.score_stream(itertools.cycle(digits)):
                pass

    with pytest.raises(Unavailable):
        asyncio.run(run())


def test_an_odd_number_of_axes_is_one_row() -> None:
    def shapes(item: Item) -> list[int]:
        (request,) = streaming.ScoreOptions(None, "marginal", "", 0, "low").requests_of(item).requests
        return list(request.input.tensor.shape)

    assert shapes(np.zeros((8, 8, 1), np.uint8)) == [1, 8, 8, 1]
    assert shapes(np.zeros((2, 8, 8, 1), np.uint8)) == [2, 8, 8, 1]
    assert shapes(np.zeros(400, np.int16)) == [1, 400]
    assert shapes(np.zeros((3, 400), np.int16)) == [3, 400]
