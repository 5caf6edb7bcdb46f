# SPDX-License-Identifier: Apache-2.0
"""What a process is started with: command, arguments and environment after the expansion of `$(NAME)`. Pure.

The rules are those of a Pod. An agent starts a process by them, and `praetorctl render` shows the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from praetor_api.spec import Execution

__all__ = ["MAX_TEXT", "MAX_TEXTS", "ExpansionError", "Started", "expanded", "started_with"]

MAX_TEXT = 131_071
"""Longest argument or variable after expansion, in characters: Linux starts nothing with more bytes in one."""
MAX_TEXTS = 1_048_576
"""Most characters of all together: half of what Linux usually starts a program with."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


class ExpansionError(ValueError):
    """The expansion is longer than anything that can be started; the text names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a process is started with. *env* holds the variables of its spec in their order."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]


def expanded(text: str, env: Mapping[str, str]) -> str:
    """Return *text* with `$(NAME)` replaced by what *env* has, and `$$` by `$`; an unknown name stays as it is.

    ExpansionError if the result has more than MAX_TEXT characters. What replaces a name is not expanded again.
    """
    if "$" not in text:
        return text
    end = text.rfind(")") + 1  # no reference is closed after it, and to seek one at each `$(` would take forever
    parts: list[str] = []
    at, length = 0, len(text)
    for match in _REFERENCE.finditer(text, 0, end):
        found, name = match.group(), match.group(1)
        said = "$" if name is None else env.get(name, found)
        parts += text[at : match.start()], said
        at, length = match.end(), length + len(said) - len(found)
        if length > MAX_TEXT + end:
            break
    result = "".join(parts) + text[at:end] + text[end:].replace("$$", "$")
    if len(result) > MAX_TEXT:
        raise ExpansionError(f"is longer than {MAX_TEXT} characters after expansion; refer to less")
    return result


def started_with(execution: Execution) -> Started:
    """Return what *execution* starts a process with; ExpansionError naming the field that becomes too long."""
    if not execution.expand_variables:
        env = {variable.name: variable.value for variable in execution.env}
        return Started(command=execution.command, args=execution.args, env=env)
    size, env = 0, {}

    def text(where: str, given: str) -> str:
        nonlocal size
        try:
            result = expanded(given, env)
        except ExpansionError as e:
            raise ExpansionError(f"spec.execution.{where}: {e}") from None
        size += len(result)
        if size > MAX_TEXTS:
            raise ExpansionError(
                f"spec.execution.{where}: command, args and env have more than {MAX_TEXTS} characters after expansion; "
                "refer to less"
            )
        return result

    for index, variable in enumerate(execution.env):
        env[variable.name] = text(f"env[{index}].value", variable.value)
    return Started(
        command=tuple(text(f"command[{index}]", word) for index, word in enumerate(execution.command)),
        args=tuple(text(f"args[{index}]", word) for index, word in enumerate(execution.args)),
        env=env,
    )
