"""The embedded control plane put together: everything that it is made of is built here."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubeplane.access.authentication import Authenticator, User
from kubeplane.access.authorization import AlwaysAllow, Rbac
from kubeplane.faults import Faults
from kubeplane.http.api import Api
from kubeplane.http.auditing import Audit
from kubeplane.http.counting import Requests
from kubeplane.http.reading import Reader
from kubeplane.http.server import Server
from kubeplane.kinds import definitions
from kubeplane.kinds.builtin_kinds import BUILTIN
from kubeplane.kinds.resources import Catalog, Resource
from kubeplane.registry.gc import Collector
from kubeplane.registry.registry import Registry
from kubeplane.registry.writing import Options
from kubeplane.schema import cel
from kubeplane.storage.store import Change, Store

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_OWN = Options(manager="kubeplane", trusted=True)


def _now() -> datetime:
    return datetime.now(UTC)


class ControlPlane:
    """A control plane on loopback, as an async context manager; `url` is where it answers.

    *data* is a SQLite file that keeps the objects over restarts; *tokens* maps bearer tokens to users, and without
    any everybody is let in; *crds* is a folder of definitions to begin with; *bookmark_s* is the time between
    bookmarks; with *cert_dir*, which gets a certificate of its own, it talks TLS; with *rbac*, the stored roles and
    bindings decide who may do what; *audit_log* is a file that tells who wrote what.
    """

    def __init__(
        self,
        port: int = 0,
        data: Path | None = None,
        tokens: Mapping[str, User] | None = None,
        crds: Path | None = None,
        bookmark_s: float = 60.0,
        history: int = 100_000,
        cert_dir: Path | None = None,
        rbac: bool = False,
        audit_log: Path | None = None,
    ) -> None:
        self._cert_dir = cert_dir
        self._port = port
        self._journal = _journal(data) if data else None
        self._crds = crds
        self.store = Store(journal=self._journal, history=history)
        self.catalog = Catalog(BUILTIN)
        self.requests = Requests()
        self.faults = Faults()
        self.registry = Registry(self.store, self.catalog, _now)
        authenticator = Authenticator(tokens or {})
        api = Api(
            registry=self.registry,
            reader=Reader(self.store, _now, bookmark_s=bookmark_s),
            authenticator=authenticator,
            authorizer=Rbac(self.store) if rbac else AlwaysAllow(),
            requests=self.requests,
            faults=self.faults,
            compact=self.store.compact,
            audit=Audit(audit_log),
        )
        self._server = Server(api.handle)
        self._work = asyncio.Event()
        self._background: tuple[asyncio.Task[None], ...] = ()
        self.url = ""

    async def start(self) -> None:
        """Load, listen, and begin the background work."""
        for definition in self.store.items(definitions.TABLE):
            self.registry.install(definition.obj)
        collector = Collector(self.registry)
        self.store.subscribe("", self._wake)
        self._bootstrap()
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

    def _bootstrap(self) -> None:
        namespaces = self._resource("", "namespaces")
        for name in NAMESPACES:
            if not self.store.get("/namespaces", ("", name)):
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self.registry.create(namespaces, "", body, _OWN)
        for body in _documents(self._crds) if self._crds else ():
            if not self.store.get(definitions.TABLE, ("", body["metadata"]["name"])):
                self.registry.create(self._resource(definitions.GROUP, definitions.PLURAL), "", body, _OWN)

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
