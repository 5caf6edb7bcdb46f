#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A provisioning server for first-boot.sh: files for everyone, and each device's token exactly once.

  GET /files/NAME   a file of FOLDER/files
  GET /device/KEY   the device's name, by FOLDER/devices: lines of KEY and DEVICE
  GET /token/KEY    FOLDER/tokens/DEVICE, which is deleted when it was sent; 410 from then on

KEY is the device's serial number, or any other word that its first boot knows. A token is put back with
`praetorctl devices token DEVICE --output-dir FOLDER/tokens`.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TIMEOUT_S = 60


class Provisioning(BaseHTTPRequestHandler):
    """Answers one request from *folder*."""

    timeout = TIMEOUT_S

    def __init__(self, folder: Path, *args: object) -> None:
        self._folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        device = self._devices().get(name)
        if kind == "files" and name in os.listdir(self._folder / "files"):
            self._answer(HTTPStatus.OK, (self._folder / "files" / name).read_bytes())
        elif kind == "device" and device:
            self._answer(HTTPStatus.OK, f"{device}\n".encode())
        elif kind == "token" and device:
            self._give(device)
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def _devices(self) -> dict[str, str]:
        lines = (line.split() for line in (self._folder / "devices").read_text(encoding="utf-8").splitlines())
        return {words[0]: words[1] for words in lines if len(words) == 2}

    def _give(self, device: str) -> None:
        token = self._folder / "tokens" / device
        claimed = token.with_name(f".given-{device}")
        try:
            os.rename(token, claimed)  # of two requests, one gets here
        except FileNotFoundError:
            self._answer(HTTPStatus.GONE)
            return
        try:
            self._answer(HTTPStatus.OK, claimed.read_bytes())
        except OSError:
            os.rename(claimed, token)
            raise
        os.unlink(claimed)
        self.log_message("%s has its token", device)

    def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve what first-boot.sh needs; each token once.")
    parser.add_argument("folder", type=Path, help="holds files/, tokens/ and the file devices")
    parser.add_argument("--address", default="0.0.0.0", help="where to listen")  # noqa: S104  # devices come from outside
    parser.add_argument("--port", type=int, default=8444)
    parser.add_argument("--cert", help="PEM file of the certificate; without it tokens can be read on the way")
    parser.add_argument("--key", help="PEM file of its key")
    given = parser.parse_args()
    server = ThreadingHTTPServer((given.address, given.port), partial(Provisioning, given.folder))
    if given.cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(given.cert, given.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    sys.stdout.write(f"serving {given.folder} on port {server.server_port}\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
