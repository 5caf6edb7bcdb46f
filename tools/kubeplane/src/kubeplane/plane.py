# SPDX-License-Identifier: Apache-2.0
"""The control plane put together: everything that it is made of is built here."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubeplane.access.authentication import Authenticator, User
from kubeplane.access.authorization import AlwaysAllow, Rbac
from kubeplane.clock import Clock, SystemClock
from kubeplane.errors import Obj
from kubeplane.faults import Faults
from kubeplane.http.api import Api
from kubeplane.http.auditing import Audit
from kubeplane.http.counting import Requests
from kubeplane.http.messages import Request, Response
from kubeplane.http.reading import Reader
from kubeplane.http.server import Server
from kubeplane.kinds import definitions
from kubeplane.kinds.builtin_kinds import BUILTIN
from kubeplane.kinds.resources import Catalog, Resource
from kubeplane.registry.gc import Collector
from kubeplane.registry.registry import Registry
from kubeplane.registry.writing import Options
from kubeplane.schema import cel
from kubeplane.storage.store import Change, Key, Store

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_OWN = Options(manager="kubeplane", trusted=True)


class ControlPlane:
    """A Kubernetes API. As an async context manager it listens on loopback, at *url*; `handle` needs no socket.

    Args:
        port: port on 127.0.0.1; 0 takes a free one.
        data: SQLite file that keeps the objects over restarts; without it they are in memory.
        tokens: users by bearer token; without any, every client is let in.
        crds: folder of CustomResourceDefinitions to begin with.
        namespaces: names of namespaces to begin with, beside those that every control plane has.
        bookmark_s: seconds between the bookmarks of a watch; 0: only those of `send_bookmarks`.
        history: how many changes watches can resume from.
        cert_dir: folder of the certificate, made if missing, with which it talks TLS.
        rbac: whether the stored roles and bindings decide who may do what.
        audit_log: file that records accepted and refused writes.
        clock: for timestamps, timeouts and bookmarks.
        origin: a control plane whose objects and kinds this one begins with; its history is not taken over.
    """

    def __init__(
        self,
        port: int = 0,
        data: Path | None = None,
        tokens: Mapping[str, User] | None = None,
        crds: Path | None = None,
        namespaces: Sequence[str] = (),
        bookmark_s: float = 60.0,
        history: int = 100_000,
        cert_dir: Path | None = None,
        rbac: bool = False,
        audit_log: Path | None = None,
        clock: Clock | None = None,
        origin: ControlPlane | None = None,
    ) -> None:
        self._cert_dir = cert_dir
        self._port = port
        self._journal = _journal(data) if data else None
        clock = clock or SystemClock()
        self.store: Store = origin.store.copy() if origin else Store(journal=self._journal, history=history)
        self.catalog: Catalog = Catalog(tuple(origin.catalog) if origin else BUILTIN)
        self.requests = Requests()
        self.faults = Faults()
        self.registry = Registry(self.store, self.catalog, clock.now)
        self._reader = Reader(self.store, clock, bookmark_s=bookmark_s)
        self._api = Api(
            registry=self.registry,
            reader=self._reader,
            authenticator=Authenticator(tokens or {}),
            authorizer=Rbac(self.store) if rbac else AlwaysAllow(),
            requests=self.requests,
            faults=self.faults,
            compact=self.store.compact,
            audit=Audit(audit_log),
            clock=clock,
        )
        self._server = Server(self._api.handle)
        self._work = asyncio.Event()
        self._background: tuple[asyncio.Task[None], ...] = ()
        self.url = ""
        if origin is None:
            self._load(crds, namespaces)

    async def handle(self, request: Request) -> Response:
        """Answer *request* in this process, as the server answers one that comes over a socket.

        A watch's `Response.stream` sends lines until it is cancelled or its time is over. Without `start` there is
        no garbage collection: owners that go leave their dependents behind, as without a controller manager.
        """
        return await self._api.handle(request)

    def objects(self, group: str, version: str, plural: str) -> dict[Key, Obj]:
        """Return the objects of a kind by namespace and name; they are the stored ones and must not be changed."""
        resource = self.catalog.find(group, version, plural)
        if resource is None:
            raise LookupError(f"{plural} of {group}/{version} are not served")
        return {stored.key: resource.wire(stored.obj) for stored in self.store.items(resource.table)}

    def send_bookmarks(self) -> None:
        """Send a bookmark on every open watch."""
        self._reader.send_bookmarks()

    async def start(self) -> None:
        """Listen, and begin the background work."""
        collector = Collector(self.registry)
        self.store.subscribe("", self._wake)
        self._work.set()  # what a restart interrupted
        tls = _tls(self._cert_dir) if self._cert_dir else None
        port = await self._server.start("127.0.0.1", self._port, tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self._background = (
            asyncio.create_task(self._collect(collector), name="collect garbage"),
            asyncio.create_task(self._compile(), name="compile rules"),
        )

    def _wake(self, _: Change) -> None:
        self._work.set()

    def _resource(self, group: str, plural: str) -> Resource:
        found = self.catalog.find(group, "v1", plural)
        assert found is not None
        return found

    def _load(self, crds: Path | None, more: Sequence[str]) -> None:
        """Serve the kinds that the journal brought, and make what is there from the beginning."""
        for definition in self.store.items(definitions.TABLE):
            self.registry.install(definition.obj)
        namespaces = self._resource("", "namespaces")
        for name in (*NAMESPACES, *more):
            if not self.store.get("/namespaces", ("", name)):
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self.registry.create(namespaces, "", body, _OWN)
        for body in _documents(crds) if crds else ():
            if not self.store.get(definitions.TABLE, ("", body["metadata"]["name"])):
                self.registry.create(self._resource(definitions.GROUP, definitions.PLURAL), "", body, _OWN)
        self.store.compact()  # the history begins with the first client

    async def _collect(self, collector: Collector) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while collector.busy:
                collector.run()
                await asyncio.sleep(0)

    async def _compile(self) -> None:
        """Compile the rules that are there, beside the serving: the first write need not wait for it."""
        for definition in self.store.items(definitions.TABLE):
            for expression in definitions.all_expressions(definition.obj):
                await asyncio.to_thread(_compiled, expression)

    async def stop(self) -> None:
        """Break all connections and stop."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._server.stop()
        if self._journal:
            self._journal.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _compiled(expression: str) -> None:
    # a rule that cannot be compiled is reported where it is used
    with contextlib.suppress(Exception):
        cel.program(expression)


def _journal(path: Path) -> Any:
    from kubeplane.storage.persistence import SqliteJournal

    return SqliteJournal(path)


def _tls(folder: Path) -> ssl.SSLContext:
    from kubeplane.http.tls import server_context

    return server_context(folder)


def _documents(folder: Path) -> list[Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = sorted(folder.glob("*.yaml"))
    return [body for file in files for body in yaml.load_all(file.read_text(), Loader=loader) if body]
