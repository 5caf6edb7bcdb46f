# SPDX-License-Identifier: Apache-2.0
"""The flight recorder: its files give the same decisions again, and every later change is detected."""

from __future__ import annotations

import json
import math
import os
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, fields
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from controller_testing import START, PlannedDevice, PlannedFleet, deployment, device, process, snapshot
from kube_testing import FakeClock
from praetor_api.kube.objects import Budget, FailureAction, FailurePolicy, LabelSelector, Wave
from praetor_controller.errors import NotRecorded, Unreadable
from praetor_controller.journal.codec import LEFT_OUT, REDACTED, plain, redacted, restored
from praetor_controller.journal.entry import Decision, Written, entry
from praetor_controller.journal.inputs import Reconstruction
from praetor_controller.journal.recorder import RETRY_S, FlightRecorder, tracked
from praetor_controller.journal.replay import Planner, Replayed, replay
from praetor_controller.journal.rotating_file import RotatingFile
from praetor_controller.metrics import Metrics
from praetor_controller.model.actions import Update
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Plan, SharedBudget, Snapshot

NAMES = [f"leaf-{number}" for number in range(8)]
WAVES = (Wave(name="canary", selector=LabelSelector(match_labels={"ring": "0"}), soak_seconds=5), Wave(name="more"))
BUDGETS = (Budget(group_by=("rack",), max_unavailable=1),)


class Run:
    """A random run: a fleet, and the decisions that were made for it."""

    def __init__(self) -> None:
        self.fleet = PlannedFleet([], bad=frozenset({"bad"}), killers=frozenset({"killer"}))
        labels = {name: {"ring": str(number % 3), "rack": f"r{number // 3}"} for number, name in enumerate(NAMES)}
        self.fleet.devices = {name: PlannedDevice(row=device(name, labels=labels[name])) for name in NAMES}
        self.version, self.since = "v1", self.fleet.now
        self.made: list[Decision] = []

    def row(self) -> DeploymentRow:
        policy = FailurePolicy(max_failures=1, action=FailureAction.ROLLBACK)
        return deployment(
            self.version, max_unavailable="30%", waves=WAVES, budgets=BUDGETS, failure_policy=policy,
            min_ready_seconds=3,
        )  # fmt: skip

    def step(self, event: str, name: str) -> None:
        match event:
            case "edit":
                self.version, self.since = name, self.fleet.now
            case "silent":
                self.fleet.disconnect(name)
            case "back":
                self.fleet.reconnect(name)
            case "report":
                for each in self.fleet.devices:
                    self.fleet.report(each)
        given, now = tracked(self.fleet.snapshot(self.row(), self.since)), self.fleet.now
        planned = plan(given, now)
        self.made.append(Decision(now=now, snapshot=given, plan=planned))
        self.fleet.carry_out(planned, self.row())
        self.fleet.now += timedelta(seconds=2, microseconds=137)

    def lines(self) -> list[bytes]:
        written: Written | None = None
        found = []
        for each in self.made:
            heard = {name: frozenset(getattr(each.snapshot, name).found) for name in NAMES_ASKED}
            line, written = entry(written, evolve(each, snapshot=evolve(each.snapshot, **heard)), "1.0")  # type: ignore[arg-type]
            found.append(line)
        return found


NAMES_ASKED = ("taken_names", "leftovers", "occupied")

EVENTS = st.one_of(
    st.tuples(st.just("edit"), st.sampled_from(["v1", "v2", "bad", "killer"])),
    st.tuples(st.sampled_from(["silent", "back"]), st.sampled_from(NAMES)),
    st.tuples(st.just("report"), st.just("")),
)


def run(events: list[tuple[str, str]]) -> Run:
    made = Run()
    for event in [("report", ""), *events]:
        made.step(*event)
    return made


def end(lines: list[bytes], planner: Planner = plan) -> Replayed:
    *_, last = replay(lines, planner)
    return last


A_ROLLOUT = [("report", ""), ("report", ""), ("report", ""), ("edit", "v2"), *[("report", "")] * 8]


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=25))
def test_recorded_decisions_are_planned_again_without_difference(events: list[tuple[str, str]]) -> None:
    lines = run(events).lines()
    done = end(lines)
    assert done.difference is None
    assert done.decisions == len(events) + 1


def without_updates(given: Snapshot, now: datetime) -> Plan:
    planned = plan(given, now)
    return evolve(planned, actions=tuple(each for each in planned.actions if not isinstance(each, Update)))


def without_reasons(given: Snapshot, now: datetime) -> Plan:
    planned = plan(given, now)
    return evolve(planned, reasons={name: each for name, each in planned.reasons.items() if name != "leaf-3"})


def later(given: Snapshot, now: datetime) -> Plan:
    planned = plan(given, now)
    return evolve(planned, recheck_at=now + timedelta(days=1))


@pytest.mark.parametrize(
    ("planner", "device_named", "what"),
    [
        pytest.param(without_updates, "leaf-", "update of tel-leaf-", id="actions"),
        pytest.param(without_reasons, "leaf-3", "reason", id="reasons"),
        pytest.param(later, "", "next check", id="next-check"),
    ],
)
def test_a_planner_that_decides_otherwise_is_detected(planner: Planner, device_named: str, what: str) -> None:
    found = end(run(A_ROLLOUT).lines(), planner).difference
    assert found is not None
    assert found.deployment == "lab/tel"
    assert found.device.startswith(device_named)
    assert what in found.what
    assert found.recorded != found.now


def _drop_action(line: dict[str, Any]) -> None:
    line["decision"]["actions"]["update"].popitem()


def _other_reason(line: dict[str, Any]) -> None:
    changed = line["decision"]["reasons"]["changed"]
    changed["Failing"] = [changed.pop(next(iter(changed)))[0]]


def _other_count(line: dict[str, Any]) -> None:
    line["decision"]["reasons"]["counts"]["Failing"] = 7


def _other_status(line: dict[str, Any]) -> None:
    line["decision"]["status"]["counts"]["ready"] = 99


def _other_process(line: dict[str, Any]) -> None:
    line["change"].setdefault("processes", {})["tel-leaf-0"] = {"spec_hash": "v7"}


def _other_digest(line: dict[str, Any]) -> None:
    line["digest"] = "sha256:0"


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (_drop_action, "update of tel-leaf"),
        (_other_reason, "reason"),
        (_other_count, "reasons counts"),
        (_other_status, "status counts"),
        (_other_process, "digest of the inputs"),
        (_other_digest, "digest of the inputs"),
    ],
)
def test_an_edited_line_is_found(edit: Callable[[dict[str, Any]], None], what: str) -> None:
    lines = run(A_ROLLOUT).lines()
    number = next(number for number, raw in enumerate(lines) if "update" in json.loads(raw)["decision"]["actions"])
    line = json.loads(lines[number])
    edit(line)
    lines[number] = json.dumps(line).encode() + b"\n"
    found = end(lines).difference
    assert found is not None
    assert found.line == number + 1
    assert what in found.what


def test_the_order_of_rows_does_not_matter() -> None:
    given = run(A_ROLLOUT).made[-4].snapshot
    turned = evolve(given, devices=given.devices[::-1], processes=given.processes[::-1])
    heard: dict[str, frozenset[str]] = dict.fromkeys(NAMES_ASKED, frozenset())
    digests = []
    for each in (given, turned):
        line, _ = entry(None, Decision(now=START, snapshot=evolve(each, **heard), plan=Plan()), "1.0")  # type: ignore[arg-type]
        digests.append(json.loads(line)["digest"])
    assert digests[0] == digests[1]


def test_only_what_changed_is_written_again() -> None:
    lines = [json.loads(raw) for raw in run(A_ROLLOUT).lines()]
    assert "whole" in lines[0]
    assert all("change" in line for line in lines[1:])
    assert all(len(line["change"].get("processes", {})) < len(NAMES) for line in lines[-3:])


# what is read


def test_a_truncated_last_line_is_ignored() -> None:
    lines = run(A_ROLLOUT).lines()
    done = end([*lines[:-1], lines[-1][:-40]])
    assert (done.truncated, done.difference, done.decisions) == (True, None, len(lines) - 1)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "holds no decision"),
        ([b"hello\n"], "line 1: is not a decision"),
        ([b"[]\n"], "line 1: is not a decision of a flight recorder: it is not an object"),
        ([b'{"format": 9}\n'], "its format is 9, this program reads 1"),
        ([b'{"format": 1}\n'], "line 1: cannot be understood: 'uid' is missing"),
    ],
)
def test_a_file_that_is_not_a_recording_is_refused(lines: list[bytes], words: str) -> None:
    with pytest.raises(Unreadable, match=words.replace("(", r"\(")):
        list(replay(lines))


def test_a_file_without_whole_inputs_is_refused() -> None:
    with pytest.raises(Unreadable, match="with whole inputs"):
        list(replay(run(A_ROLLOUT).lines()[1:]))


def test_malformed_inputs_are_refused() -> None:
    line = json.loads(run([]).lines()[0])
    line["whole"]["processes"] = {"tel-x": 7}
    with pytest.raises(Unreadable, match="line 1: cannot be understood"):
        list(replay([json.dumps(line).encode() + b"\n"]))


def test_a_malformed_change_of_rows_is_refused() -> None:
    with pytest.raises(NotRecorded, match="devices: must be an object"):
        Reconstruction().change({"devices": [1]})


# what is written


def test_every_field_is_restored() -> None:
    full = process(
        "leaf-1", labels=frozenset({("a", "b")}), annotations=frozenset({("c", "d")}), annotated=True, managed="{}",
        wave="w", min_ready="45", terminating=True, connected=False, fetched=True, in_storm=True, offer_stamp=1.0,
        silent_since=2.0, terminating_since=3.0, grace_s=30.0, finalizers=("x",),
        failure="phase Failed: \ud800", held="no", on_trial=True,
        removal="0123456789",
    )  # fmt: skip
    recorded = {each.name for each in fields(ProcessRow)} - LEFT_OUT[ProcessRow].keys()
    assert plain(full).keys() == recorded
    assert restored(json.loads(json.dumps(plain(full))), ProcessRow) == evolve(full, resource_version="")
    assert restored(plain(evolve(full, owner=None)), ProcessRow).owner is None


def test_budgets_of_other_deployments_are_restored() -> None:
    selector = LabelSelector(match_labels={"role": "leaf"})
    budget = Budget(group_by=("rack",), max_unavailable="50%")
    shared = SharedBudget(owner="edge", selector=selector, budget=budget, sizes={"rack=r1": 4})
    assert restored(json.loads(json.dumps(plain(shared))), SharedBudget) == shared


def test_values_of_the_environment_and_credentials_are_not_written() -> None:
    spec: dict[str, Any] = {
        "artifact": {"url": "https://me:secret@files.example/x"},
        "execution": {
            "command": ["/x"],
            "env": [{"name": "TOKEN", "value": "secret"}, {"name": "EMPTY"}],
            "files": [{"path": "a", "content": "secret"}, {"path": "b", "configMapKeyRef": {"name": "c", "key": "d"}}],
            "user": None,
        },
    }
    written = redacted(spec)
    assert "secret" not in json.dumps(written)
    assert written["execution"]["env"] == [{"name": "TOKEN", "value": REDACTED}, {"name": "EMPTY"}]
    assert written["execution"]["files"] == [{"path": "a", "content": REDACTED}, spec["execution"]["files"][1]]
    assert written["artifact"]["url"] == f"https://{REDACTED}@files.example/x"
    assert redacted({"env": "odd secret"}) == {"env": REDACTED}
    row = project_deployment({"metadata": {"name": "tel"}, "spec": {"selector": {}, "template": {"spec": spec}}})
    line, _ = entry(None, decided(snapshot(row, [], [])), "1.0")
    assert b"secret" not in line


def decided(given: Snapshot) -> Decision:
    return Decision(now=START, snapshot=given, plan=plan(given, START))


def count(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("praetor_controller_recorded_decisions_total", {"result": result}) or 0.0


class Desk:
    """A recorder and its file."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 20, files: int = 3) -> None:
        self.path = folder / "flight.jsonl"
        self.metrics, self.clock = Metrics(), FakeClock()
        file = RotatingFile(self.path, max_bytes=max_bytes, files=files)
        self.recorder = FlightRecorder(file, self.metrics, self.clock)

    def record(self, made: list[Decision]) -> None:
        """Record *made* to the end."""
        with self.recorder:
            for each in made:
                self.recorder.record(each)

    def lines(self, number: int = 0) -> list[bytes]:
        path = self.path if not number else self.path.with_name(f"{self.path.name}.{number}")
        return path.read_bytes().splitlines(keepends=True)


def test_a_recorded_run_is_replayed_from_its_file(tmp_path: Path) -> None:
    desk, made = Desk(tmp_path), run(A_ROLLOUT).made
    desk.record(made)
    assert end(desk.lines()).decisions == len(made) == count(desk.metrics, "written")
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600


def test_each_file_begins_with_whole_inputs_and_keeps_its_size(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_bytes=12_000)
    desk.record(run([*A_ROLLOUT, ("edit", "v3"), *[("report", "")] * 20]).made)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["flight.jsonl", "flight.jsonl.1", "flight.jsonl.2"]
    for number, file in enumerate(files):
        assert file.stat().st_size <= 12_000
        assert end(desk.lines(number)).difference is None


def test_a_decision_that_fits_into_no_file_is_counted_as_lost(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_bytes=100)
    desk.record(run([]).made)
    assert count(desk.metrics, "too_large") == 1


def test_earlier_recordings_are_kept_as_older_files(tmp_path: Path) -> None:
    for _ in range(3):
        Desk(tmp_path, files=2).record(run([]).made)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["flight.jsonl", "flight.jsonl.1"]
    assert end(Desk(tmp_path).lines(1)).difference is None


def test_a_recording_may_be_limited_to_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        Desk(tmp_path, files=1).record(run([]).made)
    assert [file.name for file in tmp_path.iterdir()] == ["flight.jsonl"]


def test_a_missing_folder_is_tried_again_without_harm(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    desk, made = Desk(folder), run(A_ROLLOUT).made
    with desk.recorder:
        desk.recorder.record(made[0])
        until(lambda: count(desk.metrics, "unwritable") == 1)
        folder.mkdir()
        desk.recorder.record(made[1])  # too soon
        until(lambda: count(desk.metrics, "unwritable") == 2)
        desk.clock.oversleep(RETRY_S)
        desk.recorder.record(made[2])
    (line,) = desk.lines()
    assert ("whole" in json.loads(line), json.loads(line)["lost"]) == (True, 2)
    assert end([line]).difference is None


def test_a_file_that_could_not_be_written_is_continued(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "file", max_bytes=1000, files=2)
    file.open()
    file.write(b"first\n")
    file.close()
    with (tmp_path / "file").open("ab") as other:
        other.write(b"half a li")  # as a full disk leaves it
    with pytest.raises(OSError, match="not open"):
        file.write(b"second\n")
    file.open()
    file.write(b"second\n")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"first\nsecond\n"


@pytest.mark.parametrize("made", ["folder", "link", "pipe"])
def test_a_path_that_is_not_a_regular_file_is_left_alone(tmp_path: Path, made: str) -> None:
    desk = Desk(tmp_path)
    if made == "folder":
        desk.path.mkdir()
    elif made == "link":
        desk.path.symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(desk.path)
    desk.record(run([]).made)
    assert count(desk.metrics, "unwritable") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["flight.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_file_is_refused() -> None:
    with pytest.raises(OSError, match="is not a regular file"):
        RotatingFile(Path("/dev/full"), max_bytes=1, files=1).open()


def until(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds; AssertionError when it does not within ten seconds."""
    tick = threading.Event()
    for _ in range(1000):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("did not happen within 10 s")


def test_a_deleted_deployment_begins_again_with_whole_inputs(tmp_path: Path) -> None:
    desk, made = Desk(tmp_path), run(A_ROLLOUT).made
    with desk.recorder:
        desk.recorder.record(made[0])
        desk.recorder.forget("uid-tel")
        desk.recorder.record(made[1])
    assert ["whole" in json.loads(line) for line in desk.lines()] == [True, True]


def test_a_time_that_never_comes_is_recorded(tmp_path: Path) -> None:
    desk, made = Desk(tmp_path), run(A_ROLLOUT).made
    proven = {"older": math.inf, "newer": 5.0}  # an older revision that was rolled out, and no rollout came after it
    desk.record([evolve(each, snapshot=evolve(each.snapshot, proven=proven)) for each in made])
    assert count(desk.metrics, "written") == len(made)
    assert end(desk.lines()).decisions == len(made)


def test_a_snapshot_that_cannot_be_recorded_does_not_stop_the_recorder(tmp_path: Path) -> None:
    desk, made = Desk(tmp_path), run(A_ROLLOUT).made
    odd = evolve(made[0], snapshot=evolve(made[0].snapshot, refusals={"leaf-1": object()}))  # type: ignore[dict-item]
    with capture_logs() as logs:
        desk.record([odd, made[0]])
    assert [log["event"] for log in logs] == ["flight recorder crashed"]
    assert count(desk.metrics, "crashed") == 1
    (line,) = desk.lines()
    assert json.loads(line)["lost"] == 1
    assert end([line]).lost == 1
