# SPDX-License-Identifier: Apache-2.0
"""Alerts fire for what they are for and for nothing else, and each has a section of the runbooks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.release.build import ROOT

MONITORING = ROOT / "deploy" / "components" / "monitoring"
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
SERIES = Path(__file__).with_name("alerts.yaml")
GROUPS = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules_and_the_series_make_them_fire(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}), encoding="utf-8")
    shutil.copy(SERIES, tmp_path)
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", SERIES.name]):
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_made_to_fire() -> None:
    tests = yaml.safe_load(SERIES.read_text(encoding="utf-8"))["tests"]
    samples = [sample for test in tests for each in test["promql_expr_test"] for sample in each["exp_samples"]]
    assert {re.findall(r'"(\w+)"', sample["labels"])[0] for sample in samples} == RULES.keys()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) == list(RULES)
    assert {rule["annotations"]["runbook_url"] for rule in RULES.values()} == {
        f"docs/runbooks.md#{name.lower()}" for name in RULES
    }


def test_an_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in RULES.values()} == {"critical", "warning"}
    assert [name for name, rule in RULES.items() if not {"summary", "description"} <= rule["annotations"].keys()] == []
    assert [name for name, rule in RULES.items() if "for" not in rule] == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap_and_have_titles(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert dashboard["uid"] == path.stem
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
