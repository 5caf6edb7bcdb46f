# SPDX-License-Identifier: Apache-2.0
"""Where simulated devices connect from: an address has so many ports for one gateway."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, item, process_spec
from praetor_agent.cli import main
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.simulate import sources
from praetor_agent.simulate.http import Connection, Endpoint, Link
from praetor_agent.simulate.sources import Plan, Room, check_families, is_loopback, plan, source_addresses

PORTS = 28_232


def room(*, files: int = 2**20, ports: int = PORTS, gateways: int = 1, shared: int = 0) -> Room:
    return Room(files=files, ports=ports, gateways=gateways, sources=shared)


def test_devices_on_loopback_get_as_many_processes_as_their_ports_ask_for_however_many_files_are_allowed() -> None:
    assert plan(40_000, None, room()) == Plan(processes=2, most=25_408, reporting=8_168)
    assert plan(40_000, None, room(gateways=2)).processes == 1
    assert plan(40_000, None, room(files=20_000)) == Plan(processes=3, most=17_936, reporting=2_000)
    assert plan(3, 8, room()).processes == 3


def test_sources_that_are_given_are_shared_by_all_processes() -> None:
    assert plan(40_000, None, room(shared=2)) == Plan(processes=1, most=943_654, reporting=16_400)
    assert plan(40_000, 4, room(shared=2)).reporting == 4_052
    assert plan(25_408, None, room(shared=1)).processes == 1


@pytest.mark.parametrize(
    ("count", "processes", "limits", "said"),
    [
        (
            40_000,
            None,
            room(shared=1),
            "40000 devices need 2 addresses of this machine to connect from, and the one that they connect from "
            "has ports for 25408; name more with --source-address ADDRESS,…, also as a range such as 192.0.2.8/29, or "
            "raise /proc/sys/net/ipv4/ip_local_port_range",
        ),
        (
            90_000,
            None,
            room(shared=3),
            "need 4 addresses of this machine to connect from, and the 3 of --source-address",
        ),
        (40_000, 1, room(), "has 28232 ports for a gateway, enough for 25408 devices; give --processes 2"),
        (
            200_000,
            1,
            room(files=20_000),
            "each may open 20000 files, enough for 17936 devices; give --processes 12, or raise the limit with ulimit",
        ),
        (1, None, room(files=64), "64 open files are not enough for a device; raise it with ulimit -n"),
    ],
    ids=["one-source", "three-sources", "ports-of-a-process", "files-of-a-process", "no-files"],
)
def test_too_few_sources_or_processes_are_named_with_what_to_write(
    count: int, processes: int | None, limits: Room, said: str
) -> None:
    with pytest.raises(AgentError) as caught:
        plan(count, processes, limits)
    assert said in str(caught.value)


def test_sources_are_addresses_and_ranges() -> None:
    assert source_addresses("127.0.0.2, 127.0.0.8/30,127.0.0.9") == ("127.0.0.2", "127.0.0.9", "127.0.0.10")
    assert source_addresses("127.0.0.7/32") == ("127.0.0.7",)
    assert source_addresses(None) == source_addresses("") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("leaf", "--source-address 'leaf' is no address; write it as 192.0.2.9, or as a range 192.0.2.8/29"),
        ("127.0.0.1,", "--source-address '' is no address"),
        ("127.0.0.0/99", "--source-address '127.0.0.0/99' is no address"),
        ("192.0.2.9", "--source-address 192.0.2.9 is no address of this machine"),
        ("127.0.0.0/8", "--source-address names more than 1024 addresses; give a smaller range"),
    ],
)
def test_a_wrong_source_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        source_addresses(text)
    assert said in str(caught.value)


def test_a_source_cannot_reach_a_gateway_of_the_other_kind_of_address() -> None:
    check_families(["127.0.0.1"], ["http://127.0.0.1:1", "https://gateway.example"])
    check_families([], ["http://[::1]:1"])
    with pytest.raises(UsageError, match=r"127.0.0.1 cannot reach http://.::1.:1; give one of IPv6"):
        check_families(["127.0.0.1"], ["http://[::1]:1"])


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", False), ("192.0.2.1", False),
     ("no-such-host.invalid", False), ("a" * 70 + ".example", False)],
)  # fmt: skip
def test_loopback_is_known_by_address_and_by_name(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_without_a_range_of_ports_the_kernels_default_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "PORT_RANGE", tmp_path / "none")
    assert sources.ports_of_a_source() == PORTS
    monkeypatch.setattr(sources, "PORT_RANGE", tmp_path / "range")
    (tmp_path / "range").write_text("40000\t40009\n")
    assert sources.ports_of_a_source() == 10


def test_the_devices_of_each_gateway_use_all_sources() -> None:
    link = Link(endpoints=[Endpoint(host="a", port=1), Endpoint(host="b", port=1)], sources=["s", "t", "u"])
    used = {(each._at, each._source) for each in (Connection(link, None, number) for number in range(12))}
    assert used == {(at, source) for at in (0, 1) for source in ("s", "t", "u")}


@contextmanager
def simulated(gateway: FakeGateway, url: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    words = ("simulate", "--gateway", url, "--start-splay", "0", "--output", "json", *flags)
    pipe = subprocess.PIPE
    fleet = subprocess.Popen([sys.executable, "-m", "praetor_agent", *words], stdout=pipe, stderr=pipe, text=True)
    try:
        yield fleet
    finally:
        fleet.kill()
        fleet.communicate(timeout=WITHIN_SECONDS)


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("localhost", ("--processes", "2"), 2),
        ("127.0.0.1", ("--source-address", "127.0.0.2", "--source-address", "127.0.0.3/32", "--processes", "3"), 2),
        ("localhost", ("--source-address", "127.0.0.8/30"), 2),
    ],
    ids=["own-by-name", "given", "range-by-name"],
)
def test_devices_connect_from_own_or_given_addresses(name: str, flags: tuple[str, ...], expected: int) -> None:
    with FakeGateway(heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        url = gateway.url.replace("127.0.0.1", name)
        with simulated(gateway, url, "--count", "12", *flags):
            gateway.wait_for(lambda: len(gateway.history) >= 12, "all report")
        assert len(gateway.sources) == expected
        if "--source-address" in flags:
            assert set(gateway.sources) <= {"127.0.0.2", "127.0.0.3", "127.0.0.9", "127.0.0.10"}


def test_a_name_of_loopback_may_be_that_of_an_ipv6_gateway() -> None:
    names = {address[0] for *_, address in socket.getaddrinfo("localhost", None)}
    if "::1" not in names:
        pytest.skip("localhost is not ::1 here")
    with FakeGateway(heartbeat_seconds=1, host="::1") as gateway:
        with simulated(gateway, gateway.url.replace("[::1]", "localhost"), "--count", "2"):
            gateway.wait_for(lambda: len(gateway.requests) >= 2, "both come")
        assert set(gateway.sources) == {"::1"}


def test_too_few_sources_are_named_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "--gateway", "http://192.0.2.1:8080", "--count", "200000"])
    assert caught.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "200000 devices need" in said
    assert "name more with --source-address" in said


FEW_PORTS = """
import subprocess, sys
from agent_testing import FakeGateway
with FakeGateway(heartbeat_seconds=1) as gateway:
    words = ["simulate", "--gateway", gateway.url.replace("127.0.0.1", sys.argv[1]), "--count", "50"]
    words += ["--start-splay", "0", "--output", "json"]
    fleet = subprocess.Popen([sys.executable, "-m", "praetor_agent", *words], stdout=subprocess.PIPE, text=True)
    devices = lambda: {path.split("/")[3] for _, path, _ in gateway.requests}
    gateway.wait_for(lambda: len(devices()) == 50 or fleet.poll() is not None, "all come", 60)
    fleet.terminate()
    print(fleet.communicate()[0].splitlines()[-1])
"""


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_more_devices_than_an_address_has_ports_all_connect(name: str) -> None:
    inside = (
        "ip link set lo up && echo 40000 40019 > /proc/sys/net/ipv4/ip_local_port_range || exit 99\n"
        'exec "$0" -c "$1" "$2"'
    )
    words = ("unshare", "--map-root-user", "--net", "sh", "-c", inside, sys.executable, FEW_PORTS, name)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WITHIN_SECONDS)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no network namespace with ports of its own here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)
    assert (last["devices"], last["errors"]) == (50, 0), last["lastError"]
