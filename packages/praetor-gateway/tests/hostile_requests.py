# SPDX-License-Identifier: Apache-2.0
"""What hostile clients send: the tests check what becomes of it, and `hatch run bench hostile` what others notice."""

from __future__ import annotations

HEAD = b"GET /x HTTP/1.1\r\nHost: x\r\n"
GET = HEAD + b"\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

REFUSED = {
    "20-kB-header": (HEAD + b"X-Big: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
    "20-kB-of-spaces": (HEAD + b"X-Big:" + b" " * 20_000 + b"a\r\n\r\n", b"431"),
    "20-kB-target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
    "1000-lines": (HEAD + b"A: b\r\n" * 1_000 + b"\r\n", b"431"),
    "lower-case": (b"get /x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "mixed-case": (b"Get /x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "HTTP/9.9": (b"GET /x HTTP/9.9\r\nHost: x\r\n\r\n", b"505"),
    "HTTP/2-prior-knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
    "no-host": (b"GET /x HTTP/1.1\r\n\r\n", b"400"),
    "not-http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    "20-kB-of-chunk-extension": (
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 20_000 + b"\r\na\r\n0\r\n\r\n",
        b"431",
    ),
    "1000-trailers": (
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 1_000 + b"\r\n",
        b"431",
    ),
}
"""Requests beyond a limit, and the status that each is refused with."""

UNCLEAR = {
    "two-lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "length-list": POST + b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "signed-length": POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "space-before-colon": POST + b"Content-Length : %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "not-chunked-last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "bare-line-feed-after-chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n" + SMUGGLED,
    "chunk-is-longer": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + SMUGGLED,
    "negative-chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED,
    "two-hosts": b"GET /x HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + SMUGGLED,
    "zero-byte": HEAD + b"A: \0\r\n\r\n" + SMUGGLED,
    "body-of-an-upgrade": POST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
}
"""Requests whose end is not clear, before another one that must not be taken for a request of this client."""

LEFT = {
    "nothing": b"",
    "byte": b"G",
    "request": GET,
    "two": GET + GET,
    "one-and-a-half": GET + HEAD,
    "thousands": GET * 5_000,
    "upgrade": HEAD + b"Upgrade: h2c\r\n\r\n" + GET,
    "half-a-body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "chunks": b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1_000,
}
"""What a client sent that leaves."""

SILENT: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "first-byte": (b"G",),
    "two-bytes": (b"G", b"E"),
    "half-a-head": (HEAD,),
    "a-request": (GET,),
}
"""What a client sent, piece by piece, that says no more."""

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

STRICT: dict[str, tuple[bytes, bytes]] = {
    "unknown-method": (b"FOO /x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "method-of-WebDAV": (b"PROPFIND /x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "method-of-a-proxy": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
    "bare-line-feeds": (b"GET /x HTTP/1.1\nHost: x\n\n", b"400"),
    "bare-line-feed": (HEAD + b"A: b\nC: d\r\n\r\n", b"400"),
    "bare-line-feed-at-the-end": (HEAD + b"A: b\r\n\n", b"400"),
    "bare-carriage-return": (HEAD + b"A: b\rC: d\r\n\r\n", b"400"),
    "folded": (HEAD + b"A: b\r\n c\r\n\r\n", b"400"),
    "control-character": (HEAD + b"A: b\x01\r\n\r\n", b"400"),
    "same-length-twice": (POST + b"Content-Length: 3\r\nA: b\r\nContent-Length: 3\r\n\r\nabc", b"400"),
    "same-length-in-a-list": (POST + b"Content-Length: 3, 3\r\n\r\nabc", b"400"),
    "length-and-chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    "chunked-twice": (POST + 2 * b"Transfer-Encoding: chunked\r\n" + b"\r\n0\r\n\r\n", b"501"),
    "space-after-a-chunk-size": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", b"400"),
    "folded-trailer": (CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", b"400"),
    "target-without-a-slash": (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
}
"""Requests that one of two parsers takes, and the status that each server refuses them with."""

ALLOWED: dict[str, tuple[bytes, int]] = {
    "empty-line-before": (b"\r\n" + GET, 1),
    "empty-lines-between": (GET + b"\r\n\r\n" + GET, 2),
    "chunk-extension": (CHUNKED + b'1;a=b;c="d e"\r\na\r\n0\r\n\r\n' + GET, 2),
    "chunk-extension-of-9000-bytes": (CHUNKED + b"1;" + b"a" * 9_000 + b"\r\na\r\n0\r\n\r\n" + GET, 2),
    "text-of-eight-bits": (HEAD + b"A: \xe4\r\n\r\n", 1),
    "upgrade-without-connection": (POST + b"Upgrade: h2c\r\nContent-Length: 3\r\n\r\nabc" + GET, 2),
}
"""Requests that one of two servers might refuse, and how many of them each answers."""
