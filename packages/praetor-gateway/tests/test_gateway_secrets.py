# SPDX-License-Identifier: Apache-2.0
"""Values of Secrets in the desired state: over which connections they go, and that nothing else shows them."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from gateway_testing import SHARED_TOKEN, AsgiClient, GatewayLab, listening, running_lab
from kube_testing import body_of, own_logging
from kubeplane.http.tls import server_context
from praetor_api.kube.client.resource import (
    CONFIG_MAPS,
    DEVICE_PROCESSES,
    EVENTS,
    LEASES,
    NETWORK_SWITCHES,
    SECRETS,
    Key,
)
from praetor_api.kube.runtime.logs import configure_logs
from praetor_api.tokens import TokenVerifier, device_token
from praetor_gateway.http.auth import RELOAD_S
from praetor_gateway.http.certificates import TlsFiles
from praetor_gateway.settings import Credentials, ServerKind
from secret_forms import forms, shown_in

MARKER = "hunter2-5up3rs3cr3t"
FORMS = forms(
    MARKER.encode(),
    b"PASSWORD=" + MARKER.encode(),
    b'{"PASSWORD":"%b"}' % MARKER.encode(),
    b"\0".join((b"content", b"lab", b"secret/login key password", MARKER.encode())),
)
DEVICE_SECRET = "of all devices"
KNOWS = "file-references.v1, files.v1, references.v1, secrets.v1, values.v1"
LABEL = {"azure.com/deliver": "true"}
PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
PROCESS = Key("lab", "agent-leaf-1")
OWN = device_token(DEVICE_SECRET.encode(), "leaf-1")


def secret(value: bytes = MARKER.encode()) -> dict[str, Any]:
    return body_of(SECRETS, "login", {"labels": LABEL}, data={"password": base64.b64encode(value).decode()})


KEY_FILE = {"path": "etc/key", "secretKeyRef": {"name": "login", "key": "password"}}


def execution(*more: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"backend": "process", "command": ["sleep", "9"], "env": [PASSWORD, *more], **fields}


@asynccontextmanager
async def lab_with(**settings: Any) -> AsyncIterator[GatewayLab]:
    credentials = Credentials(tokens=(SHARED_TOKEN,), secrets=(DEVICE_SECRET,))
    async with running_lab(references_namespaces=("lab",), **{"credentials": credentials} | settings) as lab:
        await lab.kube.create(SECRETS, "lab", secret())
        yield lab


def client(lab: GatewayLab, *, token: str = OWN, scheme: str = "https") -> AsgiClient:
    return AsgiClient(lab.gateway.app, token, scheme)


async def answer_of(asked: AsgiClient, **headers: str) -> Any:
    return await asked.get("/v1/devices/leaf-1/desired", praetor_features=KNOWS, **headers)


async def item_of(asked: AsgiClient) -> dict[str, Any]:
    item: dict[str, Any] = (await answer_of(asked)).json()["items"][0]
    return item


@pytest.mark.parametrize(
    ("token", "scheme", "settings", "refused"),
    [
        pytest.param(OWN, "https", {}, None, id="tls-and-own-token"),
        pytest.param(OWN, "http", {}, "PlainText", id="plain"),
        pytest.param(OWN, "", {}, "PlainText", id="a-server-that-names-no-scheme"),
        pytest.param(SHARED_TOKEN, "http", {}, "PlainText", id="plain-and-shared"),
        pytest.param(SHARED_TOKEN, "https", {}, "SharedToken", id="shared"),
        pytest.param(OWN, "http", {"tls_terminated": True}, None, id="behind-a-proxy"),
        pytest.param(SHARED_TOKEN, "http", {"tls_terminated": True}, "SharedToken", id="shared-behind-a-proxy"),
        pytest.param("", "https", {"credentials": None}, "SharedToken", id="insecure"),
    ],
)
async def test_a_secret_is_given_over_tls_to_a_device_with_its_own_token(
    token: str, scheme: str, settings: dict[str, Any], refused: str | None
) -> None:
    async with lab_with(**settings) as lab:
        await lab.declare("leaf-1", execution=execution())
        asked = client(lab, token=token, scheme=scheme)
        answer = await answer_of(asked)
        item = answer.json()["items"][0]
        if refused is None:
            assert item["values"] == {"PASSWORD": MARKER}
            assert item["valuesHash"].startswith("hmac-sha256:")
            return
        assert (item["refused"], "spec" in item, "values" in item) == (refused, False, False)
        assert MARKER not in answer.body.decode()
        seen = {"name": item["name"], "observedSpecHash": "sha256:older", "processStarted": True, "healthy": True}
        await asked.post("/v1/devices/leaf-1/report", {"heartbeat": True, "observations": [seen]})
        await lab.clock.advance(1)
        conditions = {each["type"]: each for each in lab.process("leaf-1")["status"]["conditions"]}
        assert conditions["UpdateHeld"]["reason"] == "ReferenceRefused"
        assert conditions["UpdateHeld"]["message"].startswith(f"ReferenceRefused({refused}): Secrets are given")


@pytest.mark.parametrize(
    ("token", "scheme", "refused"),
    [
        pytest.param(OWN, "https", None, id="tls-and-own-token"),
        pytest.param(OWN, "http", "PlainText", id="plain"),
        pytest.param(SHARED_TOKEN, "https", "SharedToken", id="shared"),
    ],
)
async def test_a_file_of_a_secret_is_given_where_a_variable_is(token: str, scheme: str, refused: str | None) -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution(env=[], files=[KEY_FILE]))
        answer = await answer_of(client(lab, token=token, scheme=scheme))
        item = answer.json()["items"][0]
        if refused is None:
            content = base64.b64encode(MARKER.encode()).decode()
            assert item["fileValues"] == [{"path": "etc/key", "content": content}]
            assert item["valuesHash"].startswith("hmac-sha256:")
            assert "values" not in item
            return
        assert (item["refused"], "spec" in item, "fileValues" in item) == (refused, False, False)
        assert not shown_in(answer.body, FORMS)


async def test_an_agent_that_does_not_promise_to_keep_secrets_is_sent_none() -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution())
        answer = await client(lab).get("/v1/devices/leaf-1/desired", praetor_features="references.v1, values.v1")
        assert answer.json()["items"][0]["features"] == ["secrets.v1"]


async def test_each_kind_of_connection_has_an_etag_of_its_own() -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution())
        full, plain = client(lab), client(lab, scheme="http")
        etags = [(await answer_of(each)).headers["etag"] for each in (full, plain)]
        assert len(set(etags)) == 2
        assert [(await answer_of(each)).headers["etag"] for each in (full, plain)] == etags
        for asked, other in ((full, etags[1]), (plain, etags[0])):
            assert (await answer_of(asked, if_none_match=other)).status == 200
        assert (await answer_of(full, if_none_match=etags[0])).status == 304
        report = await full.post("/v1/devices/leaf-1/report", {"heartbeat": True, "bootID": "b", "seq": 1})
        assert report.json()["desiredETag"] == etags[0]
        polls = [
            asyncio.ensure_future(answer_of(asked, if_none_match=etag, prefer="wait=50"))
            for asked, etag in ((full, etags[0]), (plain, etags[1]))
        ]
        await lab.clock.settle()
        changed = {"data": {"password": base64.b64encode(b"another").decode()}}
        await lab.settled(lab.kube.patch(SECRETS, Key("lab", "login"), changed))
        assert [poll.done() for poll in polls] == [True, False]  # the other has nothing new to be told
        assert (await polls[0]).json()["items"][0]["values"] == {"PASSWORD": "another"}
        polls[1].cancel()


async def test_processes_without_secrets_have_one_etag_whatever_the_connection() -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1")
        assert (await answer_of(client(lab))).headers["etag"] == lab.etag("leaf-1")
        plain = client(lab, token=SHARED_TOKEN, scheme="http")
        assert (await answer_of(plain)).headers["etag"] == lab.etag("leaf-1")


async def test_replicas_with_the_same_device_secrets_have_the_same_etags_and_others_have_others() -> None:
    found = []
    for secrets in ((DEVICE_SECRET,), (DEVICE_SECRET, "older"), ("newer", DEVICE_SECRET)):
        async with lab_with(credentials=Credentials(secrets=secrets)) as lab:
            await lab.declare("leaf-1", execution=execution())
            found.append((await item_of(client(lab)))["valuesHash"])
    assert found[0] == found[1] != found[2]


async def test_a_rotated_device_secret_changes_the_digest_and_no_value(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{DEVICE_SECRET}\n")
    async with lab_with(credentials=Credentials(secret_files=(file,))) as lab:
        await lab.declare("leaf-1", execution=execution())
        before = await item_of(client(lab))
        file.write_text(f"newer\n{DEVICE_SECRET}\n")
        await lab.clock.advance(RELOAD_S + 1)
        after = await item_of(client(lab))
        assert before["valuesHash"] != after["valuesHash"]
        assert before["values"] == after["values"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"args": ["--password=$(PASSWORD)"]}, id="args"),
        pytest.param({"command": ["sleep", "$(PASSWORD)"]}, id="command"),
        pytest.param(
            {"args": ["$(URL)"], "more": [{"name": "URL", "value": "https://u:$(PASSWORD)@h"}]}, id="expanded"
        ),
    ],
)
async def test_a_secret_in_an_argument_holds_the_process(fields: dict[str, Any]) -> None:
    more = fields.pop("more", [])
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution(*more, expandVariables=True, **fields))
        answer = await answer_of(client(lab))
        item = answer.json()["items"][0]
        assert item["refused"].startswith("InvalidSpec spec.execution.")
        assert MARKER not in answer.body.decode()


async def test_a_value_that_is_no_text_is_missing() -> None:
    async with lab_with() as lab:
        await lab.kube.delete(SECRETS, Key("lab", "login"))
        await lab.kube.create(SECRETS, "lab", secret(b"\xff\xfe"))
        await lab.declare("leaf-1", execution=execution())
        assert (await item_of(client(lab)))["missing"] == ["secret/login key password is no text"]


async def test_no_object_event_log_metric_or_etag_shows_a_secret(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, str] = {}
    async with lab_with() as lab:
        url = {"name": "URL", "value": "https://u:$(PASSWORD)@host"}
        approved = {**KEY_FILE, "path": "etc/approved", "onChange": "Restart"}
        await lab.declare("leaf-1", execution=execution(url, expandVariables=True, files=[KEY_FILE, approved]))

        def look(when: str) -> None:
            kinds = (DEVICE_PROCESSES, NETWORK_SWITCHES, EVENTS, LEASES, CONFIG_MAPS)
            said[f"objects {when}"] = str([lab.kube.objects(kind) for kind in kinds])
            said[f"metrics {when}"] = generate_latest(lab.registry).decode()
            for name, held in held_by(lab).items():
                said[f"{name} {when}"] = repr(held)

        answer = await answer_of(client(lab))
        item = answer.json()["items"][0]
        assert item["fileValues"]
        seen = {"name": item["name"], "observedSpecHash": item["specHash"], "processStarted": True, "healthy": True}
        for more in ({}, {"valuesOutdated": True}, {"observedSpecHash": "sha256:older", "errorMessage": "x"}):
            body = {"heartbeat": True, "observations": [seen | more]}
            await client(lab).post("/v1/devices/leaf-1/report", body)
            await lab.clock.advance(2)
        await lab.clock.advance(60)
        assert "secret/login key password" in str(lab.kube.objects(CONFIG_MAPS)), "a digest of it is written"
        look("while it is there")
        await lab.settled(lab.kube.delete(SECRETS, Key("lab", "login")))
        await client(lab).post("/v1/devices/leaf-1/report", {"heartbeat": True, "observations": [seen]})
        await lab.clock.advance(60)
        look("when it is gone")
        said["headers"] = str(dict(answer.headers))
        said["item"] = str({name: value for name, value in item.items() if name not in ("values", "fileValues")})
    said |= {"log": caplog.text, "output": str(capsys.readouterr())}
    shown = {name: found for name, text in said.items() if (found := shown_in(text, FORMS))}
    assert not shown


def held_by(lab: GatewayLab) -> dict[str, object]:
    """Return what a log line or a traceback could repeat of what *lab* holds in its memory."""
    fleet = lab.gateway._fleet
    device = fleet.device("leaf-1")
    assert device is not None
    return {
        "store": fleet.references,
        "index": fleet,
        "device": device,
        "rows": list(fleet.rows()),
        "resolved": [device.resolved(row) for row in device.served],
        "session": device.session,
        "gateway": lab.gateway,
        "settings": Credentials(tokens=(MARKER,), secrets=(MARKER,)),
        "verifier": TokenVerifier(shared=(MARKER.encode(),), secrets=(MARKER.encode(),)),
    }


async def test_what_the_gateway_holds_does_not_show_a_secret_while_it_is_there() -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution(files=[KEY_FILE]))
        assert (await item_of(client(lab)))["values"] == {"PASSWORD": MARKER}
        for name, held in held_by(lab).items():
            assert not shown_in(repr(held), FORMS), name


@pytest.fixture
def _logging() -> Iterator[None]:
    with own_logging():
        yield


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("server", [ServerKind.HYPERCORN, ServerKind.UVICORN])
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_crash_with_a_secret_at_hand_does_not_log_it(
    server: ServerKind, log_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with lab_with(tls_terminated=True) as lab:
        await lab.declare("leaf-1", execution=execution(files=[KEY_FILE]))

        def crash(device: str, heartbeat_s: int, rows: Any, features: Any, resolved: Any) -> bytes:
            found = [resolved(row) for row in rows]
            assert found[0].values == {"PASSWORD": MARKER}
            raise RuntimeError(f"cannot render {found!r} of {held_by(lab)!r}")

        monkeypatch.setattr("praetor_gateway.http.device_api.render", crash)
        configure_logs("debug", log_format)
        async with listening(lab.gateway.app, server=server) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            head = f"X-Device-Token: {OWN}\r\nPraetor-Features: {KNOWS}\r\nConnection: close\r\n\r\n"
            writer.write(f"GET /v1/devices/leaf-1/desired HTTP/1.1\r\nHost: x\r\n{head}".encode())
            answer = await reader.read()
            writer.close()
    said = str(capsys.readouterr())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "cannot render" in said
    assert not shown_in(said, FORMS)
    assert not shown_in(answer, FORMS)


@pytest.mark.parametrize("server", [ServerKind.HYPERCORN, ServerKind.UVICORN])
@pytest.mark.parametrize("encrypted", [True, False])
async def test_servers_say_whether_a_connection_is_encrypted(
    server: ServerKind, encrypted: bool, tmp_path: Path
) -> None:
    schemes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        schemes.append(scope["scheme"])
        await send({"type": "http.response.start", "status": 204, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server_context(tmp_path)
    tls = TlsFiles(cert=tmp_path / "apiserver.crt", key=tmp_path / "apiserver.key") if encrypted else None
    async with listening(app, tls=tls, server=server) as listener:
        context = insecure_context() if encrypted else None
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)
        head = b"GET https://x/ HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nForwarded: proto=https\r\n\r\n"
        writer.write(head)
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.close()
    assert schemes == ["https" if encrypted else "http"]


def insecure_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
