from __future__ import annotations

from pathlib import Path

import pytest

from service.__main__ import main
from service.config import Config, ConfigError, changed, load_config
from service.engine.devices import DeviceError, check_gpus
from service.scheduling.batching import QueueConfig
from service.scheduling.decoding_queue import DecodingConfig


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_MODELS", "from-environment")
    monkeypatch.setenv("LATENTSERVE_MAX_BATCH_ROWS", "16")
    monkeypatch.setenv("LATENTSERVE_PORT", "1234")
    config = load_config(["--models", "from-arguments", "--port", "0"])
    assert config.models == Path("from-arguments")
    assert config.port == 0
    assert config.queue.max_batch_rows == 16


def test_an_unknown_variable_is_an_error_that_lists_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_MAX_BATCH_SIZE", "16")
    with pytest.raises(ConfigError, match="unknown variable LATENTSERVE_MAX_BATCH_SIZE.*LATENTSERVE_MAX_BATCH_ROWS"):
        load_config(["--models", "m"])


def test_trainings_variable_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_DATA", "/data")
    load_config(["--models", "m"])


def test_an_unknown_argument_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(["--models", "m", "--max-batch", "3"])
    assert "--max-batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "models: missing, expected --models or LATENTSERVE_MODELS"),
        (["--models", "m", "--max-batch-rows", "0"], "max_batch_rows: got '0', expected:.*greater than or equal to 1"),
        (
            ["--models", "m", "--device", "tpu"],
            "device: got 'tpu', expected: auto, cpu, cuda, tensorrt, or GPUs by number",
        ),
        (["--models", "m", "--device", "cuda:x"], "device: got 'cuda:x', expected: auto, cpu, .*as in cuda:0,cuda:1"),
        (["--models", "m", "--device", "cuda,cuda:1"], "device: got 'cuda,cuda:1', expected: auto, cpu, .*by number"),
        (["--models", "m", "--device", ""], "device: got '', expected: auto"),
        (["--models", "m", "--device", "cuda:0,cuda:0"], "device: got 'cuda:0,cuda:0', expected: each device once"),
        (["--models", "m", "--device", "cpu,cuda:0"], "device: got 'cpu,cuda:0', expected: devices of one kind"),
        (["--models", "m", "--device", "cuda:0,tensorrt:1"], "device: got .*, expected: devices of one kind"),
        (["--models", "m", "--instances", "0"], "instances: got '0', expected:.*greater than or equal to 1"),
        (["--models", "m", "--instances", "65"], "instances: got '65', expected:.*less than or equal to 64"),
        (["--models", "m", "--monitor-window-rows", "9"], "monitor_window_rows: got '9', .* than or equal to 10"),
        (["--models", "m", "--monitor-level", "0.3"], "monitor_level: got '0.3', .*less than or equal to 0.2"),
        (["--models", "m", "--port", "x"], "port: got 'x'"),
    ],
)
def test_a_value_out_of_range_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(arguments)


def test_the_cpu_has_no_more_instances_than_cores_and_they_share_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.config.available_cpus", lambda: 5)

    def config(*arguments: str) -> Config:
        return load_config(["--models", "m", *arguments])

    with pytest.raises(ConfigError, match=r"^instances: got 6, expected at most 5, one for each CPU$"):
        config("--device", "cpu", "--instances", "6")
    assert config("--device", "cpu", "--instances", "2").threads == 2
    assert config("--device", "cpu", "--instances", "5").threads == 1
    assert config("--device", "cuda:0", "--instances", "8").threads == 1  # it is the GPU that they share
    assert config("--instances", "2", "--intra-op-threads", "3").threads == 3


def test_devices_are_named_one_by_one() -> None:
    config = load_config(["--models", "m", "--device", "cuda:1, cuda:0", "--instances", "2"])
    assert config.devices == ["cuda:1", "cuda:0"]
    assert (config.device_config.kind, config.device_config.gpu) == ("cuda", 1)
    assert load_config(["--models", "m"]).devices == ["auto"]


@pytest.mark.parametrize(("there", "said"), [(0, "no GPU"), (2, "cuda:0, cuda:1")])
def test_a_gpu_that_is_not_there_is_told_before_any_work(
    there: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.devices.num_gpus", lambda: there)
    check_gpus(["auto", "cpu", "cuda", "tensorrt", *(["cuda:1"] if there else [])])
    with pytest.raises(
        DeviceError, match=f"^device: got cuda:7, expected one that is there: this machine shows {said}$"
    ):
        check_gpus(["cuda:7"])


def test_the_command_says_so_in_one_sentence_before_it_looks_for_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.engine.devices.num_gpus", lambda: 2)
    given = ["--models", "nowhere", "--port", "0", "--metrics-port", "0"]
    for device, said in (
        ("cuda:7", "device: got cuda:7, expected one that is there: this machine shows cuda:0, cuda:1"),
        (
            "cuda:0,cuda:0",
            "device: got 'cuda:0,cuda:0', expected: each device once; several engines on one are --instances",
        ),
    ):
        assert main([*given, "--device", device]) == 1
        assert capsys.readouterr().err.startswith(f"error: {said}")


def test_threads_default_to_the_cpus_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.config.available_cpus", lambda: 3)
    assert load_config(["--models", "m"]).threads == 3
    assert load_config(["--models", "m", "--intra-op-threads", "1"]).threads == 1


def test_the_file_gives_what_nothing_stronger_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('models = "from-file"\nmax_queue_rows = 7\nmax_batch_rows = 8\nport = 1\n')
    monkeypatch.setenv("LATENTSERVE_SETTINGS", str(file))
    monkeypatch.setenv("LATENTSERVE_MAX_BATCH_ROWS", "16")
    config = load_config(["--port", "2"])
    assert (config.models, config.max_queue_rows) == (Path("from-file"), 7)
    assert (config.max_batch_rows, config.port) == (16, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_queue = 7", "max_queue: got 7, expected:"),
        ("port = 'x'", "port: got 'x'"),
        ("port =", "settings: got .*settings.toml, expected a TOML file: "),
        ("settings = 'other.toml'", "names another file"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(["--models", "m", "--settings", str(tmp_path / "settings.toml")])
    with pytest.raises(ConfigError, match=r"settings: got .*missing\.toml"):
        load_config(["--models", "m", "--settings", str(tmp_path / "missing.toml")])


def test_what_differs_is_told_apart_by_whether_it_needs_a_restart() -> None:
    old = load_config(["--models", "m"])
    new = load_config(["--models", "m", "--port", "1", "--max-queue-rows", "9", "--log-level", "debug"])
    assert changed(old, new) == ({"max_queue_rows", "log_level"}, {"port"})


def test_a_queue_by_itself_has_the_bounds_that_the_service_has_by_default() -> None:
    assert load_config(["--models", "m"]).queue == QueueConfig()


def test_more_pixels_than_the_server_ever_lets_in_are_more_than_a_request_may_bring(tmp_path: Path) -> None:
    def limit(*arguments: str) -> int:
        return load_config(["--models", str(tmp_path), *arguments]).limits.max_request_pixels

    assert limit("--max-request-pixels", "70") == 70
    assert limit("--max-request-pixels", "70", "--max-decoding-pixels", "60") == 60


def test_what_peers_may_ask_of_the_transport_is_set() -> None:
    limits = load_config(["--models", "m"]).transport_limits
    assert limits.receive_bytes == 512 * 2**20
    assert load_config(["--models", "m", "--max-request-bytes", str(2**30)]).transport_limits.receive_bytes == 2**32
    given = ["--max-receive-bytes", str(2**28), "--max-connections", "7", "--keepalive-seconds", "5"]
    limits = load_config(["--models", "m", *given, "--compress-answers", "true"]).transport_limits
    assert (limits.receive_bytes, limits.max_connections, limits.keepalive_seconds) == (2**28, 7, 5.0)
    assert limits.compress_answers
    with pytest.raises(ConfigError, match="max_receive_bytes: got 1000000, expected 0 or at least 134217728, twice"):
        load_config(["--models", "m", "--max-receive-bytes", "1000000"])


def test_what_may_wait_to_be_decoded_is_what_was_set(tmp_path: Path) -> None:
    arguments = ("--max-decoding-bytes", "70", "--max-decoding-pixels", "600")
    assert load_config(["--models", str(tmp_path), *arguments]).decoding == DecodingConfig(max_bytes=70, max_pixels=600)
