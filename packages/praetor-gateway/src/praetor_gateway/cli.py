# SPDX-License-Identifier: Apache-2.0
"""The command line of praetor-gateway. Every flag has an environment variable PRAETOR_GATEWAY_…"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from praetor_api.kube.client.connection import pod_namespace
from praetor_api.kube.client.errors import NoSuchContext, NotConfigured
from praetor_api.kube.options import (
    ADDRESS,
    BadOption,
    BindAddress,
    Program,
    kubeconfig_options,
    log_options,
    namespaces_option,
    tracing_option,
)
from praetor_api.kube.runtime.logs import configure_logs
from praetor_api.protocol import DEFAULT_HEARTBEAT_SECONDS, DEFAULT_STALE_MULTIPLIER, MAX_WAIT_SECONDS
from praetor_gateway.__about__ import __version__
from praetor_gateway.http.server import event_loop
from praetor_gateway.main import run
from praetor_gateway.settings import Credentials, GatewaySettings, PeerSettings, ServerKind, load_verifier, read_lines

_FILE = click.Path(path_type=Path)


@click.command(cls=Program, context_settings={"auto_envvar_prefix": "PRAETOR_GATEWAY"})
@click.version_option(__version__, prog_name="praetor-gateway")
@click.option("--addr", type=ADDRESS, default=":8080", help="Where devices are served, host:port.")
@click.option(
    "--health-probe-bind-address", "probe_addr", type=ADDRESS, default=":8081", help="Probes and metrics, host:port."
)
@click.option(
    "--server",
    type=click.Choice([each.value for each in ServerKind]),
    default=ServerKind.AUTO.value,
    help="What speaks HTTP; auto: uvicorn where praetor-gateway[fast] is installed.",
)
@click.option("--device-token", multiple=True, help="A token that every device may use. Repeatable.")
@click.option("--device-token-file", multiple=True, type=_FILE, help="Path of a file of such tokens, one per line.")
@click.option("--device-token-secret", multiple=True, help="Secret of hex(HMAC-SHA256(secret, device)). Repeatable.")
@click.option(
    "--device-token-secret-file",
    multiple=True,
    type=_FILE,
    help="Path of a file of such secrets, one per line, newest first. Read again when it changes.",
)
@click.option("--insecure", is_flag=True, help="Admit every request without a token.")
@click.option(
    "--default-heartbeat-seconds",
    "heartbeat_s",
    type=click.IntRange(1, 3600),
    default=DEFAULT_HEARTBEAT_SECONDS,
    help="Seconds between the reports of a device.",
)
@click.option(
    "--max-heartbeat-seconds",
    "max_heartbeat_s",
    type=click.IntRange(1, 3600),
    default=None,
    help="Seconds between them under load, at most.  [default: four times as many]",
)
@click.option(
    "--stale-multiplier",
    type=click.FloatRange(1.5, 1000.0),  # an agent whose poll is lost reports after 1.2 heartbeats
    default=float(DEFAULT_STALE_MULTIPLIER),
    help="Silent heartbeats after which a device is disconnected.",
)
@click.option(
    "--takeover-grace-seconds",
    "takeover_grace_s",
    type=click.FloatRange(min=0.0),
    default=None,
    help="Seconds after taking over in which no device is disconnected.  [default: the stale limit and one heartbeat]",
)
@click.option(
    "--max-wait-seconds",
    "max_wait_s",
    type=click.IntRange(0, MAX_WAIT_SECONDS),
    default=MAX_WAIT_SECONDS,
    help="Maximum seconds that a poll is held.",
)
@click.option(
    "--device-rate",
    "device_rate_per_s",
    type=click.FloatRange(min=0.0, min_open=True),
    default=2.0,
    help="Maximum requests per second of one device to one endpoint in the long run.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=None,
    help="Maximum connections of devices; no more than open files allow.  [default: as many as fit in memory]",
)
@namespaces_option()
@click.option(
    "--references-namespace",
    "references_namespaces",
    multiple=True,
    help="Namespace whose processes may refer to ConfigMaps and Secrets with the label azure.com/deliver. Repeatable; "
    "needs deploy/components/references there.",
)
@click.option("--lease-namespace", default=None, help="Namespace of the Lease.  [default: the pod's, or default]")
@click.option(
    "--peer-bind-address",
    "peer_addr",
    type=ADDRESS,
    default=None,
    help="Where other replicas report the devices they heard, host:port.",
)
@click.option(
    "--peer-advertise-address",
    "peer_advertise",
    default=None,
    help="Address of this replica for the others, host:port.  [default: host name]",
)
@click.option(
    "--peer-token-file",
    type=_FILE,
    default=None,
    help="Path of the file with the secrets that all replicas share, newest first; followed.",
)
@click.option(
    "--lease-duration",
    "lease_duration_s",
    type=click.FloatRange(1.0, 3600.0),
    default=15.0,
    help="Seconds after which another replica may take over from a silent leader.",
)
@click.option(
    "--site-label", default="site", help="Label of switches that names their site, which one fault may silence."
)
@kubeconfig_options()
@click.option("--tls-cert", type=_FILE, default=None, help="Path of the certificate (PEM), to serve devices over TLS.")
@click.option("--tls-key", type=_FILE, default=None, help="Path of its key (PEM).")
@click.option(
    "--tls-terminated",
    is_flag=True,
    help="Give Secrets over plain connections, too: all of them come from a proxy that ends TLS.",
)
@click.option(
    "--shutdown-timeout",
    "shutdown_timeout_s",
    type=click.FloatRange(min=1.0),
    default=20.0,
    help="Seconds to end requests and to write pending statuses.",
)
@tracing_option()
@log_options()
def main(**options: Any) -> None:
    """Serve devices their desired state, take their reports and write their status."""
    try:
        settings = read_settings(options)
        configure_logs(settings.log_level, settings.log_format)
        with asyncio.Runner(loop_factory=partial(event_loop, settings.server)) as runner:
            runner.run(run(settings))
    except NotConfigured as e:
        raise BadOption("--context" if isinstance(e, NoSuchContext) else "--kubeconfig", str(e)) from e


def read_settings(options: Mapping[str, Any]) -> GatewaySettings:
    """Return the settings that *options*, as click gives them, ask for; BadOption naming a bad one."""
    given = dict(options)
    credentials = Credentials(
        tokens=given.pop("device_token"),
        token_files=given.pop("device_token_file"),
        secrets=given.pop("device_token_secret"),
        secret_files=given.pop("device_token_secret_file"),
    )
    insecure = given.pop("insecure")
    _check_authentication(credentials, insecure)
    _check_tls(given["tls_cert"], given["tls_key"])
    peers = _peers(given.pop("peer_addr"), given.pop("peer_advertise"), given.pop("peer_token_file"))
    grace_s = given.pop("takeover_grace_s")
    heartbeat_s, multiplier = given["heartbeat_s"], given["stale_multiplier"]
    return GatewaySettings(
        server=ServerKind(given.pop("server")),
        credentials=None if insecure else credentials,
        max_heartbeat_s=_max_heartbeat_s(heartbeat_s, given.pop("max_heartbeat_s")),
        takeover_grace_s=heartbeat_s * (multiplier + 1.0) if grace_s is None else grace_s,
        lease_namespace=given.pop("lease_namespace") or pod_namespace() or "default",
        identity=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        peers=peers,
        **given,
    )


def _max_heartbeat_s(heartbeat_s: int, given: int | None) -> int:
    if given is not None and given < heartbeat_s:
        raise BadOption(
            "--max-heartbeat-seconds", f"is less than --default-heartbeat-seconds; give {heartbeat_s} or more"
        )
    return 4 * heartbeat_s if given is None else given


def _check_authentication(credentials: Credentials, insecure: bool) -> None:
    if insecure and credentials:
        message = "contradicts the tokens that are given as well; leave one of them out"
        raise BadOption("--insecure", message)
    if not insecure and not credentials:
        message = (
            "no authentication is configured; give --device-token-secret, --device-token or their -file variants, "
            "or --insecure to admit every request"
        )
        raise BadOption("--device-token-secret", message)
    if credentials:
        load_verifier(credentials)


def _check_tls(cert: Path | None, key: Path | None) -> None:
    if cert is None and key is not None:
        raise BadOption("--tls-cert", "is needed with --tls-key; give the certificate's file")
    if cert is not None and key is None:
        raise BadOption("--tls-key", "is needed with --tls-cert; give the key's file")
    for option, path in (("--tls-cert", cert), ("--tls-key", key)):
        if path is not None and not os.access(path, os.R_OK):
            raise BadOption(option, f"cannot read {path}; name a readable PEM file")


def _peers(addr: BindAddress | None, advertise: str | None, token_file: Path | None) -> PeerSettings | None:
    if addr is None:
        if token_file is not None or advertise is not None:
            raise BadOption("--peer-bind-address", "is needed with the other --peer flags; give host:port")
        return None
    if token_file is None:
        message = "is needed with --peer-bind-address, or any client could say which devices are alive"
        raise BadOption("--peer-token-file", message)
    everywhere = addr.host in ("", "0.0.0.0")  # noqa: S104 - compared, not bound
    own = BindAddress(socket.gethostname() if everywhere else addr.host, addr.port)
    tokens = tuple(read_lines("--peer-token-file", token_file))
    return PeerSettings(addr=addr, advertise=advertise or str(own), tokens=tokens, token_file=token_file)
