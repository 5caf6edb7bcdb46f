# SPDX-License-Identifier: Apache-2.0
"""All parts of a gateway put together, and the background work that keeps them going."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from praetor_api.annotations import JUDGES_WITHIN_ANNOTATION, PEER_ADDRESS_ANNOTATION
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.runtime.clock import Clock, within
from praetor_api.kube.runtime.elector import Elector
from praetor_api.kube.runtime.events import EventRecorder
from praetor_api.kube.runtime.informer import Informer
from praetor_api.kube.runtime.tracing import NO_TRACER, Tracer
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_api.names import DEVICE_BINDINGS, FILE_DIGESTS, GATEWAY_LEASE
from praetor_api.tokens import TokenVerifier
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.judges import JudgeLease
from praetor_gateway.fleet.references import ReferenceStore
from praetor_gateway.fleet.rows import Projection
from praetor_gateway.http.app import DeviceApp
from praetor_gateway.http.auth import CredentialFollower, DeviceAuthenticator
from praetor_gateway.http.device_api import DeviceApi
from praetor_gateway.http.long_poll import LongPolls
from praetor_gateway.http.problems import ProblemHandlers
from praetor_gateway.liveness.arbiter import Arbiter
from praetor_gateway.liveness.detector import DetectorLimits
from praetor_gateway.liveness.pace import HeartbeatPace, no_load
from praetor_gateway.liveness.peers import PeerPusher, PeerSecrets, PeerTransport, create_peer_app
from praetor_gateway.liveness.tracker import LivenessTracker
from praetor_gateway.metrics import GatewayMetrics
from praetor_gateway.reports.handler import ReportHandler
from praetor_gateway.reports.traces import DeviceTraces
from praetor_gateway.settings import GatewaySettings, load_verifier
from praetor_gateway.status.bindings import names, shared_bindings
from praetor_gateway.status.composer import StatusComposer
from praetor_gateway.status.digests import shared_digests
from praetor_gateway.status.pending import PendingStatuses
from praetor_gateway.status.references import ReferenceFollower
from praetor_gateway.status.writer import ResyncRequester, StatusWriter

COMPONENT = "praetor-gateway"
"""The reporting controller of our events."""
WRITES_PER_S = 100.0
"""Status writes a second in the long run, so that a fleet that changes at once leaves room for the apiserver's other
clients."""
WRITE_BURST = 200
"""Status writes at once: two seconds' worth."""

Handlers: TypeAlias = tuple[Callable[[Key, Any, Any], None], ...]

_log = structlog.get_logger()


class Gateway:
    """Serves devices from the objects of *api*: ``app`` to devices, ``peer_app`` to replicas.

    ``app`` runs the background work in its lifespan; a server that has none enters ``lifespan()`` itself. Metrics are
    registered in *registry*. All timing but that of held polls and request bodies is by *clock*.

    Several replicas need a *transport*, to report to the leader which devices they heard. *peer_secrets* is what it
    sends, and follows the file of the settings. *load* returns the load of this process, 1 for all that it can do.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: GatewaySettings,
        clock: Clock,
        registry: CollectorRegistry,
        transport: PeerTransport | None = None,
        peer_secrets: PeerSecrets | None = None,
        tracer: Tracer = NO_TRACER,
        load: Callable[[], float] = no_load,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._draining = False
        self.peer_secrets = peer_secrets or PeerSecrets(settings.peers.tokens if settings.peers is not None else ())
        self.metrics = GatewayMetrics(registry)
        self._recorder = EventRecorder(api, clock, COMPONENT, settings.identity)
        self._long_polls = LongPolls()
        self._pending = PendingStatuses(clock)
        store = ReferenceStore(frozenset(settings.references_namespaces))
        self._fleet = DeviceIndex(self._changed, store)
        self._references = ReferenceFollower(api, store, self._fleet, clock)
        self._traces = DeviceTraces(tracer, clock) if tracer.enabled else None
        limits = _limits(settings)
        judges = {JUDGES_WITHIN_ANNOTATION: f"{limits.stale_s + limits.grace_s + limits.scan_s:g}"}
        annotations = {} if settings.peers is None else {PEER_ADDRESS_ANNOTATION: settings.peers.advertise}
        lease = Key(settings.lease_namespace, GATEWAY_LEASE)
        duration_s = settings.lease_duration_s
        self._elector = Elector(
            api,
            lease,
            settings.identity,
            clock,
            lease_duration_s=duration_s,
            annotations=annotations,
            defaults=judges,
            on_doubt=self._doubt,
        )
        self._judge: tuple[Mapping[str, Any] | None, JudgeLease | None] = None, None
        self._liveness = LivenessTracker(
            self._fleet,
            self._pending,
            limits,
            clock,
            self._elector.fresh,
            self._own_lease,
            heartbeat_s=settings.heartbeat_s,
        )
        self._pace = HeartbeatPace(
            self._elector,
            self._liveness,
            limits,
            load,
            clock,
            identity=settings.identity,
            base=settings.heartbeat_s,
            most=settings.max_heartbeat_s,
        )
        self._composer = StatusComposer(
            self._fleet,
            self._pending,
            self._liveness.connected,
            self._liveness.fetched_generation,
            self._judges,
            self._liveness.absence,
        )
        self._resync = ResyncRequester(self._fleet, self._pending)
        self._arbiter = Arbiter(
            self._elector,
            self._liveness,
            self._fleet,
            self._recorder,
            clock=clock,
            scan_s=limits.scan_s,
            longest_interval=lambda: self._pace.announced,
            count=self.metrics.disconnected,
            took_over=self._composer.take_over,
        )
        projection = Projection(settings.site_label, traced=tracer.enabled, known=self._fleet.row)
        self._writer = StatusWriter(
            api,
            self._pending,
            self._composer,
            self._resync,
            self._fleet,
            projection,
            self._recorder,
            clock=clock,
            limiter=TokenBucket(WRITES_PER_S, WRITE_BURST, clock),
            count=self.metrics.write,
            delayed=self.metrics.write_delay.observe,
            manager=self._manager,
        )
        self._informers = tuple(self._make_informers(api, projection))
        key = Key(settings.lease_namespace, DEVICE_BINDINGS)
        self._bindings = shared_bindings(api, key, self._fleet, clock, self._elector.fresh)
        key = Key(settings.lease_namespace, FILE_DIGESTS)
        self._digests = shared_digests(api, key, store, clock, self._elector.fresh, self._recorder)
        verifier = load_verifier(settings.credentials) if settings.credentials is not None else None
        self._authenticator = DeviceAuthenticator(verifier, self.metrics.auth)
        store.set_keys(self._authenticator.digest_keys)
        self._followers = tuple(self._make_followers(clock))
        self._api = self._device_api()
        self.app = DeviceApp(
            self._api,
            ProblemHandlers(self.metrics.request, clock),
            self.lifespan,
            monotonic=clock.monotonic,
            took=self.metrics.took,
        )
        self.peer_app = None
        if settings.peers is not None:
            self.peer_app = create_peer_app(
                self.peer_secrets, self._liveness, self._elector.fresh, clock.monotonic, self.metrics.push_received
            )
        self._transport = transport
        self._add_gauges()

    def is_synced(self) -> bool:
        """Return whether the whole fleet was read."""
        return self._fleet.begun

    def unready(self) -> str:
        """Return why no device should be routed here; empty when it may."""
        if self._draining:
            return "draining"
        if self._liveness.rival is not None:
            return f"another gateway judges the same devices, by the older Lease {self._liveness.rival}"
        return "" if self.is_synced() else "the cache is not synced yet"

    def credential_problem(self) -> str:
        """Return why the credentials in effect are older than their files; empty when they are not.

        It concerns operators and no device: a probe that routes devices leaves it out.
        """
        return "; ".join(follower.problem for follower in self._followers if follower.problem)

    def device_entries(self) -> int:
        """Return how many entries are kept on behalf of devices: 0 while none is declared or waits."""
        return len(self._fleet) + len(self._long_polls) + self._pending.observed

    def drain(self) -> None:
        """Be unready from now on, and answer all requests that wait."""
        self._draining = True
        self._long_polls.release()

    @asynccontextmanager
    async def lifespan(self, _: Starlette | None = None) -> AsyncIterator[None]:
        """Run the background work around the block; at its end write the pending statuses and release the Lease."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in self._work()]
            arbiter = group.create_task(self._arbitrate(), name="arbiter")
            try:
                yield
                self.drain()
                await self._finish()
            finally:
                arbiter.cancel()  # releases the Lease
                for task in tasks:
                    task.cancel()

    def _work(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        for informer in self._informers:
            yield "informer", informer.run()
        yield "references", self._references.run()
        yield "bindings", self._bindings.run()
        if self._fleet.references.namespaces:
            yield "digests of files", self._digests.run()
        yield "status writer", self._writer.run()
        yield "pace of heartbeats", self._pace.run()
        yield "event recorder", self._recorder.run()
        pusher = PeerPusher(
            self._elector,
            self._liveness,
            self._transport,
            identity=self._settings.identity,
            clock=self._clock,
            stale_s=self._settings.stale_s,
            wants=lambda: self._pace.wanted,
            count=self.metrics.pushed,
        )
        yield "peer pusher", pusher.run()
        for follower in self._followers:
            yield f"reload {follower.what}", follower.run()

    async def synced(self) -> None:
        """Return when the whole fleet is known."""
        for informer in self._informers:
            await informer.synced.wait()
        await self._bindings.loaded.wait()
        await self._references.listed()

    async def _arbitrate(self) -> None:
        """Join the election once the whole fleet is known: until then we refuse all devices, and they seem silent."""
        await self.synced()
        self._fleet.begin()
        await self._arbiter.run()

    async def _finish(self) -> None:
        """Write the pending statuses, for at most half of the shutdown timeout; the server has the other half."""
        flush_s = self._settings.shutdown_timeout_s / 2
        try:
            await within(self._clock, flush_s, self._flush())
        except TimeoutError:
            _log.warning("statuses left unwritten, devices will report them again", count=len(self._pending))

    async def _flush(self) -> None:
        await self._pending.flush()
        await self._recorder.flush()

    def _doubt(self, since: float | None) -> None:
        for informer in self._informers:
            informer.doubt(since)
        self._references.doubt(since)
        for shared in (self._bindings, self._digests):
            shared.doubt(since)

    def _own_lease(self) -> JudgeLease | None:
        lease = self._elector.lease
        if lease is not self._judge[0]:  # which each renewal replaces, and each status that is written asks for
            self._judge = lease, JudgeLease.of(lease)
        return self._judge[1]

    def _manager(self) -> str | None:
        """Return the field manager of a judge: the Lease that it holds."""
        own = self._own_lease() if self._judges() else None
        return own.manager if own is not None else None

    def _judges(self) -> bool:
        return self._liveness.rival is None and self._elector.fresh()

    def _unwritten(self) -> float:
        return float(len(names(self._fleet).items() ^ self._bindings.data.items()))

    def _is_frozen(self) -> float:
        return float(self._liveness.frozen)

    def _changed(self, device: str) -> None:
        self._long_polls.wake(device)
        self._liveness.changed(device)
        self._composer.changed(device)

    def _make_followers(self, clock: Clock) -> Iterator[CredentialFollower[Any]]:
        credentials, peers, failures = self._settings.credentials, self._settings.peers, self.metrics.reload_failures
        if credentials is not None:
            read = partial(load_verifier, credentials)
            what = "device credentials"
            yield CredentialFollower(what, read, self._replace_verifier, clock, failures(what))
        if peers is not None:
            what = "peer secrets"
            yield CredentialFollower(what, peers.read, self.peer_secrets.replace, clock, failures(what))

    def _replace_verifier(self, verifier: TokenVerifier) -> None:
        self._authenticator.replace(verifier)
        self._fleet.references.set_keys(self._authenticator.digest_keys)

    def _device_api(self) -> DeviceApi:
        reports = ReportHandler(self._fleet, self._pending, self._liveness, self._clock, self._traces)
        return DeviceApi(
            self._fleet,
            self._long_polls,
            self._authenticator,
            reports,
            interval=lambda: self._pace.interval,
            max_wait_s=self._settings.max_wait_s,
            rate_per_s=self._settings.device_rate_per_s,
            monotonic=self._clock.monotonic,
            is_synced=self.is_synced,
            is_overloaded=lambda: self._pace.overloaded,
            count=self.metrics.request,
            tls_terminated=self._settings.tls_terminated,
        )

    def _make_informers(self, api: KubeApi, projection: Projection) -> Iterator[Informer[Any]]:
        fleet, liveness = self._fleet.on_change, self._liveness.on_change
        # resync compares a change with what the fleet has, the others with what it has then
        on_process: Handlers = (self._resync.on_process, fleet, liveness, self._composer.on_process)
        if self._traces is not None:
            on_process += (self._traces.on_change,)
        on_switch: Handlers = (fleet, liveness, self._composer.on_switch)
        followed: tuple[tuple[Resource, Handlers], ...] = (
            (DEVICE_PROCESSES, on_process),
            *((resource, on_switch) for resource in DEVICES.values()),
        )
        for resource, handlers in followed:
            optional = resource not in (DEVICE_PROCESSES, NETWORK_SWITCHES)  # as a cluster of an earlier release
            project = partial(projection.row, resource)
            for namespace in self._settings.namespaces or (None,):
                informer: Informer[Any] = Informer(
                    api, resource, project=project, clock=self._clock, namespace=namespace, optional=optional
                )
                for handler in handlers:
                    informer.add_handler(handler)
                yield informer

    def _cache_age_s(self) -> float:
        contacts = [informer.last_contact for informer in self._informers]
        oldest = min((at for at in contacts if at is not None), default=None)
        return 0.0 if oldest is None else self._clock.monotonic() - oldest

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("waiters", "Devices that wait in a long poll.", lambda: len(self._long_polls))
        gauge("devices", "Declared devices.", lambda: len(self._fleet))
        gauge("devices_connected", "Connected devices; 0 unless leading.", self._liveness.connected_count)
        gauge("heartbeat_interval_seconds", "The interval that devices are handed.", lambda: self._pace.interval)
        at_rest = "The interval that devices are handed without load."
        gauge("heartbeat_interval_shortest_seconds", at_rest, lambda: self._settings.heartbeat_s)
        gauge("overloaded", "1 while every other new request is refused.", lambda: float(self._pace.overloaded))
        gauge("body_bytes", "Bytes of reports that are being read.", lambda: self._api.bodies.held)
        gauge("arbiter", "1 while this replica holds the Lease.", lambda: float(self._elector.fresh()))
        gauge("rival_judge", "1 while another gateway judges.", lambda: float(self._liveness.rival is not None))
        gauge("observer_suspect", "1 while too many devices are silent at once.", lambda: float(self._liveness.suspect))
        gauge("devices_frozen", "1 while a replica that we do not hear keeps silence from counting.", self._is_frozen)
        gauge("queue_depth", "Statuses that wait to be written.", lambda: len(self._pending))
        gauge(
            "queue_oldest_seconds",
            "For how long the oldest status has not been written.",
            lambda: self._pending.oldest_s,
        )
        gauge("cache_age_seconds", "Seconds since the apiserver last said anything.", self._cache_age_s)
        stale = "1 while files of tokens or secrets cannot be read, and those read last stay valid."
        gauge("credentials_stale", stale, lambda: float(bool(self.credential_problem())))
        contested = "Device names that several namespaces or kinds claim."
        gauge("names_contested", contested, lambda: len(self._fleet.bindings))
        gauge("bindings_unwritten", "Contested names that are not stored yet.", self._unwritten)
        unreadable = "Kinds of objects, in each namespace with references, that cannot be read."
        gauge("references_unreadable", unreadable, lambda: self._references.unreadable)
        gauge("events_dropped", "Events that were not written.", lambda: self._recorder.dropped)


def _limits(settings: GatewaySettings) -> DetectorLimits:
    return DetectorLimits(
        stale_s=settings.stale_s,
        grace_s=settings.takeover_grace_s,
        scan_s=settings.scan_s,
        flap_hold_s=2.0 * settings.heartbeat_s,
        storm_window_s=1.2 * settings.heartbeat_s,
    )
