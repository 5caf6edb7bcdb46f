# SPDX-License-Identifier: Apache-2.0
"""The table of supported versions says what the gate and the workflows really run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
GATE = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def row(name: str) -> str:
    """Return the row of the page's tables whose first cell begins with *name*."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {name}"))


def test_the_suite_runs_on_a_current_kubernetes_but_for_devices_that_boot() -> None:
    (selected,) = re.findall(r'hatch run e2e .*--assets "\$current" (.*)\) >', GATE)
    assert selected == '-m "not lab"'
    assert "the suite but for devices that boot" in row("1.36")


def test_the_pythons_are_those_of_the_wheels_the_gate_and_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8"))
    others = workflow["jobs"]["pythons"]["strategy"]["matrix"]["python"]
    tested = set(re.findall(r"3\.\d+", row("Python").split("|")[3]))
    assert tested == {"3.11", *others}
    for file in (ROOT / "packages").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        classified = {each.rpartition(" ")[2] for each in project["classifiers"] if ":: Python :: 3." in each}
        assert (project["requires-python"], classified) == (">=3.11", tested), file


def test_the_gate_runs_the_short_form_of_the_skew_test_alone() -> None:
    assert "nothing" in row("CRDs, controller and gateway")
    assert re.findall(r"hatch run skew.*", GATE) == ["hatch run skew --short"]
