"""Anomaly maps through the real server: what they are, what they mean, and what is told where there are none."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes.served import ServedProcess
from latentserve.cli.main import main
from latentserve.client import AsyncClient, Client
from latentserve.conformal import conditional_p_values, p_values
from latentserve.errors import InvalidInput, LatentserveError, Unsupported
from latentserve.placing import Box
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as pb_grpc
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from tests.mapped import NAMES, PLACES, expected_map, with_map

NUM_CALIBRATION = 199
NAME, PLAIN = "digits-map", "digits-plain"


def calibration_rows(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Darker ones, so that something can be brighter than all of them."""
    return digits[:NUM_CALIBRATION] // 2


@pytest.fixture(scope="module")
def models(bundle_folder: Path, digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a map, and one without."""
    folder = tmp_path_factory.mktemp("maps")
    for name in (NAME, PLAIN):
        shutil.copytree(bundle_folder, folder / name / "1")
        with_map(folder / name / "1", calibration_rows(digits), name, has_map=name == NAME)
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    arguments = ("--max-request-bytes", str(2**16))
    with ServedProcess(models, tmp_path_factory.mktemp("log") / "log", arguments) as process:
        yield process


@pytest.fixture(scope="module")
def asked(served: ServedProcess) -> Iterator[Client]:
    with Client(served.target) as made:
        yield made


@pytest.fixture(scope="module")
def rows(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digits that calibrated nothing; the first two have planted faults, brighter than any of the others."""
    found = digits[NUM_CALIBRATION:] // 2
    found[0] = found[1] = 0
    found[0, 0:2, 0:4] = 255  # two places that touch the border
    found[0, 6:8, 6:8] = 250  # a place in the corner, of another region
    found[1, 2:4, 2:4] = found[1, 4:6, 4:6] = 255  # two that touch by a corner
    return found


def test_a_map_is_the_graphs_and_its_maximum_is_the_score_of_its_detector(
    asked: Client, rows: NDArray[np.uint8]
) -> None:
    scores = asked.score(rows, alpha=0.05, model=NAME, maps=True)
    np.testing.assert_array_equal(scores.maps, expected_map(rows))
    assert scores.maps.shape == (len(rows), *PLACES)
    assert scores.anomaly_maps is not None
    assert scores.anomaly_maps.detector == "places" == NAMES[1]
    np.testing.assert_array_equal(scores.maps.max(axis=(1, 2)), scores.scores[:, 1])
    smallest = scores.anomaly_maps.p_values.min(axis=(1, 2))
    np.testing.assert_array_equal(smallest, scores.detector_p_values[:, 1])


@pytest.mark.parametrize("guarantee", ["marginal", "conditional"])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_p_values_threshold_and_flags_are_those_of_the_calibration(
    asked: Client, rows: NDArray[np.uint8], digits: NDArray[np.uint8], alpha: float, guarantee: Any
) -> None:
    maps = asked.score(rows, alpha=alpha, guarantee=guarantee, model=NAME, maps=True).anomaly_maps
    assert maps is not None
    calibration = np.sort(expected_map(calibration_rows(digits)).max(axis=(1, 2)))
    p = p_values(maps.values.ravel(), calibration)
    if guarantee == "conditional":
        p = conditional_p_values(p, NUM_CALIBRATION, 0.1, "simes")
    np.testing.assert_allclose(maps.p_values.ravel(), p, rtol=1e-6)
    np.testing.assert_array_equal(maps.flagged.ravel(), p <= alpha * (1 + 1e-9))
    below = np.nextafter(np.float32(maps.threshold), np.float32(0))
    assert (1 + (calibration >= below).sum()) / (NUM_CALIBRATION + 1) > (alpha if guarantee == "marginal" else 0)


def test_regions_are_boxes_in_pixels_the_largest_first(asked: Client, rows: NDArray[np.uint8]) -> None:
    first, second, *_ = asked.score(rows[:3], alpha=0.02, model=NAME, maps=True).regions
    assert [one.box for one in first] == [Box(0, 0, 2, 4), Box(6, 6, 2, 2)]
    assert [one.area for one in first] == [2 / 16, 1 / 16]
    assert [one.peak for one in first] == [255, 250]
    assert first[0].p_value == 1 / (NUM_CALIBRATION + 1)
    assert [one.box for one in second] == [Box(2, 2, 4, 4)]  # they touch by a corner
    assert second[0].area == 2 / 16


def test_scores_are_the_same_with_and_without_maps(asked: Client, rows: NDArray[np.uint8]) -> None:
    without, beside = asked.score(rows, model=NAME), asked.score(rows, model=NAME, maps=True)
    for name in ("scores", "detector_p_values", "p_values", "flagged"):
        np.testing.assert_array_equal(getattr(without, name), getattr(beside, name))
    assert without.anomaly_maps is None
    with pytest.raises(InvalidInput, match=r"maps: got none, expected an answer .* score\(..., maps=True\)"):
        without.regions  # noqa: B018


def test_an_answer_without_maps_is_to_the_byte_what_it_was(served: ServedProcess, rows: NDArray[np.uint8]) -> None:
    """A client that knows nothing of maps sends no field of them, and is sent none."""
    request = pb.ScoreRequest(model=pb.ModelSelector(name=NAME), input=pb.Input(tensor=to_tensor(rows[:2])))
    with grpc.insecure_channel(served.target) as channel:
        answer = pb_grpc.EmbeddingServiceStub(channel).Score(request)
    assert [field.name for field, _ in answer.ListFields()] == ["model", "out_of_distribution"]


def test_analyze_gives_a_map_alone_and_beside_others(asked: Client, rows: NDArray[np.uint8]) -> None:
    alone = asked.analyze(rows[:5], ["anomaly_map"], alpha=0.02, guarantee="marginal", model=NAME)
    assert alone.scores is None
    assert alone.anomaly_maps is not None
    np.testing.assert_array_equal(alone.anomaly_maps.values, expected_map(rows[:5]))
    assert alone.anomaly_maps.alpha == 0.02
    both = asked.analyze(rows[:5], ["embedding", "score", "anomaly_map"], model=NAME)
    assert both.embeddings is not None
    assert both.scores is not None
    assert both.anomaly_maps is not None
    np.testing.assert_array_equal(both.anomaly_maps.values, alone.anomaly_maps.values)
    with pytest.raises(InvalidInput, match="decision: got 2, expected none without OUTPUT_SCORE"):
        asked.analyze(rows[:1], ["anomaly_map"], decision="false_discovery_rate", model=NAME)
    with pytest.raises(InvalidInput, match="alpha: got 0.1, expected none without OUTPUT_SCORE or OUTPUT_ANOMALY_MAP"):
        asked.analyze(rows[:1], ["embedding"], alpha=0.1, model=NAME)


@pytest.mark.parametrize("alpha", [0.001, 1.0, float("nan")])
def test_alpha_is_held_against_what_the_calibration_can_give(
    asked: Client, rows: NDArray[np.uint8], alpha: float
) -> None:
    for call in (
        lambda: asked.score(rows[:1], alpha=alpha, model=NAME, maps=True),
        lambda: asked.analyze(rows[:1], ["anomaly_map"], alpha=alpha, model=NAME),
    ):
        with pytest.raises(InvalidInput, match=r"alpha: got .*, expected 0.005 \(the smallest marginal p-value"):
            call()


def test_a_model_without_a_map_names_those_that_have_one(asked: Client, rows: NDArray[np.uint8]) -> None:
    assert asked.score(rows[:1], model=PLAIN).detectors == NAMES
    for call in (
        lambda: asked.score(rows[:1], model=PLAIN, maps=True, alpha=1e-9),  # whatever else is wrong
        lambda: asked.analyze(rows[:1], ["anomaly_map"], model=PLAIN),
    ):
        with pytest.raises(Unsupported, match=f"no output anomaly_map; it outputs .*; models with a map: {NAME};"):
            call()


def test_maps_larger_than_a_message_may_be_are_refused_before_they_are_made(
    served: ServedProcess, asked: Client, rows: NDArray[np.uint8]
) -> None:
    num = 2**16 // (16 * 8) + 1
    request = pb.ScoreRequest(
        model=pb.ModelSelector(name=NAME), input=pb.Input(tensor=to_tensor(np.zeros((num, 8, 8, 1), np.uint8)))
    )
    with grpc.insecure_channel(served.target) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        stub.Score(request)
        request.maps = True
        with pytest.raises(grpc.RpcError) as refused:
            stub.Score(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    too_many = f"maps: got {num} rows, whose maps of 4 x 4 places take {num * 128} bytes"
    assert too_many in refused.value.details()
    with pytest.raises(grpc.RpcError, match=too_many):
        infer(served, infer_request(np.zeros((num, 8, 8, 1), np.uint8), "anomaly_map"))
    many = np.concatenate([rows] * 6)  # the client cuts them
    np.testing.assert_array_equal(asked.score(many, model=NAME, maps=True).maps, expected_map(many))


def test_a_long_input_keeps_its_regions_with_its_rows(asked: Client, rows: NDArray[np.uint8]) -> None:
    quiet = np.zeros((100, 8, 8, 1), np.uint8)
    regions = asked.score(np.concatenate([quiet, rows[:2]]), alpha=0.02, model=NAME, maps=True).regions
    assert [number for number, some in enumerate(regions) if some] == [100, 101]


def test_streams_and_the_client_for_asyncio_have_maps(
    served: ServedProcess, asked: Client, rows: NDArray[np.uint8]
) -> None:
    expected = expected_map(rows[:3])
    for number, found in enumerate(asked.score_stream(list(rows[:3]), model=NAME, maps=True)):
        assert not isinstance(found, LatentserveError)
        np.testing.assert_array_equal(found.maps[0], expected[number])
    (wrong,) = asked.score_stream([rows[0]], model=PLAIN, maps=True)
    assert isinstance(wrong, Unsupported)

    async def ask() -> None:
        async with AsyncClient(served.target) as client:
            np.testing.assert_array_equal((await client.score(rows[:3], model=NAME, maps=True)).maps, expected)
            async for found in client.score_stream([rows[0]], model=NAME, maps=True):
                assert not isinstance(found, LatentserveError)
                np.testing.assert_array_equal(found.maps, expected[:1])

    asyncio.run(ask())


def test_a_model_says_that_it_has_a_map(asked: Client) -> None:
    model = asked.get_model(NAME).model
    assert model.map_detector == "places"
    assert (model.image.height, model.image.width, model.image.how) == (8, 8, "crop")
    assert {spec.name: list(spec.shape) for spec in model.outputs}["anomaly_map"] == [4, 4]
    assert asked.get_model(PLAIN).model.map_detector == ""


def infer(served: ServedProcess, request: open_pb.ModelInferRequest) -> open_pb.ModelInferResponse:
    with grpc.insecure_channel(served.target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            open_pb.ModelInferRequest.SerializeToString,
            open_pb.ModelInferResponse.FromString,
        )
        response: open_pb.ModelInferResponse = call(request, timeout=10)
        return response


def infer_request(rows: NDArray[np.uint8], *outputs: str, model: str = NAME) -> open_pb.ModelInferRequest:
    request = open_pb.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="input", datatype="UINT8", shape=rows.shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def test_open_inference_has_maps_where_they_are_asked_for(
    served: ServedProcess, asked: Client, rows: NDArray[np.uint8]
) -> None:
    everything = infer(served, infer_request(rows[:2]))
    assert "anomaly_map" not in [one.name for one in everything.outputs]
    assert "map_threshold" not in everything.parameters
    request = infer_request(rows[:2], "anomaly_map")
    request.parameters["alpha"].double_param = 0.02
    answer = infer(served, request)
    (output,) = answer.outputs
    got = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(output.shape)
    np.testing.assert_array_equal(got, expected_map(rows[:2]))
    ours = asked.score(rows[:2], alpha=0.02, model=NAME, maps=True).anomaly_maps
    assert ours is not None
    assert answer.parameters["map_threshold"].double_param == ours.threshold
    assert answer.parameters["map_detector"].string_param == "places"
    assert answer.parameters["map_alpha"].double_param == 0.02
    request.parameters["decision"].string_param = "per_row"
    with pytest.raises(grpc.RpcError, match="expected none unless p_value or flagged is requested"):
        infer(served, request)
    with pytest.raises(grpc.RpcError, match=f"models with a map: {NAME}") as refused:
        infer(served, infer_request(rows[:2], "anomaly_map", model=PLAIN))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_rows_with_maps_are_counted(served: ServedProcess, asked: Client, rows: NDArray[np.uint8]) -> None:
    def counted() -> list[float]:
        metrics = served.metrics()
        name = 'latentserve_mapped_rows_total{{flagged="{}",model="{}",version="1"}}'
        return [metrics.get(name.format(flagged, NAME), 0.0) for flagged in ("true", "false")]

    before = counted()
    asked.score(np.concatenate([rows[:2], np.zeros((3, 8, 8, 1), np.uint8)]), alpha=0.02, model=NAME, maps=True)
    asked.score(rows[:2], model=NAME)
    assert [after - one for one, after in zip(before, counted(), strict=True)] == [2, 3]


def test_the_command_prints_regions_and_writes_overlays(
    served: ServedProcess, rows: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[20:30, 20:30] = 255  # of which the model sees the middle, 8 x 8
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.save(tmp_path / "rows.npy", np.stack([rows[0], np.zeros_like(rows[0])]))
    given = ["score", str(tmp_path / "photo.png"), str(tmp_path / "rows.npy"), "--model", NAME, "--alpha", "0.02"]
    overlays = ["--overlays", str(tmp_path / "overlays")]
    assert main([*given, *overlays, "--format", "jsonl", "--target", served.target]) == 0
    of_photo, of_row, of_nothing = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert main(["models", "--target", served.target]) == 0
    assert capsys.readouterr().out.count("  maps by places") == 1
    (region,) = of_photo["regions"]
    assert region["box"] == [4, 0, 2, 2]
    assert region["in_photograph"] == [20, 20, 10, 10]
    assert [one["box"] for one in of_row["regions"]] == [[0, 0, 2, 4], [6, 6, 2, 2]]
    assert of_nothing["regions"] == []
    assert sorted(one.name for one in (tmp_path / "overlays").iterdir()) == ["photo.png", "rows-0.png"]
    drawn = np.asarray(Image.open(tmp_path / "overlays" / "photo.png")).astype(int)
    assert drawn.shape == (240, 480, 3)
    assert np.ptp(drawn[150, 150]) > 30  # coloured where it is bright
    assert (drawn[5, 5] == 0).all()  # as it was elsewhere
    assert main([*given, *overlays, "--overlay-every", "--target", served.target]) == 0
    assert "regions 1: y 20 x 20 h 10 w 10 p 0.005" in capsys.readouterr().out
    assert len(list((tmp_path / "overlays").iterdir())) == 3
