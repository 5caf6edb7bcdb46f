# SPDX-License-Identifier: Apache-2.0
"""What this gateway heard from a device since it started: which reports are new, what is still to be requested, and how
many it may send. Values and `now` (monotonic seconds) in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define

from praetor_api.kube.objects import NetworkSwitchStatus

FACTS = "facts"
"""Stands among the uids in ``unreported`` for what the device says of itself."""
REPLAY_WINDOW_S = 60.0
"""How long a report may be under way; an agent waits 12 s for an answer. A lower number after that comes from an
agent that counts from the beginning again."""


@define(eq=False, weakref_slot=False)
class DeviceSession:
    """The report state of one device.

    *agent_version*, *boot_id* and *facts* are what it said last; None when it said nothing, or when another replica
    heard it later and wrote that.
    """

    agent_version: str | None = None
    boot_id: str | None = None
    facts: Mapping[str, str] | None = None
    unreported: tuple[str, ...] = ()
    _reported: tuple[str, ...] = ()
    _seq: int = -1
    _counted_boot: str = ""
    _counted_at: float = 0.0
    _allowance: float = 0.0
    _allowed_at: float | None = None

    def expect(self, uids: Iterable[str]) -> None:
        """Ask for reports on the processes *uids* (``unreported``), as far as none came yet."""
        wanted = (*uids, FACTS) if FACTS in self.unreported else tuple(uids)
        self._reported = tuple(uid for uid in self._reported if uid in wanted)
        self.unreported = tuple(uid for uid in wanted if uid not in self._reported)

    def reported(self, uid: str) -> None:
        """Record that the process *uid* was reported on."""
        if uid in self.unreported:
            if uid != FACTS:  # which may be requested at any time
                self._reported = (*self._reported, uid)
            self.unreported = tuple(other for other in self.unreported if other != uid)

    def request_resync(self, uid: str) -> None:
        """Ask for another report on the process *uid*, if one came: what it said is no longer what is on record."""
        if uid in self._reported:
            self._reported = tuple(other for other in self._reported if other != uid)
            self.unreported = (*self.unreported, uid)

    def superseded(self, was: NetworkSwitchStatus, now: NetworkSwitchStatus) -> None:
        """Forget what was on record and is replaced: written again for another reason, it would undo the newer."""
        if self.agent_version == was.agent_version != now.agent_version:
            self.agent_version = None  # every report says it again, but facts must be requested
        if self.boot_id == was.boot_id != now.boot_id:
            self.boot_id = None
        if self.facts is not None and self.facts == was.facts != now.facts:
            self.facts = None
            self.unreported = (*self.unreported, FACTS)

    def differs_from(self, status: NetworkSwitchStatus) -> bool:
        """Return whether the device said something else than *status*, which its switch has."""
        return (
            self.agent_version not in (None, status.agent_version)
            or self.boot_id not in (None, status.boot_id)
            or (self.facts is not None and self.facts != status.facts)
        )

    def is_replay(self, boot_id: str, seq: int | None, now: float) -> bool:
        """Return whether a report was overtaken by a newer one of the same boot; record its place if not.

        The same number again is a retry whose answer was lost: taking it twice changes nothing.
        """
        if not boot_id or seq is None:
            return False
        recent = boot_id == self._counted_boot and now - self._counted_at < REPLAY_WINDOW_S
        if recent and seq < self._seq:
            return True
        self._counted_boot, self._seq, self._counted_at = boot_id, seq, now
        return False

    def allow(self, rate_per_s: float, burst: float, now: float) -> float:
        """Take one report from what the device may send; return 0, or the seconds after which to try again."""
        if self._allowed_at is None:
            self._allowance = burst
        else:
            self._allowance = min(burst, self._allowance + (now - self._allowed_at) * rate_per_s)
        self._allowed_at = now
        if self._allowance < 1.0:
            return (1.0 - self._allowance) / rate_per_s
        self._allowance -= 1.0
        return 0.0
