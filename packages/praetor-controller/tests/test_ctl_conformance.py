# SPDX-License-Identifier: Apache-2.0
"""`praetorctl conformance`: what it says, and the sentences that it holds. e2e tests what it finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from praetor_controller.ctl.cli import main
from praetor_controller.ctl.conformance.agent_checks import AGENT_CHECKS
from praetor_controller.ctl.conformance.checks import Broken, Check, Skipped, expect, outcome
from praetor_controller.ctl.conformance.gateway_checks import GATEWAY_CHECKS

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
CHECKS = [
    *((each.name, each.sentence) for each in GATEWAY_CHECKS),
    *((each.name, each.sentence) for each in AGENT_CHECKS),
]


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["conformance", *args])


@pytest.mark.parametrize(("name", "sentence"), CHECKS, ids=[name for name, _ in CHECKS])
def test_a_check_prints_a_sentence_of_the_protocols_page_on_one_line(name: str, sentence: str) -> None:
    page = " ".join(re.sub(r"[`|*]", "", PAGE.read_text(encoding="utf-8")).split())
    assert " ".join(sentence.replace("*", "").split()) in page
    assert len(f"FAIL {name}: {sentence}") <= 80


@pytest.mark.parametrize("checks", [GATEWAY_CHECKS, AGENT_CHECKS], ids=["gateway", "agent"])
def test_a_check_is_known_by_its_name(checks: list[Check[object]]) -> None:
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)


def test_an_outcome_shows_what_was_seen_instead() -> None:
    def breaks(_: str) -> None:
        expect(True, "never")
        raise Broken("one thing\nand another")

    def skips(_: str) -> None:
        raise Skipped("no such thing here")

    said = [str(outcome(Check("name", "A sentence.", each), "")) for each in (breaks, skips, lambda _: None)]
    assert said == [
        "FAIL name: A sentence.\n     one thing\n     and another",
        "skip name: A sentence.\n     no such thing here",
        "ok   name: A sentence.",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        pytest.param([], "--gateway, --agent: give one of them", id="neither"),
        pytest.param(["--gateway", "http://x", "--agent", "y"], "--gateway, --agent: give one of them", id="both"),
        pytest.param(["--agent", " "], "--agent: is empty", id="no-command"),
        pytest.param(["--agent", "'"], "--agent: No closing quotation", id="open-quote"),
        pytest.param(["--agent", "x", "--check", "y"], "--check: 'y' is none of speak, ", id="check"),
        pytest.param(["--gateway", "x"], "--gateway: 'x' is no URL", id="url"),
        pytest.param(["--gateway", "http://x", "--device", "A"], "--device: 'A' is not a device name", id="device"),
        pytest.param(["--gateway", "http://x"], "--token-file: is needed", id="no-token"),
        pytest.param(["--gateway", "http://x", "--token-file", "/none"], "cannot be read", id="token"),
        pytest.param(["--gateway", "http://x", "--token-file", "/dev/null"], "is empty", id="empty-token"),
    ],
)
def test_a_wrong_command_line_is_refused_by_name(args: list[str], words: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert words in done.output


def test_a_gateway_and_an_agent_that_are_not_there_fail_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    done = run("--gateway", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token"), "--check", "etag")
    assert done.exit_code == 3
    assert done.output.splitlines() == [
        "FAIL etag: 200 the desired state, with a strong ETag",
        "     the gateway cannot be reached: [Errno 111] Connection refused",
        "1 checks: 0 ok, 1 failed, 0 skipped",
    ]
    done = run("--agent", "/nowhere/agent --now", "--check", "start")
    assert done.exit_code == 3
    assert "     the agent cannot be started: [Errno 2] No such file or directory: '/nowhere/agent'" in done.output
