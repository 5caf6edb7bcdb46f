# SPDX-License-Identifier: Apache-2.0
"""Devices that hold a long poll each, and record when an answer has arrived.

`python -m e2e.bench.gateway.pollers PLAN OUTPUT` runs them until a signal ends it.

PLAN is a JSON file: `{host, port, path?, devices: {name: token}}`; with a path, each device holds a request to
`/v1/devices/NAME/PATH` and no more. For each answer with a body, a line `{name, generation, at, values?}` for each of
its items goes to OUTPUT, *at* in monotonic seconds of this machine, *values* the digest of what the item refers to;
`{waiting: N}` says how many devices wait.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from e2e.bench.gateway.load import body_length
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER, TOKEN_HEADER, desired_path

WAIT_S = 50
READ_LIMIT = 2**20
CONNECTING = 100
BUSY_S = 1.0


class Crowd:
    """All devices, and the file that they write to."""

    def __init__(self, plan: dict[str, Any], output: TextIO) -> None:
        self._plan = plan
        self._output = output
        self._connecting = asyncio.Semaphore(CONNECTING)
        self._waiting = 0
        self._written = 0

    async def run(self) -> None:
        """Be all devices until cancelled."""
        hold = self._plan.get("path")
        async with asyncio.TaskGroup() as group:
            for name, token in self._plan["devices"].items():
                device = self._hold(name, token, hold) if hold else self._poll(name, token)
                group.create_task(device, name=name)
            group.create_task(self._write_waiting(), name="write waiting")

    async def _poll(self, name: str, token: str) -> None:
        features = f"{FEATURES_HEADER}: {','.join(sorted(AGENT_FEATURES))}\r\n"
        head = f"GET {desired_path(name)} HTTP/1.1\r\nHost: gateway\r\n{TOKEN_HEADER}: {token}\r\n{features}"
        async with self._connecting:
            reader, writer = await self._connect()
            etag, body, at = await self._ask(reader, writer, head)
        while True:
            self._record(name, body, at)
            self._waiting += 1
            asked = f"{head}If-None-Match: {etag}\r\nPrefer: wait={WAIT_S}\r\n"
            etag, body, at = await self._ask(reader, writer, asked)
            self._waiting -= 1

    async def _hold(self, name: str, token: str, path: str) -> None:
        """Be answered once, as a device that polls is, then hold the other request."""
        head = f"HTTP/1.1\r\nHost: gateway\r\n{TOKEN_HEADER}: {token}\r\n"
        async with self._connecting:
            reader, writer = await self._connect()
            await self._ask(reader, writer, f"GET {desired_path(name)} {head}")
        self._waiting += 1
        await self._ask(reader, writer, f"GET /v1/devices/{name}/{path} {head}")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._plan["host"], self._plan["port"], limit=READ_LIMIT)

    @staticmethod
    async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: str) -> tuple[str, bytes, float]:
        """Return the answer's ETag and body, and when its last byte was read; ask again where the gateway is busy."""
        while True:
            writer.write(asked.encode() + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(body_length(head))
            at = time.monotonic()
            if head[9:12] != b"503":
                break
            await asyncio.sleep(BUSY_S)
        if head[9:12] not in (b"200", b"304"):
            raise RuntimeError(head.decode("latin-1"))
        return head.lower().partition(b"\r\netag:")[2].partition(b"\r\n")[0].strip().decode(), body, at

    def _record(self, name: str, body: bytes, at: float) -> None:
        for item in json.loads(body)["items"] if body else ():
            line = {"name": item["name"], "generation": item["generation"], "at": at}
            self._write(line | ({"values": item["valuesHash"]} if "valuesHash" in item else {}))

    async def _write_waiting(self) -> None:
        while True:
            if self._waiting != self._written:
                self._written = self._waiting
                self._write({"waiting": self._waiting})
            await asyncio.sleep(0.2)

    def _write(self, line: dict[str, Any]) -> None:
        self._output.write(json.dumps(line) + "\n")


def main(plan: Path, output: Path) -> None:
    """Run until a signal ends the process."""
    with output.open("w", buffering=1, encoding="utf-8") as file:
        asyncio.run(Crowd(json.loads(plan.read_text()), file).run())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
