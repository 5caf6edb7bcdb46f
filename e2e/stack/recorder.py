"""A record of everything that a watch shows, kept by a thread, to judge afterwards what was true at every moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests

from e2e.clusters.rawapi import RawApi
from e2e.stack.errors import Refused

WINDOW_S = 1  # a watch is asked for anew so often, which is how soon a recorder stops


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
    """Lists *path*, then watches it until the context is left; nothing is missed between the windows."""

    def __init__(self, kubeconfig: Path, path: str) -> None:
        self.frames: list[Frame] = []
        self.listed = 0  # so many of them are the initial list
        self._api = RawApi.from_kubeconfig(kubeconfig)
        self._path = path
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"record {path}", daemon=True)

    def __enter__(self) -> Self:
        version = self._list()
        self._version = version
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._api.close()
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
        answer = self._api.get(self._path)
        if answer.status != HTTPStatus.OK:
            raise Refused(f"cannot list {self._path}: {answer.status} {answer.message}")
        self.frames += [Frame.now("ADDED", item) for item in answer.body["items"]]
        self.listed = len(self.frames)
        return str(answer.body["metadata"]["resourceVersion"])

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._window()
        except Exception as error:
            self._failure = error

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
        if kind == "ERROR":
            raise AssertionError(f"the watch of {self._path} failed: {item}")
        self._version = item["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self.frames.append(Frame.now(kind, item))
