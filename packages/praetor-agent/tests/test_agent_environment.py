# SPDX-License-Identifier: Apache-2.0
"""What a process is started with is judged before the old version is stopped for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from praetor_agent.core.environment import fault, lacking
from praetor_agent.core.model import (
    Failure,
    FailureReason,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
)
from praetor_agent.core.reconcile import Decision, Start, reconcile
from praetor_agent.core.report import observations
from praetor_api.keyrefs import ConfigMapKeyRef, SecretKeyRef
from praetor_api.protocol import Desired, DesiredItem, PendingReason
from praetor_api.spec import Backend, DeviceFieldRef, EnvVar, Execution, ProcessSpec, ValueFrom

UID = "uid-1"
PASSWORD = EnvVar(name="PASSWORD", value_from=ValueFrom(secret_key_ref=SecretKeyRef(name="login", key="password")))
RACK = EnvVar(name="RACK", value_from=ValueFrom(device_field_ref=DeviceFieldRef(field_path="metadata.labels['rack']")))
PROXY = EnvVar(
    name="PROXY", value_from=ValueFrom(config_map_key_ref=ConfigMapKeyRef(name="net", key="proxy", optional=True))
)
PLAIN = EnvVar(name="PLAIN", value="x")


def item(
    *env: EnvVar, version: str = "v1", backend: Backend = Backend.PROCESS, given: Any = None, **more: Any
) -> DesiredItem:
    """Return an item with the variables *env*, and the values *given* as a gateway sends them."""
    execution = Execution(backend=backend, env=env, **{"command": ("/bin/sleep",), **more})
    digest = None if given is None else f"sha256:{sorted(given.items())}"
    return DesiredItem(
        uid=UID,
        namespace="net",
        name="fw",
        spec=ProcessSpec(execution=execution),
        spec_hash=version,
        values=given,
        values_hash=digest,
    )


def seen(version: str = "v1", *, running: bool = True, backend: Backend = Backend.PROCESS) -> ObservedDevice:
    found = Observed(uid=UID, backend=backend, spec_hash=version, running=running, handle="h1", exit_code=1)
    return ObservedDevice(boot_id="boot-1", observed={UID: found})


def runs(started: DesiredItem) -> Record:
    return Record(
        uid=UID,
        namespace="net",
        name="fw",
        stage=ProcessStage.RUNNING,
        current=Revision(item=started),
        boot_id="boot-1",
        handle="h1",
        started_at=90.0,
        healthy_since=92.0,
    )


def next_start(wanted: DesiredItem, record: Record, backend: Backend = Backend.PROCESS) -> DesiredItem:
    """Return what is started after the running process of *record* ended while *wanted* is desired."""
    desired, gone = Desired(device_name="leaf-1", items=(wanted,)), seen(running=False, backend=backend)
    ended = reconcile(desired, gone, {UID: record}, 100.0)
    (start,) = reconcile(desired, gone, ended.memory, (ended.wake_at or 0.0) + 1).actions
    assert isinstance(start, Start)
    return start.revision.item


def failure_of(decision: Decision) -> Failure:
    found = decision.memory[UID].failure
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (item(PLAIN), ()),
        (item(PASSWORD, given={"PASSWORD": ""}), ()),
        (item(PASSWORD, PROXY), ("PASSWORD",)),
        (item(PROXY), ()),
        (item(RACK, PASSWORD, given={"RACK": "r1"}), ("PASSWORD",)),
        (item(RACK, PASSWORD, given={}), ("RACK", "PASSWORD")),
        (item(EnvVar(name="X", value_from=ValueFrom())), ("X",)),
    ],
)
def test_a_reference_that_is_not_optional_needs_a_value(of: DesiredItem, names: tuple[str, ...]) -> None:
    assert lacking(of) == names
    words = f"execution.env: the gateway sent no value for {', '.join(names)}; upgrade praetor-gateway"
    assert fault(of) == (words if names else None)


def test_a_version_without_its_values_is_not_started_and_the_old_one_runs_on() -> None:
    held = reconcile(Desired(device_name="leaf-1", items=(item(PASSWORD),)), ObservedDevice(boot_id="b"), {}, 100.0)
    assert (held.actions, failure_of(held).reason) == ((), FailureReason.INVALID_SPEC)
    old, new = item(PLAIN), item(PASSWORD, version="v2")
    desired = Desired(device_name="leaf-1", items=(new,))
    kept = reconcile(desired, seen(), {UID: runs(old)}, 100.0)
    assert kept.actions == ()
    (said,) = observations(desired, kept.memory, seen(), {}, 100.0).values()
    assert said.pending_reason == PendingReason.INVALID_SPEC
    assert said.pending_message == "execution.env: the gateway sent no value for PASSWORD; upgrade praetor-gateway"
    assert next_start(new, runs(old)) == old


def test_a_running_version_keeps_its_values_when_an_older_gateway_sends_none() -> None:
    started, bare = item(PASSWORD, given={"PASSWORD": "one"}), item(PASSWORD)
    desired = Desired(device_name="leaf-1", items=(bare,))
    kept = reconcile(desired, seen(), {UID: runs(started)}, 100.0)
    assert kept.actions == ()
    assert "upgrade praetor-gateway" in failure_of(kept).message
    (said,) = observations(desired, kept.memory, seen(), {}, 100.0).values()
    assert (said.values_outdated, said.pending_reason, said.process_started) == (None, None, True)
    assert next_start(bare, kept.memory[UID]).values == {"PASSWORD": "one"}
    newer = item(PASSWORD, given={"PASSWORD": "two"})
    again = reconcile(Desired(device_name="leaf-1", items=(newer,)), seen(), kept.memory, 101.0)
    assert again.memory[UID].failure is None
    assert next_start(newer, again.memory[UID]).values == {"PASSWORD": "two"}


def test_a_version_that_was_found_running_without_its_values_runs_on_and_is_not_started_without_them() -> None:
    bare, known = item(PASSWORD), item(PASSWORD, given={"PASSWORD": "one"})
    desired = Desired(device_name="leaf-1", items=(bare,))
    found = reconcile(desired, seen(), {}, 100.0)
    assert found.actions == ()
    ended = reconcile(desired, seen(running=False), found.memory, 101.0)
    later = reconcile(desired, seen(running=False), ended.memory, 1000.0)
    assert (later.actions, failure_of(later).reason) == ((), FailureReason.INVALID_SPEC)
    (start,) = reconcile(
        Desired(device_name="leaf-1", items=(known,)), seen(running=False), later.memory, 1001.0
    ).actions
    assert isinstance(start, Start)
    assert start.revision.item.values == {"PASSWORD": "one"}


@pytest.mark.parametrize(
    ("backend", "value", "words"),
    [
        (Backend.SYSTEMD, "x\n", None),
        (Backend.SYSTEMD, "a\tb\x85\u2028", None),
        (Backend.SYSTEMD, "x\r\n", "a carriage return, which systemd does not pass on"),
        (Backend.SYSTEMD, "\x1b[0m", "a control character, which systemd does not pass on"),
        (Backend.SYSTEMD, "\uffff", "what is no character, which systemd does not pass on"),
        (Backend.CONTAINER, "x\n", "a line break, which the env file of a container cannot carry"),
        (Backend.CONTAINER, "x\r", "a carriage return, which the env file of a container cannot carry"),
        (Backend.CONTAINER, "\x1b\t", None),
        (Backend.PROCESS, "x\r\n\x1b\udcff", None),
        (Backend.PROCESS, "\ud800", "what is no character, which no program can be given"),
        (Backend.INITD, "\0", "a NUL character, which no program can be given"),
    ],
)
def test_a_value_that_its_backend_cannot_carry_is_named_and_not_repeated(
    backend: Backend, value: str, words: str | None
) -> None:
    said = fault(item(PASSWORD, backend=backend, given={"PASSWORD": f"hunter2{value}"}))
    remedy = "write it without, or give it as a file (execution.files)"
    assert said == (f"execution.env[PASSWORD] holds {words}; {remedy}" if words else None)


def test_a_value_that_another_was_expanded_into_counts_too() -> None:
    url = EnvVar(name="URL", value="//$(PASSWORD)@h")
    of = item(PASSWORD, url, backend=Backend.CONTAINER, given={"PASSWORD": "x\n"}, expand_variables=True)
    assert (fault(of) or "").startswith("execution.env[PASSWORD]")
    long = item(RACK, expand_variables=True, args=("$(RACK)" * 5,), given={"RACK": "x" * 32768})
    assert (fault(long) or "").startswith("execution.args[0]: is longer than 131071 characters after expansion")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"command": ("/bin/a\n",)}, "execution.command[0] holds a line break"),
        ({"args": ("a", "\x85")}, "execution.args[1] holds a control character"),
        ({"args": ("\u2028",)}, "execution.args[0] holds a control character"),
        ({"working_dir": "/a\t"}, "execution.workingDir holds a control character"),
        ({"user": "a\0"}, "execution.user holds a NUL character"),
    ],
)
def test_words_that_systemd_does_not_pass_on_are_named(more: dict[str, Any], words: str) -> None:
    assert fault(item(backend=Backend.SYSTEMD, **more)) == f"{words}, which systemd does not pass on; write it without"
    if "\0" not in str(more.values()).replace("\\x00", "\0"):
        assert fault(item(backend=Backend.CONTAINER, **more)) is None


def test_a_word_that_no_program_can_have_is_named_for_every_backend() -> None:
    said = "execution.args[0] holds a NUL character, which no program can be given; write it without"
    assert fault(item(backend=Backend.CONTAINER, args=("\0",))) == said


def test_a_name_that_systemd_drops_is_refused_before_the_start() -> None:
    variable = EnvVar(name="a.b", value="x")
    said = "execution.env: systemd accepts no variable named 'a.b'; use letters, digits and '_'"
    assert fault(item(variable, backend=Backend.SYSTEMD)) == said
    assert fault(item(variable)) is None


def test_a_rotated_value_that_cannot_be_carried_is_not_taken_and_the_old_one_starts_again() -> None:
    started = item(PASSWORD, backend=Backend.CONTAINER, given={"PASSWORD": "one"})
    rotated = replace(started, values={"PASSWORD": "two\n"}, values_hash="hmac-sha256:2")
    desired = Desired(device_name="leaf-1", items=(rotated,))
    device = seen(backend=Backend.CONTAINER)
    kept = reconcile(desired, device, {UID: runs(started)}, 100.0)
    assert (kept.actions, failure_of(kept).reason) == ((), FailureReason.INVALID_SPEC)
    (said,) = observations(desired, kept.memory, device, {}, 100.0).values()
    assert said.values_outdated is True
    assert "execution.env[PASSWORD] holds a line break" in (said.error_message or "")
    assert next_start(rotated, kept.memory[UID], Backend.CONTAINER).values == {"PASSWORD": "one"}
