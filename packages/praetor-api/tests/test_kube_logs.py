# SPDX-License-Identifier: Apache-2.0
"""Logs are lines for people or for machines, whichever library wrote them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kube_testing import own_logging
from praetor_api.kube.runtime.logs import configure_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with own_logging():
        yield


def test_structlog_and_logging_write_json_lines_with_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    structlog.get_logger("ours").info("process created", device="leaf-1")
    logging.getLogger("theirs").warning("odd", extra={"peer": "a"})
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["device"], ours["level"], ours["logger"]) == (
        "process created",
        "leaf-1",
        "info",
        "ours",
    )
    assert (theirs["event"], theirs["peer"], theirs["level"]) == ("odd", "a", "warning")


def test_an_exception_becomes_part_of_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("ours").exception("reconcile crashed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: bad" in json.loads(line)["exception"]


def test_lines_below_the_level_are_dropped_and_text_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning", "text")
    structlog.get_logger("ours").info("quiet")
    structlog.get_logger("ours").warning("loud", device="leaf-1")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "loud" in err
    assert "device=leaf-1" in err
