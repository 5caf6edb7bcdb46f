# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from agent_testing import FakeClock, FakeGateway
from praetor_agent.core.allowances import Allowances
from praetor_agent.core.model import ObservedDevice
from praetor_agent.link.client import Address, GatewayClient
from praetor_agent.link.facts import GIB, MAX_FACT, MIB, Facts, allowance_facts, fixed_facts, size_words, step_of
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import FACTS_SECONDS, Reporter
from praetor_api.protocol import Report


def test_model_and_serial_of_a_switch_come_from_dmi(tmp_path: Path) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_name").write_text("SN2700\n")
    (dmi / "product_serial").write_text("MT1234X00001\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME=x\nPRETTY_NAME="SONiC 202405"\nID=sonic\nVERSION_ID="12"\n')
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8001020 kB\nMemFree: 1 kB\n")
    found = fixed_facts(tmp_path)
    assert (found["model"], found["serial"], found["os"]) == ("SN2700", "MT1234X00001", "SONiC 202405")
    assert (found["os.id"], found["os.version"]) == ("sonic", "12")
    assert found["memory"] == "7813MiB"


def test_the_model_of_a_board_comes_from_its_device_tree_and_placeholders_are_left_out(tmp_path: Path) -> None:
    dmi, tree = tmp_path / "sys/class/dmi/id", tmp_path / "proc/device-tree"
    dmi.mkdir(parents=True)
    tree.mkdir(parents=True)
    (dmi / "product_name").write_text("To Be Filled By O.E.M.\n")
    (tree / "model").write_bytes(b"BlueField-3 DPU\0")
    found = fixed_facts(tmp_path)
    assert found["model"] == "BlueField-3 DPU"
    assert "serial" not in found
    assert "memory" not in found


def test_the_init_system_is_reported(tmp_path: Path) -> None:
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/comm").write_text("init\n")
    assert fixed_facts(tmp_path)["init"] == "init"
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert fixed_facts(tmp_path)["init"] == "systemd"


@pytest.mark.parametrize(
    ("size", "last", "step"),
    [
        pytest.param(5 * GIB, None, 4 * GIB, id="first-look"),
        pytest.param(7.9 * GIB, 4 * GIB, 4 * GIB, id="within"),
        pytest.param(8.5 * GIB, 4 * GIB, 4 * GIB, id="hardly-above"),
        pytest.param(9 * GIB, 4 * GIB, 8 * GIB, id="above"),
        pytest.param(3.7 * GIB, 4 * GIB, 4 * GIB, id="hardly-below"),
        pytest.param(3.5 * GIB, 4 * GIB, 2 * GIB, id="below"),
        pytest.param(0, None, MIB, id="nothing"),
    ],
)
def test_free_space_is_reported_in_steps_with_hysteresis(size: float, last: int | None, step: int) -> None:
    assert step_of(int(size), last) == step


def test_sizes_in_words() -> None:
    assert [size_words(size) for size in (MIB, 512 * MIB, 16 * GIB)] == ["1MiB", "512MiB", "16GiB"]


def test_facts_are_short_and_equal_while_nothing_changes(tmp_path: Path) -> None:
    facts = Facts(tmp_path)
    first = facts.read()
    assert first["diskFree"].endswith("iB")
    assert facts.read() == first
    assert all(len(value) <= 256 for value in first.values())


def test_the_reporter_reads_the_facts_again_after_a_while_only() -> None:
    clock, reads = FakeClock(), []

    def facts() -> dict[str, str]:
        reads.append(clock.seconds)
        return {"diskFree": "1GiB"}

    with FakeGateway() as gateway:
        address = Address(url=gateway.url, device="leaf-1", token=lambda: None)
        client = GatewayClient(address)
        reporter = Reporter(client, Inbox(lambda: None), clock, Report(), lambda: None, facts)
        reporter.offer(None, {}, ObservedDevice(boot_id="b"), {}, clock.seconds)
        began = clock.seconds
        while clock.seconds < began + FACTS_SECONDS:
            clock.seconds = reporter.step()
        reporter.step()
        client.close()
    assert reads == [began, clock.seconds]
    assert len(gateway.reports) > len(reads)


def test_the_free_space_of_a_missing_file_system_is_left_out(tmp_path: Path) -> None:
    assert "diskFree" not in Facts(tmp_path / "none").read()


def test_what_flags_allow_is_reported_and_what_they_do_not_name_is_left_out() -> None:
    assert allowance_facts() == {"agent.fileRoots": "none"}
    allowances = Allowances(
        volumes=("/run/app", "/srv"),
        devices=("/dev/i2c-1",),
        capabilities=frozenset({"SYS_TIME", "NET_ADMIN"}),
        networks=frozenset({"br1", "br0"}),
        privileged=True,
    )
    assert allowance_facts(allowances, ("/etc/app", "/run")) == {
        "agent.fileRoots": "/etc/app,/run",
        "agent.volumes": "/run/app,/srv",
        "agent.devices": "/dev/i2c-1",
        "agent.capabilities": "NET_ADMIN,SYS_TIME",
        "agent.networks": "br0,br1",
        "agent.privileged": "true",
    }


@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_list_that_is_longer_than_a_fact_says_so(tmp_path: Path, count: int) -> None:
    roots = tuple(f"/{number}{'x' * 300 if count == 1 else 'x' * 125}" for number in range(count))
    facts = Facts(tmp_path, allowed=allowance_facts(file_roots=roots)).read()
    listed = facts["agent.fileRoots"].split(",")
    assert len(facts["agent.fileRoots"]) <= MAX_FACT
    assert (listed[:-1], listed[-1]) == ([*roots[: len(listed) - 1]], "…")
