# SPDX-License-Identifier: Apache-2.0
"""An image that the runtime cannot pull is fetched by the agent, loaded and run: real runtimes, and a real registry.

The registry of the image's name does not exist; a mirror that only the agent knows has it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_testing import until
from e2e.lab import dockerd, registry
from praetor_agent.artifacts.fetcher import device_sources
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends.command import command_of
from praetor_agent.backends.container import ContainerBackend, Runtime, probe_in
from praetor_agent.backends.images import Images
from praetor_agent.backends.probes import Prober
from praetor_agent.backends.protocol import Owner
from praetor_agent.clock import SystemClock
from praetor_agent.core.model import ArtifactState, Observed, Revision
from praetor_agent.settings import Registries
from praetor_api.protocol import DesiredItem
from praetor_api.spec import (
    Artifact,
    ArtifactType,
    Backend,
    EnvVar,
    ExecProbe,
    Execution,
    HealthCheck,
    ProcessSpec,
    Resources,
)

PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
PODMAN_OPTIONS = ("--ulimit", "nproc=1000:1000", "--ulimit", "nofile=1024:1024")
DEVICE = f"leaf-{os.getpid()}"
ARGUMENTS = ("$HOME", "a\"b'c\\", "%n", ";", "é", '["x"]', " ")

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(300),  # an image takes four seconds on two idle cores
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, (registry.PROGRAM, "busybox"))),
        reason="needs root, docker-registry and busybox-static",
    ),
]


def podman_runtime() -> Iterator[tuple[Runtime, tuple[str, ...]]]:
    if not all(map(shutil.which, ("podman", "runc"))):
        pytest.skip("podman or runc is not installed")
    yield Runtime(PODMAN), PODMAN_OPTIONS


def docker_runtime() -> Iterator[tuple[Runtime, tuple[str, ...]]]:
    missing = dockerd.why_unavailable()
    if missing:
        pytest.skip(missing)
    with dockerd.running() as host:
        yield Runtime(("docker", "--host", host)), ()


@pytest.fixture(params=[podman_runtime, docker_runtime], ids=["podman", "docker"])
def runtime(request: pytest.FixtureRequest) -> Iterator[tuple[Runtime, tuple[str, ...]]]:
    yield from request.param()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with registry.serving(tmp_path) as host:
        yield host


def item(reference: str, *words: str, **execution: object) -> DesiredItem:
    spec = ProcessSpec(
        artifact=Artifact(type=ArtifactType.OCI, url=reference),
        execution=Execution(backend=Backend.CONTAINER, command=("/bin/sh", "-c", "sleep 1000; :", *words), **execution),  # type: ignore[arg-type]
    )
    return DesiredItem(uid="uid-1", namespace="net", name="fw", spec=spec, spec_hash="v1")


def fetched(tmp_path: Path, runtime: Runtime, wanted: DesiredItem, registries: Registries) -> ArtifactState:
    parts = (ArtifactStore(tmp_path / "artifacts"), device_sources(registries), SystemClock(), lambda: None)
    images = Images(runtime, tmp_path / "images", *parts)
    images.want(wanted, 0.0)
    until(lambda: wanted.spec_hash in images.states(), "the image", 120)
    return images.states()[wanted.spec_hash]


def test_an_image_that_the_runtime_cannot_pull_is_fetched_loaded_and_run(
    runtime: tuple[Runtime, tuple[str, ...]], host: str, tmp_path: Path
) -> None:
    command, options = runtime
    program = Path(str(shutil.which("busybox"))).read_bytes()
    links = {f"bin/{name}->busybox": b"" for name in ("sh", "sleep", "test")}
    passwd = b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    pushed = registry.push_runnable(host, {"bin/busybox": program, **links}, {"etc/passwd": passwd, "mine": b"1"})
    reference = pushed.replace(host, "registry.invalid")
    mirrored = Registries(mirrors={"registry.invalid": (f"http://{host}",)})
    env = tuple(EnvVar(name=f"V{n}", value=word) for n, word in enumerate(ARGUMENTS))
    limits = Resources(memory="32Mi", cpu="500m", tasks=50)
    wanted = item(reference, *ARGUMENTS, env=env, user="nobody", working_dir="/bin", resources=limits)

    nowhere = fetched(tmp_path, command, wanted, Registries())
    assert nowhere.failure is not None
    assert nowhere.failure.reason == "Unreachable"
    assert command.name in nowhere.failure.message, "both give their reason"

    state = fetched(tmp_path, command, wanted, mirrored)
    assert state.failure is None, state.failure
    assert state.digest == reference.rpartition("@")[2]
    assert [path.name for path in (tmp_path / "artifacts").iterdir() if path.name != ".parts"] == []
    backend = ContainerBackend(Owner(DEVICE), tmp_path / "containers", command, options)
    revision = Revision(item=wanted, artifact_path=state.path, artifact_digest=state.digest)
    backend.start(command_of(revision))
    try:
        seen = backend.observe()["uid-1"]
        assert_as_specified(seen, env)
        assert_checked(command, revision)
        shutil.rmtree(tmp_path / "images")  # the agent forgot; what is loaded is found again without a registry
        again = fetched(tmp_path, command, wanted, mirrored)
        assert again.failure is None
        backend.stop("uid-1", grace_seconds=0, force=True)
        until(lambda: not backend.observe()["uid-1"].running, "its end")
        assert backend.observe()["uid-1"].exit_code == 137
    finally:
        backend.remove("uid-1")
        command("rmi", "-f", f"localhost/praetor-image:{reference.rpartition(':')[2]}")


def assert_as_specified(seen: Observed, env: tuple[EnvVar, ...]) -> None:
    assert seen.running
    proc = Path(f"/proc/{seen.pid}")
    words = (proc / "cmdline").read_bytes().split(b"\0")[:-1]
    assert words == [os.fsencode(word) for word in ("/bin/sh", "-c", "sleep 1000; :", *ARGUMENTS)]
    environment = set((proc / "environ").read_bytes().split(b"\0"))
    assert {os.fsencode(f"{each.name}={each.value}") for each in env} | {b"FROM_IMAGE=1"} <= environment
    assert (os.readlink(proc / "cwd").endswith("/bin"), proc.stat().st_uid) == (True, 65534)


def assert_checked(command: Runtime, revision: Revision) -> None:
    prober = Prober()
    check = HealthCheck(exec=ExecProbe(command=("/bin/test", "-e", "/mine")), timeout_seconds=30)
    assert prober.start("uid-1", "h", probe_in(command, DEVICE)(revision, check), 0.0) is None
    found: list[str | None] = []

    def answered() -> bool:
        found.extend(result.problem for result in prober.results(1.0).values())
        return bool(found)

    until(answered, "the probe's answer")
    assert found == [None]
