# SPDX-License-Identifier: Apache-2.0
"""No device is admitted with a wrong token, whatever the flags."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from gateway_testing import AsgiClient, GatewayLab, running_lab, switch_object
from praetor_api.canonical import desired_etag
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.options import BindAddress
from praetor_api.tokens import device_token
from praetor_gateway import cli
from praetor_gateway.http.auth import RELOAD_S
from praetor_gateway.settings import Credentials

CONFIGURED = {
    "token": Credentials(tokens=("t1",)),
    "tokens": Credentials(tokens=("t0", "t1")),
    "secret": Credentials(secrets=("s1",)),
    "secrets": Credentials(secrets=("s0", "s1")),
    "both": Credentials(tokens=("t1",), secrets=("s1",)),
}
WRONG = {
    "missing": None,
    "empty": "",
    "blank": " ",
    "wrong": "wrong",
    "prefix": "t",
    "longer": "t11",
    "the-secret-itself": "s1",
    "the-name": "leaf-1",
    "other-device": device_token(b"s1", "leaf-2"),
    "other-secret": device_token(b"s9", "leaf-1"),
    "upper-case": device_token(b"s1", "leaf-1").upper(),
    "cut-off": device_token(b"s1", "leaf-1")[:-1],
    "not-ascii": "t1\u00e9",
}
ENDPOINTS = [("GET", "desired"), ("HEAD", "desired"), ("POST", "report"), ("POST", "connect")]


@pytest.mark.parametrize("configured", CONFIGURED)
async def test_a_wrong_token_is_refused_alike_whether_the_device_exists(configured: str) -> None:
    async with running_lab(credentials=CONFIGURED[configured], devices=["leaf-1"]) as lab:
        answers = set()
        for (method, action), (name, token) in itertools.product(ENDPOINTS, WRONG.items()):
            client = AsgiClient(lab.gateway.app, token)
            await lab.clock.advance(1.0)  # more refusals at once would be slowed down
            for device in ("leaf-1", "ghost"):
                if token == device_token(b"s1", device):
                    continue
                answer = await client.request(method, f"/v1/devices/{device}/{action}")
                assert answer.status == 401, (name, method, action, device)
                answers.add((answer.body, tuple(sorted(answer.headers.items()))))
        assert len(answers) == 1
        assert lab.value("auth_total", kind="refused") == len(ENDPOINTS) * len(WRONG) * 2


@pytest.mark.parametrize(
    ("configured", "token", "kind"),
    [
        ("token", "t1", "shared"),
        ("tokens", "t0", "shared"),
        ("tokens", "t1", "shared"),
        ("secret", device_token(b"s1", "leaf-1"), "hmac"),
        ("secrets", device_token(b"s0", "leaf-1"), "hmac"),
        ("secrets", device_token(b"s1", "leaf-1"), "hmac"),
        ("both", "t1", "shared"),
        ("both", device_token(b"s1", "leaf-1"), "hmac"),
    ],
)
async def test_a_right_token_is_admitted_and_counted(configured: str, token: str, kind: str) -> None:
    async with running_lab(credentials=CONFIGURED[configured]) as lab:
        client = AsgiClient(lab.gateway.app, token)
        assert (await client.get("/v1/devices/leaf-1/desired")).status == 200
        assert lab.value("auth_total", kind=kind) == 1


async def test_a_token_that_comes_twice_is_refused() -> None:
    async with running_lab() as lab:
        answer = await lab.client.request("GET", "/v1/devices/a/desired", headers=[("X-Device-Token", "x")])
    assert answer.status == 401


async def test_an_insecure_gateway_serves_every_client() -> None:
    async with running_lab(credentials=None) as lab:
        for token in (None, "", "whatever"):
            assert (await AsgiClient(lab.gateway.app, token).get("/v1/devices/a/desired")).status == 200


async def test_secrets_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("old\n")
    async with running_lab(credentials=Credentials(secret_files=(path,))) as lab:
        old = AsgiClient(lab.gateway.app, device_token(b"old", "a"))
        new = AsgiClient(lab.gateway.app, device_token(b"new", "a"))
        assert [(await c.get("/v1/devices/a/desired")).status for c in (old, new)] == [200, 401]
        path.write_text("new\nold\n")
        await lab.clock.advance(RELOAD_S)
        assert [(await c.get("/v1/devices/a/desired")).status for c in (old, new)] == [200, 200]
        path.write_text("new\n")
        await lab.clock.advance(RELOAD_S)
        assert [(await c.get("/v1/devices/a/desired")).status for c in (old, new)] == [401, 200]


async def raise_epoch(lab: GatewayLab, device: str, epoch: int | None) -> None:
    await lab.settled(lab.kube.patch(NETWORK_SWITCHES, Key("lab", device), {"spec": {"credentialEpoch": epoch}}))


async def statuses(lab: GatewayLab, device: str, *tokens: str) -> list[set[int]]:
    """Return how the endpoints answer each token."""

    async def answered(client: AsgiClient, method: str, action: str) -> int:
        return (await client.request(method, f"/v1/devices/{device}/{action}", chunks=[b"{}"])).status

    clients = [AsgiClient(lab.gateway.app, token) for token in tokens]
    return [{await answered(client, *endpoint) for endpoint in ENDPOINTS} for client in clients]


async def test_raising_the_epoch_revokes_the_tokens_of_that_device_alone() -> None:
    async with running_lab(credentials=CONFIGURED["both"]) as lab:
        for device in ("leaf-1", "leaf-2"):
            await lab.declare(device)
        old, new, newest = (device_token(b"s1", "leaf-1", epoch) for epoch in (0, 1, 2))
        assert await statuses(lab, "leaf-1", old, new, "t1") == [{200}, {401}, {200}]
        await raise_epoch(lab, "leaf-1", 1)
        assert await statuses(lab, "leaf-1", old, new, newest, "t1") == [{401}, {200}, {401}, {401}]
        await raise_epoch(lab, "leaf-1", 2)
        assert await statuses(lab, "leaf-1", old, new, newest, "t1") == [{401}, {401}, {200}, {401}]
        assert await statuses(lab, "leaf-2", device_token(b"s1", "leaf-2"), "t1") == [{200}, {200}]
        assert await statuses(lab, "unknown", device_token(b"s1", "unknown"), "t1") == [{200}, {200}]


async def test_a_revoked_token_is_refused_like_any_other() -> None:
    async with running_lab(credentials=CONFIGURED["both"], devices=["leaf-1"]) as lab:
        await raise_epoch(lab, "leaf-1", 1)
        tokens = (device_token(b"s1", "leaf-1"), "t1", "wrong", None)
        answers = [await AsgiClient(lab.gateway.app, token).get("/v1/devices/leaf-1/desired") for token in tokens]
    assert {answer.status for answer in answers} == {401}
    assert len({(answer.body, tuple(answer.headers.items())) for answer in answers}) == 1


async def test_a_gateway_without_secrets_refuses_a_device_after_its_tokens_were_revoked() -> None:
    async with running_lab(credentials=CONFIGURED["token"], devices=["leaf-1"]) as lab:
        await raise_epoch(lab, "leaf-1", 1)
        assert await statuses(lab, "leaf-1", "t1", device_token(b"t1", "leaf-1", 1)) == [{401}, {401}]


async def test_the_epoch_of_a_name_counts_only_from_the_namespace_that_it_belongs_to() -> None:
    async with running_lab(credentials=CONFIGURED["secret"], devices=["leaf-1"]) as lab:
        await raise_epoch(lab, "leaf-1", 1)
        await lab.kube.create(NETWORK_SWITCHES, "other", switch_object("leaf-1") | {"spec": {"credentialEpoch": 7}})
        await lab.clock.settle()
        tokens = [device_token(b"s1", "leaf-1", epoch) for epoch in (0, 1, 7)]
        assert await statuses(lab, "leaf-1", *tokens) == [{401}, {200}, {401}]


async def test_writing_the_status_of_a_switch_does_not_revalidate_a_revoked_token() -> None:
    async with running_lab(credentials=CONFIGURED["secret"], devices=["leaf-1"]) as lab:
        await raise_epoch(lab, "leaf-1", 1)
        old, new = (device_token(b"s1", "leaf-1", epoch) for epoch in (0, 1))
        lab.client.token = new
        await lab.report("leaf-1", await lab.running("leaf-1"), agentVersion="2", then_s=10)
        assert lab.switch("leaf-1")["status"]["agentVersion"] == "2"
        assert await statuses(lab, "leaf-1", old, new) == [{401}, {200}]


@pytest.mark.parametrize("token", [device_token(b"s1", "leaf-1"), "t1"], ids=["own", "shared"])
async def test_a_held_poll_ends_as_refused_when_its_token_is_revoked(token: str) -> None:
    async with running_lab(credentials=CONFIGURED["both"], devices=["leaf-1"]) as lab:
        client = AsgiClient(lab.gateway.app, token)
        poll = asyncio.ensure_future(client.get("/v1/devices/leaf-1/desired", if_none_match="*", prefer="wait=30"))
        await lab.clock.settle()
        assert (poll.done(), lab.value("waiters")) == (False, 1)
        await raise_epoch(lab, "leaf-1", 1)
        answer = await poll
        assert (answer.status, lab.value("waiters")) == (401, 0)
        assert b"items" not in answer.body


async def test_a_held_poll_gets_no_change_once_its_token_is_revoked() -> None:
    async with running_lab(credentials=CONFIGURED["secret"]) as lab:
        client = AsgiClient(lab.gateway.app, device_token(b"s1", "leaf-1"))
        nothing = desired_etag(())
        poll = asyncio.ensure_future(client.get("/v1/devices/leaf-1/desired", if_none_match=nothing, prefer="wait=30"))
        await lab.clock.settle()
        await lab.kube.create(NETWORK_SWITCHES, "lab", switch_object("leaf-1") | {"spec": {"credentialEpoch": 1}})
        await lab.declare("leaf-1", switch=False)
        assert (await poll).status == 401


async def test_a_poll_with_the_new_token_is_held_through_what_does_not_revoke_it() -> None:
    async with running_lab(credentials=CONFIGURED["secret"], devices=["leaf-1"]) as lab:
        await raise_epoch(lab, "leaf-1", 1)
        client = AsgiClient(lab.gateway.app, device_token(b"s1", "leaf-1", 1))
        poll = asyncio.ensure_future(client.get("/v1/devices/leaf-1/desired", if_none_match="*", prefer="wait=30"))
        await lab.clock.settle()
        await lab.settled(lab.kube.patch(NETWORK_SWITCHES, Key("lab", "leaf-1"), {"spec": {"model": "x"}}))
        assert not poll.done()
        await lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), {"spec": {"restartPolicy": "Never"}})
        assert (await poll).status == 200


async def test_no_token_is_checked_before_the_epochs_are_known() -> None:
    async with running_lab(credentials=CONFIGURED["both"], devices=["leaf-1"]) as source:
        await raise_epoch(source, "leaf-1", 1)
        kube = source.kube.another_client()
        kube.unreachable = True
        async with running_lab(kube=kube, clock=source.clock, credentials=CONFIGURED["both"]) as lab:
            tokens = (device_token(b"s1", "leaf-1", 1), device_token(b"s1", "leaf-1"), "t1", "wrong", "")
            assert await statuses(lab, "leaf-1", *tokens) == [{503}] * 5
            assert lab.value("auth_total", kind="refused") == 0
            kube.heal()
            await lab.clock.advance(60)
            assert await statuses(lab, "leaf-1", *tokens) == [{200}, {401}, {401}, {401}, {401}]


@pytest.mark.parametrize(
    "break_it",
    [lambda path: path.write_text("\n"), Path.unlink, lambda path: path.write_bytes(b"\xff")],
    ids=["emptied", "removed", "garbage"],
)
@pytest.mark.parametrize("secret", [True, False], ids=["secret", "token"])
async def test_a_file_that_turned_bad_revokes_nothing_and_is_shown_loudly(
    secret: bool, break_it: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "credentials"
    path.write_text("old\n")
    credentials = Credentials(secret_files=(path,)) if secret else Credentials(token_files=(path,))
    async with running_lab(credentials=credentials) as lab:
        lab.client.token = device_token(b"old", "a") if secret else "old"
        assert (lab.gateway.credential_problem(), lab.value("credentials_stale")) == ("", 0)
        break_it(path)
        with capture_logs() as logs:
            await lab.clock.advance(120)
        assert (await lab.client.get("/v1/devices/a/desired")).status == 200
        assert lab.gateway.unready() == ""
        assert str(path) in lab.gateway.credential_problem()
        assert lab.gateway.credential_problem().endswith("; those that were read last stay valid")
        assert lab.value("credentials_stale") == 1
        assert [each["log_level"] for each in logs if each["event"] == "credentials not reloaded"] == ["error"] * 2
        path.write_text("new\n")
        await lab.clock.advance(RELOAD_S)
        assert (await lab.client.get("/v1/devices/a/desired")).status == 401
        assert (lab.gateway.credential_problem(), lab.value("credentials_stale")) == ("", 0)


def test_the_help_names_the_variable_of_each_option() -> None:
    done = CliRunner().invoke(cli.main, ["-h"], env={"COLUMNS": "80"})
    options = [each for each in cli.main.params if isinstance(each, click.Option) and each.name != "version"]
    said = "".join(done.output.split())
    assert [each.name for each in options if f"envvar:{each.envvar or ''}" not in said] == []
    assert all(f"PRAETOR_GATEWAY_{name}" in said for name in ("KUBECONFIG", "ADDR", "LOG_LEVEL"))
    assert max(map(len, done.output.splitlines())) <= 80


def outcome(*args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, [*args], env={"KUBECONFIG": "/nonexistent", **(env or {})})
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        pytest.param([], "--insecure", id="no-authentication"),
        pytest.param(["--device-token", ""], "--device-token", id="empty-token"),
        pytest.param(["--device-token", "  "], "--device-token", id="blank-token"),
        pytest.param(["--device-token", "a", "--device-token", ""], "--device-token", id="one-empty-token"),
        pytest.param(["--device-token-secret", ""], "--device-token-secret", id="empty-secret"),
        pytest.param(["--device-token", "t\u00e9"], "printable ASCII", id="not-ascii"),
        pytest.param(["--device-token-file", "/nonexistent"], "--device-token-file", id="no-file"),
        pytest.param(["--device-token-secret-file", "/dev/null"], "is empty", id="empty-file"),
        pytest.param(["--insecure", "--device-token", "t"], "--insecure", id="insecure-and-token"),
        pytest.param(["--insecure", "--device-token-secret", "s"], "--insecure", id="insecure-and-secret"),
        pytest.param(["--insecure", "--tls-cert", "/dev/null"], "--tls-key", id="cert-alone"),
        pytest.param(["--insecure", "--tls-key", "/dev/null"], "--tls-cert", id="key-alone"),
        pytest.param(["--insecure", "--tls-key", "/nonexistent", "--tls-cert", "/dev/null"], "--tls-key", id="no-key"),
        pytest.param(["--insecure", "--addr", "8080"], "--addr", id="no-colon"),
        pytest.param(["--insecure", "--addr", ":99999"], "--addr", id="bad-port"),
        pytest.param(["--insecure", "--health-probe-bind-address", "x:y"], "--health-probe-bind-address", id="probe"),
        pytest.param(["--insecure", "--default-heartbeat-seconds", "0"], "--default-heartbeat-seconds", id="beat"),
        pytest.param(["--insecure", "--stale-multiplier", "1.4"], "--stale-multiplier", id="multiplier"),
        pytest.param(["--insecure", "--max-wait-seconds", "56"], "--max-wait-seconds", id="wait"),
        pytest.param(["--insecure", "--kubeconfig", "/nonexistent"], "--kubeconfig", id="kubeconfig"),
    ],
)
@pytest.mark.timeout(600)  # the Kubernetes client takes seconds to import
def test_bad_flags_are_refused_by_name(args: list[str], words: str) -> None:
    code, output = outcome(*args)
    assert code == 2
    assert words in output
    assert "Traceback" not in output


def test_an_empty_variable_is_no_authentication() -> None:
    code, output = outcome(env={"PRAETOR_GATEWAY_DEVICE_TOKEN": "", "PRAETOR_GATEWAY_DEVICE_TOKEN_SECRET": ""})
    assert code == 2
    assert "no authentication" in output


def test_every_flag_has_a_variable() -> None:
    code, output = outcome(env={"PRAETOR_GATEWAY_INSECURE": "1", "PRAETOR_GATEWAY_ADDR": "nonsense"})
    assert code == 2
    assert "--addr" in output


def test_files_hold_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a\n\n  b  \n")
    path_of_bytes = tmp_path / "bytes"
    path_of_bytes.write_bytes(b"\xff")
    assert outcome("--device-token-file", str(path_of_bytes))[0] == 2
    options = cli.main.make_context("gateway", ["--device-token-file", str(path), "--namespace", "x"]).params
    settings = cli.read_settings(options)
    assert settings.credentials == Credentials(token_files=(path,))
    assert (settings.addr, settings.namespaces) == (BindAddress("", 8080), ("x",))
    assert (settings.stale_s, settings.takeover_grace_s, settings.scan_s) == (45.0, 60.0, 5.0)
