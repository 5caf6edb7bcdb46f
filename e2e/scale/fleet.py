# SPDX-License-Identifier: Apache-2.0
"""The programs of a run: as many gateways as open files ask for, a controller, and simulated devices."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import requests
from attrs import frozen

from e2e.bench.measure.fleet import GROUP, create_switches
from e2e.clusters.api.credentials import write_secret
from e2e.clusters.cluster import Cluster
from e2e.clusters.envtest import Envtest
from e2e.rollouts.scenario import await_done
from e2e.scale.certificate import write_certificate
from e2e.scale.seed import copy_device
from e2e.stack.kube import DEPLOYMENTS, SWITCHES, Kube, Object
from e2e.stack.manifests import deployment, network_switch
from e2e.stack.program import Program
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings, environment, script
from e2e.suite.workloads import sleeping
from praetor_agent.clock import rfc3339
from praetor_api.protocol import DEFAULT_STALE_MULTIPLIER
from praetor_gateway.http.server import RESERVED_FILES

NAME, PROTOTYPE = "scale", "scale-device-0"
GROUPS = 10
WAVE = "0"
MOST_HEARTBEAT_S = 60
WRITES_PER_S = 25
"""How many specs the controller may write a second: each costs the gateways up to three statuses."""
READY_S = 1800.0
"""How long a program may take until it knows the fleet: on two cores eight programs read 200,000 objects at once."""
FULL = 0.9
"""Share of its connections that a gateway is planned for: devices that report have a second one for a moment."""


@frozen(kw_only=True)
class FleetSettings:
    """How many *devices*, of which *doomed* run in a process that can be killed; *gateways* None: as many as needed."""

    devices: int
    doomed: int
    gateways: int | None
    heartbeat_s: int
    splay_s: float
    server: str
    tls: bool

    @property
    def names(self) -> list[str]:
        """The names of all devices; the first one is what the others are copied from."""
        return [PROTOTYPE, *(f"scale-device-{number}" for number in range(1, self.devices))]

    @property
    def grace_s(self) -> float:
        """How long a judge waits for devices after it took over: until all have come, as after a power cut."""
        return max(self.heartbeat_s * (DEFAULT_STALE_MULTIPLIER + 1.0), self.splay_s + self.heartbeat_s)

    @property
    def replicas(self) -> int:
        """How many gateways there are: one may be lost, and the others have room for its devices."""
        if self.gateways is not None:
            return self.gateways
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED_FILES
        return -(-self.devices // int(room * FULL)) + 1


class ScaledFleet:
    """The programs of one run on *cluster*; *say* gets what happens, for the user who waits."""

    def __init__(self, cluster: Cluster, workdir: Path, settings: FleetSettings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._say = say
        self._certificate = write_certificate(workdir) if settings.tls else None
        served = [f"--server={settings.server}", f"--takeover-grace-seconds={settings.grace_s:.0f}"]
        served.append(f"--max-heartbeat-seconds={max(MOST_HEARTBEAT_S, settings.heartbeat_s)}")
        if self._certificate is not None:
            served += [f"--tls-cert={self._certificate.served}", f"--tls-key={self._certificate.key}"]
        limits = (f"--qps={WRITES_PER_S}", f"--burst={WRITES_PER_S}")
        self.stack = Stack(
            cluster,
            workdir / "stack",
            StackSettings(
                gateways=0,
                heartbeat=settings.heartbeat_s,
                lease=15,
                controller_flags=limits,
                gateway_flags=tuple(served),
            ),
        )
        token = write_secret(workdir / "peers-token", secrets.token_hex(32).encode())
        self.stack.gateways += [
            self.stack.new_gateway(f"gateway-{number}", peer_token=token) for number in range(settings.replicas)
        ]
        self.kube: Kube = self.stack.kube("default")
        self._secret_file = write_secret(workdir / "secret", self.stack.secret.encode())
        self._workdir = workdir
        self._up_since = rfc3339(datetime.now(UTC))
        self.simulators: list[Program] = []
        self._summaries: list[dict[str, Any]] = []
        self._read = 0  # bytes of the log of the devices
        self._reading = Lock()

    def bring_up(self) -> None:
        """Declare all devices with a process each, and start all programs; returns when they are ready."""
        stack, names = self.stack, self.settings.names
        stack.prepare()
        self.kube.apply(deployment(NAME, sleeping("1"), max_unavailable="10%", minReadySeconds=1))
        if isinstance(stack.cluster, Envtest):
            self._bring_up_prototype()
            self._say(f"one device is there; copying it for {len(names) - 1} others")
            copy_device(stack.cluster, PROTOTYPE, names[1:], GROUPS, self._up_since)
        else:
            asyncio.run(create_switches(stack.cluster.kubeconfig, "default", names, GROUPS))
        self._say(f"starting {len(stack.gateways)} gateways and a controller")
        with ThreadPoolExecutor(len(stack.gateways) + 1) as pool:
            for starting in [pool.submit(server.start, READY_S) for server in stack.servers()]:
                starting.result()

    def power_on(self) -> None:
        """Start the simulated devices: those that are to be killed in a program of their own."""
        names, doomed = self.settings.names, self.settings.doomed
        ports = [gateway.ports[0] for gateway in self.stack.gateways]
        for name, devices in (("devices", names[doomed:]), ("doomed", names[:doomed])):
            self.simulators.append(self._simulate(name, devices, ports, self.settings.splay_s))

    def kill_doomed(self) -> Sequence[str]:
        """Kill the program of the devices that are to die; return their names."""
        self.simulators[1].kill()
        return self.settings.names[: self.settings.doomed]

    def roll_out(self) -> None:
        """Change the template; the first wave goes at once, the others wait for an approval that never comes."""
        first = {"name": "first", "selector": {"matchLabels": {GROUP: WAVE}}}
        rolling = {"maxUnavailable": "10%", "waves": [first, {"name": "others", "approval": "Manual"}]}
        strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
        body = {"spec": {"updateStrategy": strategy, "template": {"spec": sleeping("2")}}}
        self.kube.patch(DEPLOYMENTS, NAME, body)

    def updated(self) -> int:
        """Return how many devices have the present template, ready, once the controller has seen it."""
        item = self.kube.deployment(NAME)
        status = item.get("status") or {}
        if status.get("observedGeneration") != item["metadata"]["generation"]:
            return 0
        return int(status.get("updatedNumberScheduled", 0))

    def available(self) -> int:
        """Return how many devices have an available process."""
        return int((self.kube.deployment(NAME).get("status") or {}).get("numberAvailable", 0))

    def arbiter(self) -> Server:
        """Return the gateway that runs the failure detector."""
        return next(each for each in self.stack.gateways if _gauge(each, "arbiter") == 1)

    def judged_connected(self) -> int:
        """Return how many devices the failure detector calls connected; 0 while none is running."""
        return int(max(_gauge(each, "devices_connected") for each in self.stack.gateways))

    def interval_s(self) -> float:
        """Return how often devices are asked to be heard: gateways that are busy ask for less."""
        return max(_gauge(each, "heartbeat_interval_seconds") for each in self.stack.gateways)

    def connected(self) -> int:
        """Return how many devices have said lately that they are connected, without those that are to be killed."""
        summaries = self.summaries()
        return int(summaries[-1]["connected"]) if summaries else 0

    def pending_statuses(self) -> int:
        """Return how many statuses wait to be written."""
        return int(sum(_gauge(each, "queue_depth") for each in self.stack.gateways))

    def disconnections(self) -> int:
        """Return how many devices the gateways that run have called disconnected."""
        return int(sum(_gauge(each, "devices_disconnected_total") for each in self.stack.gateways))

    def summaries(self) -> list[dict[str, Any]]:
        """Return what the devices said of themselves so far."""
        if not self.simulators:
            return []
        with self._reading:  # the sampler asks, too
            with self.simulators[0].log.open("rb") as log:
                log.seek(self._read)
                *whole, _ = log.read().split(b"\n")
            self._read += sum(len(line) + 1 for line in whole)
            self._summaries += [json.loads(line) for line in whole if line.startswith(b"{")]
            return self._summaries

    def changes(self) -> dict[str, float]:
        """Return when each device got its last spec, in seconds since 1970."""
        found = {}
        for line in (self._workdir / "devices.jsonl").read_text().splitlines():
            change = json.loads(line)
            found[change["device"]] = time_of(change["at"])
        return found

    def close(self) -> None:
        """End all programs."""
        for program in self.simulators:
            program.begin_stop()
        for server in self.stack.servers():
            server.program.begin_stop()
        for program in self.simulators:
            program.stop()
        self.stack.stop()

    def _bring_up_prototype(self) -> None:
        answer = self.kube.api.post(self.kube.path(SWITCHES), network_switch(PROTOTYPE, {GROUP: WAVE}))
        assert answer.status == 201, answer.message
        first = (self.stack.controller, self.stack.gateways[0])
        for server in first:
            server.start()
        prototype = self._simulate("prototype", [PROTOTYPE], self.stack.gateways[0].ports[:1], 0.0)
        try:
            await_done(self.kube, NAME)
        finally:
            prototype.stop()
        for server in first:
            server.program.terminate()

    def _simulate(self, name: str, devices: Sequence[str], ports: Sequence[int], splay_s: float) -> Program:
        """Start a program of *devices*, which come to the gateways at *ports* within *splay_s* seconds."""
        file = self._workdir / f"{name}.names"
        file.write_text("\n".join(devices))
        scheme = "https" if self._certificate else "http"
        settings = {
            "gateway": ",".join(f"{scheme}://127.0.0.1:{port}" for port in ports),
            "devices-file": file,
            "token-secret-file": self._secret_file,
            "start-splay": splay_s,
            "summary-seconds": 2,
            "output": "json",
            "changes-file": self._workdir / f"{name}.jsonl",
            "up-since": self._up_since,
            **({"ca-bundle": self._certificate.authority} if self._certificate else {}),
        }
        argv = [script("praetor-agent"), "simulate", *(f"--{key}={value}" for key, value in settings.items())]
        program = Program(name, argv, workdir=self._workdir, env=environment())
        program.start()
        return program


def switches(kube: Kube) -> Iterator[Object]:
    """Yield all switches, read in pages."""
    token = ""
    while True:
        page = kube.api.get(kube.path(SWITCHES), limit=500, **({"continue": token} if token else {})).body
        yield from page["items"]
        token = page["metadata"].get("continue", "")
        if not token:
            return


def time_of(text: str) -> float:
    """Return a time of day, as RFC 3339, in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _gauge(gateway: Server, name: str) -> float:
    """Return a metric of a gateway; 0 while it does not answer."""
    try:
        text = gateway.metrics()
    except requests.RequestException:
        return 0.0
    found = re.search(rf"^praetor_gateway_{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
