# SPDX-License-Identifier: Apache-2.0
"""No class shows a credential in its repr, which a log line or a traceback may have."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import attrs
import pytest

PACKAGES = ("praetor_api", "praetor_controller", "praetor_gateway", "praetor_agent")
CREDENTIALS = {"token", "tokens", "secret", "secrets", "shared", "password", "gateway_secret"}
NONE_OF_THEM = {
    ("praetor_controller.rollout.snapshot", "token"): "it approves a removal, and is no credential",
}


def classes() -> Iterator[tuple[str, type]]:
    for package in PACKAGES:
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for each in vars(module).values():
                if isinstance(each, type) and each.__module__ == found.name:
                    yield found.name, each


def shown_credentials() -> Iterator[str]:
    for module, cls in classes():
        found: tuple[Any, ...] = fields(cls) if is_dataclass(cls) else attrs.fields(cls) if attrs.has(cls) else ()
        for field in found:
            kind = str(field.type)
            text = any(word in kind for word in ("str", "bytes")) and not kind.startswith("Callable")
            if field.name in CREDENTIALS and text and field.repr and (module, field.name) not in NONE_OF_THEM:
                yield f"{module}.{cls.__name__}.{field.name}: {field.type}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_class_shows_a_credential_in_its_repr() -> None:
    assert list(shown_credentials()) == []
