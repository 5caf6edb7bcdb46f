# SPDX-License-Identifier: Apache-2.0
"""The device protocol in raw HTTP, as `curl` would send it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from e2e.stack.stack import Stack

TIMEOUT_S = (60, 300)


class DeviceApi:
    """Requests of one device to one gateway; *token* None leaves the header out."""

    def __init__(self, url: str, device: str, token: str | None) -> None:
        self._base = f"{url}/v1/devices/{device}"
        self._token = token

    @classmethod
    def of(cls, stack: Stack, device: str) -> DeviceApi:
        """Return the requests of *device* with its own token."""
        return cls(stack.gateway_url, device, stack.token(device))

    def desired(self, etag: str | None = None, *, wait_s: int | None = None) -> requests.Response:
        """Ask for the desired state; *etag* goes into If-None-Match, *wait_s* into Prefer."""
        headers = {} if etag is None else {"If-None-Match": etag}
        if wait_s is not None:
            headers["Prefer"] = f"wait={wait_s}"
        return self.request("GET", "desired", headers=headers)

    def report(self, **fields: Any) -> requests.Response:
        """Send a report."""
        return self.request("POST", "report", json=fields)

    def connect(self) -> requests.Response:
        """Report that the device is connected."""
        return self.request("POST", "connect")

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Send any request, on a connection of its own."""
        token = {} if self._token is None else {"X-Device-Token": self._token}
        return requests.request(
            method, f"{self._base}/{path}", headers={**token, **(headers or {})}, timeout=TIMEOUT_S, **options
        )
