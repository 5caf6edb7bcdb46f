"""Which devices of a deployment changed since its last pass, for deployments that account is kept of.

Events note it, a pass takes it. What is not sure to concern these devices alone makes it forget the deployment: then
only a pass over all its devices can tell.
"""

from __future__ import annotations

from praetor_api.kube.client.resource import Key


class Changes:
    """Names of devices by deployment; a deployment that nobody follows has none, whatever happens to it."""

    def __init__(self) -> None:
        self._names: dict[Key, set[str]] = {}

    def follow(self, key: Key) -> None:
        """Note from now on what changes."""
        self._names[key] = set()

    def forget(self, key: Key) -> None:
        """Note nothing more: anything may have changed."""
        self._names.pop(key, None)

    def follows(self, key: Key) -> bool:
        """Tell whether somebody keeps account of the deployment: then all its devices are at rest."""
        return key in self._names

    def note(self, key: Key, device: str) -> None:
        """Note that *device*, or its process, is another than it was."""
        names = self._names.get(key)
        if names is not None:
            names.add(device)

    def take(self, key: Key) -> frozenset[str] | None:
        """Return what was noted since the last time, and begin anew; None when anything may have changed."""
        names = self._names.get(key)
        if names is None:
            return None
        self._names[key] = set()
        return frozenset(names)
