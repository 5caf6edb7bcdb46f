# SPDX-License-Identifier: Apache-2.0
"""Names of things in the Kubernetes API: which kind (Resource) and which object of it (Key)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from praetor_api.kube.objects import DEVICE_PLURALS, GROUP, VERSION
from praetor_api.spec import DeviceKind

__all__ = [
    "CONFIG_MAPS",
    "CONTROLLER_REVISIONS",
    "CORE_EVENTS",
    "DEVICES",
    "DEVICE_PROCESSES",
    "DEVICE_PROCESS_DEPLOYMENTS",
    "EVENTS",
    "LEASES",
    "NETWORK_SWITCHES",
    "SECRETS",
    "Key",
    "Resource",
]


@frozen(order=True, weakref_slot=False)  # a program keeps one for each object
class Key:
    """Which object of a kind: ``str(Key("lab", "leaf-1"))`` is ``lab/leaf-1``."""

    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Key:
        """Return the key of an object as the API delivers it."""
        metadata = obj["metadata"]
        return cls(metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@frozen
class Resource:
    """A kind of object and where the API keeps it; the core group is ``""``."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path, percent-encoded; *namespace* None means all of them."""
        root = "/apis" if self.group else "/api"
        parts = [root, self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part is not None]
        return "/".join(parts)


DEVICE_PROCESSES = Resource(group=GROUP, version=VERSION, plural="deviceprocesses", kind="DeviceProcess")
DEVICE_PROCESS_DEPLOYMENTS = Resource(
    group=GROUP, version=VERSION, plural="deviceprocessdeployments", kind="DeviceProcessDeployment"
)
DEVICES: Mapping[DeviceKind, Resource] = {
    kind: Resource(group=GROUP, version=VERSION, plural=plural, kind=kind.value)
    for kind, plural in DEVICE_PLURALS.items()
}
"""Where the API keeps the devices of each kind. A cluster of an earlier release has network switches alone."""
NETWORK_SWITCHES = DEVICES[DeviceKind.NETWORK_SWITCH]
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
CORE_EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
CONTROLLER_REVISIONS = Resource(group="apps", version="v1", plural="controllerrevisions", kind="ControllerRevision")
