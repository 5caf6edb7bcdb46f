# SPDX-License-Identifier: Apache-2.0
"""The table of supported versions says what the gate and the workflows really run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from e2e.lab.debian import SUITES
from e2e.pythons.__main__ import RUNS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
GATE = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def row(name: str) -> str:
    """Return the row of the page's tables whose first cell begins with *name*."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {name}"))


def test_the_suite_runs_on_a_current_kubernetes_but_for_devices_that_boot() -> None:
    (selected,) = re.findall(r'hatch run e2e .*--assets "\$current" (.*)', GATE)
    assert selected == '-m "not lab"'
    assert "the suite but for devices that boot" in row("1.36")


def test_the_pythons_are_those_of_the_wheels_the_gate_and_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8"))
    others = workflow["jobs"]["pythons"]["strategy"]["matrix"]["python"]
    tested = set(re.findall(r"3\.\d+", row("Python, of controller").split("|")[3]))
    assert tested == {"3.11", *others}
    for file in (ROOT / "packages").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        oldest = "3.9" if file.parent.name in ("praetor-agent", "praetor-api") else "3.11"
        assert f"{oldest} or later" in row(f"Python, of {'the agent' if oldest == '3.9' else 'controller'}")
        classified = {each.rpartition(" ")[2] for each in project["classifiers"] if ":: Python :: 3." in each}
        assert (project["requires-python"], classified) == (f">={oldest}", tested | {oldest}), file


def test_what_reaches_a_device_is_tested_on_the_pythons_and_with_the_requests_that_the_page_names() -> None:
    tested = row("Python, of the agent").split("|")[3]
    assert {run.python for run in RUNS} | {"3.11", "3.12", "3.10", "3.14"} == set(re.findall(r"3\.\d+", tested))
    assert "hatch run pythons --short" in GATE
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["devices"]["steps"][-1]["run"] == "hatch run pythons"
    (oldest,) = (each for each in agent()["dependencies"] if each.startswith("requests"))
    shown = row("requests").split("|")
    assert f"{oldest.partition('>=')[2]} or later" in shown[2]
    locked = [locked_requests(run.lock) for run in RUNS]
    assert locked[0] == oldest.partition(">=")[2]
    assert locked[-1] == locked_requests("agent.txt")
    debians = [each for _, each in sorted(SUITES.values(), key=dotted)]
    assert re.findall(r"2\.\d+\.\d+", shown[3]) == [*debians, *locked[1:]]


def locked_requests(lock: str) -> str:
    """Return the version of requests that *lock* names."""
    found = re.search(r"^requests==(\S+)", (ROOT / "requirements" / lock).read_text(encoding="utf-8"), re.M)
    assert found is not None
    return found[1]


def agent() -> dict[str, list[str]]:
    """Return the project table of the agent."""
    text = (ROOT / "packages" / "praetor-agent" / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, list[str]] = tomllib.loads(text)["project"]
    return project


def dotted(found: tuple[str, str]) -> tuple[int, ...]:
    """Return a version as numbers."""
    return tuple(map(int, found[1].split(".")))


def test_the_gate_runs_the_short_form_of_the_skew_test_alone() -> None:
    assert "nothing" in row("CRDs, controller and gateway")
    assert re.findall(r"hatch run skew.*", GATE) == ["hatch run skew --short"]
