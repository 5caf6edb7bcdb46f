"""What pretend devices do wrong on purpose, and which of them do.

The devices are chosen by their names, so that the same ones are hit in every run. Pure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BadVersion:
    """A version, known by *text* in its spec, that is bad on about *share* of the devices."""

    text: str
    share: float = 1.0

    def hits(self, device: str, spec: object) -> bool:
        """Tell whether *spec* is this version, and *device* one that it is bad on."""
        return self.text in json.dumps(spec, ensure_ascii=False) and chosen(device, self.text, self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """*fail* are versions that do not start, *silent* ones after whose offer a device is never heard again.

    About *dead* of the devices are never heard at all.
    """

    fail: Sequence[BadVersion] = ()
    silent: Sequence[BadVersion] = ()
    dead: float = 0.0

    def is_dead(self, device: str) -> bool:
        """Tell whether *device* is dead from the start."""
        return chosen(device, "dead", self.dead)

    def fails(self, device: str, item: Mapping[str, Any]) -> bool:
        """Tell whether *device* cannot start *item*."""
        return any(each.hits(device, item.get("spec")) for each in self.fail)

    def silences(self, device: str, item: Mapping[str, Any]) -> bool:
        """Tell whether *device* does not outlive the offer of *item*."""
        return any(each.hits(device, item.get("spec")) for each in self.silent)


NO_FAULTS = Faults()


def chosen(device: str, salt: str, share: float) -> bool:
    """Tell whether *device* is among the *share* that *salt* chooses."""
    return random.Random(f"{salt}/{device}").random() < share  # noqa: S311  # the same in every run, not secret
