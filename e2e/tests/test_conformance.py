# SPDX-License-Identifier: Apache-2.0
"""The conformance kit of gateways: ours passes it, and one that is broken on purpose fails with the line it broke."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2e.conformance.kit import AGENT_SH, kit, others
from gateway_testing import SETTINGS, conditions, listening, process_object
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.tokens import device_token
from praetor_gateway.gateway import Gateway
from praetor_gateway.settings import Credentials, ServerKind

SECRET, DEVICE = b"secret", "leaf-1"


def test_the_agent_in_sh_is_small_and_clean() -> None:
    assert len(AGENT_SH.read_text(encoding="utf-8").splitlines()) <= 400
    done = subprocess.run(["shellcheck", "-s", "sh", AGENT_SH], capture_output=True, text=True, check=False)
    assert done.stdout == ""


Damage = Callable[[Scope, Message], Message]


def without(name: bytes, _: Scope, message: Message) -> Message:
    """Leave out a header of the answer."""
    return {**message, "headers": [each for each in message.get("headers", ()) if each[0] != name]}


def with_header(name: bytes, value: bytes, scope: Scope, message: Message) -> Message:
    """Put a header into each answer."""
    message = without(name, scope, message)
    return {**message, "headers": [*message["headers"], (name, value)]}


def with_text(old: bytes, new: bytes, _: Scope, message: Message) -> Message:
    """Replace a text in headers and bodies, by one of the same length."""
    headers = [(name, value.replace(old, new)) for name, value in message.get("headers", ())]
    return {**message, "headers": headers, "body": message.get("body", b"").replace(old, new)}


def with_status(old: int, new: int, _: Scope, message: Message) -> Message:
    """Answer *new* instead of *old*."""
    return {**message, "status": new} if message.get("status") == old else message


def asking(name: bytes, value: bytes | None, scope: Scope) -> Scope:
    """Have the gateway see a request with another header, or without it."""
    kept = [each for each in scope["headers"] if each[0] != name]
    return {**scope, "headers": [*kept, *([(name, value)] if value is not None else [])]}


@asynccontextmanager
async def gateway(
    damage: Damage = lambda _, message: message,
    ask: Callable[[Scope], Scope] = lambda scope: scope,
    kube: InProcessKube | None = None,
    server: ServerKind = ServerKind.AUTO,
) -> AsyncIterator[str]:
    """Serve one device by a gateway whose answers are damaged; yield its URL."""
    kube = kube or InProcessKube()
    for name in ("b", "a"):
        await kube.create(DEVICE_PROCESSES, "lab", process_object(DEVICE, name))
    credentials = Credentials(secrets=(SECRET.decode(),))
    app = Gateway(kube, evolve(SETTINGS, credentials=credentials), SystemClock(), CollectorRegistry())

    async def damaged(scope: Scope, receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            await send(damage(scope, message))

        inner: ASGIApp = app.app
        await inner(ask(scope), receive, forward)

    async with app.lifespan(), listening(damaged, server=server) as listener:
        yield f"http://127.0.0.1:{listener.port}"


async def gateway_checked(url: str, tmp_path: Path, *args: str) -> tuple[int, list[str]]:
    token = tmp_path / "token"
    token.write_text(device_token(SECRET, DEVICE))
    return await asyncio.to_thread(kit, "--gateway", url, "--device", DEVICE, "--token-file", str(token), *args)


async def test_the_agent_in_sh_and_our_gateway_understand_each_other(tmp_path: Path) -> None:
    kube = InProcessKube()
    (tmp_path / "token").write_text(device_token(SECRET, DEVICE))
    async with gateway(kube=kube) as url:
        given = {"GATEWAY": url, "DEVICE": DEVICE, "TOKEN_FILE": f"{tmp_path}/token", "STATE_DIR": f"{tmp_path}/state"}
        environment = os.environ | {f"PRAETOR_AGENT_{name}": value for name, value in given.items()}
        agent = await asyncio.create_subprocess_exec("sh", AGENT_SH, env=environment, start_new_session=True)
        try:
            await healthy(kube, {"a", "b"})
        finally:
            os.killpg(agent.pid, signal.SIGKILL)
            await agent.wait()
            end_processes(tmp_path / "state")


def end_processes(state: Path) -> None:
    """Kill what an agent in sh started, which goes on without it."""
    for run in state.glob("p/*/run"):
        with suppress(ProcessLookupError):
            os.killpg(int(run.read_text().split()[2]), signal.SIGKILL)


async def healthy(kube: InProcessKube, names: set[str]) -> None:
    """Return when the status of each process with one of *names* says that it is healthy."""
    left = set(names)
    async with aclosing(kube.watch(DEVICE_PROCESSES, "lab", resource_version="0", timeout_s=500)) as events:
        async for event in events:
            if conditions(event.object).get("Healthy") == "True":
                left.discard(event.object["metadata"]["name"])
            if not left:
                return
    raise AssertionError(f"not healthy: {left}")


@pytest.mark.parametrize("server", [ServerKind.HYPERCORN, ServerKind.UVICORN])
async def test_our_gateway_conforms(tmp_path: Path, server: ServerKind) -> None:
    async with gateway(server=server) as url:
        code, lines = await gateway_checked(url, tmp_path)
    assert (code, others(lines)) == (0, [])


TOKEN = device_token(SECRET, DEVICE).encode()
INTERVAL = b"praetor-heartbeat-interval"


@pytest.mark.parametrize(
    ("damage", "ask", "names"),
    [
        pytest.param(partial(without, b"etag"), None, ["etag"], id="no-etag"),
        pytest.param(partial(with_text, b"leaf-1", b"leaf-2"), None, ["device"], id="another-device"),
        pytest.param(partial(without, b"preference-applied"), None, ["hold"], id="no-preference-applied"),
        pytest.param(partial(with_header, INTERVAL, b"15"), None, ["poll"], id="takes-a-poll-twice"),
        pytest.param(partial(with_text, b'"ack":true', b'"ack":null'), None, ["report", "connect"], id="no-ack"),
        pytest.param(partial(with_text, b"problem+json", b"trouble+json"), None, ["fields", "path"], id="no-problem"),
        pytest.param(partial(without, b"retry-after"), None, ["rate"], id="no-retry-after"),
        pytest.param(partial(with_text, b"vectors.bad", b"vectors.BAD"), None, ["vectors"], id="other-names"),
        pytest.param(partial(with_status, 413, 400), None, ["large"], id="no-413"),
        pytest.param(None, partial(asking, b"if-none-match", None), ["known", "hold"], id="no-304"),
        pytest.param(None, partial(asking, b"x-device-token", TOKEN), ["token"], id="admits-anyone"),
        pytest.param(None, partial(asking, b"content-encoding", None), ["encoded"], id="takes-encoded"),
    ],
)
async def test_a_broken_gateway_fails_with_the_line_that_it_breaks(
    tmp_path: Path, damage: Damage | None, ask: Callable[[Scope], Scope] | None, names: Sequence[str]
) -> None:
    async with gateway(damage or (lambda _, message: message), ask or (lambda scope: scope)) as url:
        code, lines = await gateway_checked(url, tmp_path, *(f"--check={name}" for name in [*names, "name"]))
    assert code == 3
    failed = [line.partition(":")[0].removeprefix("FAIL ") for line in lines if line.startswith("FAIL ")]
    assert sorted(failed) == sorted(names)
