# SPDX-License-Identifier: Apache-2.0
"""Record everything that a watch shows, in a thread, to check afterwards what was true at every moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests
from contract.rawapi import RawApi

from e2e.stack.errors import Refused

WINDOW_S = 1  # a watch lasts that long, which is how soon the thread of a recorder stops
CAUGHT_UP_S = 300
POLL_S = 0.02


class Frame(NamedTuple):
    """One watch event and when it was read: *at* in monotonic seconds, *wall* in those of the epoch.

    Both are read at the event: what is computed from a difference taken once is wrong by as long as the thread was
    kept waiting between the two readings, and by every step of the wall clock since.
    """

    at: float
    type: str
    object: dict[str, Any]
    wall: float

    @classmethod
    def now(cls, kind: str, item: dict[str, Any]) -> Self:
        """Return a frame that was read just now."""
        return cls(time.monotonic(), kind, item, time.time())


class Recorder:
    """Lists *path*, then watches it until the context is left; nothing is missed between the windows.

    Where the apiserver has forgotten what came after the last window, as after a change of the CRD or an outage, what
    differs from the record is recorded once. When it is left without an exception, the record holds all that was
    written before, and does not change any more.
    """

    def __init__(self, kubeconfig: Path, path: str) -> None:
        self.frames: list[Frame] = []
        self.listed = 0  # how many of them are the initial list
        self._api = RawApi.from_kubeconfig(kubeconfig)
        self._path = path
        self._last: dict[str, dict[str, Any]] = {}  # of each object, by the frames
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"record {path}", daemon=True)

    def __enter__(self) -> Self:
        version = self._list()
        self._version = version
        self._thread.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self.end()
        self._ended.set()

    def end(self) -> None:
        """Stop once the record holds all that was written until now; a second call does nothing."""
        if not self._ended.is_set():
            self._catch_up()
            self._ended.set()
        if self._failure is not None:
            raise self._failure

    def states(self) -> list[dict[str, dict[str, Any]]]:
        """Return the collection's objects by name as they were after each event, the initial list first."""
        state: dict[str, dict[str, Any]] = {}
        history = []
        for frame in tuple(self.frames):
            name = frame.object["metadata"]["name"]
            state = {key: value for key, value in state.items() if key != name}
            if frame.type != "DELETED":
                state[name] = frame.object
            history.append(state)
        return history

    def worst(self, measure: Callable[[dict[str, dict[str, Any]]], int]) -> int:
        """Return the greatest *measure* of all states from the initial list on."""
        return max(map(measure, self.states()[max(0, self.listed - 1) :]), default=0)

    def _list(self) -> str:
        now = self._read()
        for item in now["items"]:
            self._record("ADDED", item)
        self.listed = len(self.frames)
        return str(now["metadata"]["resourceVersion"])

    def _list_again(self) -> None:
        now = self._read()
        there = {item["metadata"]["name"] for item in now["items"]}
        for name, item in self._last.copy().items():
            if name not in there:
                self._record("DELETED", item)
        for item in now["items"]:
            last = self._last.get(item["metadata"]["name"])
            if last is None or last["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._record("ADDED" if last is None else "MODIFIED", item)
        self._version = now["metadata"]["resourceVersion"]

    def _read(self) -> dict[str, Any]:
        answer = self._api.get(self._path)
        if answer.status != HTTPStatus.OK:
            raise Refused(f"cannot list {self._path}: {answer.status} {answer.message}")
        return dict(answer.body)

    def _catch_up(self) -> None:
        """Return when the frames lead to what the apiserver holds: a watch may be behind a read, and never skips."""

        def missing() -> set[tuple[str, str]]:
            stored = {(item["metadata"]["name"], item["metadata"]["resourceVersion"]) for item in self._read()["items"]}
            last = self._last.copy().items()
            return stored ^ {(name, item["metadata"]["resourceVersion"]) for name, item in last}

        deadline = time.monotonic() + CAUGHT_UP_S
        while self._failure is None and (left := missing()):
            if time.monotonic() > deadline:
                raise AssertionError(f"the watch of {self._path} lacks {sorted(left)}")
            self._ended.wait(POLL_S)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._window()
        except Exception as error:
            self._failure = error
        finally:
            self._api.close()

    def _window(self) -> None:
        """Read one watch to its end; a connection that breaks is resumed where it was."""
        try:
            with self._api.watch(
                self._path, timeout_s=WINDOW_S, resourceVersion=self._version, allowWatchBookmarks="true"
            ) as frames:
                for frame in frames:
                    self._take(frame.type, frame.object)
        except requests.RequestException:
            self._ended.wait(0.1)

    def _take(self, kind: str, item: dict[str, Any]) -> None:
        if kind == "ERROR" and item.get("code") == HTTPStatus.GONE:
            self._list_again()
            return
        if kind == "ERROR":
            raise AssertionError(f"the watch of {self._path} failed: {item}")
        self._version = item["metadata"]["resourceVersion"]
        if kind != "BOOKMARK" and not self._ended.is_set():
            self._record(kind, item)

    def _record(self, kind: str, item: dict[str, Any]) -> None:
        self.frames.append(Frame.now(kind, item))
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._last.pop(name, None)
        else:
            self._last[name] = item
