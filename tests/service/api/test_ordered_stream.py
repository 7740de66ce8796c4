"""The contract at the top of service/api/ordered_stream.py, point by point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest

from service.api.ordered_stream import Bounds, InOrder
from tests.fakes import FakeAnswers

LIMIT = 4


class Source:
    """Messages without a wait; counts what was taken of them."""

    def __init__(self, messages: Iterable[bytes], error: Exception | None = None) -> None:
        self.taken = 0
        self._messages = messages
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for message in self._messages:
            self.taken += 1
            yield message
        if self._error is not None:
            raise self._error


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


def check(body: Callable[[FakeAnswers], Awaitable[None]]) -> None:
    """Runs a test; nothing may be left running after it."""

    async def run() -> None:
        answers = FakeAnswers()
        answers.takes_answers.set()
        async with asyncio.timeout(10):
            await body(answers)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def stream(answers: FakeAnswers, bounds: Bounds | None = None) -> InOrder:
    return InOrder(answers.begin, answers.write, bounds or Bounds(max_requests=LIMIT))


def test_answers_keep_the_order_of_the_requests_whichever_is_ready_first() -> None:
    async def body(answers: FakeAnswers) -> None:
        running = asyncio.create_task(stream(answers).run(aiter(Source(numbered(3)))))
        await settle()
        assert answers.begun == numbered(3)
        for ready, written in ((b"2", []), (b"1", []), (b"0", numbered(3))):
            answers.release(ready)
            await settle()
            assert answers.written == written
        assert await running is True

    check(body)


def test_only_so_many_requests_are_read_ahead() -> None:
    async def body(answers: FakeAnswers) -> None:
        source = Source(numbered(100))
        running = asyncio.create_task(stream(answers).run(aiter(source)))
        await settle()
        assert (source.taken, len(answers.begun)) == (LIMIT, LIMIT)
        answers.release(b"3", b"2")
        await settle()
        assert source.taken == LIMIT  # the first is still owed, so these hold their places
        answers.release(b"0")
        await settle()
        assert (source.taken, answers.written) == (LIMIT + 1, [b"0"])
        running.cancel()
        await settle()

    check(body)


def test_only_so_many_bytes_are_read_ahead() -> None:
    async def body(answers: FakeAnswers) -> None:
        source = Source([b"%d" % number + bytes(9) for number in range(9)])
        running = asyncio.create_task(stream(answers, Bounds(max_requests=100, max_bytes=25)).run(aiter(source)))
        await settle()
        assert source.taken == 3  # 20 bytes leave room, 30 do not
        answers.release(b"0" + bytes(9))
        await settle()
        assert source.taken == 4
        running.cancel()
        await settle()

    check(body)


def test_answers_that_nobody_takes_are_under_way() -> None:
    async def body(answers: FakeAnswers) -> None:
        answers.takes_answers.clear()
        source = Source(numbered(100))
        running = asyncio.create_task(stream(answers).run(aiter(source)))
        await settle()
        answers.release(*numbered(LIMIT))
        await settle()
        assert (source.taken, answers.written) == (LIMIT, [])
        answers.takes_answers.set()
        await settle()
        assert (source.taken, answers.written) == (2 * LIMIT, numbered(LIMIT))
        running.cancel()
        await settle()

    check(body)


@pytest.mark.parametrize("poison", [True, False])
def test_what_ends_the_reading_is_raised_when_all_before_it_is_answered(poison: bool) -> None:
    async def body(answers: FakeAnswers) -> None:
        source = Source([*numbered(2), b"poison", b"3"]) if poison else Source(numbered(2), ValueError("no message"))
        running = asyncio.create_task(stream(answers).run(aiter(source)))
        await settle()
        assert not running.done()
        answers.release(*numbered(2))
        with pytest.raises(ValueError, match="no message"):
            await running
        assert answers.begun == answers.written == numbered(2)

    check(body)


def test_stop_reads_no_further_and_answers_what_was_read() -> None:
    async def body(answers: FakeAnswers) -> None:
        source = Source(numbered(100))
        one = stream(answers)
        running = asyncio.create_task(one.run(aiter(source)))
        await settle()
        one.stop()
        answers.release(*numbered(LIMIT))
        assert await running is False
        assert (source.taken, answers.written) == (LIMIT, numbered(LIMIT))

    check(body)


def test_stop_ends_the_wait_for_a_message() -> None:
    async def body(answers: FakeAnswers) -> None:
        async def silence() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        one = stream(answers)
        running = asyncio.create_task(one.run(silence()))
        await settle()
        one.stop()
        assert await running is False

    check(body)


def test_a_stream_that_is_cancelled_cancels_all_that_is_under_way() -> None:
    async def body(answers: FakeAnswers) -> None:
        running = asyncio.create_task(stream(answers).run(aiter(Source(numbered(100)))))
        await settle()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert answers.cancelled == numbered(LIMIT)

    check(body)


def test_an_answer_that_fails_cancels_the_others() -> None:
    async def body(answers: FakeAnswers) -> None:
        running = asyncio.create_task(stream(answers).run(aiter(Source([b"broken", b"1", b"2"]))))
        await settle()
        answers.release(b"broken")
        with pytest.raises(RuntimeError, match="broken"):
            await running
        assert answers.cancelled == [b"1", b"2"]

    check(body)
