# SPDX-License-Identifier: Apache-2.0
"""The options of the gateway, checked."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path

from attrs import field, frozen

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.tokens import TokenVerifier


class ServerKind(StrEnum):
    """What reads and writes HTTP. Both servers keep the same promises."""

    AUTO = auto()
    """uvicorn where `praetor-gateway[fast]` is installed, else Hypercorn."""
    HYPERCORN = auto()
    UVICORN = auto()


@frozen(kw_only=True)
class Credentials:
    """Tokens and secrets as given: in flags, or in files of one per line, newest first."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    token_files: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    secret_files: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tokens or self.token_files or self.secrets or self.secret_files)


@frozen(kw_only=True)
class PeerSettings:
    """Where this replica takes pushes, the address under which others reach it, and the secrets that all share.

    Pushes are sent with the first of *tokens* and accepted with each; *token_file* is where they came from.
    """

    addr: BindAddress
    advertise: str
    tokens: tuple[str, ...] = field(repr=False)
    token_file: Path | None = None

    def read(self) -> tuple[str, ...]:
        """Return the secrets, read now from the file; BadOption when it is bad."""
        return self.tokens if self.token_file is None else tuple(read_lines("--peer-token-file", self.token_file))


@frozen(kw_only=True)
class GatewaySettings:
    """The gateway's options; durations in seconds.

    *credentials* None: `--insecure`. *namespaces* empty: all. *heartbeat_s*: the interval that devices are asked to
    report in, and *max_heartbeat_s* the longest one under load. *stale_multiplier*: silent heartbeats after which a
    device is disconnected. *identity*: holder of the Lease and reporting instance of events; it differs between
    processes. *peers* None: the only replica. *references_namespaces*: where processes may refer to ConfigMaps
    and Secrets. *tls_terminated*: plain connections come from a proxy that ends TLS alone.
    *max_connections*: of devices that may be open at a time, None for as many as fit in memory; open files limit both.
    """

    addr: BindAddress
    probe_addr: BindAddress
    server: ServerKind
    credentials: Credentials | None
    heartbeat_s: int
    max_heartbeat_s: int
    stale_multiplier: float
    takeover_grace_s: float
    max_wait_s: int
    device_rate_per_s: float
    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_duration_s: float
    site_label: str
    kubeconfig: str | None
    context: str | None
    tls_cert: Path | None
    tls_key: Path | None
    shutdown_timeout_s: float
    log_level: str
    log_format: str
    identity: str
    peers: PeerSettings | None = None
    tracing: bool = False
    references_namespaces: tuple[str, ...] = ()
    tls_terminated: bool = False
    max_connections: int | None = None

    @property
    def stale_s(self) -> float:
        """Silence after which a device is disconnected."""
        return self.heartbeat_s * self.stale_multiplier

    @property
    def scan_s(self) -> float:
        """Seconds between scans for silent devices: a third of a heartbeat, at most 5."""
        return min(5.0, self.heartbeat_s / 3)


def load_verifier(credentials: Credentials) -> TokenVerifier:
    """Return what the credentials allow, files read now; BadOption naming the flag that is bad."""
    tokens = [_word("--device-token", token) for token in credentials.tokens]
    for path in credentials.token_files:
        tokens += read_lines("--device-token-file", path)
    secrets = [_word("--device-token-secret", secret) for secret in credentials.secrets]
    for path in credentials.secret_files:
        secrets += read_lines("--device-token-secret-file", path)
    return TokenVerifier(
        shared=tuple(token.encode() for token in tokens), secrets=tuple(secret.encode() for secret in secrets)
    )


def read_lines(option: str, path: Path) -> list[str]:
    """Return the words in the file, one per line; BadOption naming *option* when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise BadOption(option, f"cannot read {path}: {reason}") from e
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise BadOption(option, f"{path} is empty; write one per line, newest first")
    return [_word(option, word) for word in words]


def _word(option: str, word: str) -> str:
    if not word.strip():
        raise BadOption(option, "it is empty, which would admit every client; give a value or leave it out")
    if not (word.isascii() and word.isprintable()):
        raise BadOption(option, "only printable ASCII can be sent in a header; choose another value")
    return word.strip()
