# SPDX-License-Identifier: Apache-2.0
"""`praetorctl completion`: scripts for shells, and names of objects."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from controller_testing import runs
from ctl_testing import Lab
from praetor_api.kube.client.errors import Unreachable
from praetor_controller.ctl.cli import main


def completed(lab: Lab, args: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(main, {"obj": lab.open}, "praetorctl", "_PRAETORCTL_COMPLETE")
    return [item.value for item in shell.get_completions(args, incomplete)]


@pytest.fixture
def lab() -> Lab:
    lab = Lab()
    spec: dict[str, Any] = {
        "selector": {},
        "template": {"spec": runs("/opt/tel")},
    }
    for name in ("beacon", "telemetry"):
        lab.deployment(name, spec=spec)
    lab.switch("leaf-1")
    return lab


@pytest.mark.parametrize("command", ["status", "history", "undo", "pause", "resume", "restart", "approve"])
def test_names_of_deployments_are_completed(lab: Lab, command: str) -> None:
    assert completed(lab, ["rollout", command], "") == ["beacon", "telemetry"]
    assert completed(lab, ["rollout", command], "tel") == ["telemetry"]


def test_explain_completes_devices_and_deployments(lab: Lab) -> None:
    assert completed(lab, ["explain"], "") == ["beacon", "leaf-1", "telemetry"]


def test_the_namespace_that_was_given_is_asked(lab: Lab) -> None:
    for args in (["rollout", "status", "-n", "other"], ["-n", "other", "rollout", "status"]):
        assert completed(lab, args, "") == []
        assert lab.asked.pop().namespace == "other"


def test_an_unreachable_cluster_completes_nothing(lab: Lab) -> None:
    lab.kube.fail_next(Unreachable("cut off"), verb="list")
    assert completed(lab, ["rollout", "status"], "") == []


def test_verbs_are_completed(lab: Lab) -> None:
    assert completed(lab, [], "re") == ["render", "replay"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    script = Lab().run("completion", shell).output
    assert "praetorctl" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
