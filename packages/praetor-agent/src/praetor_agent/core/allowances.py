# SPDX-License-Identifier: Apache-2.0
"""What this device's agent lets containers have. Pure; the backend also follows links before it starts one."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from praetor_api.backports import dataclass
from praetor_api.spec import CONTAINER_ONLY, Backend, Container, Execution

FREE_NETWORKS = frozenset({"host", "none"})
"""The default, and less than it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowances:
    """What the flags `--allow-…` name: *volumes* and *devices* are paths that may be asked for with all below."""

    volumes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    privileged: bool = False

    def refusal(self, container: Container | None) -> str | None:
        """Return why *container* is not given what it asks for, and which flag would; None if it is."""
        return next(self._refusals(container), None) if container is not None else None

    def _refusals(self, container: Container) -> Iterator[str]:
        for index, volume in enumerate(container.volumes):
            if not is_within(volume.host_path, self.volumes):
                yield not_allowed(f"volumes[{index}].hostPath", volume.host_path, "--allow-volumes")
        for index, device in enumerate(container.devices):
            if not is_within(device.host_path, self.devices):
                yield not_allowed(f"devices[{index}].hostPath", device.host_path, "--allow-devices")
        for name in container.capabilities.add if container.capabilities is not None else ():
            if not self.capabilities & {name.removeprefix("CAP_"), "ALL"}:
                yield not_allowed("capabilities.add", name, "--allow-capabilities")
        if container.network not in self.networks | FREE_NETWORKS:
            yield not_allowed("network", container.network, "--allow-networks")
        if container.privileged and not self.privileged:
            yield not_allowed("privileged", "true", "--allow-privileged")


NOTHING = Allowances()


def not_allowed(field: str, value: str, flag: str) -> str:
    """Return the sentence about *value* in *field* of `execution.container`, and the *flag* that allows it."""
    return (
        f"spec.execution.container.{field}: {value!r} is not allowed on this device; leave it out, or start the agent "
        f"with {flag} {value}"
    )


def normal(path: str) -> str:
    """Return the absolute *path* without `..`, `.` and doubled slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")


def is_within(path: str, roots: Iterable[str]) -> bool:
    """Return whether *path* is one of the normal paths *roots*, or below one."""
    return any(f"{normal(path)}/".startswith(f"{root.rstrip('/')}/") for root in roots)


def fault(execution: Execution) -> str | None:
    """Return why no backend can do what *execution* asks for; an API server before 1.25 lets it through."""
    misplaced = execution.container is not None and execution.backend is not Backend.CONTAINER
    return CONTAINER_ONLY if misplaced else None
