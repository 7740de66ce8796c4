"""A server as the engine of a job, without one; and threads that work ahead."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")
from latentserve.bulk import engines
from latentserve.bulk.engines import Asked, Server, ahead, threads
from latentserve.bulk.listing import Item, listed
from latentserve.errors import DeadlineExceeded, InvalidInput, LatentserveError, Unavailable, Unsupported
from latentserve.v1 import embedding_pb2 as pb
from tests.latentserve.bulk.answering import files

EMBEDDING = Asked(("embedding",))


class FakeClient:
    """Embeds a file as its length. Raises what `errors` holds, one a call, before it answers."""

    def __init__(self, *errors: LatentserveError, detectors: int = 0) -> None:
        self.errors = list(errors)
        self.calls: list[list[bytes]] = []
        self._detectors = [pb.Detector(name="d", smallest_p_value=0.01, calibration_sha256="abc")] * detectors

    def get_model(self, name: str, version: int) -> pb.GetModelResponse:
        model = pb.Model(name="m", version=3, embedding_space="es", detectors=self._detectors, default_alpha=0.05)
        model.outputs.add(name="embedding", shape=[2])
        return pb.GetModelResponse(model=model, limits=pb.Limits(max_bytes_per_item=10))

    def embed(self, items: list[bytes], model: str, version: int) -> Any:
        assert (model, version) == ("m", 3)  # whatever is loaded meanwhile
        self.calls.append(items)
        if self.errors:
            raise self.errors.pop(0)
        if b"!" in items:
            raise InvalidInput(f"items[{items.index(b'!')}]: got '!', expected more")
        return np.array([[len(item), 0] for item in items], np.float32)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return listed([str(files(tmp_path / "in", 5))])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PAUSES", (0.0,))


def server(client: FakeClient, patience: float = 60.0, asked: Asked = EMBEDDING) -> Server:
    return Server(client, "", 0, asked, patience)  # type: ignore[arg-type]


def test_an_item_that_a_server_does_not_take_is_told_and_the_others_are_answered(items: list[Item]) -> None:
    Path(items[2].file).write_text("!")
    Path(items[3].file).write_text("x" * 11)
    Path(items[4].file).unlink()
    (found,) = server(FakeClient()).answers([items])
    assert found.embeddings is not None
    assert found.embeddings[:2].tolist() == [[2, 0], [2, 0]]
    assert found.errors[:4] == [None, None, "got '!', expected more", "got more than 10 bytes, expected at most 10"]
    assert str(found.errors[4]).endswith("expected a file that can be read (No such file or directory)")
    assert [one is None for one in found.ids] == [False, False, False, True, True]


def test_a_server_that_goes_away_for_a_while_is_come_back_to(items: list[Item]) -> None:
    client = FakeClient(Unavailable("away"), Unavailable("away"), DeadlineExceeded("slow"))
    (found,) = server(client).answers([items])
    assert found.errors == [None] * 5
    assert len(client.calls) == 4


def test_one_that_stays_away_ends_the_job(items: list[Item]) -> None:
    with pytest.raises(Unavailable):
        list(server(FakeClient(Unavailable("away")), patience=-1.0).answers([items]))


def test_answers_come_in_order_and_no_more_is_begun_than_wanted() -> None:
    begun: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            yield number

    gate = threading.Event()
    with threads(3) as pool:
        found = ahead(pool, lambda number: gate.wait() and number, numbers(), 4)
        gate.set()
        assert next(found) == 0
        assert len(begun) == 5
        assert list(found) == list(range(1, 20))


def test_scores_need_a_detector_and_a_level_that_it_can_give() -> None:
    scores = Asked(("p_value", "flagged"))
    with pytest.raises(Unsupported, match="^model m version 3 has no calibrated detector: it cannot score$"):
        server(FakeClient(), asked=scores)
    with pytest.raises(InvalidInput, match=r"^alpha: got 0.001, expected 0.01 \(the smallest marginal p-value"):
        server(FakeClient(detectors=1), asked=Asked(("p_value", "flagged"), alpha=0.001))
    model = server(FakeClient(detectors=1), asked=scores).model
    assert (model.alpha, model.calibration, model.version) == (0.05, "abc", 3)


def test_a_bundle_needs_what_a_server_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.bulk.engine", None)
    with pytest.raises(Unsupported, match=r"^bundle: got models/m/1, which needs what a server needs, .*\[serve\]'$"):
        engines.local(Path("models/m/1"), Asked(("embedding",)), "cpu")


def test_a_folder_that_is_no_bundle_is_told_what_one_is(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `serve`")
    with pytest.raises(InvalidInput, match=r"bundle: got .*, expected the folder of a bundle, models/NAME/VERSION"):
        engines.local(tmp_path, Asked(("embedding",)), "cpu")
