# SPDX-License-Identifier: Apache-2.0
"""Artifacts: fetched, verified, and only then run; no process is stopped for an artifact that cannot be fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import Kube, Object, condition, conditions
from e2e.stack.manifests import deployment, process_spec
from e2e.stack.waiting import eventually, steadily
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready
from e2e.suite.running import argv_of, is_alive
from e2e.suite.site import served
from e2e.suite.workloads import GRACE_S, sleeping

SCRIPT = "#!/bin/sh\n# {}\nexec sleep infinity\n"
WRONG = "0" * 64


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL at which its files are served."""
    folder = tmp_path / "site"
    folder.mkdir()
    with served(folder) as url:
        yield folder, url


def program(folder: Path, name: str) -> tuple[Path, str]:
    """Write a program; return it and its SHA-256."""
    path = folder / name
    path.write_text(SCRIPT.format(name))
    path.chmod(0o755)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def running(name: str, kind: str, url: str, checksum: str | None) -> Object:
    """Return a process that runs the program *name* out of its artifact."""
    artifact = {"type": kind, "url": url, **({} if checksum is None else {"checksumSHA256": checksum})}
    return process_spec([name], execution={"terminationGracePeriodSeconds": GRACE_S}, artifact=artifact)


def assert_fetched(process: Object, checksum: str) -> None:
    """Check the status of an artifact that was fetched and has the *checksum*."""
    assert condition(process, "ArtifactDownloaded") == "True"
    assert condition(process, "ArtifactVerified") == "True"
    assert checksum in process["status"]["artifactDigest"]


def test_a_file_artifact_is_verified_and_run(fleet: AgentFleet, kube: Kube, tmp_path: Path) -> None:
    (device,) = fleet.add()
    path, checksum = program(tmp_path, "tool")
    kube.apply(deployment("tool", running("tool", "file", f"file://{path}", checksum)))
    process = await_ready(kube, [device])[device]
    assert_fetched(process, checksum)
    assert argv_of(process["status"]["pid"])[:1] == ("sleep",)


def test_an_http_artifact_is_fetched_verified_and_run(fleet: AgentFleet, kube: Kube, site: tuple[Path, str]) -> None:
    (device,) = fleet.add()
    folder, url = site
    _, checksum = program(folder, "tool")
    kube.apply(deployment("tool", running("tool", "http", f"{url}/tool", checksum)))
    assert_fetched(await_ready(kube, [device])[device], checksum)


def test_a_wrong_checksum_is_reported_and_nothing_is_run(fleet: AgentFleet, kube: Kube, site: tuple[Path, str]) -> None:
    (device,) = fleet.add()
    folder, url = site
    program(folder, "tool")
    kube.apply(deployment("tool", running("tool", "http", f"{url}/tool", WRONG)))
    process = await_process(kube, device, lambda item: condition(item, "ArtifactVerified") == "False", "not verified")
    assert conditions(process)["ArtifactVerified"]["reason"]
    assert condition(process, "ProcessStarted") != "True"
    assert fleet.agent(device).processes() == frozenset()


@pytest.mark.parametrize(
    ("name", "checksum", "kind"),
    [
        pytest.param("tool", WRONG, "ArtifactVerified", id="wrong-checksum"),
        pytest.param("absent", WRONG, "ArtifactDownloaded", id="not-found"),
    ],
)
def test_the_old_process_runs_on_while_the_new_artifact_cannot_be_fetched(
    fleet: AgentFleet, kube: Kube, plan_check: PlanCheck, site: tuple[Path, str], name: str, checksum: str, kind: str
) -> None:
    (device,) = fleet.add()
    folder, url = site
    _, good = program(folder, "tool")
    kube.apply(deployment("tool", sleeping()))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    with plan_check.template("tool", running(name, "http", f"{url}/{name}", checksum), stopped=True):
        await_process(kube, device, lambda item: condition(item, kind) == "False", f"{kind} is False")
        steadily(lambda: is_alive(pid), bool, what="the old process runs", for_s=2)
    with plan_check.template("tool", running("tool", "http", f"{url}/tool", good)):
        await_done(kube, "tool")
    process = await_ready(kube, [device])[device]
    assert_fetched(process, good)
    eventually(lambda: not is_alive(pid), what="the old process has ended")
