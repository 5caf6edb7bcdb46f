# SPDX-License-Identifier: Apache-2.0
"""What the statuses of the devices say of their connections: a list and a watch of each kind, through kubectl proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import requests

from praetor_agent.clock import Clock
from praetor_agent.errors import AgentError, root_cause
from praetor_agent.simulate.disconnections import Called

API = "/apis/azure.com/v1alpha1"
PLURALS = ("networkswitches", "bmcs", "dpus", "servers", "socs")
PAGE = 500
WATCH_SECONDS = 300
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 5.0
PAUSE_SECONDS = 1.0
"""Between two watches: a proxy may end them at once."""

_FAILURES = (requests.RequestException, OSError, ValueError, KeyError)


class Statuses:
    """Follows the statuses of *devices* at the API server *url*, in *namespace*, or in all if that is None."""

    def __init__(self, url: str, namespace: str | None, devices: Collection[str], clock: Clock) -> None:
        path = API if namespace is None else f"{API}/namespaces/{namespace}"
        self._url = url
        self._clock = clock
        self._devices = frozenset(devices)
        self._calls: SimpleQueue[Called] = SimpleQueue()
        self._kinds = [_Kind(f"{url}{path}/{plural}") for plural in PLURALS]

    def begin(self) -> None:
        """Read all statuses; AgentError if that is impossible."""
        try:
            self._kinds = [kind for kind in self._kinds if kind.is_served()]
            if not self._kinds:
                raise AgentError(
                    f"--api {self._url} serves no {API}; install Praetor's CRDs there, or give another URL"
                )
            for kind in self._kinds:
                self._list(kind)
                kind.close()  # what is forked later has no part in its connection
        except _FAILURES as e:
            raise AgentError(
                f"--api {self._url} cannot be read: {root_cause(e)}; give the URL that kubectl proxy prints"
            ) from e

    def follow(self) -> None:
        """Follow all changes from now on, in threads that end with the program."""
        for kind in self._kinds:
            Thread(target=self._follow, args=(kind,), name=f"watch {kind.url}", daemon=True).start()

    def take(self) -> Iterator[Called]:
        """Yield what is new."""
        try:
            while True:
                yield self._calls.get_nowait()
        except Empty:
            return

    @property
    def failure(self) -> str | None:
        """Why some statuses are out of date; None if all are followed."""
        return next((kind.failure for kind in self._kinds if kind.failure is not None), None)

    def _follow(self, kind: _Kind) -> None:
        while True:
            try:
                if not kind.version:
                    self._list(kind)
                for event in kind.events():
                    self._happened(kind, event)
                time.sleep(PAUSE_SECONDS)
            except _FAILURES as e:
                kind.failure, kind.version = root_cause(e), ""
                time.sleep(RETRY_SECONDS)

    def _list(self, kind: _Kind) -> None:
        gone = set(kind.known)
        for item in kind.items():
            gone.discard(item["metadata"]["name"])
            self._called(kind, item)
        for name in gone:
            self._deleted(kind, name)

    def _happened(self, kind: _Kind, event: Mapping[str, Any]) -> None:
        if event["type"] in ("ADDED", "MODIFIED"):
            self._called(kind, event["object"])
        elif event["type"] == "DELETED":
            self._deleted(kind, event["object"]["metadata"]["name"])

    def _called(self, kind: _Kind, item: Mapping[str, Any]) -> None:
        name = item["metadata"]["name"]
        if name not in self._devices:
            return
        conditions = (item.get("status") or {}).get("conditions") or ()
        found: Mapping[str, Any] = next((each for each in conditions if each.get("type") == "AgentConnected"), {})
        before, now = kind.known.get(name), (str(found.get("status", "")), str(found.get("lastTransitionTime", "")))
        if now == before:
            return
        kind.known[name] = now
        # with another time it changed twice: a status that is True again was False
        lost = before is not None and (now[0] == "False" or now[0] == before[0] == "True")
        self._calls.put(Called(name, now[0], lost, self._clock.now()))

    def _deleted(self, kind: _Kind, name: str) -> None:
        if kind.known.pop(name, None) is not None:
            self._calls.put(Called(name, "", lost=False, at=self._clock.now()))


class _Kind:
    """The devices of one kind, at *url*. *known* is the status and its time by name, *version* what is known of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.known: dict[str, tuple[str, str]] = {}
        self.version = ""
        self.failure: str | None = None
        self._http = requests.Session()
        self._http.trust_env = False  # the proxy of the environment is none to this machine

    def is_served(self) -> bool:
        """Return whether there is such a kind."""
        with self._get({"limit": "1"}) as answer:
            if answer.status_code == requests.codes.not_found:
                return False
            answer.raise_for_status()
            return True

    def items(self) -> Iterator[Mapping[str, Any]]:
        """Yield all objects, read in pages; *version* is theirs at the end."""
        query = {"limit": str(PAGE)}
        while True:
            with self._get(query) as answer:
                answer.raise_for_status()
                page = answer.json()
            yield from page["items"]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self.version, self.failure = metadata["resourceVersion"], None

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield what changes after *version* until the server ends the watch; no *version* is left if it is too old."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        with self._get({**query, "resourceVersion": self.version}, WATCH_SECONDS + ANSWER_SECONDS) as answer:
            if answer.status_code == requests.codes.gone:
                self.version = ""
                return
            answer.raise_for_status()
            for line in filter(None, answer.iter_lines(chunk_size=None)):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self.version = ""
                    return
                self.version = event["object"]["metadata"]["resourceVersion"]
                yield event

    def close(self) -> None:
        """Close the connections; the next request opens one again."""
        self._http.close()

    def _get(self, query: Mapping[str, str], within_seconds: float = ANSWER_SECONDS) -> requests.Response:
        timeout = (CONNECT_SECONDS, within_seconds)
        return self._http.get(self.url, params=query, timeout=timeout, stream="watch" in query)
