# SPDX-License-Identifier: Apache-2.0
"""Keeps the values of Secrets out of what the agent says: reports, its log, `praetor-agent status`. Pure.

A program may print a Secret that it was given, and what failed may repeat it. What is known to be secret is replaced
before it leaves the device. It is found as it is, whole or by a whole line: not in another encoding, and not in pieces.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from praetor_agent.core.files import given
from praetor_api.protocol import DesiredItem, Observation
from praetor_api.wire import clean_text

MASK = "***"
"""Stands for a value of a Secret."""

LEAST_CHARACTERS = 6
"""Shorter values, and lines, are not replaced: they are in ordinary words, too."""

LEAST_OF_A_CUT = 3
"""A text that is the end of a longer one may begin within a Secret. Fewer characters of it say nothing."""

MOST_KEPT = 4096
"""How many texts are kept of one process, with those of values that were replaced since."""

_TEXTS = (
    "error_message", "warning_message", "rolled_back_message", "update_held_message", "pending_message", "output_tail",
)  # fmt: skip


class Masking:
    """Replaces values of Secrets, *texts*, by MASK. It knows those of the processes that it was told of last."""

    def __init__(self, items: Iterable[DesiredItem] = ()) -> None:
        self._known: dict[str, frozenset[str]] = {}
        self.texts: tuple[str, ...] = ()
        self.learn(items)

    def learn(self, items: Iterable[DesiredItem]) -> None:
        """Know the Secrets of *items*, which are the versions of all processes.

        Older values of these processes stay known: one that runs may still have, and print, what was replaced.
        """
        found: dict[str, frozenset[str]] = {}
        for item in items:
            found[item.uid] = found.get(item.uid, frozenset()).union(secrets_of(item))
        for uid, texts in found.items():
            both = texts | self._known.get(uid, frozenset())
            found[uid] = both if len(both) <= MOST_KEPT else texts
        if found != self._known:
            self._known = found
            self.texts = tuple({text for texts in found.values() for text in texts})

    def __call__(self, text: str, *, cut: bool = False) -> str:
        """Return *text* without values of Secrets; never a longer one.

        With *cut* it is the end of a longer text, which may begin within such a value.
        """
        spans = [(at, at + len(secret)) for secret in self.texts for at in _places(secret, text)]
        if cut:
            begin = len(text) - len(text.lstrip("\ufffd"))  # of a character that was cut in two
            begun = max((_begun(secret, text, begin) for secret in self.texts), default=0)
            spans += [(0, begin + begun)] if begun else []
        if not spans:
            return text
        parts: list[str] = []
        end = 0
        for first, last in sorted(spans):
            if first > end or not parts:
                parts += [text[end:first], MASK]
            end = max(end, last)
        return "".join(parts) + text[end:]

    def reported(self, seen: Observation) -> Observation:
        """Return *seen* with texts as they may be reported."""
        said: dict[str, Any] = {name: self(text) for name in _TEXTS if (text := getattr(seen, name))}
        return replace(seen, **said) if said else seen


def secret_values(item: DesiredItem) -> Iterator[str]:
    """Yield the values of Secrets that *item* carries, those of files in base64."""
    yield from _variables(item)
    yield from _contents(item)


def secrets_of(item: DesiredItem) -> Iterator[str]:
    """Yield what is to be replaced of *item*: its values of Secrets, their lines, and how either is shown."""
    for value in _variables(item):
        yield from _shown(value)
    for content in _contents(item):
        yield from _shown(_text(content))


def _variables(item: DesiredItem) -> Iterator[str]:
    values = item.values or {}
    for variable in item.spec.execution.env:
        source = variable.value_from
        if source is not None and source.secret_key_ref is not None and variable.name in values:
            yield values[variable.name]


def _contents(item: DesiredItem) -> Iterator[str]:
    contents = given(item)
    for file in item.spec.execution.files:
        if file.secret_key_ref is not None and file.path in contents:
            yield contents[file.path]


def _text(content: str) -> str:
    """Return what *content*, in base64, holds; "" if that is no text."""
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _shown(value: str) -> Iterator[str]:
    for text in {value, *value.splitlines()}:
        stripped = text.strip()
        for form in {stripped, clean_text(stripped), " ".join(stripped.split())}:
            if len(form) >= LEAST_CHARACTERS:
                yield form


def _places(secret: str, text: str) -> Iterator[int]:
    at = text.find(secret)
    while at >= 0:
        yield at
        at = text.find(secret, at + 1)


def _begun(secret: str, text: str, begin: int) -> int:
    """Return with how many of the last characters of *secret* *text* goes on at *begin*; 0 for very few."""
    longest = min(len(secret), len(text) - begin)
    lengths = (length for length in range(longest, LEAST_OF_A_CUT - 1, -1) if text.startswith(secret[-length:], begin))
    return next(lengths, 0)


def ending(text: str, most: int) -> str:
    """Return the end of *text*, at most *most* characters, from the beginning of a word.

    What begins within a Secret could not be recognised.
    """
    if len(text) <= most:
        return text
    return "".join(text[-most:].split(None, 1)[1:])
