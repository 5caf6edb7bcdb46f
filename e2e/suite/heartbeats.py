# SPDX-License-Identifier: Apache-2.0
"""Many heartbeats of many devices over few connections, faster than a fleet would send them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

CONNECTIONS = 4

Observations = Callable[[str], Sequence[Mapping[str, Any]]]


class Beats:
    """The heartbeats of the devices of *tokens* (device → token) to one gateway, numbered on from call to call."""

    def __init__(self, url: str, tokens: Mapping[str, str]) -> None:
        self._host = urlsplit(url).netloc
        self._tokens = tokens
        self._sent = 0

    def send(self, rounds: int, observations: Observations = lambda _: ()) -> int:
        """Send *rounds* heartbeats for each device; return how many. AssertionError if one is not taken."""
        devices = sorted(self._tokens)
        shares = [devices[number::CONNECTIONS] for number in range(CONNECTIONS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            counts = list(pool.map(lambda share: self._share(share, rounds, observations), shares))
        self._sent += rounds
        return sum(counts)

    def _share(self, devices: Sequence[str], rounds: int, observations: Observations) -> int:
        connection = http.client.HTTPConnection(self._host, timeout=300)
        try:
            for number in range(self._sent, self._sent + rounds):
                for device in devices:
                    self._beat(connection, device, number, observations(device))
        finally:
            connection.close()
        return rounds * len(devices)

    def _beat(
        self, connection: http.client.HTTPConnection, device: str, number: int, seen: Sequence[Mapping[str, Any]]
    ) -> None:
        stamp = f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"
        body = {"agentVersion": "beats", "timestamp": stamp, "heartbeat": True, "bootID": "b", "seq": number}
        headers = {"X-Device-Token": self._tokens[device], "Content-Type": "application/json"}
        connection.request("POST", f"/v1/devices/{device}/report", json.dumps(body | {"observations": seen}), headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == HTTPStatus.OK, (answer.status, said)
        assert json.loads(said)["ack"] is True
