# SPDX-License-Identifier: Apache-2.0
"""The agent's settings, and the checks of the flags and variables that they come from."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from praetor_agent.core.allowances import NOTHING, Allowances, normal
from praetor_agent.errors import UsageError
from praetor_api.backports import dataclass
from praetor_api.conditions import PROVING_SECONDS
from praetor_api.names import is_device_name
from praetor_api.protocol import MAX_WAIT_SECONDS

DEFAULT_STATE_DIR = "/var/lib/praetor-agent"
DEFAULT_ROOT = "/opt/praetor-agent"
DEFAULT_FREEZE_FILE = "/run/praetor/hold"
DEFAULT_STORE_SIZE, DEFAULT_STORE_BYTES = "4Gi", 4 * 1024**3
CONTAINER_RUNTIMES = ("docker", "podman", "nerdctl")
DIRECT = "none"
"""The value of `--proxy` for no proxy, whatever the environment says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """How to reach registries. *mirrors* are URLs by host, tried before it; *insecure* hosts speak plain HTTP."""

    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    auth_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Settings of `run`. At most one of *token* and *token_file* is set; neither if the gateway needs no token.

    *start_splay* is in seconds: the first contact with the gateway is spread over it. *poll_wait* is the longest that a
    poll is held, in seconds, None for the default. A version is proven when it was
    up for *proving_seconds*, or for longer if its spec asks for that. *container_runtime* is a command. Files of
    processes may be written below *file_roots*.
    """

    gateway: str
    device: str
    state_dir: Path
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_bundle: str | None = None
    proxy: str | None = None
    start_splay: float = 0.0
    poll_wait: int | None = None
    proving_seconds: float = PROVING_SECONDS
    freeze_file: Path = Path(DEFAULT_FREEZE_FILE)
    registries: Registries | None = None
    artifact_ca_bundle: str | None = None
    artifact_store_bytes: int = DEFAULT_STORE_BYTES
    container_runtime: tuple[str, ...] | None = None
    container_options: tuple[str, ...] = ()
    allowances: Allowances = NOTHING
    file_roots: tuple[str, ...] = ()


def gateway_url(text: str | None) -> str:
    """Return the gateway's URL without a slash at its end; UsageError if it is missing or not a URL."""
    if not text:
        raise UsageError("--gateway is missing; give the gateway's URL, such as https://gateway.example:8443")
    return url_of("--gateway", text, "https://gateway.example:8443")


def url_of(flag: str, text: str, example: str) -> str:
    """Return the URL *text* of *flag* without a slash at its end; UsageError, which says *example*, if it is none."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{flag} {text!r} is not a URL; write it as {example}")
    try:
        _ = parts.port
    except ValueError:
        raise UsageError(f"{flag} {text!r} has a bad port; a port is a number up to 65535") from None
    return text.rstrip("/")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if "[" in parts.netloc:  # Python 3.9 takes anything in them
            from ipaddress import IPv6Address

            IPv6Address(parts.hostname or "")
        return parts
    except ValueError:  # brackets without an IPv6 address
        return urlsplit("")


def device_name(text: str | None) -> str:
    """Return the device's name, the host's short name by default; UsageError if it is not a name."""
    name = text or socket.gethostname().split(".")[0].lower()
    if not is_device_name(name):
        raise UsageError(f"--device {name!r} is not a device name; use a-z, 0-9, '-' and '.', such as leaf-1")
    return name


def token_of(token: str | None, file: str | None) -> tuple[str | None, Path | None]:
    """Return the token or the file to read it from, which may come later; UsageError if they cannot be used."""
    if token and file:
        raise UsageError("--token and --token-file are both given; leave one out")
    if file:
        return None, Path(file)
    if token is not None and (not token.isascii() or not token.isprintable() or token != token.strip() or not token):
        raise UsageError("--token is empty or holds characters that a header cannot carry; copy it again")
    return token, None


def ca_bundle_of(text: str | None, flag: str = "--ca-bundle") -> str | None:
    """Return the CA bundle's path; UsageError if it cannot be read."""
    if text and not os.access(text, os.R_OK):
        raise UsageError(f"{flag} {text} cannot be read; give a file of PEM certificates")
    return text or None


def proxy_of(text: str | None) -> str | None:
    """Return the proxy's URL or DIRECT, None if the environment decides; UsageError if it is neither."""
    if not text or text == DIRECT:
        return text or None
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--proxy is not an http(s) URL; write it as http://proxy.example:3128, or as {DIRECT}")
    return text


def loose_mode(file: Path) -> str | None:
    """Return why the token in *file* is not secret; None if only its owner can read it, or it is not there yet."""
    try:
        mode = file.stat().st_mode & 0o777
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"{file} has mode {mode:04o}, so that others may read or change the token; run: chmod 600 {file}"


def container_runtime_of(text: str | None) -> tuple[str, ...] | None:
    """Return the command of the container runtime, by default the first one found; UsageError if there is no *text*."""
    command = words("--container-runtime", text)
    found = shutil.which(command[0]) if command else next(filter(None, map(_installed, CONTAINER_RUNTIMES)), None)
    if command and found is None:
        raise UsageError(f"--container-runtime: {command[0]!r} is not found; name docker, podman or nerdctl")
    return (found, *command[1:]) if found else None


def _installed(runtime: str) -> str | None:
    """Return the runtime's program; docker without its daemon's socket does not count."""
    if runtime == "docker" and "DOCKER_HOST" not in os.environ and not os.path.exists("/var/run/docker.sock"):
        return None
    return shutil.which(runtime)


def words(flag: str, text: str | None) -> tuple[str, ...]:
    """Return the words of *text*, quoted as in a shell; UsageError naming *flag* when a quote is not closed."""
    if not text:
        return ()
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise UsageError(f"{flag} {text!r} has a quote that is not closed") from None


def allowances_of(
    volumes: str | None, devices: str | None, capabilities: str | None, networks: str | None, privileged: str
) -> Allowances:
    """Return the settings of the flags --allow-…; UsageError naming the one that is invalid."""
    if privileged not in ("true", "false"):
        raise UsageError(f"--allow-privileged {privileged!r} is invalid; write true or false")
    return Allowances(
        volumes=_paths("--allow-volumes", volumes),
        devices=_paths("--allow-devices", devices),
        capabilities=frozenset(name.upper().removeprefix("CAP_") for name in _listed(capabilities)),
        networks=frozenset(_listed(networks)),
        privileged=privileged == "true",
    )


def file_roots_of(text: str | None) -> tuple[str, ...]:
    """Return the setting of the flags --allow-file-root; UsageError if one is not an absolute path."""
    return _paths("--allow-file-root", text)


def _paths(flag: str, text: str | None) -> tuple[str, ...]:
    for path in _listed(text):
        if not path.startswith("/"):
            raise UsageError(f"{flag} {path!r} is not an absolute path; write it as /var/lib/app,/run/app")
    return tuple(normal(path) for path in _listed(text))


def _listed(text: str | None) -> list[str]:
    return [each.strip() for each in (text or "").split(",") if each.strip()]


def seconds(flag: str, text: str) -> float:
    """Return *text* in seconds; UsageError naming *flag* if it is not a number from 0 to 86400."""
    return number(flag, text, 86400.0, "a number of seconds from 0 to 86400")


def number(flag: str, text: str, maximum: float, words: str) -> float:
    """Return *text* as a number from 0 to *maximum*; else UsageError, saying that *flag* is not *words*."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= maximum:  # NaN neither
        raise UsageError(f"{flag} {text!r} is not {words}")
    return value


def poll_wait_of(text: str | None) -> int | None:
    """Return the longest that a poll is held, in seconds, None for the default; UsageError if it is not allowed."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MAX_WAIT_SECONDS):
        raise UsageError(f"--poll-wait {text!r} is not a number of seconds from 1 to {MAX_WAIT_SECONDS}")
    return int(text)


def store_size(text: str) -> int:
    """Return the maximum size of the artifact store in bytes; UsageError if *text* is not a size of 1 MiB or more."""
    try:
        size = bytes_of(text)
    except ValueError:
        size = 0
    if size < 1024**2:
        raise UsageError(f"--artifact-store-size {text!r} is not a size of 1Mi or more; write it as 512Mi or 4Gi")
    return size


_QUANTITY_SUFFIXES = {
    "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+)([A-Za-z]*)")


def bytes_of(quantity: int | str) -> int:
    """Return the bytes of a memory quantity, such as `64Mi`."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None or match[2] not in _QUANTITY_SUFFIXES:
        raise ValueError(f"{quantity!r} is no quantity")
    return int(match[1]) * _QUANTITY_SUFFIXES[match[2]]


def registries_of(insecure: str | None, mirrors: str | None, auth_file: str | None) -> Registries:
    """Return the settings of the three registry flags; UsageError naming the one that is invalid."""
    found: dict[str, tuple[str, ...]] = {}
    for pair in filter(None, (mirrors or "").split(",")):
        host, _, url = pair.strip().partition("=")
        parts = _split(url)
        if not host or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise UsageError(
                f"--registry-mirror {pair!r} is invalid; write it as docker.io=https://mirror.example:5000"
            )
        found[host] = (*found.get(host, ()), url)
    if auth_file and not os.access(auth_file, os.R_OK):
        raise UsageError(f"--registry-auth-file {auth_file} cannot be read; check that it is there and readable")
    hosts = frozenset(host.strip() for host in (insecure or "").split(",") if host.strip())
    if any("/" in host for host in hosts):
        raise UsageError(f"--insecure-registry {insecure!r} is not a list of hosts; write it as registry.example:5000")
    return Registries(insecure=hosts, mirrors=found, auth_file=auth_file or None)
