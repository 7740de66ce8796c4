"""The command that makes tokens."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from service.api.access.grants import grants_of, read_grants
from service.api.access.tokens import main


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out.strip()


def test_a_token_is_printed_once_and_its_hash_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.toml"
    options = ("--models", "m-*", "--methods", "Embed", "Score*", "--rows-per-second", "2.5", "--burst-rows", "9")
    first = made(capsys, "new", "--file", str(path), "--name", "a", *options, "--priority", "low")
    second = made(capsys, "new", "--file", str(path), "--name", "boss", "--admin", "--expires", "2027-01-01")
    assert first != second
    assert len(first) == len(second) > 43
    a, boss = read_grants(path)
    assert a.sha256 == (hashlib.sha256(first.encode()).hexdigest(),)
    assert (a.models, a.methods, a.rows_per_second, a.burst_rows) == (("m-*",), ("Embed", "Score*"), 2.5, 9)
    assert (a.priority, boss.admin, str(boss.expires)) == ("low", True, "2027-01-01 00:00:00")
    assert first not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["tokens.toml"]


def test_without_a_file_the_entry_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "--name", "a"]) == 0
    *entry, token = capsys.readouterr().out.strip().splitlines()
    (grant,) = grants_of("\n".join(entry))
    assert grant.sha256 == (hashlib.sha256(token.encode()).hexdigest(),)


def test_a_token_is_replaced_in_two_steps_and_comments_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.toml"
    old = made(capsys, "new", "--file", str(path), "--name", "a")
    made(capsys, "new", "--file", str(path), "--name", "b")
    path.write_text("# ours\n" + path.read_text().replace('name = "a"', 'name = "a"  # camera'))
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    new = made(capsys, "renew", "--file", str(link), "--name", "a")
    hashes = [hashlib.sha256(token.encode()).hexdigest() for token in (new, old)]
    assert [list(grant.sha256) for grant in read_grants(path) if grant.name == "a"] == [hashes]
    newest = made(capsys, "renew", "--file", str(link), "--name", "a")
    assert made(capsys, "settle", "--file", str(link), "--name", "a") == ""
    assert read_grants(path)[0].sha256 == (hashlib.sha256(newest.encode()).hexdigest(),)
    assert [grant.name for grant in read_grants(path)] == ["a", "b"]
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "# ours" in path.read_text()
    assert "# camera" in path.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("new", "--name", "a"),
        ("new", "--name", "a b"),
        ("new", "--name", "b", "--methods", "Embde"),
        ("new", "--name", "b", "--rows-per-second", "0"),
        ("new", "--name", "b", "--rows-per-second", "nan"),
        ("new", "--name", "b", "--expires", "soon"),
        ("new", "--name", "b", "--expires", "2027-01-01\nadmin = true"),
        ("renew", "--name", "b"),
        ("settle", "--name", "b"),
    ],
)
def test_what_would_be_wrong_is_not_written_and_no_token_is_shown(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.toml"
    made(capsys, "new", "--file", str(path), "--name", "a")
    before = path.read_text()
    assert main([*arguments, "--file", str(path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["tokens.toml"]


def test_two_who_write_at_once_do_not_lose_an_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.toml"
    made(capsys, "new", "--file", str(path), "--name", "a")
    (tmp_path / ".tokens.toml.new").write_text("")  # somebody is
    assert main(["new", "--file", str(path), "--name", "b"]) == 1
    assert "File exists" in capsys.readouterr().err
    assert [grant.name for grant in read_grants(path)] == ["a"]
