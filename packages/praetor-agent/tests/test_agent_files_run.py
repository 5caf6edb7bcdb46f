# SPDX-License-Identifier: Apache-2.0
"""A running agent and real programs that have files: what they find, and what becomes of the files."""

from __future__ import annotations

import base64
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_testing import FakeGateway, item, process_spec, running_agent, until
from praetor_api.protocol import Observation


class Device:
    """A device whose agent may be restarted, and an allowed root on it."""

    def __init__(self, gateway: FakeGateway, place: Path) -> None:
        self.gateway = gateway
        self.state, self.root = place / "state", place / "etc"
        self.root.mkdir()
        self.hold = place / "hold"

    def agent(self) -> Any:
        roots = ("--allow-file-root", "/nonexistent", "--allow-file-root", str(self.root))
        return running_agent(self.gateway, self.state, *roots, "--hold-file", str(self.hold))

    def desire(self, script: str, *files: dict[str, Any], **more: Any) -> str:
        """Have a shell run *script* with *files*; return the hash of its spec."""
        execution = {"args": ["-c", script], "files": list(files), **more}
        wanted = item("a", process_spec("/bin/sh", execution=execution))
        self.gateway.desire(wanted)
        return str(wanted["specHash"])

    def give(self, script: str, *files: dict[str, Any], **contents: str) -> None:
        """Have a shell run *script* with *files* that a gateway sends with *contents* by their paths."""
        wanted = item("a", process_spec("/bin/sh", execution={"args": ["-c", script], "files": list(files)}))
        values = [
            {"path": path, "content": base64.b64encode(said.encode()).decode()} for path, said in contents.items()
        ]
        self.gateway.desire(wanted | {"fileValues": values, "valuesHash": f"hmac-sha256:{sorted(contents.items())}"})

    def seen(self) -> Observation:
        return self.gateway.observations.get("a") or Observation(name="a")

    def await_version(self, version: str) -> Observation:
        """Return what is reported once the spec with the hash *version* runs."""
        self.gateway.wait_for(
            lambda: self.seen().observed_spec_hash == version and self.seen().pid is not None, f"{version} runs"
        )
        return self.seen()

    def await_pending(self, reason: str) -> Observation:
        self.gateway.wait_for(lambda: self.seen().pending_reason == reason, reason)
        return self.seen()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        yield Device(gateway, tmp_path)


def test_a_process_finds_its_files_and_they_go_with_it(device: Device, tmp_path: Path) -> None:
    target, out = device.root / "b.conf", tmp_path / "out"
    files = {"conf/a": "inside ", "a": "", str(target): "outside"}
    script = f'cat "$0" "$PRAETOR_FILES/a" {target} > "$1"; sleep 1000 & wait'
    args = ["-c", script, "$(PRAETOR_FILES)/conf/a", str(out)]
    wanted = [{"path": path, "content": content} for path, content in files.items()]
    with device.agent():
        device.await_version(device.desire("", *wanted, args=args, expandVariables=True))
        until(lambda: out.exists() and out.read_text() == "inside outside", "the program has read its files")
        device.gateway.desire()
        until(lambda: not target.exists(), "the file is removed with the process")
        until(lambda: not [*(device.state / "files").iterdir()], "its own directory too")


def test_a_changed_content_restarts_the_process_and_an_older_file_goes(device: Device) -> None:
    one, two = device.root / "one", device.root / "two"
    with device.agent():
        first = device.await_version(device.desire("sleep 1000 & wait", {"path": str(one), "content": "1"}))
        files = {"path": str(one), "content": "2"}, {"path": str(two), "content": "2"}
        second = device.await_version(device.desire("sleep 1000 & wait", *files))
        assert second.pid != first.pid
        assert (one.read_text(), two.read_text()) == ("2", "2")
        device.await_version(device.desire("sleep 1000 & wait", {"path": str(two), "content": "2"}))
        assert (one.exists(), two.read_text()) == (False, "2")


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        pytest.param("/somewhere/else", "NotAllowed", "start the agent with --allow-file-root /somewhere", id="root"),
        pytest.param("{root}/theirs", "FilesNotWritten", "was not written by praetor-agent; move it away", id="theirs"),
        pytest.param("{root}/no/such", "FilesNotWritten", "is not there; make it first", id="no-directory"),
        pytest.param("../x", "InvalidSpec", "path holds . or ..", id="dots"),
    ],
)
def test_a_version_whose_files_cannot_be_written_leaves_the_old_one_running(
    device: Device, path: str, reason: str, said: str
) -> None:
    (device.root / "theirs").write_text("mine")
    with device.agent():
        old = device.await_version(device.desire("sleep 1000 & wait"))
        device.desire("sleep 1000 & wait", {"path": path.format(root=device.root), "content": "x"})
        held = device.await_pending(reason)
        assert said in (held.pending_message or "")
        assert (held.pid, held.observed_spec_hash) == (old.pid, old.observed_spec_hash)
        assert (device.root / "theirs").read_text() == "mine"
        if reason == "FilesNotWritten" and path.endswith("theirs"):
            (device.root / "theirs").unlink()
            device.gateway.wait_for(lambda: device.seen().pid not in (None, old.pid), "it goes on by itself")


PROGRAM = """
trap 'cat "$PRAETOR_FILES/a" >> {out}' HUP
trap 'echo usr1 >> {out}' USR1
echo started $(cat "$PRAETOR_FILES/a") >> {out}
while :; do sleep 0.05; done
"""


def told(content: str, on_change: str, **more: str) -> dict[str, str]:
    return {"path": "a", "content": f"{content}\n", "onChange": on_change, **more}


def test_a_program_is_told_of_new_contents_by_its_signal_and_runs_on(device: Device, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = PROGRAM.format(out=out)

    def lines() -> list[str]:
        return out.read_text().splitlines() if out.exists() else []

    with device.agent() as agent:
        first = device.await_version(device.desire(script, told("one", "Signal")))
        until(lambda: lines() == ["started one"], "it has started")
        second = device.await_version(device.desire(script, told("two", "Signal")))
        until(lambda: lines() == ["started one", "two"], "it has read the file again")
        assert (second.pid, second.restart_count) == (first.pid, 0)
        device.gateway.wait_for(lambda: device.seen().healthy is True, "the new version is healthy")
        agent.kill()
        agent.wait()
        with device.agent():  # which takes the process over, and back to the old version
            third = device.await_version(device.desire(script, told("one", "Signal")))
            until(lambda: lines() == ["started one", "two", "one"], "it has the old content")
            assert third.pid == first.pid
            fourth = device.await_version(device.desire(script, told("one", "Signal", signal="SIGUSR1")))
            assert fourth.pid != first.pid  # more than a content changed
            until(lambda: lines()[3:] == ["started one"], "it was started again")
            device.await_version(device.desire(script, told("five", "Signal", signal="SIGUSR1")))
            until(lambda: lines()[4:] == ["usr1"], "it gets the other signal")
            fifth = device.await_version(device.desire(script, told("six", "None")))
            sixth = device.await_version(device.desire(script, told("seven", "None")))
            assert sixth.pid == fifth.pid
            assert [path.read_text() for path in (device.state / "files").rglob("a")] == ["seven\n"]
            assert lines()[5:] == ["started six"]


def test_an_edit_is_written_back_and_the_program_told(device: Device, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with device.agent():
        device.await_version(device.desire(PROGRAM.format(out=out), told("ours", "Signal")))
        until(lambda: out.exists() and out.read_text() == "started ours\n", "it has started")
        (edited,) = (device.state / "files").rglob("a")
        edited.write_text("by hand")
        until(lambda: out.read_text() == "started ours\nours\n", "it has read the file again")


def test_a_program_that_dies_of_the_signal_gets_its_old_version_back(device: Device) -> None:
    script = 'read -r word < "$PRAETOR_FILES/a"; [ "$word" = good ] || exit 1; sleep 1000 & wait'
    with device.agent():
        good = device.desire(script, told("good", "Signal"))  # the signal ends it: no trap
        device.await_version(good)
        device.gateway.wait_for(lambda: device.seen().healthy is True, "it is healthy")
        bad = device.desire(script, told("bad", "Signal"))
        device.gateway.wait_for(lambda: device.seen().failed_spec_hash == bad, "the new version was given up")
        seen = device.await_version(good)
        assert seen.rolled_back_reason == "CrashLoop"
        assert [path.read_text() for path in (device.state / "files").rglob("a")] == ["good\n"]


def test_files_outlive_the_agent_and_an_edit_meanwhile_is_written_back(device: Device) -> None:
    kept = device.root / "kept"
    with device.agent() as agent:
        first = device.await_version(device.desire("sleep 1000 & wait", {"path": str(kept), "content": "ours"}))
        agent.kill()
        agent.wait()
        assert kept.read_text() == "ours"
        kept.write_text("edited")
        device.gateway.observations.clear()
        with device.agent():
            until(lambda: kept.read_text() == "ours", "the edit is written back")
            device.gateway.wait_for(lambda: device.seen().drift_count == 1, "and counted")
            assert device.seen().pid == first.pid
            device.gateway.desire()
            until(lambda: not kept.exists(), "the file is removed with the process")


def test_an_edit_on_a_frozen_device_stays_also_when_the_process_is_restarted(device: Device) -> None:
    kept = device.root / "kept"
    with device.agent():
        first = device.await_version(device.desire("sleep 1000 & wait", {"path": str(kept), "content": "ours"}))
        device.hold.touch()
        device.gateway.wait_for(lambda: device.seen().update_held_message is not None, "the device is frozen")
        kept.write_text("to debug")
        os.kill(first.pid or 0, 9)
        device.gateway.wait_for(lambda: device.seen().pid not in (None, first.pid), "it runs again")
        assert kept.read_text() == "to debug"
        device.hold.unlink()
        until(lambda: kept.read_text() == "ours", "the edit is written back once nothing holds it")


def test_an_edit_that_cannot_be_undone_is_reported_and_the_process_runs_on(device: Device) -> None:
    kept = device.root / "kept"
    with device.agent():
        first = device.await_version(device.desire("sleep 1000 & wait", {"path": str(kept), "content": "ours"}))
        kept.unlink()
        kept.mkdir()
        device.gateway.wait_for(lambda: "is a directory" in (device.seen().error_message or ""), "the reason")
        assert device.seen().pid == first.pid
        os.rmdir(kept)
        until(lambda: kept.is_file(), "it is written again")
        device.gateway.wait_for(lambda: device.seen().error_message is None, "the reason is over")


def test_a_program_is_told_of_new_contents_by_reference_and_of_a_file_that_is_gone(
    device: Device, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = f"""
    show() {{ if [ -e "$PRAETOR_FILES/a" ]; then cat "$PRAETOR_FILES/a"; else echo none; fi >> {out}; }}
    trap show HUP; show; while :; do sleep 0.05; done
    """
    ref = {"name": "login", "key": "a", "optional": True}
    secret = {"path": "a", "secretKeyRef": ref, "onChange": "Signal"}
    config = {"path": "b", "configMapKeyRef": {"name": "settings", "key": "b"}}

    def lines() -> list[str]:
        return out.read_text().splitlines() if out.exists() else []

    with device.agent() as agent:
        device.give(script, secret, config, a="one\n", b="x")
        until(lambda: lines() == ["one"], "it has started")
        device.gateway.wait_for(lambda: device.seen().pid is not None, "it runs")
        pid = device.seen().pid
        device.give(script, secret, config, a="two\n", b="y")
        until(lambda: lines() == ["one", "two"], "it was told")
        device.gateway.wait_for(lambda: device.seen().values_outdated is True, "the other file waits for a restart")
        agent.kill()
        agent.wait()
        with device.agent():
            device.give(script, secret, config, b="x")
            until(lambda: lines() == ["one", "two", "none"], "it was told that the file is gone")
            device.gateway.wait_for(lambda: not device.seen().values_outdated, "all that it has is current")
            assert device.seen().drift_count in (None, 0)
            assert device.seen().pid == pid
            kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in device.state.rglob("*") if path.is_file()}
            assert {kept["desired.json"], kept["memory.json"], kept["files.json"]} == {0o600}


def test_new_contents_that_cannot_be_written_are_reported_and_written_once_they_can_be(device: Device) -> None:
    kept = device.root / "kept"
    told = {"path": str(kept), "configMapKeyRef": {"name": "settings", "key": "a"}, "onChange": "None"}
    with device.agent():
        device.give("sleep 1000 & wait", told, **{str(kept): "one"})
        device.gateway.wait_for(lambda: device.seen().pid is not None, "it runs")
        pid = device.seen().pid
        kept.unlink()
        kept.mkdir()
        device.give("sleep 1000 & wait", told, **{str(kept): "two"})
        device.gateway.wait_for(lambda: "is a directory" in (device.seen().error_message or ""), "the reason")
        device.gateway.wait_for(lambda: device.seen().values_outdated is True, "it lacks the new content")
        kept.rmdir()
        until(lambda: kept.is_file() and kept.read_text() == "two", "it is written")
        device.gateway.wait_for(lambda: device.seen().error_message is None, "the reason is over")
        device.gateway.wait_for(lambda: not device.seen().values_outdated, "it has the new content")
        assert device.seen().pid == pid


def test_a_process_that_makes_its_directory_a_loop_of_links_stops_the_supervision_of_no_other(device: Device) -> None:
    place = device.root / "d"
    place.mkdir()
    files = [{"path": str(place / "x"), "content": "ours"}]
    execution = {"args": ["-c", "sleep 1000 & wait"], "files": files}
    wanted = item("a", process_spec("/bin/sh", execution=execution))
    device.gateway.desire(wanted, item("b", process_spec("sleep", "1000")))

    def pid_of(name: str) -> int | None:
        return device.gateway.observations[name].pid if name in device.gateway.observations else None

    with device.agent():
        first = device.await_version(str(wanted["specHash"]))
        device.gateway.wait_for(lambda: pid_of("b") is not None, "the other runs")
        place.rename(device.root / "e")
        place.symlink_to("d")
        words = "Too many levels of symbolic links"
        device.gateway.wait_for(lambda: words in (device.seen().error_message or ""), "the reason")
        other = pid_of("b")
        assert other is not None
        os.kill(other, signal.SIGKILL)
        device.gateway.wait_for(lambda: pid_of("b") not in (None, other), "the other is started again")
        reports = len(device.gateway.reports)
        device.gateway.wait_for(lambda: len(device.gateway.reports) > reports + 1, "the device is heard")
        assert device.seen().pid == first.pid
        place.unlink()
        (device.root / "e").rename(place)
        device.gateway.wait_for(lambda: device.seen().error_message is None, "the reason is over")
