# SPDX-License-Identifier: Apache-2.0
"""What is served: one Resource for each plural of a group and version, and the catalog that finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kubeplane.errors import Obj
from kubeplane.schema.cel import Rules

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column; *path* is a JSONPath into the object."""

    name: str
    type: str
    path: str
    description: str = ""
    format: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """How a stored object looks under this group and version, where that differs from how it is stored."""

    name: str
    to_wire: Callable[[Obj], Obj]
    from_wire: Callable[[Obj], Obj]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One served kind. *table* is where its objects are stored, shared by all of its versions and groups."""

    group: str
    version: str
    kind: str
    plural: str
    table: str
    schema: Obj
    singular: str = ""
    list_kind: str = ""
    namespaced: bool = True
    custom: bool = False
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    status: bool = False  # has a status subresource
    generation: bool = False  # keeps metadata.generation
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()  # dotted paths for field selectors, beyond metadata.name and metadata.namespace
    view: View | None = None
    deprecation: str = ""
    rules: Rules = field(default_factory=lambda: Rules({}))

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """The path of the group and version: api/v1 or apis/GROUP/VERSION."""
        return f"apis/{self.group}/{self.version}" if self.group else f"api/{self.version}"

    @property
    def view_name(self) -> str:
        return self.view.name if self.view else ""

    def wire(self, obj: Obj) -> Obj:
        return self.view.to_wire(obj) if self.view else obj

    def stored(self, obj: Obj) -> Obj:
        return self.view.from_wire(obj) if self.view else obj


class Catalog:
    """The resources by group, version and plural, in the order in which they were added."""

    def __init__(self, resources: tuple[Resource, ...] = ()) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0  # grows with every change, for what is derived from the catalog
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self.generation += 1

    def remove(self, group: str, plural: str) -> None:
        for path in [path for path in self._by_path if (path[0], path[2]) == (group, plural)]:
            del self._by_path[path]
        self.generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def by_table(self, table: str) -> Resource | None:
        return next((r for r in self._by_path.values() if r.table == table), None)

    def tables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.table for r in self._by_path.values()))

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._by_path.values()))
