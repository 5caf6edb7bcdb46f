"""The flags of every command. A flag's default comes from an environment variable of the same name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from praetor_agent.__about__ import __version__
from praetor_agent.settings import DEFAULT_FREEZE_FILE, DEFAULT_ROOT, DEFAULT_STATE_DIR, DEFAULT_STORE_SIZE

if TYPE_CHECKING:
    import argparse

ENVIRONMENT_PREFIX = "PRAETOR_AGENT_"
LOG_LEVELS = ("debug", "info", "warning", "error")


def parser() -> argparse.ArgumentParser:
    import argparse

    root = argparse.ArgumentParser(
        prog="praetor-agent", description="Runs processes on this device, as the gateway asks, and reports."
    )
    root.add_argument("--version", action="version", version=f"praetor-agent {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_flags(commands.add_parser("run", help="run the agent", description="Run the agent until SIGTERM."))
    _status_flags(commands.add_parser("status", help="show what this device thinks, without network"))
    _installation(commands)
    _confirm_flags(commands.add_parser("confirm", help="let a changed process stay, whose spec asks to be confirmed"))
    commands.add_parser("simulate", add_help=False, help="simulate many devices, for demos and load tests")
    return root


def _installation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="look at this host and say how to mend what is not right")
    run_flags(parser)
    flag(parser, "-o", "--output", default="table", help="table or json")
    parser = commands.add_parser("install", help="make this agent a service that is kept running")
    run_flags(parser)
    flag(parser, "--root", default=DEFAULT_ROOT, help="where versions are kept")
    flag(parser, "--init", default="auto", help="systemd, sysv or auto")
    parser = commands.add_parser("upgrade", help="put this agent in place of the installed one, if it comes up")
    parser.add_argument("file", nargs="?", help="a zipapp to take instead of this agent")
    flag(parser, "--root", default=DEFAULT_ROOT, help="where versions are kept")
    parser = commands.add_parser("uninstall", help="take the installed agent away")
    flag(parser, "--root", default=DEFAULT_ROOT, help="where versions are kept")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep-processes", action="store_true", help="leave the processes running (default)")
    which.add_argument("--remove-processes", action="store_true", help="end them; state and settings go, too")


def _status_flags(parser: argparse.ArgumentParser) -> None:
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    flag(parser, "--hold-file", default=DEFAULT_FREEZE_FILE, help="the file that the agent was told of")
    flag(parser, "-o", "--output", default="table", help="table or json")


def _confirm_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="name of the DeviceProcess")
    parser.add_argument("--namespace", help="its namespace, where several have that name")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")


def run_flags(parser: argparse.ArgumentParser) -> None:
    gateway_flags(parser)
    flag(parser, "--proxy", help="HTTP(S) proxy to the gateway, or none; else as HTTPS_PROXY and NO_PROXY say")
    flag(parser, "--device", help="name of this device (the host's name)")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    flag(parser, "--hold-file", default=DEFAULT_FREEZE_FILE, help="while this file is there, nothing is changed")
    flag(
        parser, "--container-runtime", help="docker, podman or nerdctl with flags of its own (the first that is there)"
    )
    flag(parser, "--container-options", help="further options for each container, such as --ulimit=nofile=1024:1024")
    flag(parser, "--start-splay", default="3", help="spread the first contact over this many seconds")
    flag(parser, "--registry-auth-file", help="file of credentials for registries, as docker login writes it")
    flag(parser, "--registry-mirror", help="HOST=URL,…: where to look before the registry HOST")
    flag(parser, "--insecure-registry", help="HOST[:PORT],…: registries that may be reached without TLS")
    flag(parser, "--artifact-ca-bundle", help="PEM file of more authorities that may vouch for servers of artifacts")
    flag(parser, "--artifact-store-size", default=DEFAULT_STORE_SIZE, help="how much all artifacts may hold together")


def gateway_flags(parser: argparse.ArgumentParser) -> None:
    flag(parser, "--gateway", help="URL of the gateway")
    flag(parser, "--token", help="the token; better in a file or in the environment, for argv can be seen by all")
    flag(parser, "--token-file", help="file that holds the token; read again with each request")
    flag(parser, "--ca-bundle", help="PEM file of the authorities that may vouch for the gateway")
    flag(parser, "--log-level", default="info", help=f"one of {', '.join(LOG_LEVELS)}")


def flag(parser: argparse.ArgumentParser, *names: str, default: str | None = None, help: str) -> None:
    """Add a flag whose default comes from the environment: `--state-dir` from PRAETOR_AGENT_STATE_DIR."""
    variable = ENVIRONMENT_PREFIX + names[-1].removeprefix("--").replace("-", "_").upper()
    text = f"{help} [{variable}{', default ' + default if default else ''}]"
    parser.add_argument(*names, default=os.environ.get(variable) or default, help=text)
