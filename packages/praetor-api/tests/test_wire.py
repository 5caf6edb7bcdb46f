# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.backports import StrEnum, dataclass
from praetor_api.constraints import Constraint, camel
from praetor_api.spec import (
    Artifact,
    ArtifactType,
    Backend,
    EnvVar,
    ExecProbe,
    Execution,
    HealthCheck,
    HttpGetProbe,
    HttpHeader,
    HttpScheme,
    ProcessSpec,
    Resources,
    RestartPolicy,
    TcpSocketProbe,
)
from praetor_api.wire import Fault, WireError, clean_text, parse_json, read, write


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: Annotated[int, Constraint(minimum=1, maximum=9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: Annotated[str, Constraint(min_length=2, max_length=5, pattern="^[a-z]*$")]
    colour: Colour = Colour.RED
    inner: Optional[Inner] = None
    parts: Annotated[tuple[Inner, ...], Constraint(min_items=0, max_items=2)] = ()
    needed: Annotated[Optional[tuple[str, ...]], Constraint(min_items=1)] = None
    labels: Annotated[Optional[Mapping[str, Annotated[str, Constraint(max_length=3)]]], Constraint(max_items=1)] = None
    amount: Annotated[Union[int, str], Constraint(minimum=0, pattern="^[0-9]+%$")] = 1
    ratio: Annotated[float, Constraint(maximum=1)] = 0.0
    on: bool = False
    short: Annotated[str, Constraint(min_length=1)] = "x"
    note: Annotated[str, Constraint(max_length=4, truncate=True)] = ""
    boot_id: Annotated[str, Constraint(wire="bootID")] = ""
    anything: Any = None


def faults_of(data: object) -> list[str]:
    with pytest.raises(WireError) as caught:
        read(Thing, data)
    return [str(fault) for fault in caught.value.faults]


def test_a_full_object_is_read_into_its_class() -> None:
    data = {
        "name": "abc",
        "colour": "blue",
        "inner": {"size": 3},
        "parts": [{"size": 1}],
        "labels": {"a": "b"},
        "amount": "10%",
        "ratio": 1,
        "on": True,
        "bootID": "b",
        "anything": [1, {"x": None}],
    }
    assert read(Thing, data) == Thing(
        name="abc",
        colour=Colour.BLUE,
        inner=Inner(size=3),
        parts=(Inner(size=1),),
        labels={"a": "b"},
        amount="10%",
        ratio=1,
        on=True,
        boot_id="b",
        anything=[1, {"x": None}],
    )


def test_unknown_fields_are_ignored_and_null_means_absent() -> None:
    assert read(Thing, {"name": "abc", "new": 1, "inner": None}) == Thing(name="abc")


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing() -> None:
    assert read(Thing, {"name": "abc", "inner": {"size": 7.0}}) == read(Thing, {"name": "abc", "inner": {"size": 7}})
    assert faults_of({"name": "abc", "inner": {"size": 7.5}}) == ["inner.size: must be a whole number, not a number"]


def test_every_bad_field_is_named_by_its_path_at_once() -> None:
    assert faults_of({"inner": {"size": 0}, "parts": [{"size": 1}, {"size": "2"}], "on": 1, "colour": "green"}) == [
        "name: is required",
        "colour: must be one of red, blue, not 'green'",
        "inner.size: must be at least 1",
        "parts[1].size: must be a whole number, not a string",
        "on: must be true or false, not a number",
    ]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param([], "must be an object, not a list", id="not-an-object"),
        pytest.param({"name": "a"}, "name: needs 2 characters", id="too-short"),
        pytest.param({"name": "abc", "short": ""}, "short: must not be empty", id="empty"),
        pytest.param({"name": "abcdef"}, "name: has 6 characters; at most 5 are allowed", id="too-long"),
        pytest.param({"name": "aB"}, "name: 'aB' does not match ^[a-z]*$", id="pattern"),
        pytest.param({"name": "ab\n"}, "name: 'ab\\n' does not match ^[a-z]*$", id="pattern-with-newline"),
        pytest.param({"name": {}}, "name: must be a string, not an object", id="wrong-type"),
        pytest.param({"name": "ab", "parts": {}}, "parts: must be a list, not an object", id="not-a-list"),
        pytest.param({"name": "ab", "parts": [1] * 3}, "parts: has 3 items; at most 2 are allowed", id="too-many"),
        pytest.param({"name": "ab", "needed": []}, "needed: needs at least 1 item(s)", id="too-few"),
        pytest.param({"name": "ab", "labels": "x"}, "labels: must be an object, not a string", id="not-a-map"),
        pytest.param(
            {"name": "ab", "labels": {"a": "b", "c": "d"}},
            "labels: has 2 entries; at most 1 are allowed",
            id="too-many-entries",
        ),
        pytest.param({"name": "ab", "labels": {"a": True}}, "labels.a: must be a string, not a boolean", id="entry"),
        pytest.param({"name": "ab", "amount": "x"}, "amount: 'x' does not match ^[0-9]+%$", id="percent"),
        pytest.param({"name": "ab", "amount": -1}, "amount: must be at least 0", id="negative"),
        pytest.param({"name": "ab", "amount": True}, "amount: must be a string, not a boolean", id="bool-is-no-int"),
        pytest.param({"name": "ab", "ratio": 2}, "ratio: must be at most 1", id="ratio"),
        pytest.param({"name": "ab", "colour": ["red"]}, "colour: must be one of red, blue, not \"['red']\"", id="enum"),
        pytest.param(
            {"name": "x" * 70}, "name: has 70 characters; at most 5 are allowed", id="long-text-is-not-echoed"
        ),
    ],
)
def test_a_bad_field_is_refused_with_what_to_write(data: object, fault: str) -> None:
    assert faults_of(data)[0] == fault


def test_what_a_fault_shows_of_the_input_is_short() -> None:
    assert max(map(len, faults_of({"name": "ab", "colour": "g" * 9000}))) < 120


def test_free_text_is_cut_and_cleaned_instead_of_refused() -> None:
    assert read(Thing, {"name": "ab", "note": "a\x1b[31mred"}).note == "a\ufffd[3"


def test_text_of_a_device_cannot_forge_lines_colours_or_direction() -> None:
    assert clean_text("a\r\x1b\u202e\u2066\x85b\tc\n") == "a\ufffd\ufffd\ufffd\ufffd\ufffdb\tc\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"-Infinity", id="infinity"),
        pytest.param(b"1e999", id="overflow"),
        pytest.param(b"\xff\xfe", id="not-utf8"),
        pytest.param(b"[" * 200_000, id="nested"),
        pytest.param(b"", id="empty"),
        pytest.param(b"1" * 5000, id="digits"),
    ],
)
def test_what_is_not_json_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(WireError, match="not valid JSON"):
        parse_json(body)


def test_ordinary_json_is_parsed() -> None:
    assert parse_json('{"a": [1, 2.5, "ü"]}') == {"a": [1, 2.5, "ü"]}


def test_defaults_are_left_out_when_writing_and_required_fields_never() -> None:
    assert write(Thing(name="ab")) == {"name": "ab"}
    assert write(Thing(name="ab", labels={"a": "b"}, colour=Colour.BLUE, parts=(Inner(size=2),), boot_id="x")) == {
        "name": "ab",
        "colour": "blue",
        "labels": {"a": "b"},
        "parts": [{"size": 2}],
        "bootID": "x",
    }


def test_a_fault_without_a_path_is_its_message() -> None:
    assert str(Fault("", "no")) == "no"


def test_names_on_the_wire_are_camel_case() -> None:
    assert camel("termination_grace_period_seconds") == "terminationGracePeriodSeconds"


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
words = st.lists(text, max_size=3).map(tuple)
specs = st.builds(
    ProcessSpec,
    artifact=st.none()
    | st.builds(
        Artifact,
        type=st.sampled_from(ArtifactType),
        url=text.filter(bool),
        checksum_sha256=st.none() | st.just("ab" * 32),
    ),
    execution=st.builds(
        Execution,
        backend=st.sampled_from(Backend),
        command=words,
        args=words,
        env=st.lists(st.builds(EnvVar, name=st.just("A"), value=text), max_size=2).map(tuple),
        working_dir=st.none() | text.filter(bool),
        user=st.none() | st.just("admin"),
        resources=st.none()
        | st.builds(
            Resources,
            memory=st.none() | st.just("64Mi") | st.integers(0, 9),
            cpu=st.none() | st.just("500m"),
            tasks=st.none() | st.integers(1, 9),
        ),
        termination_grace_period_seconds=st.integers(0, 3600),
    ),
    restart_policy=st.sampled_from(RestartPolicy),
    health_check=st.none()
    | st.builds(
        HealthCheck,
        exec=st.none() | st.builds(ExecProbe, command=words.filter(bool)),
        http_get=st.none()
        | st.builds(
            HttpGetProbe,
            path=st.sampled_from(["/", "/ready?deep=1&x=%23"]),
            port=st.integers(1, 65535),
            host=st.sampled_from(["127.0.0.1", "::1", "fe80::1%eth0", "mgmt.example"]),
            scheme=st.sampled_from(HttpScheme),
            http_headers=st.lists(st.builds(HttpHeader, name=st.just("Host"), value=st.sampled_from(["", "a b"]))).map(
                tuple
            ),
        ),
        tcp_socket=st.none() | st.builds(TcpSocketProbe, port=st.integers(1, 65535)),
        period_seconds=st.integers(1, 99),
        timeout_seconds=st.integers(1, 99),
        success_threshold=st.integers(1, 9),
        failure_threshold=st.integers(1, 9),
    ),
)


@given(specs)
def test_what_is_written_is_read_back_the_same(spec: ProcessSpec) -> None:
    assert read(ProcessSpec, write(spec)) == spec


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values | st.fixed_dictionaries({"execution": json_values, "artifact": json_values}))
def test_any_input_gives_a_value_or_named_faults(data: object) -> None:
    try:
        outcome: object = read(ProcessSpec, data)
    except WireError as e:
        outcome = e.faults
    assert isinstance(outcome, ProcessSpec) or outcome
