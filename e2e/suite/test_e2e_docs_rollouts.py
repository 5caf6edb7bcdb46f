# SPDX-License-Identifier: Apache-2.0
"""The shell examples of docs/first-rollout.md, rollouts.md and tenancy.md, run as printed: they print what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from attrs import frozen

from e2e.clusters.cluster import Cluster
from e2e.clusters.embedded import Embedded
from e2e.demo.playground import BLOCK, DEVICES, FLAGS, INTERRUPTED, PAGE, save_files
from e2e.release.build import ROOT
from e2e.rollouts.fleet import SimulatedFleet
from e2e.stack.kube import Kube
from e2e.stack.stack import environment, script

STEP_S = 600
PAGES = (PAGE, PAGE.with_name("rollouts.md"))
TENANCY = PAGE.with_name("tenancy.md")


@frozen
class Example:
    """Commands, and what the page says they print; None when it does not say."""

    commands: str
    printed: str | None


def examples(*pages: Path) -> Iterator[Example]:
    """Yield the shell examples of *pages* in order."""
    blocks = [block for page in pages for block in BLOCK.findall(page.read_text("utf-8"))]
    for number, (language, text) in enumerate(blocks):
        if language == "sh":
            following = blocks[number + 1] if number + 1 < len(blocks) else ("yaml", "")
            yield Example(text, following[1] if not following[0] else None)


def test_the_shell_examples_do_what_the_page_says(
    cluster: Cluster, kube: Kube, simulated: SimulatedFleet, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    if cluster.name == Embedded.name:
        pytest.skip("the playground, which runs on this one, is tested with them")
    save_files(tmp_path)
    simulated.power_on(DEVICES, *FLAGS)
    follow(PAGES, tmp_path, environment_for(cluster, kube))


def test_the_examples_with_two_tenants_do_what_the_page_says(
    cluster: Cluster, kube: Kube, simulated: SimulatedFleet, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    if cluster.name != Embedded.name:
        pytest.skip("what the commands print is the same on every cluster")
    simulated.power_on(DEVICES[:2])
    follow((TENANCY,), tmp_path, environment_for(cluster, kube))


def test_the_playground_is_what_the_page_starts_from(cluster: Cluster) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    if cluster.name != Embedded.name:
        pytest.skip("the playground starts a control plane of its own")
    argv = [sys.executable, "-m", "e2e.demo.playground"]
    given = environment()
    own = {name: os.environ[name] for name in ("KUBEBUILDER_ASSETS", "PYTHONPATH") if name in os.environ}
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=given | own) as program:
        try:
            lines = []
            for line in program.stdout or ():
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            text = "".join(lines)
            folder = Path(re.findall(r"^  cd (.*)$", text, re.MULTILINE)[0])
            pasted = "".join(f"{each}\n" for each in re.findall(r"^  (export .*)$", text, re.MULTILINE))
            begins = [each.strip() for each in lines if each.startswith(("  kubectl", "  praetorctl"))]
            assert "".join(each.commands for each in list(examples(PAGE))[:2]).splitlines() == begins
            follow(PAGES, folder, given, before=pasted)
        finally:
            program.send_signal(signal.SIGINT)
        assert program.wait(STEP_S) == INTERRUPTED
    assert not folder.exists()


def follow(pages: Sequence[Path], folder: Path, variables: Mapping[str, str], before: str = "") -> None:
    """Run the shell examples of *pages* in *folder*, each after the lines *before*, and compare what they print."""
    found = list(examples(*pages))
    assert sum(each.printed is not None for each in found) >= 3 * len(pages)
    for each in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", before + each.commands],
            cwd=folder,
            env=dict(variables),
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
