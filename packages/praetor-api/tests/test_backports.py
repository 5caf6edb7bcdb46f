# SPDX-License-Identifier: Apache-2.0
"""What older Pythons lack is there, and behaves as the standard library's own does on newer ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, field, fields, replace

import pytest

from praetor_api.backports import StrEnum, dataclass


class Colour(StrEnum):
    """Colours."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A field with a default before one without."""

    size: int = 1
    name: str
    parts: tuple[str, ...] = field(default=())
    found: dict[str, int] = field(default_factory=dict, compare=False)
    twice: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", self.size * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Base):
    """A required field after those of its base."""

    colour: Colour


@dataclass(frozen=True, slots=True)
class Plain:
    """Fields by their place."""

    left: int
    right: int = 2


def test_a_member_of_an_enumeration_is_its_text() -> None:
    assert (str(Colour.RED), f"{Colour.RED:>4}", json.dumps(Colour.RED)) == ("red", " red", '"red"')
    assert Colour("red") is Colour.RED
    assert {"red": 1}[Colour.RED] == 1
    assert Colour.BLUE not in ("red",)
    assert isinstance(Colour.RED, str)


def test_fields_by_name_may_have_defaults_in_any_order_and_are_inherited() -> None:
    one = Derived(name="a", colour=Colour.RED)
    assert (one.size, one.name, one.parts, one.found, one.twice) == (1, "a", (), {}, 2)
    assert one.found is not Derived(name="a", colour=Colour.RED).found
    assert [each.name for each in fields(Derived)] == ["size", "name", "parts", "found", "twice", "colour"]
    assert replace(one, size=3).twice == 6
    assert one == Derived(colour=Colour.RED, name="a")
    assert hash(one) == hash(Derived(colour=Colour.RED, name="a"))
    assert repr(Plain(1)) == "Plain(left=1, right=2)"


@pytest.mark.parametrize("given", [{}, {"name": "a", "nome": "b"}, {"name": "a", "twice": 2}])
def test_fields_that_are_missing_or_unknown_are_errors(given: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Base(**given)  # type: ignore[arg-type]


def test_fields_by_name_cannot_be_given_by_their_place_and_those_that_are_frozen_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Base("a")  # type: ignore[call-arg, arg-type]
    with pytest.raises(FrozenInstanceError):
        Base(name="a").name = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'other'"):
        Base(name="a").other = "b"  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'name'"):
        del Derived(name="a", colour=Colour.RED).name


class Named(Plain):
    """No dataclass, so that it may have attributes of its own."""


@dataclass
class Loose:
    """Fields that may change."""

    left: int


@dataclass(frozen=True)
class Secretive:
    """A field that is not shown, and one class that shows itself in its own way."""

    name: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class Own(Plain):
    """Shows itself in its own way."""

    def __repr__(self) -> str:
        return "own"


def test_a_subclass_that_is_no_dataclass_has_attributes_of_its_own_beside_the_frozen_fields() -> None:
    one = Named(1)
    one.note = "mine"  # type: ignore[attr-defined]
    del one.note  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        one.left = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.left


def test_fields_that_are_not_frozen_may_be_changed() -> None:
    one = Loose(1)
    one.left = 2
    assert repr(one) == "Loose(left=2)"


def test_an_object_shows_its_fields_but_for_those_that_are_left_out() -> None:
    assert repr(Secretive("a", "t")) == "Secretive(name='a')"
    assert repr(Own(1)) == "own"


def test_the_kubernetes_half_says_which_python_it_needs() -> None:
    code = "import sys; sys.version_info = (3, 10, 0, 'final', 0); import praetor_api.kube"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said == (
        "ImportError: praetor_api.kube needs Python 3.11 or later; the rest of praetor_api works from 3.9 on"
    )
