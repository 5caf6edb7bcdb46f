# SPDX-License-Identifier: Apache-2.0
"""Every way to authenticate to the API: tokens, token files, certificates, plugins, a pod's service account."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.connection import ApiConnection, from_kubeconfig, from_service_account, pod_namespace
from praetor_api.kube.client.errors import NotConfigured, Unauthorized, Unreachable
from praetor_api.kube.client.resource import NETWORK_SWITCHES, Key

KEY = Key("lab", "leaf-1")


class Pki:
    """A CA, without the Authority Key Identifier that Python 3.13 asks for, as many clusters have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        ca = self._builder(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.ca = self._write("ca.crt", ca.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(subject, key).add_extension(addresses, critical=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (
            self._write(f"{name}.crt", certificate.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)),
            self._write(f"{name}.key", pem),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def _write(self, name: str, pem: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(pem)
        return path


class Api:
    """Lets in who shows *token*, or a client certificate."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.url = ""
        self.refusal_headers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        if request.headers.get("Authorization", "").lower() == f"bearer {self.token}".lower() or peer:
            return web.json_response({"metadata": {"name": "leaf-1"}})
        return web.json_response(
            {"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401, headers=self.refusal_headers
        )


@asynccontextmanager
async def api(pki: Pki | None = None) -> AsyncIterator[Api]:
    here = Api("t0k3n")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", here.answer)
    context = None
    if pki is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.ca))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # a real apiserver is not as strict as Python 3.13 either
        context.load_cert_chain(*pki.issue("apiserver"))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    here.url = f"{'http' if pki is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield here
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, server: str, user: dict[str, Any] | None, **cluster: Any) -> str:
    contexts = [{"name": name, "context": {"cluster": name, "user": "me"}} for name in ("lab", "nowhere")]
    clusters = [{"name": "lab", "cluster": {"server": server, **cluster}}]
    clusters += [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}}]
    config = {"current-context": "lab", "contexts": contexts, "clusters": clusters}
    config |= {"users": [{"name": "me", "user": user or {}}]}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


async def known(path: str, context: str | None = None) -> bool:
    async with await KubeClient.from_config(path, context) as client:
        return await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


async def test_a_bearer_token_is_shown(tmp_path: Path) -> None:
    async with api() as here:
        assert await known(kubeconfig(tmp_path, here.url, {"token": "t0k3n"}))


async def test_a_wrong_token_is_unauthorized(tmp_path: Path) -> None:
    async with api() as here:
        with pytest.raises(Unauthorized):
            await known(kubeconfig(tmp_path, here.url, {"token": "other"}))


async def test_a_token_file_with_a_newline_is_reread_after_rotation(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0k3n\n")
    async with api() as here:
        path = kubeconfig(tmp_path, here.url, {"tokenFile": str(token)})
        async with await KubeClient.from_config(path) as client:
            await client.get(NETWORK_SWITCHES, KEY)
            here.token = "n3xt"
            with pytest.raises(Unauthorized):
                await client.get(NETWORK_SWITCHES, KEY)
            token.write_text("n3xt\n")
            assert await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}


async def test_new_credentials_are_sent_at_once_whatever_delay_the_401_asks_for(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    async with api() as here:
        here.refusal_headers = {"Retry-After": "3600"}
        path = kubeconfig(tmp_path, here.url, {"tokenFile": str(token)})
        async with await KubeClient.from_config(path) as client:
            token.write_text("t0k3n")
            async with asyncio.timeout(30):
                assert await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}


async def test_after_a_401_the_next_watch_sends_new_credentials(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    async with api() as here:
        path = kubeconfig(tmp_path, here.url, {"tokenFile": str(token)})
        async with await KubeClient.from_config(path) as client:
            token.write_text("t0k3n")
            with pytest.raises(Unauthorized):
                await anext(client.watch(NETWORK_SWITCHES, None, resource_version="1", timeout_s=60))
            with pytest.raises(Unreachable, match=r"not a watch event|cut off"):  # let in: it answers no watch
                await anext(client.watch(NETWORK_SWITCHES, None, resource_version="1", timeout_s=60))


async def test_an_exec_plugin_gives_the_token_and_runs_again_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0k3n")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json\n"
        f"token = open({str(token)!r}).read()\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        " 'status': {'token': token}}))\n"
    )
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(plugin)]}
    async with api() as here:
        path = kubeconfig(tmp_path, here.url, {"exec": {**command, "interactiveMode": "Never"}})
        async with await KubeClient.from_config(path) as client:
            await client.get(NETWORK_SWITCHES, KEY)
            here.token = "n3xt"
            token.write_text("n3xt")
            assert await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}


async def test_a_failed_plugin_is_reported_instead_of_continuing_without_credentials(tmp_path: Path) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", "exit(1)"]}
    path = kubeconfig(tmp_path, "http://127.0.0.1:1", {"exec": {**command, "interactiveMode": "Never"}})
    with pytest.raises(NotConfigured, match="exec plugin"):
        await KubeClient.from_config(path)


@pytest.mark.parametrize("inline", [False, True], ids=["files", "data"])
async def test_tls_with_a_client_certificate(tmp_path: Path, inline: bool) -> None:
    pki = Pki(tmp_path)
    certificate, key = pki.issue("operator")
    if inline:
        user = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
        cluster = {"certificate-authority-data": data(pki.ca)}
    else:
        user = {"client-certificate": certificate.name, "client-key": key.name}  # relative to the kubeconfig
        cluster = {"certificate-authority": pki.ca.name}
    async with api(pki=pki) as here:
        assert await known(kubeconfig(tmp_path, here.url, user, **cluster))


async def test_an_unknown_ca_is_refused_unless_verification_is_off(tmp_path: Path) -> None:
    async with api(pki=Pki(tmp_path)) as here:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await known(kubeconfig(tmp_path, here.url, {"token": "t0k3n"}))
        assert await known(kubeconfig(tmp_path, here.url, {"token": "t0k3n"}, **{"insecure-skip-tls-verify": True}))


async def test_a_certificate_for_another_name_is_accepted_under_that_name_only(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    authority = {"certificate-authority": str(pki.ca)}
    async with api(pki=pki) as here:
        elsewhere = here.url.replace("127.0.0.1", "localhost")
        with pytest.raises(Unreachable):
            await known(kubeconfig(tmp_path, elsewhere, {"token": "t0k3n"}, **authority))
        named = {**authority, "tls-server-name": "127.0.0.1"}
        assert await known(kubeconfig(tmp_path, elsewhere, {"token": "t0k3n"}, **named))


async def test_the_context_is_chosen(tmp_path: Path) -> None:
    async with api() as here:
        path = kubeconfig(tmp_path, here.url, {"token": "t0k3n"})
        assert await known(path, "lab")
        with pytest.raises(Unreachable):
            await known(path, "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param("]", "cannot load the kubeconfig", id="no YAML"),
        pytest.param("{}", "cannot load the kubeconfig", id="empty"),
    ],
)
async def test_a_broken_kubeconfig_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NotConfigured, match=f"{message}|{path}"):
        await KubeClient.from_config(str(path))


async def test_a_context_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "t"})
    with pytest.raises(NotConfigured) as caught:
        await ApiConnection.open(from_kubeconfig(path, "nope"))
    assert str(caught.value) == f"the kubeconfig {path} has no context nope; there are: lab, nowhere"


async def test_a_broken_ca_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", {"token": "t"}, **{"certificate-authority": "ca.crt"})
    with pytest.raises(NotConfigured, match="certificates"):
        await KubeClient.from_config(path)


async def test_a_pod_uses_its_service_account_and_is_never_anonymous(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    (tmp_path / "token").write_text("t0k3n")
    async with api(pki=pki) as here:
        host, port = here.url.removeprefix("https://").split(":")
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        connection = await ApiConnection.open(from_service_account(tmp_path, environ))
        async with KubeClient(connection) as client:
            assert await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}
            here.token = "n3xt"
            (tmp_path / "token").write_text("n3xt")
            assert await client.get(NETWORK_SWITCHES, KEY) == {"metadata": {"name": "leaf-1"}}


async def test_outside_a_pod_and_without_a_kubeconfig_the_message_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"no kubeconfig was found, and this is no pod$"):
        await ApiConnection.open(from_service_account(tmp_path, {}))


def test_the_namespace_of_a_pod_is_that_of_its_service_account(tmp_path: Path) -> None:
    assert pod_namespace(tmp_path) is None
    (tmp_path / "namespace").write_text("praetor-system\n", encoding="utf-8")
    assert pod_namespace(tmp_path) == "praetor-system"


async def test_the_environment_names_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    path = kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "t"})
    connection = await ApiConnection.open(from_kubeconfig(None, None, environ={"KUBECONFIG": path}, home=tmp_path))
    assert connection.host == "http://127.0.0.1:1"
    (tmp_path / "kubeconfig").rename(tmp_path / ".kube" / "config")
    connection = await ApiConnection.open(from_kubeconfig(None, None, environ={}, home=tmp_path))
    assert await connection.headers() == {"Authorization": "Bearer t"}
    with pytest.raises(NotConfigured, match="this is no pod"):
        await ApiConnection.open(from_kubeconfig(None, None, environ={}, home=tmp_path / "elsewhere"))


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def in_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def forward_proxy(asked: list[tuple[str, str, str | None]]) -> AsyncIterator[str]:
    """A proxy that makes no tunnels and answers other requests as the API would; notes what it is asked for."""

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.method, request.host, request.headers.get("Proxy-Authorization")))
        if request.method == "CONNECT":
            return web.Response(status=503)
        return web.json_response({"metadata": {"name": "leaf-1"}})

    runner = web.AppRunner(web.Application(middlewares=[_anything(answer)]), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _anything(answer: Callable[[web.Request], Awaitable[web.Response]]) -> Any:
    @web.middleware
    async def instead(request: web.Request, handler: object) -> web.Response:
        return await answer(request)

    return instead


async def test_the_api_is_reached_through_the_proxy_of_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_environment(monkeypatch, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="*")
    asked: list[tuple[str, str, str | None]] = []
    async with forward_proxy(asked) as address:
        path = kubeconfig(tmp_path, "https://api.test", None, **{"proxy-url": f"http://ops:p%40ss@{address}"})
        with pytest.raises(Unreachable, match="503"):
            await known(path)
    assert asked == [("CONNECT", "api.test", "Basic " + base64.b64encode(b"ops:p@ss").decode())]


async def test_the_api_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str | None]] = []
    async with forward_proxy(asked) as address:
        in_environment(monkeypatch, HTTP_PROXY=f"http://{address}", NO_PROXY="10.0.0.0/8,other.test")
        assert await known(kubeconfig(tmp_path, "http://api.test", None))
    assert asked == [("GET", "api.test", None)]


@pytest.mark.parametrize(
    ("server", "no_proxy", "used"),
    [
        ("https://api.example.com:6443", "", True),
        ("https://api.example.com:6443", "example.org", True),
        ("https://api.example.com:6443", "example.com", False),
        ("https://api.example.com:6443", ".example.com", False),
        ("https://api.example.com:6443", "*", False),
        ("https://10.96.0.1", "10.96.0.0/12,192.168.0.0/16", False),
        ("https://10.96.0.1", "10.97.0.0/16", True),
        ("https://127.0.0.1:6443", "", False),
        ("https://[::1]:6443", "", False),
        ("https://localhost:6443", "", False),
    ],
)
async def test_no_proxy_names_hosts_domains_and_networks_and_this_machine_is_never_behind_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, no_proxy: str, used: bool
) -> None:
    in_environment(monkeypatch, HTTPS_PROXY="http://proxy.test:3128", NO_PROXY=no_proxy)
    connection = await ApiConnection.open(from_kubeconfig(kubeconfig(tmp_path, server, None), None))
    assert str(connection.proxy()[0]) == ("http://proxy.test:3128" if used else "None")


@pytest.mark.parametrize("proxy", ["socks5://proxy.test:1080", "proxy.test:3128", "http://", "http://[", "//x"])
async def test_a_proxy_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    in_environment(monkeypatch, HTTPS_PROXY=proxy)
    with pytest.raises(NotConfigured, match=r"HTTPS_PROXY or HTTP_PROXY: write http://HOST:PORT"):
        await KubeClient.from_config(kubeconfig(tmp_path, "https://api.test", None))
    path = kubeconfig(tmp_path, "https://api.test", None, **{"proxy-url": proxy})
    with pytest.raises(NotConfigured, match=r"proxy-url of the kubeconfig: write http://HOST:PORT"):
        await KubeClient.from_config(path)
