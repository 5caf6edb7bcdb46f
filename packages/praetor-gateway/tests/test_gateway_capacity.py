# SPDX-License-Identifier: Apache-2.0
"""How many connections there is memory for, by what files of the kernel say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from praetor_gateway.capacity import connections_within, limit_files, limits, memory_bytes

GIB = 2**30
UNLIMITED_V1 = "9223372036854771712\n"
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PODS = re.findall(r"^\| (\d+) GiB\b[^|]*\| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
FILES = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d.]+) GiB \| ([\d.]+) GiB \| \d+ \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(
    ("of_process", "files"),
    [
        pytest.param("0::/\n", ["memory.max"], id="container"),
        pytest.param(
            "0::/system.slice/praetor-gateway.service\n",
            [
                "system.slice/praetor-gateway.service/memory.max",
                "system.slice/memory.max",
                "memory.max",
            ],
            id="unit",
        ),
        pytest.param("0::/../../other\n", ["memory.max"], id="group-outside-of-the-container"),
        pytest.param(
            "5:devices:/pods/x\n4:memory:/pods/x\n1:name=systemd:/y\n",
            [
                "memory/pods/x/memory.limit_in_bytes",
                "memory/pods/memory.limit_in_bytes",
                "memory/memory.limit_in_bytes",
            ],
            id="v1",
        ),
        pytest.param("3:cpu,memory:/\n0::/\n", ["memory/memory.limit_in_bytes", "memory.max"], id="hybrid"),
        pytest.param("", [], id="no-cgroups"),
        pytest.param("nonsense\n\n1:cpu\n", [], id="nonsense"),
    ],
)
def test_the_files_are_those_of_the_group_and_of_all_around_it(of_process: str, files: list[str]) -> None:
    assert [str(each) for each in limit_files(of_process)] == files


def test_what_is_no_number_is_no_limit() -> None:
    assert list(limits(["max\n", "", "1073741824\n", "-1", "x", "\u0663", UNLIMITED_V1])) == [
        GIB,
        int(UNLIMITED_V1),
    ]


@pytest.mark.parametrize(
    ("of_process", "said", "memory"),
    [
        pytest.param("0::/\n", {"memory.max": "1048576\n"}, 2**20, id="v2"),
        pytest.param("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "4096\n"}, 4096, id="parent"),
        pytest.param(
            "4:memory:/docker/x\n", {"memory/memory.limit_in_bytes": "8192\n"}, 8192, id="v1-seen-from-inside"
        ),
        pytest.param(
            "4:memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": UNLIMITED_V1, "memory/memory.limit_in_bytes": UNLIMITED_V1},
            None,
            id="v1-without-a-limit",
        ),
        pytest.param("0::/\n", {}, None, id="none"),
        pytest.param(None, {"memory.max": "4096\n"}, None, id="no-proc"),
    ],
)
def test_the_least_that_a_group_or_the_machine_allows_counts(
    tmp_path: Path, of_process: str | None, said: dict[str, str], memory: int | None
) -> None:
    process, cgroups = tmp_path / "cgroup", tmp_path / "fs"
    if of_process is not None:
        process.write_text(of_process)
    for name, text in said.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    machine = memory_bytes(tmp_path / "missing", cgroups)
    assert machine > 2**24
    assert memory_bytes(process, cgroups) == (machine if memory is None else memory)


@given(st.integers(0, 2**40), st.integers(0, 2**30))
def test_more_memory_is_never_for_fewer_connections_and_tls_for_no_more(memory: int, more: int) -> None:
    plain, tls = connections_within(memory, tls=False), connections_within(memory, tls=True)
    assert 1 <= tls <= plain
    assert plain <= connections_within(memory + more, tls=False)
    assert plain * 46 * 1024 <= max(memory, 46 * 1024)


def test_the_page_of_operations_promises_what_fits() -> None:
    assert len(PODS) == len(FILES) == 3
    for memory, *devices in PODS:
        for tls, promised in zip((False, True), map(_number, devices), strict=True):
            assert 0.98 < promised / (0.9 * connections_within(int(memory) * GIB, tls=tls)) <= 1
    for files, devices_text, *memories in FILES:
        assert 0.99 < _number(devices_text) / (0.9 * (_number(files) - 192)) <= 1
        for tls, memory in zip((False, True), memories, strict=True):
            room = connections_within(int(float(memory) * GIB), tls=tls)
            assert 1 <= room / (_number(files) - 192) < 1.1


def test_pods_have_the_memory_that_the_page_says() -> None:
    deployment = yaml.safe_load((ROOT / "deploy" / "base" / "gateway" / "deployment.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((ROOT / "deploy" / "chart" / "values.yaml").read_text(encoding="utf-8"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == values["gateway"]["resources"]["limits"]["memory"] == "1Gi"
    assert "| 1 GiB, that of the chart and of `deploy/base` |" in PAGE


def _number(text: str) -> int:
    return int(text.replace(",", ""))
