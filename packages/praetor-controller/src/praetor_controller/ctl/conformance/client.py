# SPDX-License-Identifier: Apache-2.0
"""Requests as a device sends them, down to the bytes: a check must also be able to send what no library would."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from praetor_api.protocol import TOKEN_HEADER
from praetor_controller.ctl.conformance.checks import Broken

TIMEOUT_S = 60.0
MAX_RETRIES = 30
"""Of a request that came too fast or too early; each waits as long as the gateway says."""


@frozen(kw_only=True)
class Answer:
    """An answer; headers by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Return the body as JSON; Broken if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as e:
            raise Broken(f"the body is not JSON: {self.body[:80]!r}") from e


@frozen(kw_only=True)
class DeviceClient:
    """Asks the gateway at *url* as *device*; *shared* says that its token is good for every device."""

    url: str
    device: str
    token: str = field(repr=False)
    shared: bool = False
    tls: ssl.SSLContext | None = field(default=None)

    def path(self, action: str, device: str = "") -> str:
        """Return the path of *action* of *device*, this one unless it is given."""
        return f"/v1/devices/{device or self.device}/{action}"

    def desired(self, **headers: str) -> Answer:
        """Ask for the desired state; a header's name has `_` for `-`."""
        return self.ask("GET", self.path("desired"), headers)

    def post(self, action: str, body: object) -> Answer:
        """Post *body* as JSON; bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", self.path(action), {"Content_Type": "application/json"}, raw)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, *, token: str | None = None
    ) -> Answer:
        """Send a request with *token*, its own unless given, none if it is empty. Wait where it is too fast."""
        token = self.token if token is None else token
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        lines |= {TOKEN_HEADER: token} if token else {}
        if body is not None:
            lines["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        for _ in range(MAX_RETRIES):
            answer = self.send(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{head}\r\n".encode() + (body or b""))
            after = answer.headers.get("retry-after", "")
            if answer.status not in (429, 503) or not (after.isascii() and after.isdigit()):
                return answer
            time.sleep(min(float(after), TIMEOUT_S))
        return answer

    @property
    def host(self) -> str:
        """The gateway's host and port."""
        return urlsplit(self.url).netloc

    def send(self, raw: bytes, *, sock: socket.socket | None = None) -> Answer:
        """Send *raw* on a connection of its own, or on *sock*, and return the answer; Broken when none comes."""
        own, sent_at = sock or self.connect(), time.monotonic()
        try:
            with suppress(OSError):  # refused before it was read whole: the answer says why
                own.sendall(raw)
            response = HTTPResponse(own, method=raw.partition(b" ")[0].decode())
            response.begin()
            body = response.read()
        except (OSError, HTTPException) as e:
            raise Broken(f"no answer came: {str(e) or type(e).__name__}") from e
        finally:
            if sock is None:
                own.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=headers, body=body, seconds=time.monotonic() - sent_at)

    def connect(self) -> socket.socket:
        """Open a connection to the gateway."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            plain = socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT_S)
            return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname=parts.hostname)
        except OSError as e:
            raise Broken(f"the gateway cannot be reached: {e}") from e
