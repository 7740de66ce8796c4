"""A job on a Ray cluster of three machines that are processes here, one of which goes away (`make ray-test`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pyarrow", reason="the extra `bulk`")
ray = pytest.importorskip("ray", reason="the extra `ray`: make ray-test")
import pyarrow.parquet as pq  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from latentserve.bulk.folder import Folder  # noqa: E402
from latentserve.cli.main import main  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NUM = 2600
STORE = 80 * 2**20
pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of Ray itself


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    """A head without cores, and three machines of one core."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
        try:
            for _ in range(3):
                made.add_node(num_cpus=1, object_store_memory=STORE)
            made.wait_for_nodes()
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def files(tmp_path: Path, digits: NDArray[np.uint8], encode: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    encoded = [encode(digit) for digit in digits[:100]]
    for number in range(NUM):
        (folder / f"{number:04}.png").write_bytes(encoded[number % 100] if number % 50 else b"broken")
    monkeypatch.chdir(tmp_path)
    return folder


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_machine_goes_away_and_each_item_has_one_row(
    files: Path, bundle_folder: Path, machines: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = "score", "files", "--embeddings", "--part-rows", "256", "--bundle", str(bundle_folder)
    assert main([*job, "--to", "alone.parquet"]) == 0
    write, (lost, *_) = Folder.write, machines.worker_nodes.copy()

    def removed(self: Folder, rows: Any) -> str:
        if lost in machines.worker_nodes:
            machines.remove_node(lost, allow_graceful=False)
        return write(self, rows)

    monkeypatch.setattr(Folder, "write", removed)
    assert main([*job, "--to", "cluster.parquet", "--ray", machines.address]) == 0
    assert lost not in machines.worker_nodes
    assert contents("cluster.parquet") == contents("alone.parquet")
    found = pq.read_table("cluster.parquet").to_pydict()
    assert sorted(found["source"]) == sorted(f"files/{number:04}.png" for number in range(NUM))
    assert sum(error is not None for error in found["error"]) == NUM // 50


def test_what_a_machine_says_of_the_bundle_is_the_error(
    files: Path, bundle_folder: Path, machines: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "models" / "digits-vae" / "1"
    copy.mkdir(parents=True)
    for file in bundle_folder.iterdir():
        os.link(file, copy / file.name)
    (copy / "encoder.onnx").unlink()
    (copy / "encoder.onnx").write_bytes(b"hello")
    job = "embed", "files", "--to", "o.parquet", "--bundle", str(copy)
    assert main([*job, "--ray", machines.address]) == 1
    assert "encoder.onnx" in capsys.readouterr().err


def test_room_for_no_actor_is_told(
    files: Path, bundle_folder: Path, machines: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    job = "embed", "files", "--to", "o.parquet", "--bundle", str(bundle_folder), "--ray", machines.address
    assert main([*job, "--actor-cpus", "4"]) == 1
    assert "expected room for an actor of 4 CPUs and 0 GPUs" in capsys.readouterr().err
