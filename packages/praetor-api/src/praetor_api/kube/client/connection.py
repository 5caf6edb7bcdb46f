# SPDX-License-Identifier: Apache-2.0
"""Address and credentials of the API: kubeconfig or service account, TLS, the Authorization header.

The official client's configuration does the loading, so that exec plugins, OIDC and the rest work as with kubectl;
it is imported late, because it costs a second and what only uses fakes does not need it.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from attrs import field, frozen
from yarl import URL

from praetor_api.kube.client.errors import NoSuchContext, NotConfigured

__all__ = ["ApiConnection", "Load", "from_kubeconfig", "from_service_account", "pod_namespace"]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOAD_TIMEOUT_S = 60.0  # an exec plugin or an identity provider may be slow

Load = Callable[[], Awaitable[Any]]


@frozen(eq=False)
class ApiConnection:
    """A loaded configuration; load() makes a fresh one from the same sources."""

    configuration: Any
    load: Load
    _renewing: asyncio.Lock = field(factory=asyncio.Lock, init=False)

    @classmethod
    async def open(cls, load: Load) -> ApiConnection:
        return cls(await load(), load)

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS settings: CA, client certificate, verification."""
        from kubernetes.aio.client.rest import RESTClientObject

        # Python 3.13 refuses CAs without an Authority Key Identifier, which many clusters have and kubectl accepts.
        self.configuration.disable_strict_ssl_verification = True
        try:
            context: ssl.SSLContext = RESTClientObject(self.configuration).ssl_context
        except (OSError, ValueError) as e:
            raise NotConfigured(f"cannot use the certificates of the kubeconfig: {e}") from e
        return context

    @property
    def server_name(self) -> str | None:
        """The name that the API's certificate is checked against; None for that of the host."""
        return self.configuration.tls_server_name or None

    def proxy(self) -> tuple[URL | None, dict[str, str]]:
        """Return the proxy to this host and what it is sent, that of the kubeconfig, else that of the environment.

        As with kubectl, NO_PROXY may name networks, and nothing on this machine is reached through a proxy of the
        environment. Raises NotConfigured for a proxy that cannot be used.
        """
        named, source = self.configuration.proxy, "proxy-url of the kubeconfig"
        if not named:
            named, source = _environment_proxy(self.host), "HTTPS_PROXY or HTTP_PROXY"
        if not named:
            return None, {}
        try:
            url = URL(named)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise NotConfigured(f"{source}: write http://HOST:PORT or https://HOST:PORT; no other proxy can be used")
        if url.user is None:
            return url, {}
        credentials = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        return url.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"}

    async def headers(self) -> dict[str, str]:
        """Return the Authorization header, refreshed when its time has come."""
        token = await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        # A token file may end with a newline, which no header may hold.
        return {"Authorization": token.strip()} if token and token.strip() else {}

    async def renew(self, rejected: Mapping[str, str]) -> bool:
        """Reload the credentials after a 401 to the headers *rejected*; return whether they differ now."""
        async with self._renewing:
            if await self.headers() == rejected:  # else another request was faster
                fresh = await self.load()
                self.configuration.api_key = fresh.api_key
                # The old hook would bring the old token back, which it holds for a minute.
                self.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook
            return await self.headers() != rejected


def _environment_proxy(host: str) -> str | None:
    if not getproxies() or _is_loopback(urlsplit(host).hostname or ""):
        return None
    from requests.utils import get_environ_proxies, select_proxy  # a tenth of a second, for the few behind a proxy

    return select_proxy(host, get_environ_proxies(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def from_kubeconfig(
    path: str | None, context: str | None, *, environ: Mapping[str, str] = os.environ, home: Path | None = None
) -> Load:
    """Return the loader of *path*, else of $KUBECONFIG, else of ~/.kube/config, else of the service account."""
    default = (home or Path.home()) / ".kube" / "config"
    found = path or environ.get("KUBECONFIG") or (str(default) if default.exists() else None)
    if found is None:
        return from_service_account(environ=environ)

    async def load() -> Any:
        return await _load_kubeconfig(found, context)

    return load


def from_service_account(folder: Path = _SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Load:
    """Return the loader of what a pod is given."""

    async def load() -> Any:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException
        from kubernetes.aio.config.incluster_config import InClusterConfigLoader

        configuration = Configuration()
        load_into: Any = InClusterConfigLoader
        try:
            load_into(str(folder / "token"), str(folder / "ca.crt"), environ=environ).load_and_set(configuration)
        except (ConfigException, OSError) as e:
            raise NotConfigured("no kubeconfig was found, and this is no pod") from e
        return configuration

    return load


def pod_namespace(folder: Path = _SERVICE_ACCOUNT) -> str | None:
    """Return the namespace of the pod that this process runs in; None outside a pod."""
    try:
        return (folder / "namespace").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


async def _load_kubeconfig(path: str, context: str | None) -> Any:
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config

    load_into: Any = load_kube_config
    if not _exists(path):
        raise NotConfigured(f"the kubeconfig {path} does not exist")
    configuration = Configuration()
    try:
        async with asyncio.timeout(_LOAD_TIMEOUT_S):
            loader = await load_into(
                config_file=path, context=context, client_configuration=configuration, persist_config=False
            )
    except ConfigException as e:
        if context is not None and (known := _contexts(path)) and context not in known:
            why = f"the kubeconfig {path} has no context {context}; there are: {', '.join(known)}"
            raise NoSuchContext(why) from e
        raise NotConfigured(f"cannot load the kubeconfig {path}: {e}") from e
    except Exception as e:  # any error of the loader means that a person has to fix the file
        raise NotConfigured(f"cannot load the kubeconfig {path}: {type(e).__name__}: {e}") from e
    _refuse_failed_plugin(path, loader, configuration)
    return configuration


def _contexts(path: str) -> list[str]:
    """Return the names of the contexts in the kubeconfig; empty when it names none."""
    from kubernetes.aio.config import ConfigException
    from kubernetes.aio.config.kube_config import KubeConfigMerger

    read: Any = KubeConfigMerger
    try:  # list_kube_config_contexts() refuses a file that has no current context
        return [each.value["name"] for each in read(path).config["contexts"]]
    except (ConfigException, AttributeError, KeyError, TypeError):
        return []


def _exists(path: str) -> bool:
    return any(Path(part).expanduser().is_file() for part in path.split(os.pathsep) if part)


def _refuse_failed_plugin(path: str, loader: Any, configuration: Any) -> None:
    # The loader only logs that a plugin failed, and would go on without credentials.
    user = getattr(loader, "_user", None)
    if user is not None and "exec" in user and not (configuration.api_key or configuration.cert_file):
        raise NotConfigured(f"the exec plugin of the kubeconfig {path} gave no credentials")
