"""The file for psql: as it is written, and what a real PostgreSQL with pgvector makes of it.

The second is for `make ops-test`, where PostgreSQL and pgvector are installed (Debian: postgresql-NN-pgvector).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")

from latentserve.bulk.rows import written
from latentserve.cli.main import main
from latentserve.errors import InvalidInput
from latentserve.handover import sql
from tests.latentserve.bulk.writing import write_job
from tests.latentserve.handover.searched import FAILED, NUM, SIZE, SOURCES, brute_force, job, queries

OPERATORS = {"cosine": "<=>", "euclidean": "<->"}
Ask = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rows_are_escaped_and_numbers_tell_themselves_apart() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * np.float32(1e-20)
    write_job(Path("out.parquet"), rows, ["a\tb\n\\.", "\\N", "plain"], failed=[2], scores=True)
    assert main(["convert", "out.parquet", "--to", "table.sql", "--name", "mine"]) == 0
    text = Path("table.sql").read_text()
    _, data = text.split("FROM stdin;\n")
    data, _ = data.split("\n\\.\n")
    lines = [line.split("\t") for line in data.split("\n")]
    assert [line[1] for line in lines] == ["a\\tb\\n\\\\.", "\\\\N"]
    assert [line[2:4] for line in lines] == [["0.0", "t"], ["0.5", "f"]]
    found = np.array([line[4].strip("[]").split(",") for line in lines]).astype(np.float32)
    np.testing.assert_array_equal(found, rows[:2])
    assert "embedding vector(4) NOT NULL" in text


def test_more_numbers_than_pgvector_takes(tmp_path: Path) -> None:
    write_job(Path("out.parquet"), np.zeros((1, 16_001), np.float32))
    with pytest.raises(InvalidInput, match="to: got embeddings of 16001, expected at most 16000 numbers"):
        sql.check(written(Path("out.parquet")).job)


def programs() -> Path | None:
    """The folder of a PostgreSQL that has pgvector."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("pg_config"):
        folders.append(Path(found).resolve().parent)
    if (spec := importlib.util.find_spec("pgserver")) and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]) / "pginstall/bin")
    for folder in folders:
        if all((folder / name).exists() for name in ("pg_config", "initdb", "pg_ctl", "psql")):
            shared = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True).stdout.strip()
            if (Path(shared) / "extension/vector.control").exists():
                return folder
    return None


@pytest.fixture
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Runs psql against a PostgreSQL of its own, on a socket in a folder; root's is run by nobody."""
    folder = programs()
    if folder is None:
        pytest.skip("no PostgreSQL with pgvector here: apt-get install postgresql postgresql-NN-pgvector")
    home = Path("/tmp") / f"pg-{os.getpid()}"  # a socket's path has at most 107 bytes
    home.mkdir(mode=0o700)
    who: dict[str, Any] = {"cwd": home}
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        who |= {"user": "nobody"}
    data, log = str(home / "data"), str(home / "log")

    def run(program: str, *given: str) -> None:
        subprocess.run([folder / program, *given], check=True, stdout=subprocess.DEVNULL, **who)

    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "someone", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-c listen_addresses= -c fsync=off -k {home}"
        run("pg_ctl", "-D", data, "-l", log, "-w", "-t", "120", "-o", options, "start")

        def asked(*given: str) -> subprocess.CompletedProcess[str]:
            psql = [folder / "psql", "-X", "-q", "-A", "-t", "-h", str(home), "-U", "someone", "-d", "postgres"]
            return subprocess.run([*psql, *given], capture_output=True, text=True)

        yield asked
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.ops
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_its_neighbours_are_those_of_numpy(dtype: Any, ask: Ask) -> None:
    rows = job(Path("out.parquet"), dtype)
    assert main(["convert", "out.parquet", "--to", "table.sql"]) == 0
    done = ask("-f", "table.sql")
    assert (done.returncode, done.stderr) == (0, "")
    assert ask("-c", "SELECT count(*) FROM embeddings").stdout == f"{NUM - len(FAILED)}\n"
    for metric, operator in OPERATORS.items():
        for vector, query in zip(sql.vectors(queries()), queries(), strict=True):
            source = "encode(convert_to(source, 'UTF8'), 'hex')"
            asked = f"SELECT {source} FROM embeddings ORDER BY embedding {operator} '{vector}' LIMIT 20"
            found = [bytes.fromhex(line).decode() for line in ask("-c", asked).stdout.split()]
            assert found == brute_force(rows, query, metric, 20)


@pytest.mark.ops
def test_given_again_no_row_is_there_twice(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = job(Path("out.parquet"))
    write_job(Path("some.parquet"), rows[:80] + 1, SOURCES[:80], scores=True)
    for name in ("some.parquet", "out.parquet", "out.parquet"):
        assert main(["convert", name, "--to", "table.sql", "--name", "mine", "--force"]) == 0
        done = ask("-f", "table.sql")
        assert (done.returncode, [line for line in done.stderr.splitlines() if "NOTICE" not in line]) == (0, [])
    assert ask("-c", "SELECT count(*), count(DISTINCT source) FROM mine").stdout == f"{NUM}|{NUM}\n"
    found = ask("-c", "SELECT embedding FROM mine WHERE source = 'photos/1.png'").stdout.strip()
    np.testing.assert_array_equal(np.array(found.strip("[]").split(",")).astype(np.float32), rows[1])
    monkeypatch.setattr("tests.latentserve.bulk.writing.SPACE", "es'b")
    job(Path("other.parquet"))
    assert main(["convert", "other.parquet", "--to", "table.sql", "--name", "mine", "--force"]) == 0
    done = ask("-f", "table.sql")
    assert done.returncode == 3
    assert 'violates check constraint "mine_embedding_space_check"' in done.stderr
    write_job(Path("wide.parquet"), np.ones((2, SIZE + 1), np.float32), scores=True)
    assert main(["convert", "wide.parquet", "--to", "table.sql", "--name", "mine", "--force"]) == 0
    assert f"expected {SIZE} dimensions, not {SIZE + 1}" in ask("-f", "table.sql").stderr
    assert ask("-c", "SELECT count(*) FROM mine").stdout == f"{NUM}\n"
