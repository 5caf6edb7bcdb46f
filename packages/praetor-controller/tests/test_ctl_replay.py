# SPDX-License-Identifier: Apache-2.0
"""`praetorctl replay`: what users and scripts read about a recording."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from controller_testing import PlannedFleet, deployment
from ctl_testing import Lab
from praetor_controller.ctl.commands import replay as command
from praetor_controller.journal.entry import Decision, Written, entry
from praetor_controller.rollout.planner import plan


@pytest.fixture
def lines() -> list[bytes]:
    """Return a recorded rollout of three devices."""
    fleet, row = PlannedFleet(["leaf-1", "leaf-2", "leaf-3"]), deployment()
    written: Written | None = None
    found = []
    for _ in range(4):
        given = fleet.snapshot(row, fleet.now)
        planned = plan(given, fleet.now)
        line, written = entry(written, Decision(now=fleet.now, snapshot=given, plan=planned), "0.0.9")
        found.append(line)
        fleet.carry_out(planned, row)
        for name in fleet.devices:
            fleet.report(name)
        fleet.now += timedelta(seconds=5)
    return found


def written_to(folder: Path, lines: list[bytes]) -> str:
    path = folder / "flight.jsonl"
    path.write_bytes(b"".join(lines))
    return str(path)


def edited(lines: list[bytes]) -> list[bytes]:
    line = json.loads(lines[0])
    line["decision"]["actions"]["create"]["tel-leaf-2"]["revision"] = "other"
    return [json.dumps(line).encode() + b"\n", *lines[1:]]


def test_a_recording_without_a_difference(tmp_path: Path, lines: list[bytes]) -> None:
    result = Lab().run("replay", written_to(tmp_path, lines))
    assert (result.exit_code, result.stdout) == (0, "same: 4 decisions of lab/tel are as they were recorded\n")


def test_the_first_difference_is_described(tmp_path: Path, lines: list[bytes]) -> None:
    result = Lab().run("replay", written_to(tmp_path, edited(lines)))
    assert result.exit_code == 1
    first, *rest = result.stdout.splitlines()
    assert first.endswith("flight.jsonl, line 1, the last of 1 decision of lab/tel")
    assert "    device:     leaf-2" in rest
    assert '"revision": "other"}   (by version 0.0.9)' in result.stdout


def test_programs_read_it_as_json_and_yaml(tmp_path: Path, lines: list[bytes]) -> None:
    file = written_to(tmp_path, edited(lines))
    data = json.loads(Lab().run("replay", file, "-o", "json").stdout)
    assert data == yaml.safe_load(Lab().run("replay", file, "-o", "yaml").stdout)
    assert (data["same"], data["difference"]["line"], data["difference"]["device"]) == (False, 1, "leaf-2")


def test_a_cut_off_line_and_lost_ones_are_noted(tmp_path: Path, lines: list[bytes]) -> None:
    orphan = json.loads(lines[1]) | {"uid": "other"}
    lost = json.loads(lines[1]) | {"lost": 3}
    file = written_to(tmp_path, [lines[0], json.dumps(lost).encode(), b"\n", json.dumps(orphan).encode(), b"\n{"])
    result = Lab().run("replay", file)
    assert result.exit_code == 0
    assert "the last line was cut off" in result.stdout
    assert "3 decisions were never recorded" in result.stdout
    assert "1 line was skipped" in result.stdout


def test_standard_input_can_be_replayed(lines: list[bytes]) -> None:
    assert Lab().run("replay", "-", input=b"".join(lines)).exit_code == 0


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"", "holds no decision"), (b"hello\nyou\n", "line 1: is not a")]
)
def test_a_file_that_is_no_recording_is_refused_with_a_remedy(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "flight.jsonl"
    if content is not None:
        path.write_bytes(content)
    result = Lab().run("replay", str(path))
    assert result.exit_code == 2
    assert words in result.stderr
    assert "praetor-controller --record" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[" * 100_000 + b"\n\n", id="deep"),
        pytest.param(b'{"a":' * 100_000, id="deep-and-cut-off"),
        pytest.param({"lost": float("inf")}, id="infinite"),
        pytest.param({"uid": []}, id="no-uid"),
        pytest.param({"time": "\x1b[2J"}, id="no-time"),
        pytest.param({"whole": {"devices": {"leaf-1": 7}}}, id="no-row"),
    ],
)
def test_a_file_that_was_made_to_harm_is_refused_in_one_sentence(
    tmp_path: Path, lines: list[bytes], content: bytes | dict[str, object]
) -> None:
    raw = content if isinstance(content, bytes) else json.dumps(json.loads(lines[0]) | content).encode() + b"\n"
    result = Lab().run("replay", written_to(tmp_path, [raw]))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "praetor-controller --record" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_line_that_never_ends_is_not_read_whole(
    tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_MAX_LINE", len(lines[0]))
    assert Lab().run("replay", written_to(tmp_path, lines[:1])).exit_code == 0
    result = Lab().run("replay", written_to(tmp_path, [lines[0][:-2], b" " * 100, lines[0][-2:]]))
    assert (result.exit_code, "line 1: is not a decision" in result.stderr) == (2, True)


def test_what_a_recording_says_cannot_act_on_a_terminal(tmp_path: Path, lines: list[bytes]) -> None:
    said = {"deployment": "\x1b]0;x\x07", "version": "\x1b[2J", "digest": "\x9b2J"}
    result = Lab().run("replay", written_to(tmp_path, [json.dumps(json.loads(lines[0]) | said).encode()]))
    assert result.exit_code == 1
    assert "digest of the inputs" in result.stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(result.output)
