# SPDX-License-Identifier: Apache-2.0
"""What devices with Python 3.9 and 3.10 lack of the standard library. On later ones it is the standard library's own.

Fields that are read by `typing.get_type_hints` are written `Optional[X]` in this half, for `X | None` cannot be
evaluated before Python 3.10.
"""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

__all__ = ["StrEnum", "TypeAlias", "dataclass"]

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:

    class StrEnum(str, Enum):
        """An enumeration of strings, each of which is shown and formatted as its value."""

        __str__ = str.__str__
        __format__ = str.__format__


if TYPE_CHECKING or sys.version_info >= (3, 10):
    from typing import TypeAlias
else:
    TypeAlias = Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        cls: type | None = None, *, slots: bool = False, kw_only: bool = False, repr: bool = True, **options: bool
    ) -> Any:
        """Decorate *cls* as `dataclasses.dataclass` does in Python 3.10; without *slots*, which save memory, in 3.9.

        What shows an object and keeps it from changes is there once: one for each class takes half a MiB of an agent.
        """

        def decorated(cls: type) -> type:
            if repr and "__repr__" not in cls.__dict__:
                cls.__repr__ = _shown
            if sys.version_info >= (3, 10):
                made = dataclasses.dataclass(slots=slots, kw_only=kw_only, repr=False, **options)(cls)
            else:
                made = dataclasses.dataclass(init=not kw_only, repr=False, **options)(cls)
                if kw_only:
                    made.__init__ = _keyword_init(made)
            if options.get("frozen"):
                made.__setattr__, made.__delattr__ = _assigned, _deleted
            return made

        return decorated if cls is None else decorated(cls)

    def _assigned(self: Any, name: str, value: Any) -> None:
        if _is_frozen(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def _deleted(self: Any, name: str) -> None:
        if _is_frozen(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    def _is_frozen(self: Any, name: str) -> bool:
        # a subclass that is no dataclass may have attributes of its own
        return "__dataclass_fields__" in type(self).__dict__ or name in self.__dataclass_fields__

    def _shown(self: Any) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _keyword_init(cls: type) -> Any:
        """Return an `__init__` that takes each field by its name, in any order of those with defaults and without."""
        fields = tuple(
            (field.name, field.default, field.default_factory, field.init) for field in dataclasses.fields(cls)
        )

        def __init__(self: Any, **given: Any) -> None:
            missing = []
            for name, default, factory, init in fields:
                if init and name in given:
                    value = given.pop(name)
                elif default is not dataclasses.MISSING:
                    value = default
                elif factory is not dataclasses.MISSING:
                    value = factory()
                else:
                    missing.append(name)
                    continue
                object.__setattr__(self, name, value)
            if missing or given:
                which = f"lacks {', '.join(missing)}" if missing else f"has no {', '.join(given)}"
                raise TypeError(f"{cls.__qualname__}() {which}")
            if hasattr(self, "__post_init__"):
                self.__post_init__()

        return __init__
