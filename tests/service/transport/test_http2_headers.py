"""Header blocks through the cache against a decoder that has none."""

from __future__ import annotations

import random

import hpack
import pytest

from service.transport.http2.headers import HeaderDecoder


@pytest.mark.parametrize("table_bytes", [64, 100, 160, 256, 512, 4096])
@pytest.mark.parametrize("longest", [50, 3000])
def test_blocks_mean_what_they_mean_to_a_decoder_without_a_cache(table_bytes: int, longest: int) -> None:
    """Small tables and large values: entries come in and go out with every block, and blocks of one byte repeat."""
    draw = random.Random(table_bytes + longest)
    encoder, ours, plain = hpack.Encoder(), HeaderDecoder(), hpack.Decoder()
    encoder.header_table_size = table_bytes
    for _ in range(600):
        fields = [(":path", "/" + draw.choice("ab"))]
        for name in draw.sample("klm", draw.randrange(3)):
            fields.append((name, draw.choice("xyz") * draw.choice((1, longest // 2, longest))))
        block = encoder.encode(fields)
        assert ours.decode(block) == dict(plain.decode(block, raw=True))


@pytest.mark.parametrize("size", [2100, 2600, 3900])
def test_callers_whose_large_headers_push_each_other_out_keep_their_own(size: int) -> None:
    """An entry may come in where one was that left in the same block: its `id` is no sign of a change."""
    encoder, ours, plain = hpack.Encoder(), HeaderDecoder(), hpack.Decoder()
    one, two, three = ("k", "a" + "x" * size), ("k", "b" + "x" * size), ("l", "c" + "x" * size)
    for fields in 5 * [[one], [one], [one], [two, three], [three], [three], [one], [three], [two, three], [one], [one]]:
        block = encoder.encode(fields)
        assert ours.decode(block) == dict(plain.decode(block, raw=True))


def test_a_block_that_was_seen_is_not_decoded_again() -> None:
    encoder, ours = hpack.Encoder(), HeaderDecoder()
    fields = [(":method", "POST"), (":path", "/a"), ("x", "y")]
    blocks = [encoder.encode(fields) for _ in range(3)]
    decoded = [ours.decode(block) for block in blocks]
    assert decoded[2] is decoded[1]
    assert decoded[1] is not decoded[0]  # the first one filled the table
