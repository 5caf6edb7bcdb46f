# SPDX-License-Identifier: Apache-2.0
"""The checks of files that an API server without CEL leaves out, and the variable by which a process finds its own."""

from __future__ import annotations

import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.files import MAX_CONTENT, files_fault, mode_of
from praetor_api.spec import Backend, EnvVar, Execution
from praetor_api.values import started_with

MAP, SECRET = ({kind: {"name": "conf", "key": "a"}} for kind in ("configMapKeyRef", "secretKeyRef"))


def inline(*files: tuple[str, str | None]) -> list[dict[str, Any]]:
    return [{"path": path, "content": content} for path, content in files]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (inline(("a", "x"), ("/a", ""), ("b/c", "y"), ("b.d", "z"), ("...", "")), None),
        (inline(("a/..", "x")), "execution.files[0]: path holds . or ..; write where the file is to be"),
        (inline(("a", "x"), ("b", None)), "execution.files[1]: write exactly one of content, configMapKeyRef and"),
        (inline(("a", "x"), ("a", "y")), "execution.files[1]: 'a' is there twice; write each path once"),
        (inline(("a", "x"), ("a/b", "y")), "'a/b' and another path need the same name for a file and a directory"),
        (inline(("a/b", "x"), ("a", "y")), "'a' and another path need the same name for a file and a directory"),
        (inline(("a", "x" * MAX_CONTENT), ("b", "y")), "may have 131072 characters together"),
        ([{"path": "a", **MAP}, {"path": "b", **SECRET}, {"path": "c", **SECRET, "mode": "0400"}], None),
        ([{"path": "a", **MAP, "content": ""}], "write exactly one of content, configMapKeyRef and secretKeyRef"),
        ([{"path": "a", **MAP, **SECRET}], "write exactly one of content, configMapKeyRef and secretKeyRef"),
        ([{"path": "a", **SECRET, "mode": "0640"}], "a file of a Secret is for its owner alone; write a mode such as"),
        ([{"path": "a", "content": "", "signal": "SIGHUP"}], "signal needs onChange: Signal; write both"),
    ],
)
def test_what_is_wrong_with_files_is_said_with_what_to_write(files: list[dict[str, Any]], words: str | None) -> None:
    said = files_fault(files)
    assert said is None if words is None else words in (said or "")


def test_a_file_of_a_secret_is_for_its_owner_alone_unless_it_says_more() -> None:
    given: list[dict[str, Any]] = [
        {"path": "a", "content": ""},
        SECRET,
        {**SECRET, "mode": "400"},
        {**MAP, "mode": "0640"},
    ]
    assert [mode_of(each) for each in given] == ["0644", "0600", "0400", "0640"]


@given(st.lists(st.sampled_from(["a", "..", ".", "...", "", "b c"]), min_size=1, max_size=5).map("/".join))
def test_a_path_that_passes_stays_below_where_it_begins(path: str) -> None:
    if files_fault(inline((path, "x"))) is None:
        assert f"{posixpath.normpath(f'/own/{path}')}/".startswith("/own/")


@pytest.mark.parametrize("expands", [True, None])
def test_a_process_with_files_finds_them_by_a_variable(expands: bool | None) -> None:
    execution = Execution(
        backend=Backend.PROCESS,
        command=("$(PRAETOR_FILES)/run",),
        env=(EnvVar(name="CONF", value="$(PRAETOR_FILES)/a"),),
        expand_variables=expands,
    )
    started = started_with(execution, files="/own")
    place = "/own" if expands else "$(PRAETOR_FILES)"
    assert (started.command, started.env) == ((f"{place}/run",), {"PRAETOR_FILES": "/own", "CONF": f"{place}/a"})
    assert "PRAETOR_FILES" not in started_with(execution).env
