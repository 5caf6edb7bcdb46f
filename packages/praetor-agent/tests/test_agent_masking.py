# SPDX-License-Identifier: Apache-2.0
"""Values of Secrets in what the agent says: none is left, and nothing else is touched."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_testing import item
from praetor_agent.core.masking import (
    LEAST_CHARACTERS,
    LEAST_OF_A_CUT,
    MASK,
    MOST_KEPT,
    Masking,
    ending,
    secret_values,
)
from praetor_api.protocol import DesiredItem, Observation, read_desired
from praetor_api.wire import clean_text

SECRET = {"secretKeyRef": {"name": "login", "key": "key"}}
PUBLIC = {"configMapKeyRef": {"name": "settings", "key": "key"}}


def item_with(
    values: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    uid: str = "uid-a",
    source: Mapping[str, Any] = SECRET,
) -> DesiredItem:
    """Return a version whose variables and files are all of *source*."""
    values, files = values or {}, files or {}
    execution: dict[str, Any] = {"backend": "process", "command": ["a"]}
    execution["env"] = [{"name": name, "valueFrom": source} for name in values]
    execution["files"] = [{"path": path, "onChange": "None", **source} for path in files]
    contents = [{"path": path, "content": base64.b64encode(content).decode()} for path, content in files.items()]
    said = {"values": dict(values), "fileValues": contents, "valuesHash": "hmac-sha256:1"}
    body = {"deviceName": "leaf-1", "items": [item("a", {"execution": execution}, uid=uid) | said]}
    (read,) = read_desired(body).items
    return read


WORDS = st.text("ab:/\n \x07é", min_size=1, max_size=12)


@given(st.lists(WORDS, max_size=4), st.lists(st.one_of(WORDS, st.integers(0, 3)), max_size=8), st.booleans())
def test_no_value_is_left_and_nothing_else_is_touched(secrets: list[str], parts: list[str | int], cut: bool) -> None:
    mask = Masking([item_with({f"V{number}": secret for number, secret in enumerate(secrets)})])
    text = "".join(
        part if isinstance(part, str) else (secrets[part % len(secrets)] if secrets else "") for part in parts
    )
    said = mask(text, cut=cut)
    hidden = [secret.strip() for secret in secrets if len(secret.strip()) >= LEAST_CHARACTERS]
    assert not [secret for secret in hidden if secret in said or clean_text(secret) in clean_text(said)]
    assert len(said) <= len(text)
    left = iter(text)
    assert all(character in left for character in said.replace(MASK, "")), "what is left stands in its order"
    if not any(len(line.strip()) >= LEAST_CHARACTERS for secret in secrets for line in [secret, *secret.splitlines()]):
        assert said == text
    assert mask(said) == said


@given(st.text("abc", min_size=LEAST_CHARACTERS, max_size=30), st.integers(1, 29), st.text("xyz", max_size=5))
def test_the_end_of_a_longer_text_may_begin_within_a_value(secret: str, at: int, after: str) -> None:
    left = secret[at:]
    said = Masking([item_with({"V": secret})])(left + after, cut=True)
    assert said == (MASK + after if len(left) >= LEAST_OF_A_CUT else left + after)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("password=hunter2-5up3r", "password=***"),
        ("hunter2-5up3rhunter2-5up3r", "***"),
        ("https://u:hunter2-5up3r@host hunter2", "https://u:***@host hunter2"),
        ("hunter2-5up3", "hunter2-5up3"),
        ("user admin", "user admin"),
        ("", ""),
    ],
)
def test_values_are_replaced_where_they_stand_whole(text: str, said: str) -> None:
    assert Masking([item_with({"P": "hunter2-5up3r", "USER": "admin"})])(text) == said


def test_values_that_overlap_are_replaced_together() -> None:
    assert Masking([item_with({"A": "abcdef123", "B": "123xyzuvw"})])("<abcdef123xyzuvw>") == "<***>"


def test_each_line_of_a_file_is_replaced_and_how_it_is_shown() -> None:
    content = b"-----BEGIN KEY-----\nMIIEvQIBADAN\nshort\nwith  two\x07spaces\n"
    mask = Masking([item_with(files={"etc/key": content, "etc/image": b"\xff\xfe"})])
    assert mask(content.decode()) == "***\n"
    assert mask("key: MIIEvQIBADAN, in short") == "key: ***, in short"
    assert mask(clean_text("with  two\x07spaces")) == mask("with two\x07spaces") == MASK
    assert Masking([item_with(files={"etc/key": b""})])("any text") == "any text"


def test_a_content_that_is_not_base64_is_no_text() -> None:
    body = item("a", {"execution": {"backend": "process", "command": ["a"], "files": [{"path": "k", **SECRET}]}})
    body |= {"fileValues": [{"path": "k", "content": "MIIEvQIBADAN!"}], "valuesHash": "hmac-sha256:1"}
    (read,) = read_desired({"deviceName": "leaf-1", "items": [body]}).items
    assert Masking([read])("MIIEvQIBADAN!") == "MIIEvQIBADAN!"


def test_values_of_config_maps_are_no_secrets() -> None:
    shown = item_with({"LEVEL": "verbose-and-long"}, {"etc/a": b"verbose-and-long"}, source=PUBLIC)
    assert list(secret_values(shown)) == []
    assert Masking([shown])("verbose-and-long") == "verbose-and-long"


def test_a_variable_that_has_no_value_hides_nothing() -> None:
    optional = {"secretKeyRef": {"name": "login", "key": "key", "optional": True}}
    execution = {"backend": "process", "command": ["a"], "env": [{"name": "P", "valueFrom": optional}]}
    (read,) = read_desired({"deviceName": "leaf-1", "items": [item("a", {"execution": execution})]}).items
    assert list(secret_values(read)) == []


def test_a_value_that_was_replaced_stays_hidden_as_long_as_its_process_is_there() -> None:
    mask = Masking()
    mask.learn([item_with({"P": "first-value"}), item_with({"P": "of another"}, uid="uid-b")])
    mask.learn([item_with({"P": "second-value"})])
    assert mask("first-value second-value of another") == "*** *** of another"
    mask.learn([])
    assert mask("first-value second-value") == "first-value second-value"


def test_no_more_replaced_values_are_kept_than_have_room() -> None:
    mask = Masking([item_with({"P": "\n".join(f"{number:06}" for number in range(MOST_KEPT - 3))})])
    mask.learn([item_with({"P": "second-value"})])
    assert mask("000007, second-value") == "***, ***"
    mask.learn([item_with({"P": "third-value"})])
    assert mask("000007, second-value, third-value") == "000007, second-value, ***"


def test_a_report_has_no_value_in_any_of_its_texts() -> None:
    mask = Masking([item_with({"P": "hunter2-5up3r"})])
    said = "it said hunter2-5up3r"
    seen = Observation(
        name="hunter2-5up3r", error_message=said, warning_message=said, rolled_back_message=said,
        update_held_message=said, pending_message=said, output_tail=said,
    )  # fmt: skip
    reported = mask.reported(seen)
    assert str(reported).count("it said ***") == 6
    assert reported.name == "hunter2-5up3r", "what names the process stays as it is"
    plain = Observation(name="a", error_message="broken")
    assert mask.reported(plain) == plain
    assert mask.reported(Observation(name="a")) == Observation(name="a")


@pytest.mark.parametrize(
    ("text", "end"),
    [("short", "short"), ("of two words", "words"), ("abcdefghijkl", ""), ("abcdefgh  next", "next")],
)
def test_what_is_cut_begins_with_a_word(text: str, end: str) -> None:
    assert ending(text, 8) == end
