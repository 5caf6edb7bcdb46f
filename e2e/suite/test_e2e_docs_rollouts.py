# SPDX-License-Identifier: Apache-2.0
"""The shell examples of docs/rollouts.md, run as printed: what they print is what the page says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from attrs import frozen

from e2e.clusters.cluster import Cluster
from e2e.rollouts.fleet import SimulatedFleet
from e2e.stack.kube import Kube
from e2e.stack.stack import environment, script

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"
DEVICES = [f"leaf-{number}" for number in range(1, 9)]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# (\S+\.yaml)\n")
STEP_S = 600


@frozen
class Example:
    """Commands, and what the page says they print; None when it does not say."""

    commands: str
    printed: str | None


def examples(page: str) -> Iterator[Example]:
    """Yield the shell examples of *page* in order."""
    blocks = _BLOCK.findall(page)
    for number, (language, text) in enumerate(blocks):
        if language == "sh":
            following = blocks[number + 1] if number + 1 < len(blocks) else ("yaml", "")
            yield Example(text, following[1] if not following[0] else None)


def test_the_shell_examples_do_what_the_page_says(
    cluster: Cluster, kube: Kube, simulated: SimulatedFleet, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    page = PAGE.read_text(encoding="utf-8")
    for language, text in _BLOCK.findall(page):
        named = _NAMED.match(text)
        if language == "yaml" and named:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
    simulated.power_on(DEVICES, "--fail-on=broken")
    found = list(examples(page))
    assert sum(each.printed is not None for each in found) >= 6
    for each in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", each.commands],
            cwd=tmp_path,
            env=environment_for(cluster, kube),
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        assert done.returncode == 0, f"{each.commands}\n{done.stdout}\n{done.stderr}"
        if each.printed is not None:
            assert done.stdout == each.printed, each.commands


def environment_for(cluster: Cluster, kube: Kube) -> dict[str, str]:
    """Return the environment of a user whose kubeconfig names the test's namespace."""
    config = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
    for context in config["contexts"]:
        context["context"]["namespace"] = kube.namespace
    path = cluster.kubeconfig.with_name(f"{kube.namespace}.kubeconfig")  # beside it, for the files that it names
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    path.chmod(0o600)
    folders = (Path(script("praetorctl")).parent, Path(cluster.kubectl or "").parent)
    given = environment()
    path_variable = os.pathsep.join([*map(str, folders), given.get("PATH", os.defpath)])
    return given | {"KUBECONFIG": str(path), "PATH": path_variable}
