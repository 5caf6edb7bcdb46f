# SPDX-License-Identifier: Apache-2.0
"""Where the devices connect from, and how many processes that takes.

An address has some 28,000 ports for connections to one gateway, and a process may open so many files.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from praetor_agent.errors import AgentError, UsageError

MAX_SOURCES = 1024
REPORTING_SHARE = 10
"""A tenth of files and ports is for reports: a device polls on one connection, and reports on another for a moment."""
SPARE = 64
"""Files, and ports, that are left: what is closed is free a moment later."""
IP_BIND_ADDRESS_NO_PORT = 24
"""Of Linux: the port is chosen when connecting. A bind that has to find one looks at thousands of them."""
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
DEFAULT_PORTS = 60999 - 32768 + 1
_FLAG = "--source-address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What limits the devices: *files* that a process may open, *ports* of a source for each of *gateways*.

    *sources* are shared by all processes; 0: each process has one of its own, which loopback allows.
    """

    files: int
    ports: int
    gateways: int
    sources: int

    @property
    def by_files(self) -> int:
        """How many devices the files of a process allow."""
        return _without_reports(self.files) - SPARE

    @property
    def by_ports(self) -> int:
        """How many devices the ports of a source allow."""
        return _without_reports(self.ports * self.gateways)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many *processes* there are, of at most *most* devices each, of which *reporting* report at a time."""

    processes: int
    most: int
    reporting: int


def plan(count: int, processes: int | None, room: Room) -> Plan:
    """Return how to run *count* devices; AgentError if *processes*, or the sources, are too few for them."""
    if room.by_files < 1:
        raise AgentError(f"{room.files} open files are not enough for a device; raise it with ulimit -n")
    if room.sources and count > room.sources * room.by_ports:
        raise AgentError(_too_few_sources(count, room))
    own = not room.sources
    most = min(room.by_files, room.by_ports) if own else room.by_files
    needed = -(-count // most)
    chosen = min(processes or needed, count)
    if chosen < needed:
        if most == room.by_files:
            limit, remedy = f"each may open {room.files} files", ", or raise the limit with ulimit -n"
        else:
            limit, remedy = f"each connects from an address that has {room.ports} ports for a gateway", ""
        raise AgentError(
            f"--processes {chosen} are too few for {count} devices: {limit}, enough for {most} devices; "
            f"give --processes {needed}{remedy}"
        )
    spare = ((room.sources or chosen) * room.ports * room.gateways - count) // chosen - SPARE
    return Plan(processes=chosen, most=most, reporting=max(1, min(room.files // REPORTING_SHARE, spare)))


def _too_few_sources(count: int, room: Room) -> str:
    one = room.sources == 1
    have = "the one that they connect from has" if one else f"the {room.sources} of {_FLAG} have"
    return (
        f"{count} devices need {-(-count // room.by_ports)} addresses of this machine to connect from, and {have} "
        f"ports for {room.sources * room.by_ports}; name more with {_FLAG} ADDRESS,…, also as a range such as "
        f"192.0.2.8/29, or raise {PORT_RANGE}"
    )


def source_addresses(text: str | None) -> tuple[str, ...]:
    """Return the addresses that *text* names, as ADDRESS or range, separated by commas; UsageError naming a wrong one.

    Each must be one of this machine's.
    """
    found: list[str] = []
    for word in text.split(",") if text else ():
        for address in _addresses(word.strip()):
            if address not in found:
                found.append(address)
            if len(found) > MAX_SOURCES:
                raise UsageError(f"{_FLAG} names more than {MAX_SOURCES} addresses; give a smaller range")
    for address in found:
        try:
            bound(address).close()
        except OSError as e:
            raise UsageError(
                f"{_FLAG} {address} is no address of this machine ({e.strerror}); add it with ip address add"
            ) from e
    return tuple(found)


def _addresses(word: str) -> Iterator[str]:
    try:
        found: Iterable[object] = (
            ipaddress.ip_network(word, strict=False).hosts() if "/" in word else (ipaddress.ip_address(word),)
        )
    except ValueError as e:
        raise UsageError(f"{_FLAG} {word!r} is no address; write it as 192.0.2.9, or as a range 192.0.2.8/29") from e
    for address in found:
        yield str(address)


def check_families(sources: Sequence[str], gateways: Iterable[str]) -> None:
    """Raise UsageError if one of *sources* cannot reach one of *gateways*, which are URLs: IPv4 reaches no IPv6."""
    for url in gateways:
        host = urlsplit(url).hostname or ""
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            continue  # a name may have addresses of both
        for source in sources:
            if ipaddress.ip_address(source).version != version:
                raise UsageError(f"{_FLAG} {source} cannot reach {url}; give one of IPv{version}")


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an address, is in 127.0.0.0/8, all of which is this machine's."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # it may come to exist
        return False
    return bool(found) and ipaddress.IPv4Address(found[0][4][0]).is_loopback


def own_loopback() -> str:
    """Return an address of loopback that is this process's own."""
    number = os.getpid()
    return f"127.{1 + number // 2**16 % 127}.{number // 2**8 % 256}.{1 + number % 2**8 % 254}"


def ports_of_a_source() -> int:
    """Return how many connections an address may have to one address and port."""
    try:
        first, last = PORT_RANGE.read_text().split()
    except (OSError, ValueError):
        return DEFAULT_PORTS
    return int(last) - int(first) + 1


def bound(source: str) -> socket.socket:
    """Return a TCP socket that connects from *source*; OSError if that is not this machine's."""
    made = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((source, 0))
    except BaseException:
        made.close()
        raise
    return made


def _without_reports(connections: int) -> int:
    return connections * (REPORTING_SHARE - 1) // REPORTING_SHARE
