# SPDX-License-Identifier: Apache-2.0
"""GET for artifacts: bounded in time, with restricted redirects, independent of the environment.

Credentials stay at their host.

http.client rather than a Session: each read can be timed, and the peer's address is known before anything is sent.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Timer
from urllib.parse import SplitResult, urljoin, urlsplit

from praetor_agent.errors import ArtifactError
from praetor_api.backports import dataclass
from praetor_api.protocol import ArtifactReason as Reason

MAX_REDIRECTS = 3
PIECE_BYTES = 256 * 1024
MAX_RETRY_AFTER_SECONDS = 3600.0
"""As long as the longest pause after any failure."""
# The instance metadata of clouds, which answers with credentials.
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow a server may be: seconds to connect, to answer and to send more, and its minimum rate."""

    connect: float = 10.0
    answer: float = 30.0
    quiet: float = 30.0
    window: float = 30.0
    bytes_per_second: float = 1024.0


class Answer:
    """One answer; its body has not been read yet."""

    def __init__(self, url: str, response: HTTPResponse, pace: Pace) -> None:
        self.url = url
        self.status = response.status
        self.headers = response.headers
        self.length = response.length
        self.delimited = response.length is not None or response.chunked
        encoding = str(self.headers.get("Content-Encoding", "identity"))
        self.encoding = "" if encoding.lower() == "identity" else encoding[:32]
        self._response = response
        self._pace = pace

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives; ArtifactError if it is cut off or too slow."""
        received, since, recent = 0, time.monotonic(), 0
        while piece := self._response.read1(PIECE_BYTES):
            received += len(piece)
            recent += len(piece)
            yield piece
            lasted = time.monotonic() - since
            if lasted >= self._pace.window:
                if recent < lasted * self._pace.bytes_per_second:
                    raise ArtifactError(f"{self.url} sends too slowly: {recent} bytes in {lasted:.0f} s")
                since, recent = time.monotonic(), 0
        if self.length is not None and received < self.length:
            raise ArtifactError(f"{self.url} ended after {received} of {self.length} bytes")

    def read(self, limit: int) -> bytes:
        """Return a short body."""
        body = b""
        for piece in self.pieces():
            body += piece
            if len(body) > limit:
                raise ArtifactError(f"{self.url} answered with more than {limit} bytes", Reason.TOO_LARGE)
        return body

    def expect(self, *statuses: int, verified: bool = False) -> None:
        """Raise ArtifactError for any other status, and for an encoding unless a digest decides (*verified*)."""
        if self.status in statuses:
            if self.encoding and not verified:
                raise ArtifactError(f"{self.url} answered with Content-Encoding {self.encoding} and has no checksum")
            return
        reason = {401: Reason.UNAUTHORIZED, 403: Reason.UNAUTHORIZED, 404: Reason.NOT_FOUND, 410: Reason.NOT_FOUND}
        raise ArtifactError(
            f"{self.url} answered {self.status} {self._response.reason}",
            reason.get(self.status, Reason.DOWNLOAD_FAILED),
        )


class Web:
    """Gets URLs; *ca_bundle* is a PEM file of CA certificates to trust besides the device's own.

    A server that answers with Retry-After is not asked before; *now* returns seconds.
    """

    def __init__(
        self,
        *,
        pace: Pace | None = None,
        ca_bundle: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._not_before: dict[str, float] = {}
        self._pace = pace or Pace()
        self._ca_bundle = ca_bundle
        self._tls: ssl.SSLContext | None = None

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Yield the answer to a GET of *url* after redirects; ArtifactError if there is none."""
        sent = {"Accept-Encoding": "identity", "User-Agent": "praetor-agent", **(headers or {})}
        first, local = _checked(url), None
        parts = first
        try:
            for _ in range(MAX_REDIRECTS + 1):
                if (wait := self._not_before.get(parts.netloc, 0.0) - self._now()) > 0:
                    message = f"{parts.netloc} asked to wait {wait:.0f} s more"
                    raise ArtifactError(message, retry_after=wait)
                with closing(self._connection(parts)) as connection:
                    local = self._connect(connection, parts, local)
                    with closing(self._ask(connection, parts, sent)) as response:
                        if response.status in (429, 503):
                            raise self._refused(parts, response)
                        target = response.headers.get("Location")
                        if response.status not in (301, 302, 303, 307, 308) or target is None:
                            yield Answer(parts.geturl(), response, self._pace)
                            return
                onward = _checked(urljoin(parts.geturl(), target))
                if parts.scheme == "https" and onward.scheme != "https":
                    raise ArtifactError(f"{url} redirects from https to http, which is refused", Reason.NOT_ALLOWED)
                if (onward.scheme, onward.netloc) != (parts.scheme, parts.netloc):
                    sent.pop("Authorization", None)
                parts = onward
            raise ArtifactError(f"{url} redirects more than {MAX_REDIRECTS} times")
        except (OSError, HTTPException) as e:
            raise ArtifactError(f"{url} cannot be downloaded: {str(e) or type(e).__name__}") from e

    def _refused(self, parts: SplitResult, response: HTTPResponse) -> ArtifactError:
        """Return the error of a server with too much to do, and note how long it is left alone."""
        # The jitter keeps the devices of a fleet from coming back at once.
        wait = _retry_after(response) * (1.0 + 0.25 * random.random())  # noqa: S311 - no secret
        self._not_before[parts.netloc] = self._now() + wait
        asks = f" and asks to wait {wait:.0f} s" if wait else ""
        message = f"{parts.geturl()} answered {response.status} {response.reason}{asks}"
        return ArtifactError(message, retry_after=wait)

    def _connection(self, parts: SplitResult) -> HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "http":
            return HTTPConnection(host, parts.port, timeout=self._pace.connect)
        return HTTPSConnection(host, parts.port, timeout=self._pace.connect, context=self._context())

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2  # as is the default from Python 3.10 on
            from requests.utils import DEFAULT_CA_BUNDLE_PATH

            self._tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
            if self._ca_bundle:
                self._tls.load_verify_locations(self._ca_bundle)
        return self._tls

    def _connect(self, connection: HTTPConnection, parts: SplitResult, local: bool | None) -> bool:
        """Connect; return whether the peer is this device. Only a first URL may lead there, no redirect."""
        address = (connection.host, connection.port)
        try:
            peer = socket.create_connection(address, self._pace.connect)
        except OSError as e:
            raise ArtifactError(f"{parts.geturl()} cannot be reached: {e}", Reason.UNREACHABLE) from e
        connection.sock = peer
        here = _is_local(peer.getpeername()[0], parts)
        if here and local is False:
            raise ArtifactError(f"{parts.geturl()} is this device, and redirects there are refused", Reason.NOT_ALLOWED)
        if isinstance(connection, HTTPSConnection):
            try:
                connection.sock = self._context().wrap_socket(peer, server_hostname=connection.host)
            except OSError as e:
                raise ArtifactError(f"{parts.geturl()} is not trusted: {e}", Reason.UNREACHABLE) from e
        connection.sock.settimeout(self._pace.quiet)
        return here if local is None else local

    def _ask(self, connection: HTTPConnection, parts: SplitResult, headers: Mapping[str, str]) -> HTTPResponse:
        # A header may come a byte at a time, each within the socket's timeout.
        watchdog = Timer(self._pace.answer, _hang_up, (connection.sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", (parts.path or "/") + ("?" + parts.query if parts.query else ""), headers=headers)
            return connection.getresponse()
        finally:
            watchdog.cancel()


def _retry_after(response: HTTPResponse) -> float:
    """Return the seconds of Retry-After, 0 without any. A date counts from the server's own, not this clock's."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        if text.isdecimal():
            seconds = float(text)
        else:
            seconds = (
                parsedate_to_datetime(text) - parsedate_to_datetime(response.headers.get("Date", ""))
            ).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _hang_up(peer: socket.socket) -> None:
    with suppress(OSError):  # closed meanwhile
        socket.socket.shutdown(peer, socket.SHUT_RDWR)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad or not url.isascii() or not url.isprintable() or " " in url or parts.username is not None:
        raise ArtifactError(f"{url!r} is not a URL of http or https without credentials", Reason.UNSUPPORTED)
    return parts


def _is_local(peer: str, parts: SplitResult) -> bool:
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_link_local or mapped.is_multicast or str(mapped) in _METADATA:
        raise ArtifactError(f"{parts.geturl()} is at {peer}, where no artifact may come from", Reason.NOT_ALLOWED)
    return bool(mapped.is_loopback or mapped.is_unspecified)
