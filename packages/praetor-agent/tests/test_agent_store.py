# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_testing import item, process_spec
from praetor_agent.core.model import Failure, ProcessStage, Record, Revision
from praetor_agent.errors import AgentError
from praetor_agent.state import JsonFile, Received, State, installation_id, lock_directory
from praetor_api.protocol import read_desired


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "x.json")
    assert file.load() is None
    file.save({"a": 1})
    file.save({"a": 2})
    assert file.load() == {"a": 2}
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o600


@given(st.data())
def test_a_damaged_file_falls_back_to_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state") / "x.json"
    file = JsonFile(path)
    file.save({"a": 1})
    file.save({"a": 2})
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:cut] + data.draw(st.binary(max_size=20).filter(lambda tail: tail != content[cut:])))
    assert file.load() == {"a": 1}


def test_the_previous_file_is_the_last_flushed_one(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "x.json")
    file.save({"a": 1})
    file.save({"a": 2}, flush=False)
    file.save({"a": 3}, flush=False)
    assert file.load() == {"a": 3}
    (tmp_path / "x.json").write_bytes(b"")  # as after a power cut
    assert JsonFile(tmp_path / "x.json").load() == {"a": 1}
    restarted = JsonFile(tmp_path / "x.json")
    restarted.save({"a": 4}, flush=False)
    (tmp_path / "x.json").write_bytes(b"")
    assert restarted.load() == {"a": 1}


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "x.json")
    file.save({"a": 1})
    os.rename(tmp_path / "x.json", tmp_path / "x.json.previous")
    assert file.load() == {"a": 1}


def test_two_damaged_files_are_as_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff")
    (tmp_path / "x.json.previous").mkdir()
    assert JsonFile(tmp_path / "x.json").load() is None


def test_a_state_directory_belongs_to_one_agent(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path / "state")
    with pytest.raises(AgentError, match="another agent runs"):
        lock_directory(tmp_path / "state")
    os.close(lock)
    os.close(lock_directory(tmp_path / "state"))


def test_an_unusable_state_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="--state-dir"):
        lock_directory(tmp_path / "file" / "state")


def body(**more: object) -> dict[str, object]:
    return {"deviceName": "leaf-1", "items": [item("a", process_spec("sleep", "1"))], **more}


def test_the_desired_state_keeps_what_this_agent_does_not_know_of(tmp_path: Path) -> None:
    raw = body(future={"field": [1]})
    State(tmp_path).save_desired("leaf-1", Received(etag='"e"', body=raw, desired=read_desired(raw)))
    loaded = State(tmp_path).load_desired("leaf-1")
    assert loaded is not None
    assert (loaded.body, loaded.etag, loaded.desired) == (raw, '"e"', read_desired(raw))
    assert State(tmp_path).device() == "leaf-1"


def test_the_desired_state_of_another_device_is_none(tmp_path: Path) -> None:
    State(tmp_path).save_desired("leaf-1", Received(etag=None, body=body(), desired=read_desired(body())))
    assert State(tmp_path).load_desired("leaf-2") is None


@pytest.mark.parametrize("stored", [None, [], {"device": "leaf-1", "body": {"items": 3}}, {"device": 3}])
def test_a_desired_state_that_makes_no_sense_is_none(tmp_path: Path, stored: object) -> None:
    JsonFile(tmp_path / "desired.json").save(stored)
    assert State(tmp_path).load_desired("leaf-1") is None


def test_memory_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    current = Revision(item=read_desired(body()).items[0], artifact_path="/a", artifact_digest="sha256:1")
    record = Record(
        uid="u", namespace="n", name="a", stage=ProcessStage.WAITING, current=current, boot_id="b", handle="h",
        started_at=1.5, start_time="t", restart_count=2, failures=3, not_before=9.25, exit_code=1,
        termination_reason="Error", stop_deadline=4.0, failure=Failure(reason="r", message="m"),
    )  # fmt: skip
    State(tmp_path).save_memory({"u": record})
    assert State(tmp_path).load_memory() == {"u": record}


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ({"format": 2, "records": [{"uid": "u", "later": True}]}, "format 2, of which this agent knows 1"),
        ({"format": 1, "records": [{"uid": "v", "stage": "Hibernating"}, {"uid": "u"}]}, "1 of its records"),
        ({"records": [{"uid": 3}, {"uid": "u"}]}, "1 of its records"),
    ],
)
def test_records_of_a_newer_agent_are_read_as_far_as_known_and_never_overwritten(
    tmp_path: Path, stored: dict[str, object], why: str
) -> None:
    JsonFile(tmp_path / "memory.json").save(stored)
    before = (tmp_path / "memory.json").read_bytes()
    state = State(tmp_path)
    assert state.load_memory() == {"u": Record(uid="u")}
    assert why in (state.newer or "")
    with pytest.raises(OSError, match="is of a newer agent"):
        state.save_memory({})
    assert (tmp_path / "memory.json").read_bytes() == before
    JsonFile(tmp_path / "memory.json").save({"format": 1, "records": [{"uid": "u", "later": True}]})
    assert (state.load_memory(), state.newer) == ({"u": Record(uid="u")}, None)
    JsonFile(tmp_path / "memory.json").save(json.loads("[]"))
    assert State(tmp_path).load_memory() == {}


def test_a_state_directory_keeps_its_id(tmp_path: Path) -> None:
    assert installation_id(tmp_path) == ""
    first = installation_id(tmp_path, create=True)
    assert len(first) == 32
    assert installation_id(tmp_path) == installation_id(tmp_path, create=True) == first
    assert installation_id(tmp_path / "missing", create=True) == ""
