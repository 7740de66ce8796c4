"""Settings of the server, from `service.config.Config`."""

from __future__ import annotations

from typing import get_args

from pydantic.fields import FieldInfo

from deploy.reference.markdown import code, head, table
from service.config import AT_RUN_TIME, PREFIX, Config

TEXT = f"""What `latentserve serve` takes: on the command line (`--max-batch-rows 32`), in the environment
(`{PREFIX}MAX_BATCH_ROWS=32`) or in a TOML file named by `--settings` (`max_batch_rows = 32`). The command line counts
first, then the environment, then the file. A setting that is unknown or out of range stops the start, with its name.

A setting marked *SIGHUP* may change while the server runs: edit the file and send it SIGHUP. When to change which:
[Operations](../operating.md#tuning)."""
BOUNDS = {"ge": "{}", "gt": "above {}", "le": "to {}"}


def page() -> str:
    """The page as Markdown."""
    made_from = "[service/config.py](../../service/config.py)"
    rows = [_row(name, field) for name, field in Config.model_fields.items()]
    return f"{head('Settings', made_from, TEXT)}\n{table(('setting', 'default', 'takes', 'meaning'), rows)}\n"


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    flag = code("--" + name.replace("_", "-"))
    default = "required" if field.is_required() else "" if field.default is None else code(_plain(field.default))
    meaning = str(field.description).replace("<", "&lt;") + (" *(SIGHUP)*" if name in AT_RUN_TIME else "")
    return flag, default, _takes(field), meaning


def _takes(field: FieldInfo) -> str:
    if choices := [one for one in get_args(field.annotation) if isinstance(one, str)]:
        return ", ".join(map(code, choices))
    if field.annotation is bool:
        return "`true`, `false`"
    if field.annotation not in (int, float):
        return "a text" if field.annotation is str else "a path"
    bounds = {name: getattr(one, name) for one in field.metadata for name in BOUNDS if hasattr(one, name)}
    return " ".join(BOUNDS[name].format(_short(bounds[name])) for name in BOUNDS if name in bounds)


def _short(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if value == 2**power and power > 20 else f"{value:,g}" if value < 10**6 else f"{int(value):,}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
