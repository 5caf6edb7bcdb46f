# SPDX-License-Identifier: Apache-2.0
"""The public names of praetor_api are those in `__all__`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from sys import stdlib_module_names

import pytest

import praetor_api

ROOT = Path(praetor_api.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(praetor_api.__path__, "praetor_api.")
    if not module.ispkg and not module.name.endswith("__about__")
)
DEVICE_HALF = {
    "annotations", "backports", "canonical", "conditions", "constraints", "files", "keyrefs", "names", "protocol",
    "spec", "tokens", "values", "wire",
}  # fmt: skip


def tree_of(module: str) -> ast.Module:
    return ast.parse(ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8"))


def defined_in(module: str) -> Iterator[str]:
    """Yield the names that the module's source defines, but for private ones and type variables."""
    top = tree_of(module).body
    for node in [*top, *(inner for each in top if isinstance(each, ast.If) for inner in each.orelse)]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith("TypeVar("):
            for target in node.targets:
                yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_exports_every_public_name_that_it_defines_and_no_other(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(name for name in defined_in(module) if not name.startswith("_"))


def test_what_reaches_a_device_is_these_modules() -> None:
    assert {name.split(".")[1] for name in MODULES} == DEVICE_HALF | {"kube"}


def imported_by(modules: list[str]) -> set[str]:
    """Return the top-level packages that *modules* import anywhere, but for the standard library and ourselves."""
    found: set[str] = set()
    for module in modules:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(stdlib_module_names) - {"praetor_api"}


TRACING = "praetor_api.kube.runtime.tracing"


def test_the_kubernetes_half_declares_what_it_imports_and_nothing_else() -> None:
    project = tomllib.loads(ROOT.parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {requirement.partition(">")[0].lower() for requirement in project["optional-dependencies"]["kube"]}
    packages = packages_distributions()
    modules = [name for name in MODULES if ".kube." in name]
    found = imported_by(modules) - {"opentelemetry"}
    imported = {packages[name][0].lower().replace("_", "-") for name in found}
    assert imported == declared
    assert project["dependencies"] == []
    assert [name for name in modules if "opentelemetry" in imported_by([name])] == [TRACING], "an extra of its own"


def test_the_device_half_imports_the_standard_library_alone() -> None:
    assert imported_by([name for name in MODULES if ".kube." not in name]) == set()
