# SPDX-License-Identifier: Apache-2.0
"""What a process is started with, judged before anything is stopped for it: is it all there, can it be passed on. Pure.

The backends refuse by the same rules what they are asked to start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from praetor_api.protocol import DesiredItem
from praetor_api.spec import Backend, Execution, ValueFrom
from praetor_api.values import ExpansionError, Started, started_with

_SURROGATES = "\ud800-\udfff"
_NO_CHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029"

_ANYWHERE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # the others stand for bytes that are no UTF-8
_WORDS = {Backend.SYSTEMD: re.compile(f"[{_CONTROLS}{_SURROGATES}{_NO_CHARACTERS}]")}
_VALUES = {
    # systemd before 249 drops a variable with another control character than these two, and says so in its log alone
    Backend.SYSTEMD: re.compile(f"[\x00-\x08\x0b-\x1f\x7f{_SURROGATES}{_NO_CHARACTERS}]"),
    Backend.CONTAINER: re.compile(f"[\0\n\r{_SURROGATES}]"),
}
_NAMES = {Backend.SYSTEMD: re.compile("[A-Za-z_][A-Za-z0-9_]*")}
_CARRIERS = {
    Backend.SYSTEMD: "systemd does not pass on",
    Backend.CONTAINER: "the env file of a container cannot carry",
}


def lacking(item: DesiredItem) -> tuple[str, ...]:
    """Return the variables of *item* that are references, not optional, and have no value.

    The gateway holds an item that it has no value for. One of an older release knows no references, and sends none.
    """
    values = item.values or {}
    return tuple(
        each.name
        for each in item.spec.execution.env
        if each.value_from is not None and not _is_optional(each.value_from) and each.name not in values
    )


def fault(item: DesiredItem) -> str | None:
    """Return why the process of *item* cannot be started with its command and variables; None if it can."""
    missing, execution = lacking(item), item.spec.execution
    if missing:
        return f"execution.env: the gateway sent no value for {', '.join(missing)}; upgrade praetor-gateway"
    try:
        started = started_with(execution, item.values)
    except ExpansionError as e:
        return str(e).removeprefix("spec.")
    return next(_faults(execution, started), None)


def _faults(execution: Execution, started: Started) -> Iterator[str]:
    words = {
        **{f"execution.command[{index}]": word for index, word in enumerate(started.command)},
        **{f"execution.args[{index}]": word for index, word in enumerate(started.args)},
        "execution.workingDir": execution.working_dir or "",
        "execution.user": execution.user or "",
    }
    for where, word in words.items():
        if (wrong := word_fault(execution.backend, where, word)) is not None:
            yield wrong
    for name, value in started.env.items():
        if (wrong := variable_fault(execution.backend, name, value)) is not None:
            yield wrong


def word_fault(backend: Backend, where: str, word: str) -> str | None:
    """Return why *backend* cannot have *word* in the field *where*; None if it can."""
    found = _WORDS.get(backend, _ANYWHERE).search(word)
    if found is None:
        return None
    carrier = _CARRIERS.get(backend) if backend in _WORDS else None
    return f"{where} holds {_name_of(found[0])}, which {carrier or 'no program can be given'}; write it without"


def variable_fault(backend: Backend, name: str, value: str) -> str | None:
    """Return why *backend* cannot give the variable *name* its *value*, which is not repeated; None if it can."""
    if backend in _NAMES and _NAMES[backend].fullmatch(name) is None:
        return f"execution.env: systemd accepts no variable named {name!r}; use letters, digits and '_'"
    found = _VALUES.get(backend, _ANYWHERE).search(value)
    if found is None:
        return None
    return (
        f"execution.env[{name}] holds {_name_of(found[0])}, which {_CARRIERS.get(backend, 'no program can be given')}; "
        "write it without, or give it as a file (execution.files)"
    )


_CALLED: Mapping[str, str] = {"\0": "a NUL character", "\n": "a line break", "\r": "a carriage return"}


def _name_of(character: str) -> str:
    is_control = character < "\xa0" or character in "\u2028\u2029"
    return _CALLED.get(character, "a control character" if is_control else "what is no character")


def _is_optional(source: ValueFrom) -> bool:
    return any(
        ref is not None and ref.optional is True
        for ref in (source.device_field_ref, source.config_map_key_ref, source.secret_key_ref)
    )
