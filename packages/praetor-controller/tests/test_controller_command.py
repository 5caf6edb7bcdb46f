# SPDX-License-Identifier: Apache-2.0
"""The command: options, and errors that name the flag."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from click.testing import CliRunner

from praetor_controller.cli import main


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command configures logging for its process, which is the tests' own here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_the_help_names_the_variable_of_each_option() -> None:
    done = CliRunner().invoke(main, ["-h"])
    assert done.exit_code == 0
    assert all(f"PRAETOR_CONTROLLER_{name}" in done.output for name in ("KUBECONFIG", "QPS", "LOG_LEVEL"))
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics-bind-address", "nowhere"], "'--metrics-bind-address': 'nowhere' is not an address; write"),
        (["--qps", "0"], "--qps"),
        (["--kubeconfig", "/nonexistent/kubeconfig"], "/nonexistent/kubeconfig"),
    ],
)
def test_bad_input_is_reported_without_a_traceback(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output


def test_an_option_can_come_from_the_environment() -> None:
    done = CliRunner().invoke(main, [], env={"PRAETOR_CONTROLLER_HEALTH_PROBE_BIND_ADDRESS": "nowhere"})
    assert "'--health-probe-bind-address': 'nowhere'" in done.output
