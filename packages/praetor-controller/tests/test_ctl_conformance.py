# SPDX-License-Identifier: Apache-2.0
"""`praetorctl conformance`: what it says, and the sentences that it holds. e2e tests what it finds."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from praetor_api.canonical import desired_etag, spec_hash
from praetor_api.protocol import read_desired, read_report
from praetor_api.tokens import device_token
from praetor_api.wire import WireError, parse_json
from praetor_controller.ctl.cli import main
from praetor_controller.ctl.conformance.agent_checks import AGENT_CHECKS
from praetor_controller.ctl.conformance.agent_lab import is_alive
from praetor_controller.ctl.conformance.checks import Broken, Check, Skipped, expect, outcome
from praetor_controller.ctl.conformance.gateway_checks import GATEWAY_CHECKS
from praetor_controller.ctl.conformance.vectors import vectors

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


HASHES = vectors("hashes")


def named(name: str) -> list[Any]:
    """Return the vectors in the file or the list *name*, for pytest."""
    found = HASHES.get(name) or vectors(name)
    return [pytest.param(each, id=each.get("name", f"{each.get('device')}/{each.get('epoch')}")) for each in found]


@pytest.mark.parametrize("given", named("specHashes"))
def test_a_spec_has_the_hash_of_the_vectors(given: Mapping[str, Any]) -> None:
    digest = hashlib.sha256(given["canonical"].encode()).hexdigest()
    assert spec_hash(given["spec"]) == given["specHash"] == f"sha256:{digest}"


def etag_of(items: Sequence[Mapping[str, Any]]) -> str:
    """Return the ETag of desired items."""
    keys = ("uid", "namespace", "name", "generation", "specHash")
    return desired_etag(tuple(each[key] for key in keys) for each in items)


@pytest.mark.parametrize("given", named("etags"))
def test_a_desired_state_has_the_etag_of_the_vectors(given: Mapping[str, Any]) -> None:
    digest = hashlib.sha256(given["canonical"].encode()).hexdigest()
    assert etag_of(given["items"]) == given["etag"] == f'"{digest[:32]}"'


@pytest.mark.parametrize("given", named("tokens"))
def test_a_device_has_the_token_of_the_vectors(given: Mapping[str, Any]) -> None:
    assert device_token(given["secret"].encode(), given["device"], given["epoch"]) == given["token"]


@pytest.mark.parametrize("given", named("desired"))
def test_a_desired_state_of_the_vectors_is_usable_or_not(given: Mapping[str, Any]) -> None:
    try:
        found = read_desired(parse_json(given["body"]))
        usable = found.device_name == "leaf-1"
    except WireError:
        usable = False
    assert usable == given["usable"]
    if usable:
        assert etag_of(json.loads(given["body"])["items"]) == given["etag"]


@pytest.mark.parametrize("given", named("reports"))
def test_a_report_of_the_vectors_is_read_as_they_say(given: Mapping[str, Any]) -> None:
    try:
        _, _, rejected = read_report(parse_json(given["body"]))
        seen = {"status": 200, "rejected": [each.name for each in rejected]}
    except WireError as e:
        seen = {"status": 400, "fields": sorted(fault.path for fault in e.faults)}
    assert {key: value for key, value in seen.items() if key in given} == {
        key: value for key, value in given.items() if key not in ("name", "body")
    }


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
        pytest.param(["--gateway", "http://x", "--token-file", "/none"], "--token-file: cannot read /none", id="token"),
        pytest.param(["--gateway", "http://x", "--token-file", "/dev/null"], "is empty", id="empty-token"),
    ],
)
def test_a_wrong_command_line_is_refused_by_name(args: list[str], words: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"one\ntwo\n", "has not one token alone"),
        (b"one\r\nX-Other: header\r\n", "has not one token alone"),
        (b"\xff\xfe", "has not one token alone"),
        (b"\x1b[2J", "has not one token alone"),
        (b"x" * (1 << 20) + b"x", "has more than 1 MiB"),
    ],
    ids=["two", "a-header", "no-text", "escapes", "large"],
)
def test_a_file_that_is_not_one_token_is_refused_before_anything_is_sent(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    done = run("--gateway", "http://127.0.0.1:1", "--token-file", str(path), "--check", "etag")
    assert (done.exit_code, words in done.stderr) == (2, True)
    done = run("--gateway", "https://127.0.0.1:1", "--token-file", str(path), "--ca-bundle", str(path))
    assert (done.exit_code, f"--ca-bundle: cannot read {path}" in done.stderr) == (2, True)


@pytest.mark.parametrize("after", [b"99999999999", b"\xb2", b"-1"], ids=["an-age", "no-digit", "negative"])
def test_an_answer_of_a_gateway_cannot_act_on_a_terminal_nor_stop_the_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("praetor_controller.ctl.conformance.client.time.sleep", waits.append)
    body = b"\x1b]0;x\x07"
    head = b"HTTP/1.1 503 \x1b[2J\r\nRetry-After: %s\r\nETag: \x1b[2J\r\nContent-Length: %d\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(head % (after, len(body)) + body)

    (tmp_path / "token").write_text("t")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run("--gateway", url, "--token-file", str(tmp_path / "token"), "--check", "etag")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    assert done.exit_code == 3
    assert done.output.startswith("FAIL etag")
    assert "\x1b" not in done.output
    assert max(waits, default=0) <= 60


def test_a_gateway_and_an_agent_that_are_not_there_fail_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    done = run("--gateway", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token"), "--check", "etag")
    assert done.exit_code == 3
    assert done.output.splitlines() == [
        "FAIL etag: 200 the desired state, with a strong ETag",
        "     the gateway cannot be reached: [Errno 111] Connection refused",
        "1 check: 0 ok, 1 failed, 0 skipped",
    ]
    nowhere = f"/nowhere/{'a' * 60}"
    done = CliRunner().invoke(main, ["conformance", "--agent", nowhere, "--check", "start"], env={"COLUMNS": "80"})
    assert done.output.splitlines()[1:3] == [
        "     the agent cannot be started: [Errno 2] No such file or directory:",
        f"     '{nowhere}'",
    ]
    done = run("--agent", "/nowhere/agent --now", "--check", "start")
    assert done.exit_code == 3
    assert "     the agent cannot be started: [Errno 2] No such file or directory: '/nowhere/agent'" in done.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kit_that_is_ended_leaves_no_agent_behind(tmp_path: Path, number: signal.Signals) -> None:
    agent = f"sh -c 'echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000'"
    command = [sys.executable, "-m", "praetor_controller.ctl", "conformance", "--timeout", "600", "--agent", agent]
    with subprocess.Popen([*command, "--check", AGENT_CHECKS[0].name], stdout=subprocess.PIPE) as kit:
        while not (tmp_path / "pid").exists() and kit.poll() is None:
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
        kit.send_signal(number)
        assert kit.wait(100) == 128 + number
    assert not is_alive(pid)
