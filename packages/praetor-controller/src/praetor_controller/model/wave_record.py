# SPDX-License-Identifier: Apache-2.0
"""What must be remembered about a rollout and its waves, because devices may vanish: a value, and its text. Pure.

It is stored as an annotation of the revision that is being rolled out. Only what the processes cannot show is in it.
"""

from __future__ import annotations

import json

from attrs import frozen

MAX_FAILURES = 200
"""Failures that are remembered; 200 of them take about 25 kB, and annotations of an object may have 256 kB."""


@frozen(order=True)
class WaveFailure:
    """A process, by its *uid*, that failed at the revision on *device*, which belonged to *wave*."""

    wave: str
    device: str
    uid: str


@frozen(kw_only=True)
class WaveRecord:
    """The waves of one rollout: that of the revision when it had the *number*, which changes when it comes back.

    *matched* are the waves that a device matched since the rollout began, and *passed* those that let the next one
    begin. *failed* are processes that failed and were not available since. *counted* are those that count for the
    failure policy, each by its device and its uid, whatever the waves are.
    """

    number: int = 0
    matched: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()
    failed: tuple[WaveFailure, ...] = ()
    counted: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """Return what parse_wave_record() reads."""
        data = {
            "number": self.number,
            "matched": sorted(self.matched),
            "passed": sorted(self.passed),
            "failed": [[each.wave, each.device, each.uid] for each in self.failed],
            "counted": self.counted,
        }
        return json.dumps(data, separators=(",", ":"))


def parse_wave_record(text: str, number: int) -> WaveRecord:
    """Return the record in *text* of the rollout *number*; an empty one when it is of another, or cannot be read."""
    try:
        data = json.loads(text)
        if data["number"] != number:
            return WaveRecord(number=number)
        return WaveRecord(
            number=number,
            matched=frozenset(map(str, data["matched"])),
            passed=frozenset(map(str, data["passed"])),
            failed=tuple(WaveFailure(*map(str, each)) for each in data["failed"]),
            counted=tuple((str(device), str(uid)) for device, uid in data.get("counted", ())),
        )
    except (ValueError, TypeError, KeyError):  # an edited annotation
        return WaveRecord(number=number)
