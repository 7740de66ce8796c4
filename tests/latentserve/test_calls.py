from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentserve import calls
from latentserve.errors import InvalidInput, Unavailable
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb


def test_long_arrays_are_cut_by_rows_and_by_bytes() -> None:
    small = [
        len(request.input.tensor.data) for request in calls.embed(np.zeros((130, 2, 2, 1), np.uint8), "", 0).requests
    ]
    assert small == [256, 256, 8]
    megabyte = np.zeros((5, 1024, 1024, 1), np.uint8)
    assert [request.input.tensor.shape[0] for request in calls.embed(megabyte, "", 0).requests] == [2, 2, 1]


def test_files_are_read_and_cut(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    parts = [list(request.input.encoded.items) for request in calls.embed([tmp_path / "a", b"d"] * 40, "", 0).requests]
    assert [len(part) for part in parts] == [64, 16]
    assert parts[0][:2] == [b"abc", b"d"]


@pytest.mark.parametrize(
    ("items", "message"),
    [([], "no rows"), (np.zeros((0, 2), np.uint8), "no rows"), ("photo.jpg", "a list of files"), (b"x", "a list")],
)
def test_what_cannot_be_sent_is_refused_at_once(items: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        calls.embed(items, "", 0)  # type: ignore[arg-type]


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidInput, match="got 'embeddings', expected among"):
        calls.analyze(np.zeros((1, 2), np.uint8), ["embeddings"], None, None, None, "", 0)


def test_rows_of_two_versions_are_never_joined() -> None:
    def response(version: int) -> pb.EmbedResponse:
        model = pb.ModelVersion(name="m", version=version)
        return pb.EmbedResponse(model=model, embeddings=to_tensor(np.ones((1, 2), np.float32)))

    call = calls.embed(np.zeros((2, 2), np.uint8), "", 0)
    assert call.join([response(1), response(1)]).shape == (2, 2)
    with pytest.raises(Unavailable, match="changed from version 1 to 2"):
        call.join([response(1), response(2)])


def test_a_priority_marks_what_carries_rows_and_nothing_else() -> None:
    low = calls.with_priority(pb.EmbedRequest(), "low")
    assert low.priority == pb.PRIORITY_LOW
    assert calls.with_priority(pb.GetModelRequest(), "low") == pb.GetModelRequest()
    with pytest.raises(InvalidInput, match="priority: got 'urgent', expected one of"):
        calls.with_priority(pb.EmbedRequest(), "urgent")  # type: ignore[arg-type]


def test_maps_are_asked_for_with_true_or_false() -> None:
    with pytest.raises(InvalidInput, match="maps: got 'yes', expected True or False"):
        calls.score(np.zeros((1, 2), np.int16), None, "marginal", "per_row", "", 0, "yes")  # type: ignore[arg-type]
    (request,) = calls.score(np.zeros((1, 2), np.int16), None, "marginal", "per_row", "", 0).requests
    assert "maps" not in [field.name for field, _ in request.ListFields()]
