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
