# SPDX-License-Identifier: Apache-2.0
"""A value of a Secret on the device: no definition of a process that others can read has it."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_testing import FakeGateway, item, process_spec, running_agent, until
from praetor_agent.backends.command import Command, command_of, probe_of
from praetor_agent.backends.container import TIMEOUT_SECONDS, ContainerBackend, Runtime
from praetor_agent.backends.initd import Places, render_script
from praetor_agent.backends.protocol import Owner
from praetor_agent.backends.systemd import render_environment, render_unit
from praetor_agent.cli import main
from praetor_agent.core.allowances import Allowances
from praetor_agent.core.model import Failure, Record, Revision
from praetor_agent.core.reconcile import Start
from praetor_agent.errors import BackendError, StartError
from praetor_agent.settings import RunSettings
from praetor_agent.state import JsonFile, Received, State
from praetor_api.protocol import AGENT_FEATURES, Desired, DesiredItem, Observation, read_desired
from praetor_api.spec import ExecProbe, HealthCheck
from praetor_api.values import started_with
from praetor_api.wire import write

MARKER = "hunter2-5up3rs3cr3t"
PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
URL = {"name": "URL", "value": "https://u:$(PASSWORD)@host"}


def given(value: str = MARKER, backend: str = "systemd", digest: str = "hmac-sha256:1") -> DesiredItem:
    spec = {"execution": {"backend": backend, "command": ["/bin/sh"], "env": [PASSWORD, URL], "expandVariables": True}}
    values = {"values": {"PASSWORD": value}, "valuesHash": digest}
    (read,) = read_desired({"deviceName": "leaf-1", "items": [item("agent", spec) | values]}).items
    return read


def command(value: str = MARKER, backend: str = "systemd") -> Command:
    return command_of(Revision(item=given(value, backend)), at_boot=True)


def test_the_agent_says_that_it_keeps_secrets() -> None:
    assert {"references.v1", "secrets.v1"} <= AGENT_FEATURES


def test_a_unit_names_the_file_of_its_environment_which_alone_has_the_secret() -> None:
    made = command()
    assert MARKER not in render_unit(made, Owner("leaf-1", "id"), "/var/lib/praetor-agent/units/a.env")
    assert render_environment(made.env).count(MARKER) == 2
    assert all(MARKER not in word for word in made.argv)


def test_a_script_has_no_secret() -> None:
    places = Places(place="/var/lib/p", shim="/var/lib/shim.py", python="/usr/bin/python3")
    assert MARKER not in render_script(command(backend="initd"), Owner("leaf-1", "id"), places)


@pytest.mark.parametrize("character", ["\0", "\r", "\x1b"])
def test_a_secret_that_cannot_be_a_variable_is_not_repeated_in_the_error(character: str) -> None:
    with pytest.raises(StartError) as raised:
        render_environment(command(MARKER + character).env)
    assert MARKER not in str(raised.value)


class Recording(Runtime):
    """A runtime that keeps what it was told, and the mode and content of the file with the variables."""

    def __init__(self) -> None:
        super().__init__(("podman",))
        self.said: list[str] = []
        self.file: tuple[int, str] = (0, "")

    def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
        self.said += words
        if words[0] == "create":
            path = Path(words[words.index("--env-file") + 1])
            self.file = path.stat().st_mode & 0o777, path.read_text()
            raise BackendError("enough")
        return {"info": "journald", "image": '[{"Id": "sha256:1"}]'}.get(words[0], "")


def test_a_container_gets_a_secret_by_a_file_that_is_gone_after_its_start(tmp_path: Path) -> None:
    place = tmp_path / "image"
    place.write_text("sha256:1 registry.invalid/x@sha256:1")
    runtime = Recording()
    launch = command_of(Revision(artifact_path=str(place), item=given(backend="container")))
    with pytest.raises(StartError):
        ContainerBackend(Owner("leaf-1"), tmp_path / "state", runtime, (), Allowances()).start(launch)
    assert (runtime.file[0], runtime.file[1].count(MARKER)) == (0o600, 2)
    assert not [word for word in runtime.said if MARKER in word]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and MARKER in path.read_text()]


def test_what_holds_a_secret_does_not_show_it() -> None:
    read = given()
    launch = command()
    probe = probe_of(Revision(item=read), HealthCheck(exec=ExecProbe(command=("/bin/true",))))
    body = {"deviceName": "leaf-1", "items": [{"values": {"PASSWORD": MARKER}}]}
    received = Received(etag=None, body=body, desired=Desired(device_name="leaf-1", items=(read,)))
    start = Start(revision=Revision(item=read), at_boot=True)
    record = Record(uid="u", current=Revision(item=read), last_good=Revision(item=read))
    settings = RunSettings(gateway="http://g", device="leaf-1", state_dir=Path("/s"), token=MARKER)
    for held in (
        read,
        launch,
        probe,
        received,
        start,
        record,
        settings,
        started_with(read.spec.execution, read.values),
    ):
        assert MARKER not in repr(held), type(held)
    assert (launch.env["PASSWORD"], probe.env["PASSWORD"]) == (MARKER, MARKER)


def test_a_deleted_process_leaves_no_secret_in_what_the_agent_keeps(tmp_path: Path) -> None:
    state, kept = State(tmp_path), given()
    memory = {kept.uid: Record(uid=kept.uid, current=Revision(item=kept), last_good=Revision(item=kept))}
    state.save_desired("leaf-1", received_of(kept))
    state.save_memory(memory)
    assert files_with_marker(tmp_path) == {"desired.json", "memory.json"}
    state.save_memory({kept.uid: replace(memory[kept.uid], restart_count=1)})
    state.save_desired("leaf-1", received_of(kept, given("public", digest="hmac-sha256:2")))
    assert files_with_marker(tmp_path) == {
        "desired.json", "memory.json", "desired.json.previous", "memory.json.previous",
    }  # fmt: skip
    state.save_desired("leaf-1", received_of())
    state.save_memory({})
    assert files_with_marker(tmp_path) == set()
    for file in ("desired.json", "memory.json"):
        (tmp_path / file).write_text("damaged")
    found = State(tmp_path)
    assert found.load_memory() == {}
    assert found.load_desired("leaf-1") == received_of(), "the version before is the same"


def test_a_replaced_secret_goes_with_the_version_that_had_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.save_desired("leaf-1", received_of(given()))
    State(tmp_path).save_desired("leaf-1", received_of(given("another", digest="hmac-sha256:2")))  # after a restart
    assert files_with_marker(tmp_path) == set()
    assert "another" in (tmp_path / "desired.json.previous").read_text()


def test_what_has_no_secret_is_written_once(tmp_path: Path) -> None:
    state, plain = State(tmp_path), item("a", {"execution": {"backend": "process", "command": ["a"]}})
    for number in range(3):
        body = {"deviceName": "leaf-1", "items": [plain | {"generation": number}]}
        state.save_desired("leaf-1", Received(etag=None, body=body, desired=read_desired(body)))
    before = (tmp_path / "desired.json.previous").read_text()
    assert '"generation":1' in before


def test_a_file_that_cannot_be_read_is_taken_for_one_with_a_secret(tmp_path: Path) -> None:
    (tmp_path / "desired.json.previous").mkdir()
    assert JsonFile(tmp_path / "desired.json").mentions(b"x")


def test_status_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = given(backend="process")
    failure = Failure(reason="StartError", message=f"cannot log in with {MARKER}")
    record = Record(uid=kept.uid, name="agent", current=Revision(item=kept), failure=failure, output_tail=MARKER)
    State(tmp_path).save_desired("leaf-1", received_of(kept))
    State(tmp_path).save_memory({kept.uid: record})
    for output in ("table", "json"):
        main(["status", "--state-dir", str(tmp_path), "-o", output])
        printed = capsys.readouterr().out
        assert "cannot log in with ***" in printed
        assert MARKER not in printed


def received_of(*items: DesiredItem) -> Received:
    body = {"deviceName": "leaf-1", "items": [write(each) for each in items]}
    return Received(etag=None, body=body, desired=read_desired(body))


def files_with_marker(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()}


# $$ is expanded to $
SHOUTING = "ulimit -c 0; echo password $PASSWORD of $URL; cat $PRAETOR_FILES/key; kill -SEGV $$$$"
KEY = {"path": "key", "secretKeyRef": {"name": "login", "key": "key"}, "onChange": "None"}
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n"


def loud(*command: str, **spec: Any) -> dict[str, Any]:
    """Return an item whose program has a secret variable, one that it is expanded into, and a secret file."""
    execution = {"env": [PASSWORD, URL], "files": [KEY], "expandVariables": True}
    content = base64.b64encode(PEM.encode()).decode()
    given = {
        "values": {"PASSWORD": MARKER}, "fileValues": [{"path": "key", "content": content}],
        "valuesHash": "hmac-sha256:1",
    }  # fmt: skip
    return item("loud", process_spec(*command, execution=execution, **spec)) | given


def test_a_process_and_a_probe_that_print_a_secret_as_they_fail_are_reported_without_it(tmp_path: Path) -> None:
    check = {
        "exec": {"command": ["sh", "-c", "echo $PASSWORD is wrong; exit 3"]}, "periodSeconds": 1, "failureThreshold": 1,
    }  # fmt: skip
    probed = loud("sh", "-c", "sleep infinity & wait", healthCheck=check) | {"name": "probed", "uid": "uid-probed"}
    log = tmp_path / "log"
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(loud("sh", "-c", SHOUTING), probed)
        with running_agent(gateway, tmp_path / "state", log=log):
            gateway.wait_for(
                lambda: bool(seen_of(gateway, "loud").output_tail) and bool(seen_of(gateway, "probed").error_message),
                "the crash and the failed probe",
            )
            loudly, probe = seen_of(gateway, "loud"), seen_of(gateway, "probed")
            logs = (tmp_path / "state" / "processes").rglob("log*")
            assert any(MARKER in each.read_text() for each in logs), "the program did print it"
    assert loudly.termination_reason == "Signal:SIGSEGV"
    assert loudly.output_tail == "password *** of https://u:***@host\n***\n"
    assert probe.error_message == "health check failed: exit status 3: *** is wrong"
    assert not [form for form in (MARKER, "MIIEvQIBADANBgkq") if form in str(gateway.history) + log.read_text()]


CRASHING = """
import sys
from praetor_agent.cli import main
from praetor_agent.host import Host

def start(self, action):
    secret = action.revision.item.values["PASSWORD"]
    raise RuntimeError(f"{action!r} {self._command_of(action.revision, at_boot=True)!r} with {secret}")

Host.start = start
main(sys.argv[1:])
"""


def test_an_agent_that_crashes_with_a_secret_at_hand_does_not_log_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(loud("sleep", "100"))
        with running_agent(gateway, tmp_path / "state", program=("-c", CRASHING), log=log):
            until(lambda: "cannot start process" in log.read_text(), "the crash of the start")
    said = log.read_text()
    assert "RuntimeError: Start(" in said
    assert "with ***" in said
    assert MARKER not in said


def seen_of(gateway: FakeGateway, name: str) -> Observation:
    return gateway.observations.get(name) or Observation(name=name)
