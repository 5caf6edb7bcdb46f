# SPDX-License-Identifier: Apache-2.0
"""Asks a device to report again when a client other than us changed what the device reported to us.

The replica that writes last need not be the one that heard last: a write may be held up while the device talks to
another replica. Without the question the error would stay, since devices report what changes and nothing else.
"""

from __future__ import annotations

from attrs import define

from praetor_api.kube.client.resource import Key
from praetor_gateway.fleet.devices import DeviceIndex, is_older, went_back
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.status.merge import EPOCH, merge, reported
from praetor_gateway.status.pending import PendingStatuses


@define(eq=False)
class ResyncRequester:
    """Compares statuses that come from the API with those that *fleet* has; call it before *fleet* takes them."""

    _fleet: DeviceIndex
    _pending: PendingStatuses

    def on_process(self, _: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Check a change that an informer reports."""
        if new is not None and self._other(new) is not None:
            self.check(new, restored=went_back(old, new))

    def check(self, row: CachedProcess, *, restored: bool) -> None:
        """Request a resync if *row* says something else than we know of it; *restored* if older means restored."""
        known = self._other(row)
        if known is None:
            return
        if (is_older(row, known) and not restored) or reported(known.status) == reported(row.status):
            return
        if row.status.reported != known.status.reported and not restored:
            return  # a replica took another report of the device, in order
        device = self._fleet.device(row.device)
        if device is not None and not self._is_ours(row):
            device.session.request_resync(row.uid)

    def _other(self, row: CachedProcess) -> CachedProcess | None:
        """Return the version that we know of *row* if it is another one, with another status."""
        known = self._fleet.process(row.key)
        if known is None or known.uid != row.uid or known.resource_version == row.resource_version:
            return None
        # of thousands whose specs change at once a closer comparison takes a quarter
        return None if row.status == known.status else known

    def _is_ours(self, row: CachedProcess) -> bool:
        """Return whether *row* says what waits to be written: our own write, seen before its answer."""
        observation, order = self._pending.observation(row)
        if observation is None:
            return False
        return reported(merge(row, observation, reported=order, connected=None, now=EPOCH)) == reported(row.status)
