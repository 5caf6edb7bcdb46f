# SPDX-License-Identifier: Apache-2.0
"""The three programs as separate processes on one machine, against any cluster.

Everything is on the loopback interface and under one folder, and nothing outlives the context, however it ends.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from attrs import frozen
from contract.rawapi import RawApi

from e2e.clusters.api.credentials import write_secret
from e2e.clusters.cluster import CONTROLLER, GATEWAY, SYSTEM_NAMESPACE, Capability, Cluster
from e2e.release.build import ROOT
from e2e.release.manifests import install, policies, rbac
from e2e.stack import orphans
from e2e.stack.agent import Agent
from e2e.stack.errors import StackError
from e2e.stack.kube import Kube, install_definitions
from e2e.stack.program import Program
from e2e.stack.server import Server
from praetor_api.tokens import device_token

DEFAULT_NAMESPACE = "default"  # of a program outside a Pod
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "TERM")


@frozen(kw_only=True)
class Release:
    """One version: the folder *scripts* of its installed programs, and *sources* with its CRDs and roles."""

    scripts: Path
    sources: Path


WORKING_TREE = Release(scripts=Path(sysconfig.get_path("scripts")), sources=ROOT)


@frozen(kw_only=True)
class StackSettings:
    """How the programs are run. *namespace* limits what controller and gateway watch; times are in seconds.

    *lease* is how long a killed leader holds up its successor, *proving* how long a new version runs before a rollout
    goes on. *release* is what runs first.
    """

    namespace: str | None = None
    system_namespace: str = SYSTEM_NAMESPACE
    gateways: int = 1
    heartbeat: int = 1
    stale_multiplier: int = 3
    lease: int = 4
    proving: int = 0
    controller_flags: tuple[str, ...] = ()
    gateway_flags: tuple[str, ...] = ()
    release: Release = WORKING_TREE


class Stack:
    """A controller, gateways and any number of agents; the CRDs are installed first.

    Controller and gateway run as their own users of the cluster. Agents get a token each, derived from *secret*.
    """

    def __init__(self, cluster: Cluster, workdir: Path, settings: StackSettings | None = None) -> None:
        self.cluster = cluster
        self.workdir = workdir
        self.settings = settings or StackSettings()
        self.secret = secrets.token_hex(32)
        self.agents: dict[str, Agent] = {}
        self._opened = ExitStack()
        workdir.mkdir(parents=True, exist_ok=True)
        self._secret_file = write_secret(workdir / "device-token-secret", self.secret.encode())
        self.controller = self._controller()
        self.gateways = [self._gateway(number) for number in range(self.settings.gateways)]

    @property
    def gateway(self) -> Server:
        """The first gateway."""
        return self.gateways[0]

    @property
    def gateway_url(self) -> str:
        """Where the first gateway serves devices."""
        return self.url_of(self.gateway)

    @staticmethod
    def url_of(gateway: Server) -> str:
        """Return where *gateway* serves devices."""
        return f"http://127.0.0.1:{gateway.ports[0]}"

    def token(self, device: str) -> str:
        """Return the device's token."""
        return device_token(self.secret.encode(), device)

    def kube(self, namespace: str) -> Kube:
        """Return an administrator's client for *namespace*; closed with the stack."""
        return Kube(self._opened.enter_context(RawApi.from_kubeconfig(self.cluster.kubeconfig)), namespace)

    def add_agent(
        self,
        device: str,
        *,
        gateway: Server | None = None,
        url: str | None = None,
        token: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start the agent of a new device, which reaches *gateway* at *url*; returns at once.

        *variables* are further ones in its environment.
        """
        agent = Agent(
            device,
            [self._script("praetor-agent"), "run", "--start-splay=0"],
            gateway=url or self.url_of(gateway or self.gateway),
            token=self.token(device) if token is None else token,
            workdir=self.workdir / "devices",
            env=environment() | {"PRAETOR_AGENT_PROVING_SECONDS": str(self.settings.proving)} | dict(variables or {}),
        )
        self.agents[device] = agent
        agent.start()
        return agent

    def remove_agents(self, devices: Iterable[str]) -> None:
        """End the agents of *devices* and their processes, and forget them."""
        agents = [self.agents.pop(device) for device in devices]
        for agent in agents:
            agent.program.begin_stop()
        for agent in agents:
            agent.program.stop()
            agent.end_processes()

    def start(self) -> None:
        """Install CRDs and roles, then start controller and gateways; returns when they are ready."""
        self.prepare()
        with ThreadPoolExecutor() as pool:
            for starting in [pool.submit(server.start) for server in self.servers()]:
                starting.result()

    @contextmanager
    def running(self, *servers: Server) -> Iterator[Self]:
        """Run only *servers*, which are of this stack, around the block: what does not run disturbs no measurement."""
        try:
            self.prepare()
            for server in servers:
                server.start()
            yield self
        finally:
            self.stop()

    def prepare(self) -> None:
        """Install CRDs and roles, and start the watchdog of the devices' processes."""
        with RawApi.from_kubeconfig(self.cluster.kubeconfig) as api:
            Kube(api, self.settings.system_namespace).create_namespace()
        self.install(self.settings.release)
        self._start_watchdog()

    def install(self, release: Release) -> None:
        """Install CRDs and roles of *release*, in place of those of another one."""
        with RawApi.from_kubeconfig(self.cluster.kubeconfig) as api:
            install_definitions(api, release.sources / "crds")
            if Capability.RBAC in self.cluster.capabilities:
                base = release.sources / "deploy" / "base"
                absent = install(api, (*rbac(self.settings.system_namespace, base), *policies()))
                if absent and Capability.POLICIES in self.cluster.capabilities:
                    raise StackError(f"this apiserver does not serve {', '.join(absent)}")

    def stop(self) -> None:
        """End everything; a second call does nothing."""
        self.remove_agents(tuple(self.agents))
        for server in self.servers():
            server.program.begin_stop()
        for server in self.servers():
            server.program.stop()
        orphans.end_marked(self.workdir)
        self._opened.close()

    def servers(self) -> tuple[Server, ...]:
        """Return controller and gateways."""
        return (self.controller, *self.gateways)

    def programs(self) -> Iterator[Program]:
        """Yield every program that was started."""
        yield from (server.program for server in self.servers())
        yield from (agent.program for agent in self.agents.values())

    def log_sizes(self) -> dict[Path, int]:
        """Return how long each log is, to read later what was written since."""
        return {log: log.stat().st_size for log in sorted(self.workdir.rglob("*.log")) if log.is_file()}

    def logs(self, since: dict[Path, int] | None = None) -> str:
        """Return the last lines of every program's log, from *since* on."""
        parts = []
        for program in self.programs():
            tail = program.tail(since=(since or {}).get(program.log, 0))
            parts.append(f"--- {program.log.relative_to(self.workdir)} (ended: {program.exit_status})\n{tail}")
        return "\n".join(parts)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def new_controller(
        self, name: str, *flags: str, kubeconfig: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> Server:
        """Return a further controller, not started, which the caller stops; later *flags* win.

        *variables* are further ones in its environment.
        """

        def arguments(ports: Sequence[int]) -> Sequence[str]:
            return (
                self._script(CONTROLLER),
                f"--kubeconfig={kubeconfig or self.cluster.kubeconfig_for(CONTROLLER)}",
                "--leader-elect",
                f"--leader-elect-namespace={self.settings.system_namespace}",
                f"--leader-elect-lease-duration={self.settings.lease}",
                *self._judges(),
                f"--metrics-bind-address=127.0.0.1:{ports[0]}",
                f"--health-probe-bind-address=127.0.0.1:{ports[1]}",
                *flags,
            )

        env = environment() | dict(variables or {})
        return Server(name, arguments, ports=2, metrics=0, workdir=self.workdir, env=env)

    def _controller(self) -> Server:
        return self.new_controller("controller", *self._watched(), *self.settings.controller_flags)

    def new_gateway(
        self,
        name: str,
        *flags: str,
        peer_token: Path | None = None,
        kubeconfig: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Server:
        """Return a gateway, not started, which the caller stops; with *peer_token* it has peers.

        *variables* are further ones in its environment.
        """

        def arguments(ports: Sequence[int]) -> Sequence[str]:
            return (
                self._script(GATEWAY),
                f"--kubeconfig={kubeconfig or self.cluster.kubeconfig_for(GATEWAY)}",
                *self._watched(),
                f"--addr=127.0.0.1:{ports[0]}",
                f"--health-probe-bind-address=127.0.0.1:{ports[-1]}",
                f"--device-token-secret-file={self._secret_file}",
                f"--lease-namespace={self.settings.system_namespace}",
                f"--lease-duration={self.settings.lease}",
                f"--default-heartbeat-seconds={self.settings.heartbeat}",
                f"--stale-multiplier={self.settings.stale_multiplier}",
                *(() if peer_token is None else (f"--peer-bind-address=127.0.0.1:{ports[1]}",)),
                *(() if peer_token is None else (f"--peer-token-file={peer_token}",)),
                *self.settings.gateway_flags,
                *flags,
            )

        ports = 2 if peer_token is None else 3
        return Server(name, arguments, ports=ports, workdir=self.workdir, env=environment() | dict(variables or {}))

    def _gateway(self, number: int) -> Server:
        return self.new_gateway("gateway" if self.settings.gateways == 1 else f"gateway-{number}")

    def _judges(self) -> tuple[str, ...]:
        """Return where the gateways' Lease is, unless that is the default: an older controller has no such flag."""
        namespace = self.settings.system_namespace
        return () if namespace == DEFAULT_NAMESPACE else (f"--gateway-lease-namespace={namespace}",)

    def _script(self, name: str) -> str:
        return script(name, self.settings.release)

    def _watched(self) -> tuple[str, ...]:
        return () if self.settings.namespace is None else (f"--namespace={self.settings.namespace}",)

    def _start_watchdog(self) -> None:
        """Start the watchdog that ends the devices' processes if this process is killed."""
        command = [sys.executable, "-I", "-S", orphans.__file__, str(self.workdir)]
        watchdog = self._opened.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
        self._opened.callback(watchdog.kill)


def script(name: str, release: Release = WORKING_TREE) -> str:
    """Return the path of an installed program, of this environment's by default."""
    return str(release.scripts / name)


def environment() -> dict[str, str]:
    """Return the environment of the programs: little of this process's, so that no setting leaks into them."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1"}
