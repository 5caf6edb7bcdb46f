# SPDX-License-Identifier: Apache-2.0
"""What this gateway heard from a device since it started: which reports are new, and what is still to be requested.
Values and `now` (monotonic seconds) in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from attrs import define, field

from praetor_api.conditions import ConditionType
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import NetworkSwitchStatus, Reported
from praetor_api.kube.texts import kept
from praetor_gateway.fleet.order import Poll, supersedes

FACTS = "facts"
"""Stands among the uids in ``unreported`` for what the device says of itself."""
RESYNC_PERIOD_S = 60.0
"""The least time between two requests to report everything, should a device and its record never agree."""
DUPLICATE_S = 300.0
"""How long one agent must have reported alone until the other one counts as gone: two that share a name take turns on
record about once a minute."""
MAX_ASKS = 3
"""How many polls in a row are answered with a request: some of these answers are lost. A device that obeyed without a
trace here, for it reports to another replica, sends as many reports too many less one."""
ASK_PERIOD_S = 10.0
"""The least time between two of them: the device is reporting; shorter than an interval of heartbeats."""
REPLAY_WINDOW_S = 60.0
"""How long a report may be under way; an agent waits 12 s for an answer. A lower number after that comes from an
agent that counts from the beginning again."""


@define(eq=False, weakref_slot=False)
class OtherBoots:
    """What is kept of the boots of one device besides the latest: nothing until it booted again, or has a namesake.

    *poll* is the place of the last poll of the boot that polled before. *_over* is the boot that reports though another
    one reported after it, since when it does, and when it did last.
    """

    poll: tuple[str, int] = ("", -1)
    _over: tuple[str, float, float] = ("", 0.0, 0.0)
    _alone_boot: str = ""
    _alone_since: float = 0.0

    def polled(self, boot_id: str, number: int) -> bool:
        """Return whether the poll of this *number* was sent before."""
        return boot_id == self.poll[0] and number <= self.poll[1]

    def goes_on(self, boot_id: str, now: float) -> bool:
        """Return whether *boot_id*, which another one followed, reports for longer than a report may be under way."""
        boot, since, at = self._over
        if boot_id != boot or now - at > REPLAY_WINDOW_S:
            since = now
        self._over, self._alone_boot = (boot_id, since, now), ""
        return now - since >= REPLAY_WINDOW_S

    def is_alone(self, boot_id: str, now: float) -> bool:
        """Return whether no boot but *boot_id* was named here, or went on, for DUPLICATE_S."""
        if boot_id != self._alone_boot:
            self._alone_boot, self._alone_since = boot_id, now
        return now - self._alone_since >= DUPLICATE_S


@define(eq=False, weakref_slot=False)
class DeviceSession:
    """The report state of one device.

    *agent_version*, *boot_id* and *facts* are what it said last, in *reported*; None when it said nothing, or
    when another replica heard it later and wrote that. *duplicate* says which agents share its name; it is empty when
    none do any more, and None when that is not ours to say. *features* are those that it named last, and *token* is
    its last good one, which was *accepted* by what this says. *heard_at* is when this process heard it, *fetched_at*
    when it fetched something, here or from another replica, in monotonic seconds; None if it never did. *fetched_etag*
    is that of our last answer.
    """

    agent_version: str | None = None
    boot_id: str | None = None
    facts: Mapping[str, str] | None = None
    reported: Reported | None = None
    duplicate: str | None = None
    features: frozenset[str] = frozenset()
    accepted: tuple[Any, int, Any] | None = None
    token: bytes = field(default=b"", repr=False)
    heard_at: float | None = None
    fetched_at: float | None = None
    fetched_etag: str = ""
    unreported: tuple[str, ...] = ()
    behind: tuple[Poll, float] | None = None
    _fetched: tuple[Any, ...] = ()
    _heard_of: tuple[str, ...] = ()
    _asked_at: float | None = None
    _asks: int = 0
    _ask_at: float = 0.0
    _polling_boot: str = ""
    _poll: int = -1
    _refused: bool = False
    _others: OtherBoots | None = None
    _seq: int = -1
    _counted_boot: str = ""
    _counted_at: float = 0.0

    def expect(self, uids: Iterable[str]) -> None:
        """Ask for reports on the processes *uids* (``unreported``), as far as none came yet."""
        wanted = (*uids, FACTS) if FACTS in self.unreported else tuple(uids)
        self._heard_of = tuple(uid for uid in self._heard_of if uid in wanted)
        before, self.unreported = self.unreported, tuple(uid for uid in wanted if uid not in self._heard_of)
        if not set(self.unreported).issubset(before):
            self._asks = 0

    def took(self, uid: str) -> None:
        """Record that the process *uid* was reported on."""
        if uid in self.unreported:
            if uid != FACTS:  # which may be requested at any time
                self._heard_of = (*self._heard_of, uid)
            self.unreported = tuple(other for other in self.unreported if other != uid)

    def request_resync(self, uid: str) -> None:
        """Ask for another report on the process *uid*, if one came: what it said is no longer what is on record."""
        if uid in self._heard_of:
            self._heard_of = tuple(other for other in self._heard_of if other != uid)
            self.unreported, self._asks = (*self.unreported, uid), 0

    def _request_facts(self) -> None:
        if FACTS not in self.unreported:
            self.unreported, self._asks = (*self.unreported, FACTS), 0

    def request_all(self, now: float) -> None:
        """Ask for another report on everything, at most once in RESYNC_PERIOD_S."""
        if self._asked_at is not None and now - self._asked_at < RESYNC_PERIOD_S:
            return
        self._asked_at = now
        self.unreported = (*self.unreported, *self._heard_of)
        self._heard_of, self._asks = (), 0
        self._request_facts()

    def ask(self, now: float, *, agrees: bool) -> bool:
        """Ask a device that polls, and has nothing to report, for what is unreported; return whether to.

        What it was asked for often enough, or is known to have obeyed, was reported to another replica if what the
        device reported *agrees* with its record.
        """
        if agrees and self._asks >= MAX_ASKS:
            for uid in self.unreported:
                self.took(uid)
        if not self.unreported or (self._asks and now - self._ask_at < ASK_PERIOD_S):
            return False
        self._asks, self._ask_at = self._asks + 1, now
        return True

    def obeys(self) -> None:
        """Record that the device has something to report: what it was asked for, if it was."""
        if self._asks:
            self._asks = MAX_ASKS

    def is_next_poll(self, boot_id: str, number: int, *, is_over: bool) -> bool:
        """Return whether the poll of this *number* is a new one, and no repetition; record its place if so.

        Places are known of two boots. One that *is_over* does not become the latest one.
        """
        if boot_id == self._polling_boot:
            self._refused = number <= self._poll
            self._poll = max(number, self._poll)
            return not self._refused
        if self._others is not None and self._others.polled(boot_id, number):
            return False
        if is_over:
            self._other_boots().poll = boot_id, number
            return True
        if self._polling_boot:
            self._other_boots().poll = self._polling_boot, self._poll
        # one text for polls and reports: each device has its own
        self._polling_boot = self.boot_id if self.boot_id == boot_id else kept(boot_id)
        self._poll, self._refused = number, False
        return True

    def is_last_poll(self, boot_id: str, number: int) -> bool:
        """Return whether no poll counted since the one of this *number*."""
        other = None if self._others is None else self._others.poll
        return (boot_id, number) in ((self._polling_boot, self._poll), other)

    def recount_polls(self) -> None:
        """Take any number for a new one after a report, if one was refused: the agent may count from the beginning."""
        if self._refused:
            self._poll, self._refused = -1, False

    @property
    def fetched(self) -> dict[str, int]:
        """The newest generation of each process that the device fetched, by its uid."""
        return dict(zip(self._fetched[::2], self._fetched[1::2], strict=True))

    def fetch(self, generations: Mapping[str, int], at: float) -> None:
        """Record that the device fetched *generations*, by uid."""
        self.fetched_at = at if self.fetched_at is None else max(self.fetched_at, at)
        known = self.fetched
        newest = known | {uid: max(generation, known.get(uid, 0)) for uid, generation in generations.items()}
        self._keep(newest)

    def forget_fetched(self, uid: str | None = None) -> None:
        """Keep no more that the device fetched the process *uid*, or that it fetched anything."""
        if uid is None:
            self.fetched_at, self.fetched_etag, self._fetched = None, "", ()
        else:
            self._keep({each: generation for each, generation in self.fetched.items() if each != uid})

    def _keep(self, generations: Mapping[str, int]) -> None:
        self._fetched = tuple(chain.from_iterable(generations.items()))  # a third of what a dictionary takes

    def goes_on(self, boot_id: str, now: float) -> bool:
        """Return whether *boot_id* still reports, though another boot reported after it: longer than a report may be
        under way.
        """
        return self._other_boots().goes_on(boot_id, now)

    def is_alone(self, boot_id: str, now: float) -> bool:
        """Return whether no boot but *boot_id* was on record, or heard, for DUPLICATE_S."""
        return self._other_boots().is_alone(boot_id, now)

    def _other_boots(self) -> OtherBoots:
        if self._others is None:
            self._others = OtherBoots()
        return self._others

    def superseded(self, was: NetworkSwitchStatus, now: NetworkSwitchStatus) -> None:
        """Forget what was on record and is replaced: written again for another reason, it would undo the newer."""
        if self.agent_version == was.agent_version != now.agent_version:
            self.agent_version = None  # every report says it again, but facts must be requested
        if self.boot_id == was.boot_id != now.boot_id:
            self.boot_id = None
        if self.facts is not None and self.facts == was.facts != now.facts:
            self.facts = None
            if was.reported == now.reported:  # a client that counts no reports changed them
                self._request_facts()
        if self.reported == was.reported != now.reported or boot_of(self) == boot_of(was) != boot_of(now):
            self.reported = None
        if is_true(was.conditions, ConditionType.DUPLICATE) is not is_true(now.conditions, ConditionType.DUPLICATE):
            self.duplicate = None

    def share(self, status: NetworkSwitchStatus) -> None:
        """Keep the facts once that the device said and *status*, which its switch has, says, too."""
        if self.facts == status.facts:
            self.facts = status.facts

    def differs_from(self, status: NetworkSwitchStatus) -> bool:
        """Return whether the device said something else than *status*, which its switch has."""
        return (
            (self.reported not in (None, status.reported) and not supersedes(status.reported, self.reported))
            or self.agent_version not in (None, status.agent_version)
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


def boot_of(status: DeviceSession | NetworkSwitchStatus) -> str | None:
    """Return the boot whose report *status* holds, None if it holds no ordered one."""
    return None if status.reported is None else status.reported.boot_id
