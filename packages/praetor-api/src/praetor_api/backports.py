# SPDX-License-Identifier: Apache-2.0
"""What devices with Python 3.9 and 3.10 lack of the standard library. On later ones it is the standard library's own.

Fields that are read by `typing.get_type_hints` are written `Optional[X]` in this half, for `X | None` cannot be
evaluated before Python 3.10.
"""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from typing import Any

__all__ = ["StrEnum", "TypeAlias", "dataclass"]

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:

    class StrEnum(str, Enum):
        """An enumeration of strings, each of which is shown and formatted as its value."""

        __str__ = str.__str__
        __format__ = str.__format__


if sys.version_info >= (3, 10):
    from dataclasses import dataclass
    from typing import TypeAlias
else:
    TypeAlias = Any

    def dataclass(cls: type | None = None, *, slots: bool = False, kw_only: bool = False, **options: bool) -> Any:
        """Decorate *cls* as `dataclasses.dataclass` does in Python 3.10. Without *slots*, which only save memory."""

        def decorated(cls: type) -> type:
            made = dataclasses.dataclass(init=not kw_only, **options)(cls)
            if kw_only:
                made.__init__ = _keyword_init(made)
            return made

        return decorated if cls is None else decorated(cls)

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
