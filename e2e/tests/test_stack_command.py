# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e` runs the whole suite unless tests are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.__main__ import PODS, SUITE, with_suite


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--cluster", "envtest", "-k", "tokens"], id="options"),
        pytest.param(["--kubeconfig", "/dev/null"], id="a-file-elsewhere"),
    ],
)
def test_without_named_tests_the_whole_suite_runs(arguments: list[str]) -> None:
    assert with_suite(arguments) == [*arguments, str(SUITE)]


@pytest.mark.parametrize("arguments", [["--cluster", "node"], ["--cluster=node", "-x"], ["--cluster", "kind"]])
def test_on_a_node_the_tests_of_pods_run_and_then_the_suite(arguments: list[str]) -> None:
    assert with_suite(arguments) == [*arguments, str(PODS), str(SUITE)]


@pytest.mark.parametrize("selected", ["", "::test_x[y]"])
def test_named_tests_are_run_alone(selected: str) -> None:
    named = f"{Path(__file__)}{selected}"
    assert with_suite(["-x", named]) == ["-x", named]


def test_a_test_that_is_left_out_is_not_one_that_is_asked_for() -> None:
    left_out = ["--deselect", f"{SUITE}/test_e2e_rbac.py::test_x"]
    assert with_suite(left_out) == [*left_out, str(SUITE)]
