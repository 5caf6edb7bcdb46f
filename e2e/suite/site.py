# SPDX-License-Identifier: Apache-2.0
"""A web site of files, as artifacts are published; it may be slow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from threading import Thread
from typing import Any

PIECE_BYTES = 16 * 1024


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def __init__(self, *words: Any, pause: float = 0.0, **named: Any) -> None:
        self._pause = pause
        super().__init__(*words, **named)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the file, with a pause after each piece."""
        if not self._pause:
            copyfileobj(source, outputfile)
        while piece := source.read(PIECE_BYTES):
            try:
                outputfile.write(piece)
            except ConnectionError:  # the client was killed
                return
            time.sleep(self._pause)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def served(folder: Path, *, pause: float = 0.0) -> Iterator[str]:
    """Serve the files of *folder*; yield the URL."""
    handler = partial(QuietHandler, directory=str(folder), pause=pause)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
