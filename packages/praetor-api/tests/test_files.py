# SPDX-License-Identifier: Apache-2.0
"""The checks of files that an API server without CEL leaves out, and the variable by which a process finds its own."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.files import MAX_CONTENT, files_fault
from praetor_api.spec import Backend, EnvVar, Execution
from praetor_api.values import started_with


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a", "x"), ("/a", ""), ("b/c", "y"), ("b.d", "z"), ("...", "")], None),
        ([("a/..", "x")], "execution.files[0]: path holds . or ..; write where the file is to be"),
        ([("a", "x"), ("b", None)], 'execution.files[1]: a file needs content; write it, or ""'),
        ([("a", "x"), ("a", "y")], "execution.files[1]: 'a' is there twice; write each path once"),
        ([("a", "x"), ("a/b", "y")], "'a/b' and another path need the same name for a file and a directory"),
        ([("a/b", "x"), ("a", "y")], "'a' and another path need the same name for a file and a directory"),
        ([("a", "x" * MAX_CONTENT), ("b", "y")], "may have 131072 characters together"),
    ],
)
def test_what_is_wrong_with_files_is_said_with_what_to_write(
    files: list[tuple[str, str | None]], words: str | None
) -> None:
    said = files_fault(files)
    assert said is None if words is None else words in (said or "")


@given(st.lists(st.sampled_from(["a", "..", ".", "...", "", "b c"]), min_size=1, max_size=5).map("/".join))
def test_a_path_that_passes_stays_below_where_it_begins(path: str) -> None:
    if files_fault([(path, "x")]) is None:
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
