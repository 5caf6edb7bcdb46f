# SPDX-License-Identifier: Apache-2.0
"""Containers on the real podman where it is there, else nothing runs here but what is pure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_testing import FakeClock, until
from praetor_agent import settings
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends import container
from praetor_agent.backends.command import Command, command_of
from praetor_agent.backends.container import (
    ASK_AGAIN_SECONDS,
    TIMEOUT_SECONDS,
    ContainerBackend,
    Runtime,
    check,
    probe_in,
    render_environment,
)
from praetor_agent.backends.images import COLLECT_AGAIN_SECONDS, Images
from praetor_agent.backends.probes import Prober
from praetor_agent.backends.protocol import Owner
from praetor_agent.clock import SystemClock
from praetor_agent.core.allowances import Allowances
from praetor_agent.core.model import ArtifactState, Observed, Revision
from praetor_agent.errors import ArtifactGone, BackendError, StartError, UsageError
from praetor_agent.files.store import FileStore
from praetor_api.annotations import CONTAINER_DEVICE_LABEL, CONTAINER_UID_LABEL
from praetor_api.files import File
from praetor_api.protocol import DesiredItem
from praetor_api.spec import (
    Artifact,
    ArtifactType,
    Backend,
    Capabilities,
    Container,
    ContainerDevice,
    ContainerVolume,
    EnvVar,
    ExecProbe,
    Execution,
    HealthCheck,
    ProcessSpec,
    Resources,
)

COMMAND = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
DEVICE = f"leaf-{os.getpid()}"
OPTIONS = ("--ulimit", "nproc=1000:1000", "--ulimit", "nofile=1024:1024")
BUSYBOX = Path("/bin/busybox")
real = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("podman") is None or shutil.which("runc") is None or not BUSYBOX.exists(),
    reason="needs root, podman, runc and busybox-static",
)
pytestmark = pytest.mark.containers
NASTY = ("", " ", "$HOME", "%n", ";", "a\"b'c\\", "line\nbreak", "é\x1b[0m", "-n", '["x"]', "*", "#", "{{.ID}}")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of busybox made from a folder; its reference by digest."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("bin", "tmp", "etc"):
        (root / folder).mkdir()
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for applet in ("sh", "sleep", "test"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    subprocess.run(("tar", "-C", str(root), "-cf", f"{root}.tar", "."), check=True)
    name = f"localhost/praetor-test-{os.getpid()}"
    subprocess.run((*COMMAND, "import", f"{root}.tar", f"{name}:1"), check=True, capture_output=True)
    shown = json.loads(subprocess.check_output((*COMMAND, "image", "inspect", f"{name}:1")))[0]
    yield f"{name}@{shown['Digest']}"
    subprocess.run((*COMMAND, "rmi", "-f", f"{name}:1"), check=False, capture_output=True)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ContainerBackend]:
    backend = ContainerBackend(Owner(DEVICE), tmp_path / "containers", Runtime(COMMAND), OPTIONS)
    yield backend
    for uid in backend.observe():
        backend.stop(uid, grace_seconds=0, force=True)
        backend.remove(uid)


def item(image: str, *command: str, uid: str = "uid-1", **execution: object) -> DesiredItem:
    spec = ProcessSpec(
        artifact=Artifact(type=ArtifactType.OCI, url=image),
        execution=Execution(backend=Backend.CONTAINER, command=command, **execution),  # type: ignore[arg-type]
    )
    return DesiredItem(uid=uid, namespace="net", name="fw", spec=spec, spec_hash="v1")


def wake() -> None:
    """Return at once."""


def fetched(tmp_path: Path, wanted: DesiredItem) -> Revision:
    images = Images(Runtime(COMMAND), tmp_path / "images", ArtifactStore(tmp_path / "a"), {}, SystemClock(), wake)
    images.want(wanted, 0.0)
    until(lambda: wanted.spec_hash in images.states(), "the image")
    state = images.states()[wanted.spec_hash]
    assert state.failure is None, state.failure
    return Revision(item=wanted, artifact_path=state.path, artifact_digest=state.digest)


def run(backend: ContainerBackend, tmp_path: Path, wanted: DesiredItem) -> Command:
    launch = command_of(fetched(tmp_path, wanted))
    backend.start(launch)
    return launch


def ended(backend: ContainerBackend) -> Observed:
    until(lambda: not backend.observe()["uid-1"].running, "its end")
    return backend.observe()["uid-1"]


@real
def test_arguments_variables_user_and_directory_reach_the_process_byte_for_byte(
    backend: ContainerBackend, tmp_path: Path, image: str
) -> None:
    env = tuple(EnvVar(name=f"V{n}", value=value) for n, value in enumerate(NASTY) if "\n" not in value)
    wanted = item(
        image, "/bin/sh", "-c", "sleep 1000; :", args=NASTY, env=env, working_dir="/tmp", user="nobody",
        resources=Resources(memory="32Mi", cpu="500m", tasks=50),
    )  # fmt: skip
    run(backend, tmp_path, wanted)
    seen = backend.observe()["uid-1"]
    assert (seen.running, seen.spec_hash) == (True, "v1")
    proc = Path(f"/proc/{seen.pid}")
    words = (proc / "cmdline").read_bytes().split(b"\0")[:-1]
    assert words == [os.fsencode(word) for word in ("/bin/sh", "-c", "sleep 1000; :", *NASTY)]
    reported = set((proc / "environ").read_bytes().split(b"\0"))
    assert {os.fsencode(f"{each.name}={each.value}") for each in env} <= reported
    assert os.readlink(proc / "cwd").endswith("/tmp")
    assert proc.stat().st_uid == 65534
    groups = dict(line.split(":")[1:] for line in (proc / "cgroup").read_text().splitlines())
    if "memory" in groups:  # control groups of version 1
        assert Path(f"/sys/fs/cgroup/memory{groups['memory']}/memory.limit_in_bytes").read_text() == f"{32 * 2**20}\n"
        assert Path(f"/sys/fs/cgroup/pids{groups['pids']}/pids.max").read_text() == "50\n"
        assert Path(f"/sys/fs/cgroup/cpu{groups['cpu']}/cpu.cfs_quota_us").read_text() == "50000\n"
    assert not list((tmp_path / "containers").glob("*.env")), "the environment stays on no disk"


@real
@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$", 137, "Signal:SIGKILL")],
)
def test_how_it_ended_is_reported(
    backend: ContainerBackend, tmp_path: Path, image: str, script: str, code: int, reason: str
) -> None:
    # the first process of a container ignores signals of its own, so a child's end is passed on
    run(backend, tmp_path, item(image, "/bin/sh", "-c", f"echo out; sh -c '{script}'; exit $?"))
    seen = ended(backend)
    assert (seen.exit_code, seen.termination_reason) == (code, reason)
    assert "out" in backend.tail("uid-1", 100)


@real
def test_a_stop_a_second_start_and_a_removal(backend: ContainerBackend, tmp_path: Path, image: str) -> None:
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 1; done"
    launch = run(backend, tmp_path, item(image, "/bin/sh", "-c", script))
    first = backend.observe()["uid-1"]
    until(lambda: "ready" in backend.tail("uid-1", 100), "the shell's trap")  # before it the kernel ignores the signal
    backend.stop("uid-1", grace_seconds=5, force=False)
    assert ended(backend).exit_code == 0
    backend.start(launch)
    second = backend.observe()["uid-1"]
    assert second.running
    assert second.handle != first.handle
    backend.stop("uid-1", grace_seconds=0, force=True)
    assert ended(backend).exit_code == 137
    backend.remove("uid-1")
    assert backend.observe() == {}


@real
def test_another_agent_sees_it_and_another_device_does_not_unless_it_is_this_one_renamed(
    tmp_path: Path, image: str
) -> None:
    def backend(device: str, installation: str) -> ContainerBackend:
        return ContainerBackend(Owner(device, installation), tmp_path / "containers", Runtime(COMMAND), OPTIONS)

    own = backend(DEVICE, DEVICE + "-i")
    run(own, tmp_path, item(image, "/bin/sleep", "1000"))
    try:
        assert backend(DEVICE, DEVICE + "-i").observe() == own.observe()
        other = backend("other", "i2")
        assert other.observe() == {}
        other.stop("uid-1", grace_seconds=0, force=True)
        other.remove("uid-1")
        assert own.observe()["uid-1"].running
        renamed, lost = backend("other", DEVICE + "-i").observe()["uid-1"], backend(DEVICE, "i2").observe()["uid-1"]
        assert (renamed.renamed, renamed.unknown, lost.renamed, lost.unknown) == (True, False, False, True)
        assert lost.mark.endswith(f"of {DEVICE}")
    finally:
        own.stop("uid-1", grace_seconds=0, force=True)
        own.remove("uid-1")


@real
def test_a_program_missing_from_the_image_is_reported_and_leaves_nothing(
    backend: ContainerBackend, tmp_path: Path, image: str
) -> None:
    with pytest.raises(StartError, match="no such file"):
        run(backend, tmp_path, item(image, "/no/such"))
    assert backend.observe() == {}


def answered(prober: Prober, problem: str | None) -> bool:
    results = prober.results(1.0)
    if not results:
        return False
    assert results["uid-1"].problem == problem
    return True


@real
def test_probes_run_inside_the_container(backend: ContainerBackend, tmp_path: Path, image: str) -> None:
    revision = fetched(tmp_path, item(image, "/bin/sleep", "1000"))
    backend.start(command_of(revision))
    prober = Prober()
    for command, problem in (
        (("/bin/test", "-e", "/bin/busybox"), None),
        (("/bin/test", "-e", "/usr"), "exit status 1"),
    ):
        check = HealthCheck(exec=ExecProbe(command=command), timeout_seconds=30)
        assert prober.start("uid-1", "h", probe_in(Runtime(COMMAND), DEVICE)(revision, check), 0.0) is None
        until(lambda problem=problem: answered(prober, problem), "the probe's answer")  # type: ignore[misc]


@real
def test_an_archive_is_loaded_where_no_registry_is(tmp_path: Path, image: str) -> None:
    digest = image.rpartition("@sha256:")[2]
    (tmp_path / "images").mkdir()
    archive = tmp_path / "images" / f"{digest}.tar"
    name = image.partition("@")[0] + ":1"
    subprocess.run((*COMMAND, "save", "--format", "oci-archive", "-o", str(archive), name), check=True)
    wanted = item(f"registry.invalid/elsewhere@sha256:{digest}", "/bin/sleep", "1000")
    revision = fetched(tmp_path, wanted)
    assert revision.artifact_digest == f"sha256:{digest}"


def small_image(place: Path, text: str) -> tuple[str, str]:
    """Save an image that holds *text* as an archive for the agent, and nowhere else; return reference and digest."""
    (place / "root").mkdir(exist_ok=True)
    (place / "root" / "text").write_text(text)
    name = f"localhost/praetor-test-{os.getpid()}-{text}:1"
    subprocess.run(("tar", "-C", str(place / "root"), "-cf", f"{place}/root.tar", "."), check=True)
    subprocess.run((*COMMAND, "import", f"{place}/root.tar", name), check=True, capture_output=True)
    (place / "images").mkdir(exist_ok=True)
    saved = place / "saved.tar"
    save = (*COMMAND, "save", "--format", "oci-archive", "-o", str(saved), name)
    subprocess.run(save, check=True, capture_output=True)
    subprocess.run((*COMMAND, "rmi", "-f", name), check=True, capture_output=True)
    digest = str(
        json.loads(subprocess.check_output(("tar", "-xOf", str(saved), "index.json")))["manifests"][0]["digest"]
    )
    saved.rename(place / "images" / f"{digest.removeprefix('sha256:')}.tar")
    return f"registry.invalid/{text}@{digest}", digest.removeprefix("sha256:")


@real
def test_an_image_is_removed_once_it_is_neither_current_nor_last_good_and_counts_until_then(
    tmp_path: Path, image: str
) -> None:
    runtime, clock = Runtime(COMMAND), FakeClock()
    store = ArtifactStore(tmp_path / "a", images=tmp_path / "images")
    images = Images(runtime, tmp_path / "images", store, {}, clock, wake)
    (old, old_name), (new, _), theirs = small_image(tmp_path, "old"), small_image(tmp_path, "new"), image
    first, second, third = (replace(item(url), spec_hash=f"v{n}") for n, url in enumerate((old, new, theirs)))

    def ready(wanted: DesiredItem) -> str:
        images.want(wanted, clock.now())
        until(lambda: images.states().get(wanted.spec_hash, ArtifactState()).path is not None, "the image")
        return Path(images.states()[wanted.spec_hash].path or "").read_text().split()[0]

    images.keep((first, second, third))
    ids = [ready(each) for each in (first, second, third)]
    assert store.used_bytes() > 0
    images.keep((second, third))  # the new one is current, and another is last good
    until(lambda: not (tmp_path / "images" / f"{old_name}.size").exists(), "the removal")
    with pytest.raises(BackendError):
        runtime.image_id(ids[0])
    assert runtime.image_id(ids[1])
    images.keep(())
    until(lambda: store.used_bytes() == 0, "the removal of all")
    with pytest.raises(BackendError):
        runtime.image_id(ids[1])
    assert runtime.image_id(ids[2])  # it was there before


@real
def test_an_image_that_has_no_room_in_the_store_is_refused_and_removed_again(tmp_path: Path) -> None:
    url, _ = small_image(tmp_path, "large")
    store = ArtifactStore(tmp_path / "a", max_bytes=10, images=tmp_path / "images")
    images = Images(Runtime(COMMAND), tmp_path / "images", store, {}, SystemClock(), wake)
    images.want(item(url), 0.0)
    until(lambda: "v1" in images.states(), "the failure")
    failure = images.states()["v1"].failure
    assert failure is not None
    assert (failure.reason, "--artifact-store-size" in failure.message) == ("TooLarge", True)
    assert store.used_bytes() == 0


@pytest.mark.parametrize("lost", [False, True], ids=["in-use", "lost"])
def test_an_image_that_the_runtime_does_not_remove_is_tried_again_later(tmp_path: Path, lost: bool) -> None:
    clock, asked = FakeClock(), []

    class Keeps(Runtime):
        def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
            if words[0] == "image":
                return '[{"Id": "sha256:1"}]'
            asked.append(words)
            if lost:
                return ""
            raise BackendError("image is in use")

    (tmp_path / "abc.size").write_text("5 sha256:1")
    images = Images(Keeps(("docker",)), tmp_path, ArtifactStore(tmp_path / "a"), {}, clock, wake)
    images.keep(())
    until(lambda: asked == [("rmi", "sha256:1")], "the attempt")
    clock.seconds += COLLECT_AGAIN_SECONDS

    def again() -> bool:
        images.keep(())
        return len(asked) == 2

    until(again, "another attempt")
    assert (tmp_path / "abc.size").exists()


@real
def test_an_image_that_cannot_be_pulled_is_reported_and_retried_later(tmp_path: Path) -> None:
    wanted = item(f"registry.invalid/x@sha256:{'0' * 64}", "/bin/sleep")
    images = Images(Runtime(COMMAND), tmp_path / "images", ArtifactStore(tmp_path / "a"), {}, SystemClock(), wake)
    images.want(wanted, 0.0)
    until(lambda: "v1" in images.states(), "the failure")
    failure = images.states()["v1"].failure
    assert failure is not None
    assert "registry.invalid" in failure.message
    assert (images.next_at(0.0) or 0) > 0


@real
def test_the_output_of_a_container_is_bounded_and_shown(
    backend: ContainerBackend, tmp_path: Path, image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = item(image, "/bin/sh", "-c", "/bin/busybox yes | /bin/busybox head -c 20000000; echo done")
    backend.start(command_of(fetched(tmp_path, wanted)))
    until(lambda: not backend.observe()["uid-1"].running, "the end")
    shown = json.loads(subprocess.check_output((*COMMAND, "ps", "-aq", "--format", "json")))
    paths = [
        json.loads(subprocess.check_output((*COMMAND, "inspect", one["Id"])))[0]["HostConfig"]["LogConfig"]["Path"]
        for one in shown
        if one["Labels"].get(CONTAINER_DEVICE_LABEL) == DEVICE
    ]
    assert [Path(path).stat().st_size <= 10_000_000 for path in paths] == [True]
    assert backend.tail("uid-1", 5) == "done\n"
    backend.show("uid-1", None, lambda: True)
    assert capfd.readouterr().out.endswith("done\n")


@pytest.mark.parametrize(
    ("runtime", "options", "driver", "words"),
    [
        pytest.param("docker", (), "json-file", ("--log-opt", "max-size=5m", "--log-opt", "max-file=2"), id="docker"),
        pytest.param("podman", (), "k8s-file", ("--log-opt", "max-size=10mb"), id="podman"),
        pytest.param("docker", (), "journald", (), id="bounded-by-itself"),
        pytest.param("docker", ("--log-driver=syslog",), "json-file", (), id="chosen-by-the-user"),
    ],
)
def test_the_output_is_bounded_by_the_log_driver_unless_the_user_chose_one(
    tmp_path: Path, runtime: str, options: tuple[str, ...], driver: str, words: tuple[str, ...]
) -> None:
    place = tmp_path / "image"
    place.write_text("sha256:1 registry.invalid/x@sha256:1")
    recording = Recording((runtime,))
    recording.driver = driver
    launch = command_of(Revision(artifact_path=str(place), item=item("x@sha256:1", "/bin/a")))
    with pytest.raises(StartError, match="enough"):
        ContainerBackend(Owner(DEVICE), tmp_path, recording, options).start(launch)
    at = [index for index, word in enumerate(recording.created) if word == "--log-opt"]
    assert tuple(word for index in at for word in recording.created[index : index + 2]) == words


def test_a_removed_image_is_fetched_beside_the_supervision_not_pulled_in_it(tmp_path: Path) -> None:
    called: list[str] = []

    class WithoutImages(Runtime):
        def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
            called.append(words[0])
            if words[0] in ("ps", "rm"):
                return ""
            raise BackendError(f"{words[0]}: no such image")

    place = tmp_path / "image"
    place.write_text("sha256:1 registry.invalid/x@sha256:1")
    launch = command_of(Revision(artifact_path=str(place), item=item("x@sha256:1", "/bin/a")))
    with pytest.raises(ArtifactGone, match="is gone"):
        ContainerBackend(Owner(DEVICE), tmp_path, WithoutImages(("docker",))).start(launch)
    assert "pull" not in called
    assert not place.exists()


@given(st.dictionaries(st.from_regex(r"[-._a-zA-Z][-._a-zA-Z0-9]*", fullmatch=True), TEXT, max_size=6))
def test_variables_come_out_of_an_env_file_as_they_went_in(env: dict[str, str]) -> None:
    lines = render_environment(env).split("\n")[:-1]
    assert dict(line.split("=", 1) for line in lines) == env


@pytest.mark.parametrize(
    ("value", "what"), [("a\nB=1", "a line break"), ("a\r", "a carriage return"), ("\n", "a line break")]
)
def test_a_variable_that_a_line_cannot_carry_is_refused(value: str, what: str) -> None:
    with pytest.raises(StartError, match=rf"env\[A\] holds {what}, which the env file of a container cannot carry"):
        render_environment({"A": value})


class Recording(Runtime):
    """A runtime that keeps what it was told to create, and creates nothing."""

    created: tuple[str, ...] = ()
    driver = "journald"

    def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
        if words[0] == "create":
            self.created = words
            raise BackendError("enough")
        return {"info": self.driver, "image": '[{"Id": "sha256:1"}]'}.get(words[0], "")


def created_with(tmp_path: Path, allowances: Allowances, container: Container | None, files: str = "") -> str:
    """Return what the runtime was told of the container's network, and of all that it is given."""
    place = tmp_path / "image"
    place.write_text("sha256:1 registry.invalid/x@sha256:1")
    recording = Recording(("podman",))
    revision = Revision(artifact_path=str(place), item=item("x@sha256:1", "/bin/a", container=container))
    launch = command_of(revision, files=files)
    with pytest.raises(StartError) as refused:
        ContainerBackend(Owner(DEVICE), tmp_path, recording, (), allowances).start(launch)
    if not recording.created:
        return str(refused.value)
    words = list(recording.created)
    at, until = words.index("--network"), words.index("--entrypoint")
    return " ".join([*words[at : at + 2], *words[words.index("--env-file") + 2 : until]])


def test_a_container_gets_what_it_asks_for_where_the_device_allows_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "app").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    allowances = settings.allowances_of(
        f"{tmp_path}/alias/", "/dev/null,/dev/zero", "net_admin,CAP_SYS_TIME", "lab", "true"
    )
    container = Container(
        volumes=(
            ContainerVolume(host_path=f"{tmp_path}/alias/app", mount_path="/app", read_only=True),
            ContainerVolume(host_path=f"{tmp_path}/alias", mount_path="/data"),
        ),
        devices=(
            ContainerDevice(host_path="/dev/null"),
            ContainerDevice(host_path="/dev/zero", mount_path="/dev/z", permissions="rwm"),
        ),
        capabilities=Capabilities(add=("NET_ADMIN", "SYS_TIME"), drop=("ALL",)),
        network="lab",
        privileged=True,
    )
    assert created_with(tmp_path, allowances, container) == (
        f"--network lab --mount type=bind,src={tmp_path}/data/app,dst=/app,readonly "
        f"--mount type=bind,src={tmp_path}/data,dst=/data "
        "--device /dev/null:/dev/null:rw --device /dev/zero:/dev/z:rwm "
        "--cap-add NET_ADMIN --cap-add SYS_TIME --cap-drop ALL --privileged"
    )


@pytest.mark.parametrize("container", [None, Container()])
def test_a_container_gets_the_hosts_network_and_nothing_else_by_default(
    tmp_path: Path, container: Container | None
) -> None:
    assert created_with(tmp_path, Allowances(), container) == "--network host"


def test_a_container_sees_the_files_of_its_process_and_cannot_write_them(tmp_path: Path) -> None:
    said = created_with(tmp_path, Allowances(), None, files="/var/lib/agent/files/1")
    assert said == ("--network host --mount type=bind,src=/var/lib/agent/files/1,dst=/run/praetor/files,readonly")
    revision = Revision(artifact_path=str(tmp_path / "image"), item=item("x@sha256:1", "/bin/a"))
    assert command_of(revision, files="/var/lib/agent/files/1").env["PRAETOR_FILES"] == "/run/praetor/files"
    assert "PRAETOR_FILES" not in command_of(revision).env


@real
def test_a_file_that_is_replaced_is_seen_inside_the_container(
    backend: ContainerBackend, tmp_path: Path, image: str
) -> None:
    files = FileStore(tmp_path / "files", tmp_path / "files.json")
    script = (
        'if (echo three > "$PRAETOR_FILES/a"); then exit 3; fi; '
        'while :; do read -r line < "$PRAETOR_FILES/a"; [ "$line" = one ] || exit 7; sleep 0.05; done'
    )
    for content in ("one\n", "two\n"):
        wanted = item(image, "/bin/sh", "-c", script, files=(File(path="a", content=content),))
        files.write(wanted)
        if content == "one\n":
            backend.start(command_of(fetched(tmp_path, wanted), files=files.directory_of(wanted)))
            assert backend.observe()["uid-1"].running
    assert ended(backend).exit_code == 7


def test_less_than_the_default_needs_no_flag(tmp_path: Path) -> None:
    container = Container(network="none", capabilities=Capabilities(drop=("ALL",)))
    assert created_with(tmp_path, Allowances(), container) == "--network none --cap-drop ALL"


def test_a_path_that_leads_out_of_what_is_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    (tmp_path / "data" / "odd").symlink_to(tmp_path / "data" / "a,b")
    (tmp_path / "data" / "a,b").touch()
    allowances = Allowances(volumes=(f"{tmp_path}/data",))
    for name, words in (
        ("out", "'/etc' is not allowed on this device; leave it out, or start the agent with --allow-volumes /etc"),
        ("none", "cannot be used: No such file or directory"),
        ("odd", "a,b', which no runtime takes"),
        ("../other", "is not allowed on this device"),
    ):
        volume = ContainerVolume(host_path=f"{tmp_path}/data/{name}", mount_path="/x")
        said = created_with(tmp_path, allowances, Container(volumes=(volume,)))
        assert said.startswith("spec.execution.container.volumes[0].hostPath: ")
        assert words in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("app", None, None, None, "false"), "--allow-volumes 'app' is not an absolute path"),
        ((None, "/dev/a,b", None, None, "false"), "--allow-devices 'b' is not an absolute path"),
        ((None, None, None, None, "yes"), "--allow-privileged 'yes' is invalid; write true or false"),
    ],
)
def test_a_flag_that_allows_nothing_that_exists_is_refused(
    flags: tuple[str | None, str | None, str | None, str | None, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        settings.allowances_of(*flags)


def test_a_container_that_is_not_what_was_asked_for_is_never_started(tmp_path: Path) -> None:
    launch = command_of(
        Revision(
            artifact_path="/i", item=item("x@sha256:1", "/bin/a", "b", args=("c",), env=(EnvVar(name="A", value="1"),))
        )
    )
    assert (launch.argv, launch.entrypoint, launch.working_dir, launch.env) == (("/bin/a", "b", "c"), 2, "", {"A": "1"})
    right = {"Config": {"Entrypoint": ["/bin/a"], "Cmd": ["b", "c"], "Env": ["A=1", "TERM=x"]}}
    check(launch, right)
    for name, value in (("Cmd", ["b"]), ("Env", ["A='1'"])):
        with pytest.raises(StartError, match="container runtime"):
            check(launch, {"Config": {**right["Config"], name: value}})


def test_without_a_command_the_images_entrypoint_gets_the_arguments(tmp_path: Path) -> None:
    launch = command_of(Revision(artifact_path="/i", item=item("x@sha256:1", args=("--peers", "all"))))
    assert (launch.argv, launch.entrypoint) == (("--peers", "all"), 0)
    check(launch, {"Config": {"Entrypoint": ["/bgp"], "Cmd": ["--peers", "all"], "Env": []}})


@pytest.mark.parametrize("reported", ["/no/such/runtime", "podman 'x"])
def test_a_runtime_that_cannot_be_used_is_refused_naming_the_flag(reported: str) -> None:
    with pytest.raises(UsageError, match="--container-runtime"):
        settings.container_runtime_of(reported)


def test_a_runtime_may_have_flags_of_its_own() -> None:
    assert settings.container_runtime_of("sh -x 'a b'") == (shutil.which("sh"), "-x", "a b")


class HungRuntime(Runtime):
    """A runtime whose daemon never answers while it *hangs*, on a clock that advances by the time waited for it."""

    def __init__(self) -> None:
        super().__init__(("docker",))
        self.seconds, self.calls, self.patience, self.hangs = 1000.0, 0, float(TIMEOUT_SECONDS), True
        self.pauses: list[float] = []
        self._left = self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
        self.calls += 1
        self.pauses.append(self.seconds - self._left)
        self.seconds += self.patience if self.hangs else 0.0
        self._left = self.seconds
        if not self.hangs:
            return ""
        raise BackendError(f"docker {words[0]}: timed out")


def observe_until(calls: int, backend: ContainerBackend, runtime: HungRuntime) -> None:
    """Observe every second until the runtime was called that often."""
    while runtime.calls < calls:
        with suppress(BackendError):
            backend.observe()
        runtime.seconds += 1


@pytest.mark.parametrize(
    ("patience", "pauses"),
    [
        pytest.param(TIMEOUT_SECONDS, [TIMEOUT_SECONDS, 10 * TIMEOUT_SECONDS, 10 * TIMEOUT_SECONDS], id="hangs"),
        pytest.param(0.0, [ASK_AGAIN_SECONDS] * 3, id="fails-at-once"),
    ],
)
def test_a_runtime_that_keeps_hanging_is_left_alone_for_ten_times_as_long_as_it_delayed_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float, pauses: list[float]
) -> None:
    runtime = HungRuntime()
    runtime.patience = patience
    monkeypatch.setattr(container, "time", runtime)
    observe_until(4, ContainerBackend(Owner(DEVICE), tmp_path, runtime), runtime)
    assert runtime.pauses[1:] == pauses


def test_a_runtime_that_was_slow_once_is_believed_again_soon_and_one_answer_ends_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = HungRuntime()
    monkeypatch.setattr(container, "time", runtime)
    backend = ContainerBackend(Owner(DEVICE), tmp_path, runtime)
    observe_until(1, backend, runtime)
    with pytest.raises(BackendError, match="timed out"):
        backend.observe()
    runtime.hangs = False
    observe_until(2, backend, runtime)
    assert backend.observe() == {}
    runtime.hangs = True
    observe_until(4, backend, runtime)
    assert runtime.pauses[1:] == [TIMEOUT_SECONDS, container.OBSERVE_SECONDS, TIMEOUT_SECONDS]


def test_a_runtime_that_hangs_is_not_asked_more_often_for_a_container_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(("/bin/sleep", "1000"))
    labels = {CONTAINER_UID_LABEL: "uid-1", CONTAINER_DEVICE_LABEL: DEVICE}
    shown = [{"Id": "c", "State": {"Running": True, "Pid": process.pid}, "Config": {"Labels": labels}}]

    class Answering(HungRuntime):
        def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
            if process.returncode is None:
                return "c" if words[0] == "ps" else json.dumps(shown)
            return super().__call__(*words)

    runtime = Answering()
    monkeypatch.setattr(container, "time", runtime)
    backend = ContainerBackend(Owner(DEVICE), tmp_path, runtime)
    assert backend.observe()["uid-1"].running
    process.kill()
    process.wait()
    for _ in range(3):
        with pytest.raises(BackendError, match="timed out"):
            backend.observe()
    assert runtime.calls == 1
