# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the device protocol, over HTTP. Each thread uses its own client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import requests

from praetor_agent.__about__ import __version__
from praetor_agent.errors import GatewayError, root_cause
from praetor_agent.settings import DIRECT, RunSettings
from praetor_agent.state import Received
from praetor_api.backports import dataclass
from praetor_api.protocol import (
    AGENT_FEATURES,
    FEATURES_HEADER,
    INTERVAL_HEADER,
    POLL_HEADER,
    REPORTED_HEADER,
    RESYNC_HEADER,
    TOKEN_HEADER,
    Report,
    ReportAck,
    connect_path,
    desired_path,
    read_desired,
    report_path,
)
from praetor_api.wire import WireError, clean_text, parse_json, read, write

CONNECT_TIMEOUT_SECONDS = 4.0
READ_TIMEOUT_SECONDS = 8.0
WAIT_MARGIN_SECONDS = 15.0
"""How much longer than the requested wait an answer may take before the connection counts as dead."""

MAX_DESIRED_BYTES = 16 * 1024 * 1024
MAX_RETRY_AFTER_SECONDS = 300.0
MAX_INTERVAL_SECONDS = 86400
_FAILURES = (OSError, ValueError, requests.exceptions.BaseHTTPError)  # type: ignore[attr-defined]  # it is urllib3's
"""urllib3 raises ValueError for an invalid host, and old requests lets through what it raises of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the gateway is and how the device authenticates.

    *token* is called for each request, because the token may change in its file. *verify* is the path of a CA bundle,
    or whether to check certificates at all. *answered* is called whenever the gateway accepted a request.
    """

    url: str
    device: str
    token: Callable[[], str | None]
    verify: str | bool = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    answered: Callable[[], None] | None = None


def address_of(settings: RunSettings, answered: Callable[[], None] | None = None) -> Address:
    """Return where the gateway is and how the device authenticates; *answered* is called after each answer."""
    token = token_file(settings.token_file) if settings.token_file is not None else lambda: settings.token
    return Address(
        url=settings.gateway,
        device=settings.device,
        token=token,
        verify=settings.ca_bundle or True,
        proxies=proxies_for(settings.gateway, settings.proxy),
        answered=answered,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """A poll that says which one it is: *number* of this boot. *standing* is what was acknowledged, None if that is not
    all.
    """

    boot_id: str
    number: int
    standing: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers that say so."""
        headers = {POLL_HEADER: f"{self.boot_id}/{self.number}"}
        if self.standing is not None:
            headers[REPORTED_HEADER] = f"{self.boot_id}/{self.standing}"
        return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class PollAnswer:
    """The answer to a poll: the desired state if it changed; the *interval* of heartbeats, None if the poll was taken
    for none; and whether to report everything.
    """

    received: Received | None = None
    interval: int | None = None
    resync: bool = False


class GatewayClient:
    """Speaks to the gateway as one device; every failure is a GatewayError."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._desired_path, self._report_path = desired_path(address.device), report_path(address.device)
        self._http = requests.Session()
        # The environment's CA bundle, passwords (.netrc) and proxies would override our settings.
        self._http.trust_env = False
        self._http.proxies = dict(address.proxies)
        self._http.headers["User-Agent"] = f"praetor-agent/{__version__}"
        self._http.headers[FEATURES_HEADER] = ", ".join(sorted(AGENT_FEATURES))

    def desired(self, etag: str | None, wait: int = 0) -> Received | None:
        """Return the desired state, or None if it is still the one of *etag* after *wait* seconds at most."""
        return self.poll(etag, wait).received

    def poll(self, etag: str | None, wait: int, poll: Poll | None = None) -> PollAnswer:
        """Poll as `desired` does, and be a sign of life as *poll* says."""
        headers = {"Accept": "application/json"} | (poll.headers() if poll is not None else {})
        if etag is not None:
            headers["If-None-Match"] = etag
        if wait:
            headers["Prefer"] = f"wait={wait}"
        timeout = wait + WAIT_MARGIN_SECONDS if wait else READ_TIMEOUT_SECONDS
        response, body = self._send("GET", self._desired_path, headers, None, timeout)
        interval, resync = _seconds(response, INTERVAL_HEADER), response.headers.get(RESYNC_HEADER) == "1"
        if response.status_code == requests.codes.not_modified:
            return PollAnswer(interval=interval, resync=resync)
        data: Any = _decoded(body)
        try:
            desired = read_desired(data)
        except WireError as e:
            raise GatewayError(f"the desired state cannot be read: {e}") from e
        if desired.device_name != self._address.device:
            raise GatewayError(f"the desired state is of the device {clean_text(desired.device_name)[:253]!r}")
        received = Received(etag=response.headers.get("ETag"), body=data, desired=desired)
        return PollAnswer(received=received, interval=interval, resync=resync)

    def report(self, report: Report) -> ReportAck:
        """Send a report and return what the gateway answers."""
        _, body = self._send("POST", self._report_path, {}, write(report), READ_TIMEOUT_SECONDS)
        try:
            ack = read(ReportAck, _decoded(body))
        except WireError as e:
            raise GatewayError(f"the answer to the report cannot be read: {e}") from e
        if not ack.ack:
            raise GatewayError("the gateway did not accept the report")
        return ack

    def connect(self) -> None:
        """Announce the device to the gateway."""
        self._send("POST", connect_path(self._address.device), {}, {}, READ_TIMEOUT_SECONDS)

    def date(self) -> str | None:
        """Poll once and return the Date header of the gateway's answer."""
        response, _ = self._send("GET", self._desired_path, {}, None, READ_TIMEOUT_SECONDS)
        return response.headers.get("Date")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(
        self, method: str, path: str, headers: dict[str, str], body: object, read_timeout: float
    ) -> tuple[requests.Response, bytes]:
        token = self._address.token()
        if token is not None:
            headers[TOKEN_HEADER] = token
        try:
            with self._http.request(
                method,
                self._address.url + path,
                json=body,
                headers=headers,
                timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout),
                verify=self._address.verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _bounded(response)
        except _FAILURES as e:
            way = " through the proxy" if isinstance(e, requests.exceptions.ProxyError) else ""
            raise GatewayError(f"cannot reach the gateway at {self._address.url}{way}: {root_cause(e)}") from e
        _refuse(response, content)
        if self._address.answered is not None:
            self._address.answered()
        return response, content


def proxies_for(url: str, proxy: str | None) -> dict[str, str]:
    """Return the proxies on the way to *url*: *proxy*, none if that is DIRECT, else as the environment says."""
    if proxy == DIRECT:
        return {}
    if proxy is not None:
        return {"http": proxy, "https": proxy}
    return dict(requests.utils.get_environ_proxies(url))


def token_file(path: Path) -> Callable[[], str | None]:
    """Return a function that reads the token from *path* on each call."""

    def token() -> str:
        try:
            found = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or e  # without the path, which stands there already
            raise GatewayError(f"the token file {path} cannot be read: {reason}") from e
        if not found:
            raise GatewayError(f"the token file {path} is empty")
        return found

    return token


def _bounded(response: requests.Response) -> bytes:
    response.raw.enforce_content_length = True  # urllib3 1.26 takes an answer that was cut off for a whole one
    content = bytearray()
    for chunk in response.iter_content(65536):
        content += chunk
        if len(content) > MAX_DESIRED_BYTES:
            raise GatewayError(f"the gateway's answer is longer than {MAX_DESIRED_BYTES} bytes")
    return bytes(content)


def _decoded(body: bytes) -> object:
    try:
        return parse_json(body)
    except WireError as e:
        raise GatewayError(f"the gateway's answer is {e}") from e


def _refuse(response: requests.Response, content: bytes) -> None:
    status = response.status_code
    if status in (requests.codes.ok, requests.codes.not_modified):
        return
    if status == requests.codes.unauthorized:
        raise GatewayError("the gateway refuses this device's token (401)", unauthorized=True)
    detail = clean_text(content[:300].decode(errors="replace"))
    retry_after = _retry_after(response) if status in (429, 503) else None
    raise GatewayError(f"the gateway answered {status}: {detail}", retry_after=retry_after)


def _seconds(response: requests.Response, header: str) -> int | None:
    """Return the seconds from 1 to 86400 in *header*; None for anything else."""
    text = response.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_INTERVAL_SECONDS else None


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds of Retry-After; its form as a date is left to the ordinary backoff."""
    text = response.headers.get("Retry-After", "").strip()
    return min(float(text), MAX_RETRY_AFTER_SECONDS) if text.isdigit() else None
