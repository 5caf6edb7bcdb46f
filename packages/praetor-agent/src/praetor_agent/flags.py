# SPDX-License-Identifier: Apache-2.0
"""The flags of every command. A flag's default comes from an environment variable of the same name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from praetor_agent.__about__ import __version__
from praetor_agent.settings import DEFAULT_FREEZE_FILE, DEFAULT_ROOT, DEFAULT_STATE_DIR, DEFAULT_STORE_SIZE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

ENVIRONMENT_PREFIX = "PRAETOR_AGENT_"
LOG_LEVELS = ("debug", "info", "warning", "error")


def parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and those of its commands by name."""
    import argparse

    root = argparse.ArgumentParser(
        prog="praetor-agent", description="Runs this device's desired processes and reports their state to the gateway."
    )
    root.add_argument("--version", action="version", version=f"praetor-agent {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_flags(commands.add_parser("run", help="run the agent", description="Run the agent until SIGTERM."))
    parser = _command(commands, "status", "show this device's processes, without network")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="the agent's state directory")
    flag(parser, "--hold-file", default=DEFAULT_FREEZE_FILE, help="path of the freeze file")
    flag(parser, "-o", "--output", default="table", help="table or json")
    _installation(commands)
    parser = _command(commands, "confirm", "confirm a change that is rolled back otherwise")
    parser.add_argument("name", help="name of the DeviceProcess")
    parser.add_argument("--namespace", help="its namespace, where several have that name")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="the agent's state directory")
    parser = _command(commands, "logs", "show the output of a process, without network")
    parser.add_argument("name", help="name of the DeviceProcess")
    parser.add_argument("-f", "--follow", action="store_true", help="show what comes later, too, until interrupted")
    parser.add_argument("--namespace", help="its namespace, where several have that name")
    flag(parser, "-n", "--tail", help="show the last N lines only; with -f 10 unless given")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="the agent's state directory")
    commands.add_parser("simulate", add_help=False, help="simulate many devices, for demos and load tests")
    return root, commands.choices


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")


def no_command(name: str, known: Iterable[str]) -> str:
    """Return what to say of *name*, which is none of the *known* commands."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1)
    said = f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}"
    return f"there is no command {name!r}{said}"


def _installation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "doctor", "check this host and say how to fix each problem")
    run_flags(parser)
    flag(parser, "-o", "--output", default="table", help="table or json")
    parser = _command(commands, "install", "install this agent as a service")
    run_flags(parser)
    flag(parser, "--root", default=DEFAULT_ROOT, help="directory of the installed versions")
    flag(parser, "--init", default="auto", help="systemd, sysv or auto")
    parser.add_argument(
        "--require-gateway",
        action="store_true",
        help="exit with 3 when the gateway does not answer the installed agent",
    )
    parser = _command(commands, "upgrade", "replace the installed agent, and roll back if the new one fails")
    parser.add_argument("file", nargs="?", help="a zipapp to install instead of this agent")
    flag(parser, "--root", default=DEFAULT_ROOT, help="directory of the installed versions")
    parser = _command(commands, "uninstall", "uninstall the agent")
    flag(parser, "--root", default=DEFAULT_ROOT, help="directory of the installed versions")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep-processes", action="store_true", help="leave the processes running (default)")
    which.add_argument("--remove-processes", action="store_true", help="stop them, and remove state and settings, too")


def run_flags(parser: argparse.ArgumentParser) -> None:
    gateway_flags(parser)
    flag(parser, "--proxy", help="HTTP(S) proxy to the gateway, or none (default: HTTPS_PROXY and NO_PROXY)")
    flag(parser, "--device", help="name of this device (default: the host's name)")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="the agent's state directory")
    flag(
        parser,
        "--hold-file",
        default=DEFAULT_FREEZE_FILE,
        help="path of the freeze file, which forbids changes",
    )
    flag(
        parser,
        "--container-runtime",
        help="docker, podman or nerdctl, with its own flags (default: the first one found)",
    )
    flag(parser, "--container-options", help="more options for each container, such as --ulimit=nofile=1024:1024")
    flag(parser, "--allow-volumes", help="PATH,…: what containers may mount of this device, with all below")
    flag(parser, "--allow-devices", help="PATH,…: device nodes that containers may use, with all below")
    flag(parser, "--allow-capabilities", help="NAME,…: capabilities that containers may add, such as NET_ADMIN, or ALL")
    flag(parser, "--allow-networks", help="NAME,…: networks of the runtime for containers, besides host and none")
    flag(parser, "--allow-privileged", default="false", help="true: containers may be privileged")
    flag(parser, "--allow-file-root", repeat=True, help="PATH: directory below which processes may have files")
    flag(parser, "--start-splay", default="3", help="spread the first contact over this many seconds")
    flag(parser, "--poll-wait", help="hold a poll at most this many seconds, for a middlebox that cuts earlier")
    flag(
        parser,
        "--proving-seconds",
        default="10",
        help="a rollout waits until a new version ran for this long; until then a reboot counts as its crash",
    )
    flag(parser, "--registry-auth-file", help="registry credentials, in the format that docker login writes")
    flag(parser, "--registry-mirror", help="HOST=URL,…: mirrors to try before the registry HOST")
    flag(parser, "--insecure-registry", help="HOST[:PORT],…: registries to reach without TLS")
    flag(parser, "--artifact-ca-bundle", help="PEM file of further CA certificates for artifact servers")
    flag(parser, "--artifact-store-size", default=DEFAULT_STORE_SIZE, help="maximum size of all artifacts together")


def unknown(rest: Sequence[str], known: Iterable[str]) -> str:
    """Return what to say of the arguments *rest*, which no flag takes; *known* are the attributes of the flags."""
    from difflib import get_close_matches

    flags = [f"--{name.replace('_', '-')}" for name in known]
    found = [near for each in rest if each.startswith("--") for near in get_close_matches(each.split("=")[0], flags, 1)]
    return f"unrecognized arguments: {' '.join(rest)}" + (f"; did you mean {', '.join(found)}?" if found else "")


def gateway_flags(parser: argparse.ArgumentParser) -> None:
    flag(parser, "--gateway", help="URL of the gateway")
    flag(parser, "--token", help="the token; prefer a file or the variable, because every user can read argv")
    flag(parser, "--token-file", help="file with the token, read for each request; for install also -")
    flag(parser, "--ca-bundle", help="PEM file of the CA certificates for the gateway")
    flag(parser, "--log-level", default="info", help=f"one of {', '.join(LOG_LEVELS)}")


def flag(
    parser: argparse.ArgumentParser, *names: str, default: str | None = None, help: str, repeat: bool = False
) -> None:
    """Add a flag whose default comes from the environment: `--state-dir` from PRAETOR_AGENT_STATE_DIR.

    The values of one that may *repeat* are joined by commas.
    """
    variable = ENVIRONMENT_PREFIX + names[-1].removeprefix("--").replace("-", "_").upper()
    text = f"{help} [{variable}{', default ' + default if default else ''}]"
    given = os.environ.get(variable) or default
    if repeat:
        parser.add_argument(*names, action=_joined(), default=given, help=text)
    else:
        parser.add_argument(*names, default=given, help=text)


def _joined() -> type[argparse.Action]:
    import argparse

    class Joined(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
        ) -> None:
            before = getattr(namespace, self.dest)
            setattr(namespace, self.dest, values if before is self.default else f"{before},{values}")

    return Joined
