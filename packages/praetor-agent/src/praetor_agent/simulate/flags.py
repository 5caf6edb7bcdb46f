# SPDX-License-Identifier: Apache-2.0
"""The command line of `praetor-agent simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from praetor_agent import settings
from praetor_agent.clock import rfc3339
from praetor_agent.errors import UsageError
from praetor_agent.flags import flag, gateway_flags, unknown
from praetor_agent.simulate.device import SimulateSettings
from praetor_agent.simulate.faults import BadVersion, Faults
from praetor_agent.simulate.sources import check_families, source_addresses

MAX_DEVICES = 200_000
MAX_PROCESSES = 200
_A_SHARE = "a share from 0 to 1"


def settings_of(arguments: Sequence[str]) -> SimulateSettings:
    """Return what *arguments* ask for; UsageError naming the wrong flag and what to write instead."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        parser.error(unknown(rest, vars(options)))
    if options.token_secret_file and (options.token or options.token_file):
        raise UsageError("--token-secret-file and a token are both given; leave one out")
    token, token_file = settings.token_of(options.token, options.token_file)
    if token_file is not None:
        token = _text("--token-file", str(token_file)).strip()
    gateways = [settings.gateway_url(url) for url in (options.gateway or "").split(",")]
    sources = source_addresses(options.source_address)
    check_families(sources, gateways)
    if options.namespace and not options.api:
        raise UsageError("--namespace is for --api alone, which is missing; give the URL that kubectl proxy prints")
    return SimulateSettings(
        gateways=gateways,
        devices=_devices(options),
        processes=_whole("--processes", options.processes, MAX_PROCESSES) if options.processes else None,
        sources=sources,
        token=token,
        secret=_secret(options.token_secret_file),
        ca_bundle=settings.ca_bundle_of(options.ca_bundle),
        start_splay=settings.seconds("--start-splay", options.start_splay),
        fail_rate=settings.number("--fail-rate", options.fail_rate, 1.0, _A_SHARE),
        faults=Faults(
            fail=_bad_versions("--fail-on", options.fail_on),
            silent=_bad_versions("--silent-on", options.silent_on),
            dead=settings.number("--dead-rate", options.dead_rate, 1.0, _A_SHARE),
        ),
        lag=settings.seconds("--lag", options.lag),
        loss=settings.number("--loss", options.loss, 1.0, _A_SHARE),
        reconnect_seconds=settings.seconds("--reconnect-seconds", options.reconnect_seconds),
        as_json=_is_json(options.output),
        summary_seconds=max(0.1, settings.seconds("--summary-seconds", options.summary_seconds)),
        changes_file=Path(options.changes_file) if options.changes_file else None,
        up_since=_time("--up-since", options.up_since) if options.up_since else None,
        api=settings.url_of("--api", options.api, "http://127.0.0.1:8001") if options.api else None,
        namespace=options.namespace or None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="praetor-agent simulate", description="Simulate N devices until SIGTERM, for demos and load tests."
    )
    gateway_flags(parser)
    flag(parser, "--count", help="simulate N devices")
    flag(parser, "--processes", help="processes to run them in (default: as many as open files and ports ask for)")
    flag(
        parser,
        "--source-address",
        repeat=True,
        help="ADDRESS,…: addresses of this machine, or ranges as 192.0.2.8/29, that the devices connect from",
    )
    flag(parser, "--prefix", default="sim-", help="devices are named PREFIX1, PREFIX2, …")
    flag(parser, "--devices-file", help="file with a device's name on each line, instead of --count and --prefix")
    flag(parser, "--token-secret-file", help="file with the gateway's secret, to mint each device's token")
    flag(parser, "--start-splay", default="5", help="spread the first contacts over this many seconds")
    flag(parser, "--fail-rate", default="0", help="share of starts that fail, from 0 to 1")
    flag(
        parser,
        "--fail-on",
        help="TEXT[=SHARE],…: specs that contain TEXT fail on this share of devices (all)",
    )
    flag(parser, "--silent-on", help="TEXT[=SHARE],…: devices that receive such a spec go silent")
    flag(parser, "--dead-rate", default="0", help="share of devices that never connect, from 0 to 1")
    flag(parser, "--lag", default="0", help="each request begins up to this many seconds late")
    flag(parser, "--loss", default="0", help="share of requests that are lost with their connection, from 0 to 1")
    flag(parser, "--reconnect-seconds", default="0", help="lose all connections at once this often; 0: never")
    flag(parser, "--summary-seconds", default="5", help="seconds between two summaries")
    flag(parser, "-o", "--output", default="table", help="table, at the end; or json, a line for each summary")
    flag(parser, "--changes-file", help="append a JSON line for each spec that a device receives")
    flag(parser, "--up-since", help="when devices booted and started their processes, as 2026-01-31T12:00:00Z (now)")
    flag(
        parser, "--api", help="URL of kubectl proxy, to count false and missed disconnections by the devices' statuses"
    )
    flag(parser, "--namespace", help="of the devices, for --api (default: all)")
    return parser


def _bad_versions(flag: str, text: str | None) -> tuple[BadVersion, ...]:
    """Return the versions that TEXT[=SHARE][,…] names."""
    found = []
    for word in text.split(",") if text else ():
        name, given, share = word.partition("=")
        if not name:
            raise UsageError(f"{flag} {text!r} names no version; write TEXT or TEXT=SHARE, separated by commas")
        found.append(BadVersion(name, settings.number(flag, share, 1.0, _A_SHARE) if given else 1.0))
    return tuple(found)


def _devices(options: argparse.Namespace) -> tuple[str, ...]:
    if options.devices_file:
        if options.count:
            raise UsageError("--count and --devices-file are both given; leave one out")
        names = tuple(_text("--devices-file", options.devices_file).split())
    elif options.count:
        count = _whole("--count", options.count, MAX_DEVICES)
        names = tuple(f"{options.prefix}{number}" for number in range(1, count + 1))
    else:
        raise UsageError("--count is missing; give the number of devices, or their names with --devices-file")
    return tuple(settings.device_name(name) for name in names)


def _whole(flag: str, text: str, maximum: int) -> int:
    if not text.isdecimal() or not 0 < int(text) <= maximum:
        raise UsageError(f"{flag} {text!r} is not a whole number from 1 to {maximum}")
    return int(text)


def _time(flag: str, text: str) -> str:
    try:
        return rfc3339(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))  # noqa: DTZ007 - the format says UTC
    except ValueError as e:
        raise UsageError(f"{flag} {text!r} is not a time in UTC; write it as 2026-01-31T12:00:00Z") from e


def _is_json(output: str) -> bool:
    if output not in ("table", "json"):
        raise UsageError(f"--output: invalid choice {output!r}; choose table or json")
    return output == "json"


def _secret(file: str | None) -> bytes | None:
    if not file:
        return None
    secrets = _text("--token-secret-file", file).split()
    if not secrets:
        raise UsageError(f"--token-secret-file {file} is empty")
    return secrets[0].encode()  # one a line, newest first, as the gateway reads it


def _text(flag: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{flag} {file} cannot be read: {e}") from e
