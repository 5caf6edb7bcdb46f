# SPDX-License-Identifier: Apache-2.0
"""Parts of the benchmarks: framing of answers, first observations, counts, a synthetic fleet, the command."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from e2e.bench.__main__ import BENCHMARKS, main
from e2e.bench.gateway.load import body_length, run
from e2e.bench.gateway.references import delivered
from e2e.bench.gateway.synthetic_api import SPEC, SyntheticApi, name_of, process, switch
from e2e.bench.measure.first_seen import delays, first_seen, whole_lines
from e2e.bench.measure.proc import cpu_seconds, resident_kib
from e2e.bench.measure.trace import Counts, Trace, tracing
from e2e.clusters.cluster import Request
from e2e.stack.request_counts import of_kind
from praetor_api.canonical import canonical_json
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, NETWORK_SWITCHES
from praetor_api.names import is_device_name
from praetor_gateway.fleet.rows import Projection

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", 12),
        (b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length:7\r\nz: 1\r\n\r\n", 7),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 12\r\n\r\n", 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
    ],
)
def test_the_length_of_a_body_is_what_the_head_says(head: bytes, length: int) -> None:
    assert body_length(head) == length


@asynccontextmanager
async def served(answer: bytes, heads: list[bytes] | None = None) -> AsyncIterator[dict[str, object]]:
    """Run a server that answers every request alike, in two pieces; yield the target that it is.

    The heads of requests are added to *heads*.
    """
    handling: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if heads is not None:
                    heads.append(head)
                writer.write(answer[:20])
                await asyncio.sleep(0)
                writer.write(answer[20:])
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        requests = ["GET / HTTP/1.1\r\n\r\n"] * 3
        yield {"host": "127.0.0.1", "port": port, "pid": os.getpid(), "requests": requests}
        await asyncio.gather(*(task for task in handling if task is not None))


async def test_the_load_counts_the_answers_of_each_target_in_its_turns() -> None:
    async with served(ANSWER) as first, served(ANSWER) as second:
        turns = await run({"rounds": 2, "turn_s": 0.05, "targets": [first, second]})
    assert [len(taken) for taken in turns] == [2, 2]
    assert all(turn["requests"] >= 3 and turn["wall_s"] > 0 for taken in turns for turn in taken)


async def test_a_request_says_how_often_it_was_sent_where_it_asks_for_that() -> None:
    heads: list[bytes] = []
    async with served(ANSWER, heads) as target:
        target["requests"] = ["GET /{number} HTTP/1.1\r\n\r\n"]
        await run({"rounds": 1, "turn_s": 0.05, "spread_s": 0.01, "targets": [target]})
    assert heads[:3] == [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in (1, 2, 3)]


async def test_the_load_fails_when_a_request_is_refused() -> None:
    async with served(REFUSAL) as target:
        with pytest.raises(RuntimeError, match="401"):
            await run({"rounds": 1, "turn_s": 0.05, "targets": [target]})


def test_the_processor_time_and_the_memory_of_a_process_are_read() -> None:
    assert cpu_seconds(os.getpid()) > 0
    assert resident_kib(os.getpid()) > 1000


LINES = [
    "{}\n",
    '{"waiting": 2}\n',
    '{"name": "a", "generation": 1, "at": 1.0}\n',
    '{"name": "a", "generation": 1, "at": 9.0}\n',
    '{"name": "b", "generation": 1, "at": 2.0}\n',
]


def test_only_the_first_observation_counts() -> None:
    assert first_seen(LINES) == {("a", 1): 1.0, ("b", 1): 2.0}


def test_a_delay_lies_between_both_first_observations_and_is_never_negative() -> None:
    sink = {("a", 1): 1.5, ("b", 1): 1.9, ("c", 1): 7.0}
    assert delays(first_seen(LINES), sink) == [0.5, 0.0]
    assert delays({("a", 1): None, ("b", 1): 1.0}, sink) == [pytest.approx(0.9)]  # when it was first seen is not known


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    assert whole_lines(file) == []
    file.write_text('{}\n{"name": "a"')
    assert whole_lines(file) == ["{}\n"]


def test_counts_are_chosen_by_resource_and_verb() -> None:
    get, patch, status = Request("GET", "events"), Request("PATCH", "events"), Request("PATCH", "events/status")
    counts = Counter({get: 1, patch: 2, status: 4})
    assert of_kind(counts, "events") == {get: 1, patch: 2}
    assert of_kind(counts, "events", "PATCH") == {patch: 2}


async def test_the_synthetic_api_lists_every_object_once_in_the_form_that_the_gateway_reads() -> None:
    api, projection = SyntheticApi(processes=7, switches=3, others=delivered()), Projection("site")
    names, token = [], None
    while token != "":
        page = await api.list_page(DEVICE_PROCESSES, None, limit=3, continue_token=token)
        names += [projection.process(item).device for item in page["items"]]
        token = page["metadata"]["continue"]
    assert names == [name_of(number) for number in range(7)]
    switches = (await api.list_page(NETWORK_SWITCHES, None))["items"]
    assert [projection.switch(item).site for item in switches] == ["dc-0", "dc-1", "dc-2"]
    assert projection.process(process(SPEC, 5)).status.phase == "Running"
    others = (await api.list_page(CONFIG_MAPS, None))["items"]
    assert [item["metadata"]["name"] for item in others] == ["settings"]
    assert switch(2)["status"]["conditions"][0]["status"] == "True"


def test_every_benchmark_says_in_a_line_what_it_measures() -> None:
    for benchmark in BENCHMARKS.values():
        assert benchmark.__doc__.splitlines()[0].endswith(".")
        assert callable(benchmark.measure)


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(main, ["planner", "--quick", "--json", str(file)])
    assert done.exit_code == 0, done.output
    data = json.loads(file.read_text())
    assert set(data["figures"]) == {"planner"}
    assert all(figure["what"] in done.output for figure in data["figures"]["planner"])


def test_a_trace_counts_files_moves_calls_and_flushes_of_the_wheels_only_while_it_is_on(tmp_path: Path) -> None:
    trace = Trace()
    with tracing(trace), (tmp_path / "file").open("w") as file:
        is_device_name("leaf-1")
        with trace.on():
            is_device_name("leaf-1")
            is_device_name("leaf-2")
            body_length(ANSWER)
            canonical_json({})
            is_device_name("leaf-3")
            os.fsync(file.fileno())
    assert trace.counts == Counts(files=2, moves=3, fsyncs=1)
    assert trace.calls_of(is_device_name) == 3


def test_each_journey_is_traced_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(main, ["journeys", "--json", str(file)])
    assert done.exit_code == 0, done.output
    values = {each["what"]: each["value"] for each in json.loads(file.read_text())["figures"]["journeys"]}
    assert len(values) == 11
    assert all(value > 0 for value in values.values())


def test_an_unknown_benchmark_is_refused() -> None:
    done = CliRunner().invoke(main, ["speed"])
    assert done.exit_code == 2
    assert "speed" in done.output
