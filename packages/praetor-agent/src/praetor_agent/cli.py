"""The command line: flags, their environment variables, and one call for each command.

Nothing beyond what a command needs is loaded for it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence

from praetor_agent.__about__ import __version__
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.settings import DEFAULT_STATE_DIR

ENVIRONMENT_PREFIX = "PRAETOR_AGENT_"
LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of *arguments*; exit 2 when they are wrong, 1 when the command cannot do its work."""
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except UsageError as e:
        _complain(f"praetor-agent {options.command}: {e}")
        sys.exit(2)
    except AgentError as e:
        _complain(f"praetor-agent {options.command}: {e}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message: str) -> None:
    sys.stderr.write(message + "\n")


def _run(options: argparse.Namespace) -> None:
    from pathlib import Path

    from praetor_agent import settings

    token, token_file = settings.token_of(options.token, options.token_file)
    chosen = settings.RunSettings(
        gateway=settings.gateway_url(options.gateway),
        device=settings.device_name(options.device),
        state_dir=Path(options.state_dir),
        token=token,
        token_file=token_file,
        ca_bundle=settings.ca_bundle_of(options.ca_bundle),
        proxy=settings.proxy_of(options.proxy),
        start_splay=settings.seconds("--start-splay", options.start_splay),
    )
    _log(options.log_level)
    gc.collect()  # the parser is a knot of references: what it held serves for what is loaded now
    from praetor_agent.run import run

    run(chosen)


def _status(options: argparse.Namespace) -> None:
    from pathlib import Path

    if options.output not in ("table", "json"):
        raise UsageError(f"--output {options.output!r} is none; choose table or json")
    from praetor_agent.status import status

    status(Path(options.state_dir), options.output)


def _simulate(options: argparse.Namespace) -> None:
    from praetor_agent.simulate.flags import settings_of
    from praetor_agent.simulate.main import simulate

    simulate(settings_of(options))


_COMMANDS = {"run": _run, "status": _status, "simulate": _simulate}


def _log(level: str) -> None:
    if level not in LOG_LEVELS:
        raise UsageError(f"--log-level {level!r} is none; choose one of {', '.join(LOG_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="praetor-agent", description="Runs processes on this device, as the gateway asks, and reports."
    )
    parser.add_argument("--version", action="version", version=f"praetor-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run_flags(commands.add_parser("run", help="run the agent", description="Run the agent until SIGTERM."))
    _status_flags(commands.add_parser("status", help="show what this device thinks, without network"))
    _simulate_flags(commands.add_parser("simulate", help="be many pretend devices, for demos and load"))
    return parser


def _status_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    _flag(parser, "-o", "--output", default="table", help="table or json")


def _simulate_flags(parser: argparse.ArgumentParser) -> None:
    _gateway_flags(parser)
    _flag(parser, "--count", help="how many devices")
    _flag(parser, "--prefix", default="sim-", help="devices are named PREFIX1, PREFIX2, …")
    _flag(parser, "--devices-file", help="file with a device's name on each line, instead of --count and --prefix")
    _flag(parser, "--token-secret-file", help="file with the gateway's secret, to mint each device's token")
    _flag(parser, "--start-splay", default="5", help="spread the first contacts over this many seconds")
    _flag(parser, "--fail-rate", default="0", help="share of starts that fail, from 0 to 1")
    _flag(parser, "--fail-on", help="TEXT[=SHARE],…: specs that hold TEXT fail, on this share of the devices (all)")
    _flag(parser, "--silent-on", help="TEXT[=SHARE],…: devices that are offered such a spec are never heard again")
    _flag(parser, "--dead-rate", default="0", help="share of devices that are never heard at all, from 0 to 1")
    _flag(parser, "--summary-seconds", default="5", help="seconds between two summary lines")
    _flag(parser, "--changes-file", help="append a line of JSON for each spec that a device got")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _gateway_flags(parser)
    _flag(parser, "--proxy", help="HTTP(S) proxy to the gateway, or none; else as HTTPS_PROXY and NO_PROXY say")
    _flag(parser, "--device", help="name of this device (the host's name)")
    _flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    _flag(parser, "--start-splay", default="3", help="spread the first contact over this many seconds")


def _gateway_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--gateway", help="URL of the gateway")
    _flag(parser, "--token", help="the token; better in a file or in the environment, for argv can be seen by all")
    _flag(parser, "--token-file", help="file that holds the token; read again with each request")
    _flag(parser, "--ca-bundle", help="PEM file of the authorities that may vouch for the gateway")
    _flag(parser, "--log-level", default="info", help=f"one of {', '.join(LOG_LEVELS)}")


def _flag(parser: argparse.ArgumentParser, *names: str, default: str | None = None, help: str) -> None:
    """Add a flag whose default comes from the environment: `--state-dir` from PRAETOR_AGENT_STATE_DIR."""
    variable = ENVIRONMENT_PREFIX + names[-1].removeprefix("--").replace("-", "_").upper()
    text = f"{help} [{variable}{', default ' + default if default else ''}]"
    parser.add_argument(*names, default=os.environ.get(variable) or default, help=text)
