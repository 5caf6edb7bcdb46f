"""The options as one frozen value, checked once."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from praetor_controller.errors import BadSettings


@frozen(kw_only=True)
class Address:
    """Where to listen; an empty host is every interface."""

    host: str
    port: int


@frozen(kw_only=True)
class Recording:
    """The file that decisions are recorded in, its maximum size, and the maximum number of such files."""

    path: Path
    max_bytes: int
    files: int


@frozen(kw_only=True)
class Settings:
    """The options of the command line and the environment."""

    kubeconfig: str | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    metrics: Address | None
    probes: Address | None
    leader_elect: bool = True
    leader_elect_namespace: str = "praetor-system"
    lease_duration_s: float = 15.0
    qps: float = 2000.0
    burst: int = 2000
    workers: int = 4
    recording: Recording | None = None


def parse_address(text: str, flag: str) -> Address | None:
    """Return the address that `host:port` or `:port` names; None for `0`, which turns the server off."""
    if text == "0":
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BadSettings(f"{flag}: {text!r} is no address; give host:port or :port, or 0 to turn it off")
    return Address(host=host.strip("[]"), port=int(port))
