# SPDX-License-Identifier: Apache-2.0
"""ConfigMaps and Secrets that processes refer to, and a gateway that may read them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contract.rawapi import RawApi

from e2e.release.manifests import COMPONENTS, install, read
from e2e.stack.kube import Kube, accepted
from e2e.stack.server import Server
from e2e.stack.stack import Stack

DELIVERED = {"azure.com/deliver": "true"}


@contextmanager
def reading_gateway(
    stack: Stack,
    kube: Kube,
    api: RawApi,
    *more: str,
    name: str = "gateway-references",
    tls: Sequence[str] = ("--tls-terminated",),
) -> Iterator[Server]:
    """Run a gateway, with *more* flags, that may read ConfigMaps and Secrets of the namespace.

    *tls* are the flags that say how connections are encrypted: by default as if a proxy did it.
    The stack's own gateway, which may not, is stopped.
    """
    role = read(COMPONENTS / "references")
    install(api, ({**each, "metadata": each["metadata"] | {"namespace": kube.namespace}} for each in role))
    stack.gateway.program.stop()
    flags = (f"--references-namespace={kube.namespace}", *tls, *more)
    server = stack.new_gateway(name, *flags)
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.program.stop()


def put_config_map(api: RawApi, kube: Kube, name: str = "settings", /, **data: str) -> None:
    """Set *data* in a ConfigMap."""
    _put(api, kube, "ConfigMap", name, data)


def put_secret(api: RawApi, kube: Kube, name: str = "login", /, **data: bytes) -> None:
    """Set *data* in a Secret."""
    _put(api, kube, "Secret", name, {key: base64.b64encode(value).decode() for key, value in data.items()})


def _put(api: RawApi, kube: Kube, kind: str, name: str, data: dict[str, str]) -> None:
    path = f"/api/v1/namespaces/{kube.namespace}/{kind.lower()}s"
    answer = api.patch(f"{path}/{name}", {"data": data})
    if answer.status == 404:
        metadata = {"name": name, "labels": DELIVERED}
        answer = api.post(path, {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data})
    accepted(answer)
