# SPDX-License-Identifier: Apache-2.0
"""A value of a Secret on the device: no definition of a process that others can read has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_testing import item
from praetor_agent.backends.command import Command, command_of
from praetor_agent.backends.container import TIMEOUT_SECONDS, ContainerBackend, Runtime
from praetor_agent.backends.initd import Places, render_script
from praetor_agent.backends.protocol import Owner
from praetor_agent.backends.systemd import render_environment, render_unit
from praetor_agent.core.allowances import Allowances
from praetor_agent.core.model import Revision
from praetor_agent.errors import BackendError, StartError
from praetor_api.protocol import AGENT_FEATURES, DesiredItem, read_desired

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


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b"])
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
