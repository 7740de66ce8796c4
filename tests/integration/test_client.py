"""What a caller hears of many rows: its own items, how far it came, and what was done; both clients alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import latentserve
from benchmarks.processes.served import ServedProcess
from latentserve import calls
from latentserve.client import AsyncClient, Client
from latentserve.errors import DeadlineExceeded, InvalidInput, LatentserveError, Overloaded
from latentserve.progress import Progress
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def ask(server: ServedProcess, request: pytest.FixtureRequest) -> Ask:
    """Calls a method of one of the clients."""

    def blocking(method: str, *given: Any, **options: Any) -> Any:
        with Client(server.target) as client:
            return getattr(client, method)(*given, **options)

    def awaited(method: str, *given: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(server.target) as client:
                return await getattr(client, method)(*given, **options)

        return asyncio.run(run())

    return blocking if request.param == "blocking" else awaited


def test_a_bad_file_is_named_by_its_place_and_what_was_done_is_kept(
    ask: Ask, digits: NDArray[np.uint8], encode: Any
) -> None:
    files = [encode(image) for image in digits[:150]]
    whole = ask("embed", files)
    files[140] = b"no image"
    with pytest.raises(InvalidInput, match=r"^items\[140\]: ") as refused:
        ask("embed", files)
    np.testing.assert_array_equal(refused.value.done, whole[:128])  # two requests of 64
    files[140] = "/nowhere"
    with pytest.raises(InvalidInput, match=r"^items\[140\]: got '/nowhere', expected a file") as refused:
        ask("score", files)
    assert len(refused.value.done.p_values) == 128


def test_the_shape_that_was_given_is_named(ask: Ask) -> None:
    with pytest.raises(InvalidInput, match=r"^items: got uint8 \[200, 9, 8, 1\], expected uint8 \[n, 8, 8, 1\]"):
        ask("embed", np.zeros((200, 9, 8, 1), np.uint8))
    rows = [np.zeros((8, 8, 1), np.uint8)] * 70 + [np.zeros((9, 8, 1), np.uint8)]
    with pytest.raises(InvalidInput, match=r"^items\[70\]: got uint8 \[9, 8, 1\], expected uint8 \[n, 8, 8, 1\]"):
        ask("reconstruct", iter(rows))
    latents = np.zeros((100, 8))
    latents[70, 3] = np.nan
    with pytest.raises(InvalidInput, match=r"^latents\[70\]: got NaN"):
        ask("decode", latents)


def test_whatever_holds_the_rows_gives_the_same_numbers(ask: Ask, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    rows = digits[:5]
    expected = ask("embed", rows)
    images = [Image.fromarray(row[..., 0]) for row in rows]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for given in (rows.astype(float), list(rows), (row for row in rows), images, paths, map(str, paths)):
        np.testing.assert_array_equal(ask("embed", given), expected)


def answered(num: int) -> pb.EmbedResponse:
    return pb.EmbedResponse(model=pb.ModelVersion(name="m", version=1), embeddings=to_tensor(np.ones((num, 2), "f4")))


def started(items: Any, num_answered: int = 0) -> Progress[Any]:
    """A call whose requests are all out, of which the first have their answers."""
    progress = Progress(calls.embed(items, "", 0), "normal", 30.0)
    requests = list(progress.requests())
    for request in requests[:num_answered]:
        progress.answered(answered(request.input.tensor.shape[0]))
    return progress


ROWS = np.zeros((200, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ("items", "num_answered", "said", "num_done"),
    [
        (ROWS, 2, "late (a request has 30 s); 128 of 200 rows were done, see the error's `done`", 128),
        (ROWS, 0, "late (a request has 30 s); 0 of 200 rows were done", 0),
        (list(ROWS), 3, "late (a request has 30 s); 192 of 200 rows were done, see the error's `done`", 192),
        (iter(ROWS), 1, "late (a request has 30 s); 64 rows were done, see the error's `done`", 64),
    ],
)
def test_a_timeout_says_how_far_it_came(items: Any, num_answered: int, said: str, num_done: int) -> None:
    error = started(items, num_answered).failed(DeadlineExceeded("late"))
    assert str(error) == said
    assert (0 if error.done is None else len(error.done)) == num_done


def test_every_error_keeps_its_kind_and_what_it_carries() -> None:
    error = started(ROWS, 1).failed(Overloaded("full", 0.25))
    assert isinstance(error, Overloaded)
    assert (error.retry_after_seconds, len(error.done)) == (0.25, 64)
    nothing = Progress(calls.get_model("", 0), "normal", 1.0)
    list(nothing.requests())
    assert str(nothing.failed(DeadlineExceeded("late"))) == "late (a request has 1 s)"


def test_a_request_has_the_timeout_for_itself(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    """However long the whole call takes: here its rows come late, one request after another."""
    given: list[float] = []

    with Client(server.target, timeout_seconds=20) as client:
        real = client._methods["Embed"]

        class Spy:
            def future(self, request: Any, timeout: float, metadata: Any) -> Any:
                given.append(timeout)
                return real.future(request, timeout=timeout, metadata=metadata)

        client._methods["Embed"] = Spy()
        client.embed(digits[:300])
    assert given == [20] * 5


def test_an_error_of_the_callers_own_iterable_is_the_callers(ask: Ask, digits: NDArray[np.uint8]) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield from digits[:70]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ask("embed", broken())


@pytest.mark.parametrize(("option", "value"), [("model", 3), ("version", "1"), ("version", 2**70), ("alpha", "x")])
def test_options_of_another_kind_are_named(ask: Ask, digits: NDArray[np.uint8], option: str, value: Any) -> None:
    with pytest.raises(LatentserveError, match=f"^{option}: got "):
        ask("score", digits[:1], **{option: value})


def test_a_stream_names_the_item_too(client: Client, digits: NDArray[np.uint8]) -> None:
    wrong = np.zeros((9, 8, 1), np.uint8)
    results = list(client.score_stream([digits[0], wrong, {}, b"no image", "/nowhere", digits[:3]]))
    assert [type(result).__name__ for result in results] == ["Scores", *["InvalidInput"] * 4, "Scores"]
    assert str(results[1]) == "items[1]: got uint8 [9, 8, 1], expected uint8 [n, 8, 8, 1]"
    assert [str(result).split(":")[0] for result in results[2:5]] == ["items[2]", "items[3]", "items[4]"]


def test_files_are_read_while_the_event_loop_goes_on(
    server: ServedProcess, digits: NDArray[np.uint8], encode: Any, tmp_path: Path
) -> None:
    """A pipe stands in for a file on a slow disk: whoever opens it waits for the other end."""
    os.mkfifo(tmp_path / "slow.png")

    async def write() -> None:
        await asyncio.sleep(0.2)
        (tmp_path / "slow.png").write_bytes(encode(digits[0]))

    async def run(streamed: bool) -> Any:
        writing = asyncio.create_task(write())
        async with AsyncClient(server.target) as client:
            if streamed:
                found = [one async for one in client.score_stream([tmp_path / "slow.png"])]
            else:
                found = [await client.score([tmp_path / "slow.png"])]
        await writing
        return found[0].p_values[0]

    with Client(server.target) as client:
        (expected,) = client.score(digits[:1]).p_values
    assert asyncio.run(run(streamed=False)) == expected
    assert asyncio.run(run(streamed=True)) == expected


def test_what_most_people_need_stands_at_the_top() -> None:
    assert latentserve.Client is Client
    assert latentserve.Scores is calls.Scores
    assert set(latentserve.__all__) <= set(dir(latentserve))
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = latentserve.Server
