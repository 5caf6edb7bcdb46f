# SPDX-License-Identifier: Apache-2.0
"""False and missed disconnections: what the gateway calls the devices, compared with what they did. Pure.

All times are seconds since boot by this machine's clock. The gateway's clock is not compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MISSED_LIMITS = 3.0
MISSED_SECONDS = 10.0
"""A device may be silent for so many limits and seconds before it is missed: one limit is the gateway's, another one
passes where many fall silent at once, which may be the network; then it is written."""
NAMED = 10
"""Of how many devices a summary has the names."""


@dataclass(frozen=True, slots=True)
class Contact:
    """*device* was answered without a break from *since* on: until *until* if it is set, else it still is.

    Its gateway calls it disconnected after *limit* seconds of silence, which is what makes a break. *silent* is whether
    it is silent on purpose; one that was so from the beginning has the same *since* and *until*.
    """

    device: str
    since: float
    until: float | None
    limit: float
    silent: bool = False

    def covers(self, at: float) -> bool:
        """Return whether the device was heard in all the time that counts for what its gateway says *at* that time.

        It counts from a limit before on, for a status is written some time after it was decided.
        """
        until = math.inf if self.until is None else self.until + self.limit
        return self.since + self.limit <= at < until


@dataclass(frozen=True, slots=True)
class Called:
    """What the status of *device* says *at* that time: *connected*, as `True`, `False` or `Unknown`, "" for nothing.

    *lost* is whether it was called disconnected since the time before.
    """

    device: str
    connected: str
    lost: bool
    at: float


class Disconnections:
    """Counts those that were called disconnected while they polled, and those that are silent and are not called so."""

    def __init__(self) -> None:
        self._contacts: dict[str, Contact] = {}
        self._connected: dict[str, str] = {}
        self._undecided: list[Called] = []
        self._false: dict[str, int] = {}

    def follow(self, contacts: Iterable[Contact], calls: Iterable[Called]) -> None:
        """Take what devices did, and what they are called."""
        for contact in contacts:
            self._contacts[contact.device] = contact
        for call in calls:
            if call.connected:
                self._connected[call.device] = call.connected
            else:
                self._connected.pop(call.device, None)
            if call.lost:
                self._undecided.append(call)

    def decide(self, known_until: float) -> None:
        """Decide on the calls until *known_until*: until then all contacts are known."""
        left = []
        for call in self._undecided:
            contact = self._contacts.get(call.device)
            if call.at > known_until:
                left.append(call)
            elif contact is not None and contact.covers(call.at):
                self._false[call.device] = self._false.get(call.device, 0) + 1
        self._undecided = left

    def as_json(self, now: float) -> Mapping[str, Any]:
        """Return plain data: the counts, and names of some of the devices."""
        missed = [each.device for each in self._contacts.values() if self._is_missed(each, now)]
        return {
            "statuses": len(self._connected),
            "false": sum(self._false.values()),
            "falseDevices": sorted(self._false)[:NAMED],
            "missed": len(missed),
            "missedDevices": sorted(missed)[:NAMED],
        }

    def _is_missed(self, contact: Contact, now: float) -> bool:
        if not contact.silent or contact.until is None or self._connected.get(contact.device) != "True":
            return False
        return now - contact.until > MISSED_LIMITS * contact.limit + MISSED_SECONDS
