# SPDX-License-Identifier: Apache-2.0
"""Authentication: no combination of flags accepts a wrong, missing, empty or other device's token."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.clusters.cluster import GATEWAY, Capability, Cluster
from e2e.clusters.launch import ClusterName
from e2e.rollouts.fleet import SimulatedFleet
from e2e.stack.ctl import Ctl
from e2e.stack.kube import NAMESPACES, SWITCHES, Kube, accepted, condition
from e2e.stack.program import Program
from e2e.stack.server import Server
from e2e.stack.stack import Stack, environment, script
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from praetor_api.tokens import device_token

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

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


def test_one_command_makes_the_tokens_of_a_thousand_devices(
    stack: Stack, cluster: Cluster, kube: Kube, simulated: SimulatedFleet, tmp_path: Path
) -> None:
    number = 1000 if cluster.name == ClusterName.EMBEDDED else 50
    devices = simulated.declare(number, lambda number: {"role": "leaf" if number % 4 else "spine"})
    revoked = devices[1]
    kube.patch(SWITCHES, revoked, {"spec": {"credentialEpoch": 2}})
    secret = {"secrets": base64.b64encode(f"{stack.secret}\nan-older-one\n".encode()).decode()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tokens"}, "data": secret}
    accepted(kube.api.post(f"{NAMESPACES}/{kube.namespace}/secrets", body))
    ctl = Ctl(cluster.kubeconfig, kube.namespace)
    where = (f"--gateway-namespace={kube.namespace}", "--gateway-secret=tokens")
    ctl("devices", "token", "--all", f"--output-dir={tmp_path / 'tokens'}", *where)
    tokens = {path.name: path.read_text().strip() for path in (tmp_path / "tokens").iterdir()}
    assert tokens.keys() == set(devices)
    assert len(set(tokens.values())) == len(devices)
    leaves = [line.split() for line in ctl("devices", "token", "-l", "role=leaf", *where).splitlines()[1:]]
    assert leaves == [[name, tokens[name]] for name, labels in simulated.labels.items() if labels["role"] == "leaf"]
    chosen = (*devices[:: number // 10], revoked)
    for name in chosen:
        device = DeviceApi(stack.gateway_url, name, tokens[name])
        eventually(lambda device=device: _statuses(device), lambda got: got == [200] * 3, what=f"{name} got in")  # type: ignore[misc]
    for wrong in (tokens[devices[0]], stack.token(revoked)):
        assert DeviceApi(stack.gateway_url, revoked, wrong).desired().status_code == 401
    eventually(
        lambda: {
            condition(item, "AgentConnected") for item in kube.list(SWITCHES) if item["metadata"]["name"] in chosen
        },
        lambda found: found == {"True"},
        what="the devices that sent heartbeats are connected",
    )


def _statuses(device: DeviceApi) -> list[int]:
    answers = (device.desired(), device.report(heartbeat=True), device.connect())
    return [answer.status_code for answer in answers]
