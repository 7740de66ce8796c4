"""Rules whose time passes faster are otherwise the rules that are deployed."""

from __future__ import annotations

import re

import yaml

from benchmarks.processes.prometheus import RULES, as_asked, sped_up


def test_windows_and_waits_are_shorter_and_nothing_else_is() -> None:
    rule = "- alert: A\n  expr: job:x:ratio_rate1h > 14.4 * 0.001 and rate(y[5m]) > 1\n  for: 2m\n"
    fast = sped_up(rule)
    assert fast == rule.replace("[5m]", "[5000ms]").replace("for: 2m", "for: 2000ms")


def test_the_rules_that_are_deployed_have_no_other_durations() -> None:
    for name in ("recording.yml", "alerts.yml"):
        text = (RULES / name).read_text()
        rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        fast = [rule for group in yaml.safe_load(sped_up(text))["groups"] for rule in group["rules"]]
        for before, after in zip(rules, fast, strict=True):
            windows = re.findall(r"\[(\d+)([smhd])\]", before["expr"])
            assert len(re.findall(r"\[\d+ms\]", after["expr"])) == len(windows)
            assert "[" not in re.sub(r"\[\d+ms\]", "", after["expr"])
            assert ("for" in before) == ("for" in after)


def test_a_panel_s_variables_are_filled_in() -> None:
    assert as_asked('rate(x{model=~"$model"}[$__rate_interval])') == 'rate(x{model=~".*"}[10s])'
