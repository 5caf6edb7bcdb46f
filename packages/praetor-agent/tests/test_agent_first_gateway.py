# SPDX-License-Identifier: Apache-2.0
"""An agent and a gateway that knows the first description of the protocol alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agent_testing import Answer, FakeGateway, item, process_spec, running_agent
from praetor_agent.backends import procfs
from praetor_api.canonical import etag_matches
from praetor_api.protocol import read_report
from praetor_api.wire import parse_json


class FirstGateway(FakeGateway):
    """Holds no poll, knows no `connect`, and answers with no field beyond the first ones."""

    def _desired(self, device: str, headers: Mapping[str, str]) -> Answer:
        if etag_matches(headers.get("If-None-Match"), self.etag):
            return 304, {"ETag": self.etag}, b""
        known = ("uid", "namespace", "name", "spec", "specHash")
        items = [{key: each[key] for key in known} for each in self._items]
        return 200, {"ETag": self.etag}, json.dumps({"deviceName": device, "items": items}).encode()

    def _posted(self, path: str, body: bytes) -> Answer:
        if not path.endswith("/report"):
            return 404, {}, b""
        report, observations, _ = read_report(parse_json(body))
        self.reports.append(report)
        self.observations |= {seen.name: seen for seen in observations}
        self.changed.notify_all()
        return 200, {}, b'{"ack": true}'


def test_an_agent_runs_replaces_and_reports_processes_and_stays_heard(tmp_path: Path) -> None:
    with FirstGateway(token="t") as gateway:
        first, second = item("a", process_spec("sleep", "1000")), item("a", process_spec("sleep", "1001"))

        def runs(wanted: Mapping[str, object]) -> bool:
            seen = gateway.observations.get("a")
            return seen is not None and seen.observed_spec_hash == wanted["specHash"] and seen.healthy is True

        gateway.desire(first)
        with running_agent(gateway, tmp_path / "state"):
            gateway.wait_for(lambda: runs(first), "the first version runs")
            pid = gateway.observations["a"].pid
            assert pid is not None
            gateway.desire(second)
            gateway.wait_for(lambda: runs(second), "the second one does")
            assert gateway.observations["a"].pid != pid
            assert procfs.start_ticks(pid) is None
            said = len(gateway.reports)
            gateway.wait_for(lambda: len(gateway.reports) > said, "it is heard with nothing to say")
            assert gateway.reports[-1].heartbeat
        polls = [headers for method, _, headers in gateway.requests if method == "GET"]
        assert polls[-1]["If-None-Match"] == gateway.etag
        assert len(polls) < 40  # it does not poll as if each poll were held
