# SPDX-License-Identifier: Apache-2.0
"""`praetorctl conformance`."""

from __future__ import annotations

import shlex
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from praetor_api.names import is_device_name
from praetor_api.wire import clean_text
from praetor_controller.ctl.conformance.agent_checks import AGENT_CHECKS, AgentCheck
from praetor_controller.ctl.conformance.agent_lab import AgentUnderTest, agent_lab
from praetor_controller.ctl.conformance.checks import Check, Outcome, outcome, outcomes
from praetor_controller.ctl.conformance.client import DeviceClient
from praetor_controller.ctl.conformance.gateway_checks import GATEWAY_CHECKS
from praetor_controller.ctl.errors import BadInput, ExitCode, read_input
from praetor_controller.ctl.output import counted, fitted, painted, screen_width, show

T = TypeVar("T")
_MAX_TOKEN = 1 << 20
COLOURS = {"ok": "green", "FAIL": "red", "skip": "yellow"}


@click.command("conformance")
@click.option("--gateway", metavar="URL", help="Check the gateway at URL, by playing --device.")
@click.option("--agent", metavar="CMD", help="Check the agent that CMD runs, by playing its gateway.")
@click.option("--device", default="conformance", show_default=True, help="A device made for this; its status changes.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the device's token.")
@click.option("--shared-token", is_flag=True, help="The token is the fleet's shared one.")
@click.option("--ca-bundle", type=click.Path(path_type=Path), help="PEM file of the CA certificates for the gateway.")
@click.option(
    "--backend",
    type=click.Choice(["process", "initd", "systemd"]),
    default="process",
    show_default=True,
    help="What the agent is to run processes by.",
)
@click.option("--check", "names", multiple=True, metavar="NAME", help="Make this check alone; may be repeated.")
@click.option(
    "--at-once", type=click.IntRange(1, 64), default=4, show_default=True, help="Agents that are checked at a time."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Seconds within which what an agent has to do must happen.",
)
@click.pass_context
def conformance(
    context: click.Context,
    gateway: str | None,
    agent: str | None,
    device: str,
    token_file: Path | None,
    shared_token: bool,
    ca_bundle: Path | None,
    backend: str,
    names: tuple[str, ...],
    at_once: int,
    timeout_s: int,
) -> None:
    """Check a gateway or an agent against the sentences of the device protocol.

    CMD is run without a shell, with PRAETOR_AGENT_GATEWAY, _DEVICE, _TOKEN_FILE, _STATE_DIR and others in its
    environment; see docs/protocol.md. It starts processes on this machine.

    \b
    Exit codes:
      0  every sentence holds
      2  the command line is wrong
      3  a sentence does not hold
    A signal ends it with 128 and its number, and with it what it started.
    """
    if (gateway is None) == (agent is None):
        raise BadInput("--gateway, --agent: give one of them")
    ends: AbstractContextManager[None] = nullcontext()
    if gateway is not None:
        client = _client(gateway, device, token_file, ca_bundle, shared=shared_token)
        found = outcomes(_chosen(GATEWAY_CHECKS, names), partial(outcome, subject=client))
    else:
        under_test = AgentUnderTest(command=_words(agent or ""), backend=backend, timeout_s=float(timeout_s))
        found = outcomes(_chosen(AGENT_CHECKS, names), partial(_on_agent, under_test), at_once)
        ends = _ended_by_signals(under_test)
    with ends:
        failed = _shown(found)
    context.exit(ExitCode.FAILED if failed else ExitCode.DONE)


@contextmanager
def _ended_by_signals(under_test: AgentUnderTest) -> Iterator[None]:
    """End the checks by SIGINT and SIGTERM, and leave no agent, and none of its processes, behind."""

    def end(number: int, _: object) -> None:
        under_test.ended.set()
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(found: Iterator[Outcome]) -> int:
    words = []
    for each in found:
        head, *seen = clean_text(str(each)).splitlines()
        show(painted(each.word, COLOURS[each.word]) + head.removeprefix(each.word))
        for line in seen:
            show(fitted(line, screen_width()))
        words.append(each.word)
    failed, skipped = words.count("FAIL"), words.count("skip")
    show(f"{counted(len(words), 'check')}: {words.count('ok')} ok, {failed} failed, {skipped} skipped")
    return failed


def _on_agent(under_test: AgentUnderTest, check: AgentCheck) -> Outcome:
    with agent_lab(under_test) as lab:
        return outcome(check, lab)


def _chosen(checks: Sequence[Check[T]], names: Sequence[str]) -> Sequence[Check[T]]:
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            raise BadInput(f"--check: {name!r} is none of {', '.join(known)}")
    return [check for check in checks if not names or check.name in names]


def _words(command: str) -> Sequence[str]:
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise BadInput(f"--agent: {e}; quote it as for a shell") from e
    if not words:
        raise BadInput("--agent: is empty; write the command that runs the agent")
    return words


def _client(url: str, device: str, token_file: Path | None, ca_bundle: Path | None, *, shared: bool) -> DeviceClient:
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"--gateway: {url!r} is no URL; write http://HOST:PORT or https://HOST:PORT")
    if not is_device_name(device):
        raise BadInput(f"--device: {device!r} is not a device name; use lower-case letters, digits, '-' and '.'")
    if token_file is None:
        raise BadInput("--token-file: is needed with --gateway; see praetorctl token mint")
    try:
        tls = ssl.create_default_context(cafile=ca_bundle) if url.startswith("https://") else None
    except (OSError, ValueError) as e:
        raise BadInput(f"--ca-bundle: cannot read {ca_bundle}: {e}; give certificates in PEM") from e
    content = read_input(str(token_file), "--token-file", "write the device's token", _MAX_TOKEN)
    token = content.decode("latin-1").strip()
    if not token:
        raise BadInput(f"--token-file: {token_file} is empty; write the device's token")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise BadInput(f"--token-file: {token_file} has not one token alone; write the device's")
    return DeviceClient(url=url.rstrip("/"), device=device, token=token, shared=shared, tls=tls)
