# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 client on asyncio streams, so that one thread can hold the polls of thousands of devices."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from praetor_agent.errors import GatewayError
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER

CONNECT_TIMEOUT_SECONDS = 10.0
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024
_FEATURES = f"{FEATURES_HEADER}: {', '.join(sorted(AGENT_FEATURES))}\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the gateway listens; *tls* is set for https."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def endpoint(url: str, ca_bundle: str | None) -> Endpoint:
    """Return the endpoint that *url* names."""
    parts = urlsplit(url)
    tls = ssl.create_default_context(cafile=ca_bundle) if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    return Endpoint(host=parts.hostname or "", port=port, prefix=parts.path.rstrip("/"), tls=tls)


class Connection:
    """One connection, kept alive and opened again after it was lost."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self._endpoint = endpoint
        self._token = f"X-Device-Token: {token}\r\n" if token is not None else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, headers: str, body: bytes, timeout: float) -> Response:
        """Return the answer to one request; GatewayError if there is none within *timeout* seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._request(method, path, headers, body)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as e:
            self.close()
            raise GatewayError(f"{type(e).__name__}: {e}") from e
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _request(self, method: str, path: str, headers: str, body: bytes) -> Response:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await self._connect()
        reader, writer = self._streams
        head = (
            f"{method} {self._endpoint.prefix}{path} HTTP/1.1\r\nHost: {self._endpoint.host}:{self._endpoint.port}\r\n"
            f"User-Agent: praetor-agent-simulate\r\n{_FEATURES}{self._token}{headers}"
        )
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        elif method == "POST":
            head += "Content-Length: 0\r\n"
        writer.write(head.encode("ascii") + b"\r\n" + body)
        response = await _read_response(reader)
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            return await asyncio.open_connection(
                self._endpoint.host, self._endpoint.port, ssl=self._endpoint.tls, limit=MAX_LINE_BYTES
            )


async def _read_response(reader: asyncio.StreamReader) -> Response:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if status in (204, 304):
        return Response(status=status, headers=headers, body=b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status=status, headers=headers, body=await _read_chunks(reader))
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError(f"an answer of {length} bytes")
    return Response(status=status, headers=headers, body=await reader.readexactly(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if size + len(body) > MAX_BODY_BYTES:
            raise ValueError("an answer without end")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)
