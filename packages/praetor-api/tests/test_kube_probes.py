# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.probes import serve_probes


def registry_with(name: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter(name, "A counter.", registry=registry).inc()
    return registry


def free_address() -> BindAddress:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return BindAddress("127.0.0.1", probe.getsockname()[1])


async def fetch(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, response.headers["Content-Type"], await response.text()


@pytest.mark.parametrize("shared", [True, False], ids=["one-port", "two-ports"])
async def test_probes_and_metrics_are_served(shared: bool) -> None:
    probes = free_address()
    metrics = probes if shared else free_address()
    reason = "the cache is not filled yet"
    async with serve_probes(probes, metrics, unready=lambda: reason, registry=registry_with("seen")) as port:
        assert port == probes.port
        for path in ("/livez", "/healthz"):
            assert (await fetch(port, path))[::2] == (200, "ok")
        assert (await fetch(port, "/readyz"))[::2] == (503, "the cache is not filled yet")
        reason = ""
        assert (await fetch(port, "/readyz"))[::2] == (200, "ok")
        status, kind, text = await fetch(metrics.port, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert "seen_total 1.0" in text
        assert (await fetch(metrics.port, "/readyz"))[0] == (200 if shared else 404)
        assert (await fetch(probes.port, "/metrics"))[0] == (200 if shared else 404)


async def test_the_port_is_free_again_after_the_block() -> None:
    address = free_address()
    for _ in range(2):
        async with serve_probes(address, None, unready=str, registry=CollectorRegistry()) as port:
            assert (await fetch(port, "/livez"))[0] == 200


async def test_any_free_port_may_be_asked_for() -> None:
    async with serve_probes(BindAddress("127.0.0.1", 0), None, unready=str, registry=CollectorRegistry()) as port:
        assert (await fetch(port, "/readyz"))[0] == 200


async def test_metrics_are_served_without_probes() -> None:
    address = free_address()
    async with serve_probes(None, address, unready=str, registry=registry_with("seen")) as port:
        assert port == 0
        assert (await fetch(address.port, "/metrics"))[0] == 200


async def test_nothing_is_served_when_both_are_off() -> None:
    async with serve_probes(None, None, unready=str, registry=CollectorRegistry()) as port:
        assert port == 0


@pytest.mark.parametrize("option", ["--health-probe-bind-address", "--metrics-bind-address"])
async def test_an_address_in_use_is_refused_with_its_flag(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = BindAddress("127.0.0.1", taken.getsockname()[1])
        probes, metrics = (address, None) if "probe" in option else (None, address)
        with pytest.raises(BadOption, match=rf"^{option}: cannot listen on 127\.0\.0\.1:\d+ \(.+\); choose another"):
            async with serve_probes(probes, metrics, unready=str, registry=CollectorRegistry()):
                pass
