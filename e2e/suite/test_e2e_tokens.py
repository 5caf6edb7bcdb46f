# SPDX-License-Identifier: Apache-2.0
"""Authentication: no combination of flags accepts a wrong, missing, empty or other device's token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.clusters.cluster import GATEWAY
from e2e.stack.kube import SWITCHES, Kube
from e2e.stack.program import Program
from e2e.stack.server import Server
from e2e.stack.stack import Stack, environment, script
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from praetor_api.tokens import device_token

SHARED, SECRET, OLD_SECRET = "shared-token", "new-secret", "old-secret"
DEVICE, OTHER = "tokens-leaf-1", "tokens-leaf-2"
HMAC, OLD_HMAC, OTHERS = (
    device_token(secret.encode(), device)
    for secret, device in ((SECRET, DEVICE), (OLD_SECRET, DEVICE), (SECRET, OTHER))
)
NEVER = (None, "", "wrong", OTHERS, HMAC.upper(), HMAC[:-1], HMAC + "0", f"{SHARED} x", SECRET, "\xe9")


@contextmanager
def gateway(stack: Stack, workdir: Path, *flags: str) -> Iterator[str]:
    """Run a further gateway with its own ways to authenticate; yields its URL."""
    with gateway_server(stack, workdir, *flags) as server:
        yield Stack.url_of(server)


@contextmanager
def gateway_server(stack: Stack, workdir: Path, *flags: str) -> Iterator[Server]:
    """Run a further gateway with its own ways to authenticate."""

    def arguments(ports: Sequence[int]) -> tuple[str, ...]:
        return (
            script(GATEWAY),
            f"--kubeconfig={stack.cluster.kubeconfig_for(GATEWAY)}",
            f"--addr=127.0.0.1:{ports[0]}",
            f"--health-probe-bind-address=127.0.0.1:{ports[1]}",
            f"--lease-namespace={stack.settings.system_namespace}",
            *flags,
        )

    server = Server("gateway", arguments, ports=2, workdir=workdir, env=environment())
    try:
        server.start()
        yield server
    finally:
        server.program.stop()


@pytest.mark.parametrize(
    ("flags", "accepted", "refused"),
    [
        pytest.param((f"--device-token={SHARED}",), {SHARED}, {HMAC, OLD_HMAC}, id="shared"),
        pytest.param((f"--device-token-secret={SECRET}",), {HMAC}, {SHARED, OLD_HMAC}, id="secret"),
        pytest.param(
            (f"--device-token={SHARED}", f"--device-token-secret={SECRET}", f"--device-token-secret={OLD_SECRET}"),
            {SHARED, HMAC, OLD_HMAC},
            set(),
            id="shared-and-two-secrets",
        ),
    ],
)
def test_only_the_right_token_gets_in(
    stack: Stack, tmp_path: Path, flags: tuple[str, ...], accepted: set[str], refused: set[str]
) -> None:
    with gateway(stack, tmp_path, *flags) as url:
        for token in accepted:
            assert _statuses(DeviceApi(url, DEVICE, token)) == [200, 200, 200], token
        for wrong in (*refused, *NEVER):
            assert _statuses(DeviceApi(url, DEVICE, wrong)) == [401, 401, 401], wrong


def test_a_refusal_does_not_reveal_whether_the_device_exists(stack: Stack) -> None:
    answers = [DeviceApi(stack.gateway_url, name, "wrong").desired() for name in (DEVICE, "no-such-device")]
    assert {answer.status_code for answer in answers} == {401}
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["Content-Type"] == "application/problem+json"


def test_raising_the_credential_epoch_revokes_the_tokens_of_one_device(
    stack: Stack, tmp_path: Path, fleet: AgentFleet, kube: Kube
) -> None:
    revoked, other = fleet.declare(), fleet.declare()
    old, new = (device_token(SECRET.encode(), revoked, epoch) for epoch in (0, 1))
    with gateway(stack, tmp_path, f"--device-token={SHARED}", f"--device-token-secret={SECRET}") as url:
        assert [_statuses(DeviceApi(url, revoked, token)) for token in (old, SHARED)] == [[200] * 3] * 2
        assert _statuses(DeviceApi(url, revoked, new)) == [401] * 3
        with ThreadPoolExecutor() as pool:
            poll = pool.submit(DeviceApi(url, revoked, old).desired, "*", wait_s=50)
            kube.patch(SWITCHES, revoked, {"spec": {"credentialEpoch": 1}})
            eventually(
                lambda: DeviceApi(url, revoked, new).desired().status_code,
                lambda status: status == 200,
                what="the new token is good",
            )
            assert poll.result().status_code == 401
        assert _statuses(DeviceApi(url, revoked, new)) == [200] * 3
        assert [_statuses(DeviceApi(url, revoked, token)) for token in (old, SHARED)] == [[401] * 3] * 2
        assert _statuses(DeviceApi(url, other, SHARED)) == [200] * 3


def test_an_emptied_file_revokes_nothing_and_is_shown_and_a_new_secret_revokes_all(
    stack: Stack, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(OLD_SECRET)
    with gateway_server(stack, tmp_path, f"--device-token-secret-file={secrets}") as server:
        url = Stack.url_of(server)
        secrets.write_text("")
        eventually(lambda: server.probe("/readyz") == 503, what="the empty file shows")
        assert server.probe("/readyz?exclude=credentials") == 200
        assert "praetor_gateway_credentials_stale 1.0" in server.metrics()
        assert _statuses(DeviceApi(url, DEVICE, OLD_HMAC)) == [200] * 3
        secrets.write_text(SECRET)
        eventually(lambda: server.probe("/readyz") == 200, what="the file is good again")
        assert _statuses(DeviceApi(url, DEVICE, OLD_HMAC)) == [401] * 3
        assert _statuses(DeviceApi(url, DEVICE, HMAC)) == [200] * 3
        assert "praetor_gateway_credentials_stale 0.0" in server.metrics()


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        pytest.param((), "--insecure", id="none"),
        pytest.param(("--device-token=",), "--device-token", id="empty-token"),
        pytest.param(("--device-token-secret=",), "--device-token-secret", id="empty-secret"),
        pytest.param((f"--device-token={SHARED}", "--insecure"), "--insecure", id="token-and-insecure"),
    ],
)
def test_a_gateway_without_clear_authentication_refuses_to_start(
    stack: Stack, tmp_path: Path, flags: tuple[str, ...], remedy: str
) -> None:
    base = (f"--kubeconfig={stack.cluster.kubeconfig_for(GATEWAY)}", "--addr=127.0.0.1:0")
    program = Program("gateway", (script(GATEWAY), *base, *flags), workdir=tmp_path, env=environment())
    program.start()
    try:
        eventually(lambda: not program.running, what="the gateway refused to start")
    finally:
        program.stop()
    assert program.exit_status not in (0, None)
    assert remedy in program.tail()
    assert "Traceback" not in program.tail()


def test_an_insecure_gateway_accepts_devices_without_a_token(stack: Stack, tmp_path: Path) -> None:
    with gateway(stack, tmp_path, "--insecure") as url:
        assert DeviceApi(url, DEVICE, None).desired().status_code == 200


def _statuses(device: DeviceApi) -> list[int]:
    answers = (device.desired(), device.report(heartbeat=True), device.connect())
    return [answer.status_code for answer in answers]
