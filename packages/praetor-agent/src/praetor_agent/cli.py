"""The command line: flags, their environment variables, and one call for each command.

Nothing beyond what a command needs is loaded for it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

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
        start_splay=_seconds("--start-splay", options.start_splay),
    )
    _log(options.log_level)
    from praetor_agent.run import run

    run(chosen)


_COMMANDS = {"run": _run}


def _log(level: str) -> None:
    if level not in LOG_LEVELS:
        raise UsageError(f"--log-level {level!r} is none; choose one of {', '.join(LOG_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _seconds(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise UsageError(f"{flag} {text!r} is not a number of seconds from 0 to 86400")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="praetor-agent", description="Runs processes on this device, as the gateway asks, and reports."
    )
    parser.add_argument("--version", action="version", version=f"praetor-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run_flags(commands.add_parser("run", help="run the agent", description="Run the agent until SIGTERM."))
    return parser


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _gateway_flags(parser)
    _flag(parser, "--device", help="name of this device (the host's name)")
    _flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    _flag(parser, "--start-splay", default="3", help="spread the first contact over this many seconds")


def _gateway_flags(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--gateway", help="URL of the gateway")
    _flag(parser, "--token", help="the token; better in a file or in the environment, for argv can be seen by all")
    _flag(parser, "--token-file", help="file that holds the token; read again with each request")
    _flag(parser, "--ca-bundle", help="PEM file of the authorities that may vouch for the gateway")
    _flag(parser, "--log-level", default="info", help=f"one of {', '.join(LOG_LEVELS)}")


def _flag(parser: argparse.ArgumentParser, flag: str, *, default: str | None = None, help: str, **rest: Any) -> None:
    """Add a flag whose default comes from the environment: `--state-dir` from PRAETOR_AGENT_STATE_DIR."""
    variable = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    text = f"{help} [{variable}{', default ' + default if default else ''}]"
    parser.add_argument(flag, default=os.environ.get(variable) or default, help=text, **rest)
