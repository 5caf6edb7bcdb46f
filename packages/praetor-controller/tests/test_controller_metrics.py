# SPDX-License-Identifier: Apache-2.0
"""What a scrape shows."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_api.kube.options import BindAddress
from praetor_api.kube.runtime.probes import serve_probes
from praetor_controller.__about__ import __version__
from praetor_controller.main import Program
from praetor_controller.settings import Settings

DOCUMENTED = re.compile(r"^\| `((?:praetor_controller|process)_\w+)` \| (\w+) \|", re.MULTILINE)
PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


async def test_the_metrics_are_those_of_the_documentation() -> None:
    program = Program(InProcessKube(), FakeClock(), Settings(metrics=None, probes=None))
    program.metrics.program.requested("patch", DEVICE_PROCESSES, 200)
    program.metrics.program.took("patch", 0.02)
    program.metrics.program.took("watch", 300.0)
    any_port = BindAddress("127.0.0.1", 0)
    async with (
        serve_probes(any_port, any_port, unready=str, registry=program.metrics.registry) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        text = await answer.text()
    families = list(text_string_to_metric_families(text))
    scraped = {(each.name + ("_total" if each.type == "counter" else ""), each.type) for each in families}
    scraped = {(name, kind) for name, kind in scraped if not name.endswith("_created")}
    assert scraped == set(DOCUMENTED.findall(PAGE.read_text(encoding="utf-8")))
    assert f'version="{__version__}"' in text
    assert 'praetor_controller_apiserver_request_duration_seconds_count{verb="patch"} 1.0' in text
    assert 'praetor_controller_apiserver_request_duration_seconds_count{verb="watch"}' not in text
