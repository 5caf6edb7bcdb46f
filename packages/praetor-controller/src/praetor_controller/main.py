# SPDX-License-Identifier: Apache-2.0
"""Builds the controller's parts, wires them and runs them until a signal says stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from uuid import uuid4

import structlog

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock, SystemClock, within
from praetor_api.kube.runtime.elector import Elector
from praetor_api.kube.runtime.events import EventRecorder
from praetor_api.kube.runtime.garbage import collect_less_often, spare
from praetor_api.kube.runtime.probes import serve_probes
from praetor_api.kube.runtime.tracing import NO_TRACER, Tracer, recording_tracer
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_api.names import FILE_DIGESTS, GATEWAY_LEASE
from praetor_controller.__about__ import __version__
from praetor_controller.journal.recorder import FlightRecorder
from praetor_controller.journal.rotating_file import RotatingFile
from praetor_controller.metrics import Metrics
from praetor_controller.reconcile.cache import Cache
from praetor_controller.reconcile.controller import Controller
from praetor_controller.reconcile.file_digests import FileDigests
from praetor_controller.reconcile.gateway_lease import GatewayLease
from praetor_controller.reconcile.reconciler import DeploymentReconciler
from praetor_controller.reconcile.revision_history import RevisionHistory
from praetor_controller.reconcile.writer import Writer
from praetor_controller.settings import Recording, Settings

LEASE = "praetor-controller"
_FLUSH_S = 2.0

_log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; the lease is released by then."""
    collect_less_often()
    clock = SystemClock()
    with recording_tracer(enabled=settings.tracing, service="praetor-controller", version=__version__) as spans:
        await _run(settings, clock, spans)


async def _run(settings: Settings, clock: Clock, spans: Tracer) -> None:
    async with await KubeClient.from_config(settings.kubeconfig, settings.context) as client:
        program = Program(client, clock, settings, spans)
        client.on_request = program.metrics.program.requested
        client.on_duration = program.metrics.program.took
        with _stop_signal() as stop, program.recording():
            async with serve_probes(
                settings.probes, settings.metrics, unready=program.unready, registry=program.metrics.registry
            ):
                sparing = asyncio.create_task(spare(program.synced), name="spare the fleet")
                try:
                    await program.run(stop)
                finally:
                    sparing.cancel()


class Program:
    """The controller's parts, put together."""

    def __init__(self, api: KubeApi, clock: Clock, settings: Settings, spans: Tracer = NO_TRACER) -> None:
        identity = f"{socket.gethostname()}_{os.getpid()}_{uuid4().hex[:8]}"
        self.metrics = Metrics()
        self._api = api
        self._clock = clock
        self._settings = settings
        self._tracer = spans
        self._cache = Cache(api, clock, settings.namespaces)
        self._limiter = TokenBucket(settings.qps, settings.burst, clock)
        self._recorder = EventRecorder(api, clock, "praetor-controller", identity)
        self._flight = _flight(settings.recording, self.metrics, clock)
        self.controller = Controller(self._cache, self.metrics, clock, workers=settings.workers)
        self._gateway = GatewayLease(
            api, Key(settings.gateway_lease_namespace, GATEWAY_LEASE), clock, self.controller.reconcile_all
        )
        self._digests = FileDigests(
            api, Key(settings.gateway_lease_namespace, FILE_DIGESTS), clock, self.controller.contents_changed
        )
        self.metrics.gateway.set_function(lambda: self._gateway.judging)
        lease = Key(settings.leader_elect_namespace, LEASE)
        self._elector = Elector(
            api, lease, identity, clock, lease_duration_s=settings.lease_duration_s, on_doubt=self._doubt
        )

    def unready(self) -> str:
        """Return why the program is not ready, or "": ready means that the cache is filled."""
        return "" if self._cache.synced else "the cache is not filled yet"

    async def synced(self) -> None:
        """Return once the cache was filled."""
        await self._cache.wait_synced()

    def recording(self) -> AbstractContextManager[object]:
        """Return the context in which decisions are recorded, if --record is given."""
        return self._flight or nullcontext()

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the cluster, and reconcile while leading, until *stop* is set."""
        async with asyncio.TaskGroup() as group:
            recording = group.create_task(self._recorder.run(), name="record events")
            following = group.create_task(self._cache.run(), name="follow the cluster")
            judging = group.create_task(self._gateway.run(), name="follow the gateways' Lease")
            contents = group.create_task(self._digests.run(), name="follow digests of files")
            leading = group.create_task(self._campaign(), name="lead")
            await stop.wait()
            _log.info("stopping")
            leading.cancel()
            await asyncio.wait((leading,))
            await self._flush()
            for task in (following, judging, contents, recording):
                task.cancel()
        _log.info("stopped")

    def _doubt(self, since: float | None) -> None:
        self._cache.doubt(since)
        self._digests.doubt(since)

    async def _campaign(self) -> None:
        if self._settings.leader_elect:
            await self._elector.run(self._lead)
        else:
            _log.info("leading, since there is no election")
            await self._lead()

    async def _lead(self) -> None:
        await self._digests.synced()
        may_write, tracer = self._may_write, self._tracer
        writer = Writer(self._api, self._cache, self._clock, self._limiter, self.metrics, may_write, tracer)
        history = RevisionHistory(self._api, self._cache, self._clock, may_write, tracer)
        reconciler = DeploymentReconciler(
            self._api,
            self._cache,
            writer,
            history,
            self._recorder,
            self.metrics,
            self._clock,
            self.controller.dirty,
            self._gateway,
            self._flight,
            self._digests.of,
        )
        self.metrics.leader.set(1)
        try:
            await self.controller.lead(reconciler)
        finally:
            self.metrics.leader.set(0)

    def _may_write(self) -> bool:
        return not self._settings.leader_elect or self._elector.fresh(self._clock.monotonic())

    async def _flush(self) -> None:
        try:
            await within(self._clock, _FLUSH_S, self._recorder.flush())
        except TimeoutError:
            _log.info("events left unwritten")


def _flight(recording: Recording | None, metrics: Metrics, clock: Clock) -> FlightRecorder | None:
    if recording is None:
        return None
    file = RotatingFile(recording.path, max_bytes=recording.max_bytes, files=recording.files)
    return FlightRecorder(file, metrics, clock)


@contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
