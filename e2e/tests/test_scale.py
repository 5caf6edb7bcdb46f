# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from e2e.clusters.api.audit import spec_changes
from e2e.scale import processes
from e2e.scale.fleet import FleetSettings
from e2e.scale.phases import Limit, Phase, rate
from e2e.scale.processes import Usage
from e2e.scale.report import as_json, lines, picture
from e2e.scale.sampler import Sample
from e2e.scale.seed import _copies
from praetor_agent.simulate.device import boot_id_of
from praetor_api.canonical import spec_hash


def sample(at: float, writes: int, cpu_s: float = 0.0, pid: int = 7) -> Sample:
    gateway = Usage(pid=pid, cpu_s=cpu_s, memory_mib=100.0 + at, files=40)
    return Sample(at=at, writes={"leases": writes}, connected=50, programs={"gateway": [gateway]})


def phase(*samples: Sample, limits: tuple[Limit, ...] = ()) -> Phase:
    return Phase(name="steady", title="Nothing changes", began=0.0, samples=samples, summaries=(), limits=limits)


def test_writes_and_processors_are_rates_between_samples_and_a_new_process_starts_from_nothing() -> None:
    found = phase(sample(0, 5), sample(10, 15, 5.0), sample(20, 25, 1.0, pid=8), sample(30, 65, 6.0, pid=8))
    assert rate(found.samples) == 2.0
    told = as_json(found)
    assert told["writesByResource"] == {"leases": 60}
    cost = told["programs"]["gateway"]
    assert (cost["processor"], cost["memoryMiB"], cost["files"]) == (round(10 / 30, 3), 130.0, 40)


@pytest.mark.parametrize(
    ("value", "most", "exact", "kept"),
    [(2.0, 2.0, False, True), (2.1, 2.0, False, False), (99, 100, True, False), (100, 100, True, True)],
)
def test_a_limit_is_kept_or_broken(value: float, most: float, exact: bool, kept: bool) -> None:
    limit = Limit(what="w", value=value, most=most, exact=exact)
    assert limit.kept is kept
    assert ("BROKEN" in str(limit)) is not kept
    assert as_json(phase(sample(0, 0), limits=(limit,)))["limits"][0]["kept"] is kept


def test_a_phase_is_printed_within_80_columns_and_drawn_as_svg() -> None:
    limit = Limit(what="apiserver writes per second", value=2.5, most=2.0)
    found = phase(sample(0, 0), sample(10, 25, 9.0), limits=(limit,))
    text = list(lines(found))
    assert max(map(len, text)) <= 80
    assert "  apiserver writes per second: 2.5 (≤ 2) BROKEN" in text
    drawn = ElementTree.fromstring(picture(found, "50 devices"))  # noqa: S314  # our own
    assert "Nothing changes: 50 devices" in "".join(drawn.itertext())


def test_one_gateway_more_is_run_than_open_files_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (20_000, 20_000))
    settings = {"doomed": 1, "heartbeat_s": 1, "splay_s": 1.0, "server": "auto", "tls": False}
    few, many, given = (
        FleetSettings(devices=devices, gateways=gateways, **settings)  # type: ignore[arg-type]
        for devices, gateways in ((500, None), (100_000, None), (100_000, 3))
    )
    assert (few.replicas, given.replicas) == (2, 3)
    assert many.replicas == 7


def test_a_device_is_copied_with_names_uids_and_a_boot_of_its_own() -> None:
    at = "2026-01-31T12:00:00Z"
    boot = {"bootID": boot_id_of("proto", at)}
    switch = {"metadata": {"name": "proto", "uid": "u1", "labels": {}, "managedFields": []}, "spec": {}, "status": boot}
    process = {
        "metadata": {"name": "x-proto", "uid": "u2", "managedFields": []},
        "spec": {"deviceRef": {"name": "proto"}},
        "status": boot,
    }
    stored = {"/n/proto": json.dumps(switch), "/p/x-proto": json.dumps(process)}
    found = {key: json.loads(value) for key, value in _copies(stored, "proto", ["a", "b"], 2, at)}
    assert set(found) == {"/n/a", "/n/b", "/p/x-a", "/p/x-b"}
    assert found["/p/x-b"]["spec"]["deviceRef"]["name"] == "b"
    assert [found[key]["metadata"]["labels"] for key in ("/n/a", "/n/b")] == [{"group": "1"}, {"group": "0"}]
    assert {item["status"]["bootID"] for item in found.values()} == {boot_id_of(name, at) for name in ("a", "b")}
    assert found["/p/x-a"]["status"]["observedSpecHash"] == spec_hash({"deviceRef": {"name": "a"}})
    uids = {item["metadata"]["uid"] for item in found.values()}
    assert len(uids) == 4
    assert not uids & {"u1", "u2"}


def test_the_time_of_a_spec_change_is_that_of_the_last_accepted_request(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"

    def event(at: int, code: int = 200, **about: str) -> str:
        reference = {"resource": "deviceprocesses", "name": "x-a", **about}
        received = f"2025-01-31T12:00:0{at}.500000Z"
        return json.dumps({"objectRef": reference, "stageTimestamp": received, "responseStatus": {"code": code}})

    written = [event(1), event(2), event(3, 409), event(4, subresource="status"), event(5, resource="networkswitches")]
    log.write_text("\n".join([*written, '{"half']))
    assert spec_changes(log) == {"x-a": 1738324802.5}
    assert spec_changes(tmp_path / "none") == {}


def test_programs_are_found_among_descendants_without_those_that_start_them() -> None:
    code = "import sys; sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code, "praetor-gateway"], stdin=subprocess.PIPE)
    direct = subprocess.Popen(["bash", "-c", "exec -a praetor-gateway cat"], stdin=subprocess.PIPE)
    try:
        direct.stdin.write(b"") if direct.stdin else None
        while True:
            found = processes.usages(files=True).get("gateway", [])
            if direct.pid in {usage.pid for usage in found}:
                break
        (usage,) = found
        assert usage.memory_mib > 0
        assert usage.files >= 3
    finally:
        for each in (child, direct):
            each.communicate()
