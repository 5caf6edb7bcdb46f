# SPDX-License-Identifier: Apache-2.0
"""Fault injection: which simulated devices fail, and how.

Devices are chosen by their names, so that every run affects the same ones. Pure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BadVersion:
    """A version, identified by *text* in its spec, that is bad on about *share* of the devices."""

    text: str
    share: float = 1.0

    def hits(self, device: str, spec: object) -> bool:
        """Return whether *spec* is this version and bad on *device*."""
        return self.text in json.dumps(spec, ensure_ascii=False) and chosen(device, self.text, self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """*fail* are versions that do not start; a device that receives a version in *silent* goes silent.

    About the share *dead* of the devices never connects.
    """

    fail: Sequence[BadVersion] = ()
    silent: Sequence[BadVersion] = ()
    dead: float = 0.0

    def is_dead(self, device: str) -> bool:
        """Return whether *device* never connects."""
        return chosen(device, "dead", self.dead)

    def fails(self, device: str, item: Mapping[str, Any]) -> bool:
        """Return whether *item* fails on *device*."""
        return any(each.hits(device, item.get("spec")) for each in self.fail)

    def silences(self, device: str, item: Mapping[str, Any]) -> bool:
        """Return whether *device* goes silent when it receives *item*."""
        return any(each.hits(device, item.get("spec")) for each in self.silent)


def chosen(device: str, salt: str, share: float) -> bool:
    """Return whether *device* is in the share *share* of all devices that *salt* chooses."""
    return random.Random(f"{salt}/{device}").random() < share  # noqa: S311  # the same in every run, not secret
