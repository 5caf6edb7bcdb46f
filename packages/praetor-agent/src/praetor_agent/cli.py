"""The command line: flags, their environment variables, and one call for each command.

Nothing beyond what a command needs is loaded for it.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import MutableMapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from praetor_agent.__about__ import __version__
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.settings import DEFAULT_HOLD_FILE, DEFAULT_ROOT, DEFAULT_STATE_DIR, DEFAULT_STORE_SIZE, RunSettings

if TYPE_CHECKING:
    import argparse

ENVIRONMENT_PREFIX = "PRAETOR_AGENT_"
LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of *arguments*; exit 2 when they are wrong, 1 when the command cannot do its work."""
    _adopt_installed(os.environ)
    options = _options(arguments)
    try:
        _COMMANDS[options.command](options)
    except UsageError as e:
        _complain(f"praetor-agent {options.command}: {e}")
        sys.exit(2)
    except AgentError as e:
        _complain(f"praetor-agent {options.command}: {e}")
        sys.exit(1)
    except OSError as e:  # such as a disk that is full or gone; no traceback tells more
        _complain(f"praetor-agent {options.command}: {e}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _adopt_installed(environment: MutableMapping[str, str]) -> None:
    """Take the installed agent's settings where nothing else is said, so that `status` and `doctor` speak of it."""
    root = environment.get(ENVIRONMENT_PREFIX + "ROOT") or DEFAULT_ROOT
    try:
        with open(os.path.join(root, "agent.env"), encoding="utf-8") as file:
            for line in file:
                name, _, value = line.rstrip("\n").partition("=")
                environment.setdefault(name, value)
    except OSError:
        return


def _complain(message: str) -> None:
    sys.stderr.write(message + "\n")


def _run(options: SimpleNamespace) -> None:
    chosen = _run_settings(options)
    _log(options.log_level)
    for name in ("argparse", "gettext"):  # the command line is read: what they held serves for what is loaded now
        sys.modules.pop(name, None)
    gc.collect()
    from praetor_agent.app import run

    run(chosen)


def _run_settings(options: SimpleNamespace) -> RunSettings:
    from pathlib import Path

    from praetor_agent import settings

    token, token_file = settings.token_of(options.token, options.token_file)
    return settings.RunSettings(
        gateway=settings.gateway_url(options.gateway),
        device=settings.device_name(options.device),
        state_dir=Path(options.state_dir),
        token=token,
        token_file=token_file,
        ca_bundle=settings.ca_bundle_of(options.ca_bundle),
        proxy=settings.proxy_of(options.proxy),
        start_splay=settings.seconds("--start-splay", options.start_splay),
        hold_file=Path(options.hold_file),
        registries=settings.registries_of(
            options.insecure_registry, options.registry_mirror, options.registry_auth_file
        ),
        artifact_ca_bundle=settings.ca_bundle_of(options.artifact_ca_bundle, "--artifact-ca-bundle"),
        artifact_store_bytes=settings.store_size(options.artifact_store_size),
        container_runtime=settings.container_runtime_of(options.container_runtime),
        container_options=settings.words("--container-options", options.container_options),
    )


def _status(options: SimpleNamespace) -> None:
    from pathlib import Path

    if options.output not in ("table", "json"):
        raise UsageError(f"--output {options.output!r} is none; choose table or json")
    from praetor_agent.service.status import status

    status(Path(options.state_dir), Path(options.hold_file), options.output)


def _simulate(options: SimpleNamespace) -> None:
    from praetor_agent.simulate.main import main as simulate

    simulate(options.rest)


def _doctor(options: SimpleNamespace) -> None:
    if options.output not in ("table", "json"):
        raise UsageError(f"--output {options.output!r} is none; choose table or json")
    chosen = _run_settings(options)
    from praetor_agent.service.doctor import doctor

    if not doctor(chosen, options.output):
        sys.exit(1)


def _confirm(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.status import confirm

    confirm(Path(options.state_dir), options.name, options.namespace)


def _install(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.installation import install
    from praetor_agent.settings import loose_mode

    chosen = _run_settings(options)
    loose = chosen.token_file and loose_mode(chosen.token_file)
    if loose:  # somebody is here who can mend it
        raise UsageError(f"--token-file: {loose}")
    given: dict[str, str | None] = {name: getattr(options, name) for name in _kept_flags()}
    paths = ("state_dir", "token_file", "ca_bundle", "hold_file", "registry_auth_file", "artifact_ca_bundle")
    given |= {name: os.path.abspath(text) for name in paths if (text := given[name])}
    variables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": text for name, text in given.items() if text}
    sys.stdout.write(install(Path(os.path.abspath(options.root)), options.init, variables, chosen.token) + "\n")


def _kept_flags() -> list[str]:
    """Return what `run` knows of, but for the token: that is a secret and goes to a file of its own."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    _run_flags(parser)
    return sorted(name for name in vars(parser.parse_args([])) if name != "token")


def _upgrade(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.installation import upgrade

    sys.stdout.write(upgrade(Path(os.path.abspath(options.root)), options.file) + "\n")


def _uninstall(options: SimpleNamespace) -> None:
    from functools import partial
    from pathlib import Path

    from praetor_agent.service.installation import remove_processes, state_dir_of, uninstall

    root = Path(os.path.abspath(options.root))
    state_dir = Path(state_dir_of(root) or DEFAULT_STATE_DIR)
    removing = partial(remove_processes, state_dir) if options.remove_processes else None
    sys.stdout.write(uninstall(root, state_dir, removing) + "\n")


_COMMANDS = {
    "install": _install,
    "upgrade": _upgrade,
    "uninstall": _uninstall,
    "doctor": _doctor,
    "run": _run,
    "confirm": _confirm,
    "status": _status,
    "simulate": _simulate,
}


def _log(level: str) -> None:
    if level not in LOG_LEVELS:
        raise UsageError(f"--log-level {level!r} is none; choose one of {', '.join(LOG_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _options(arguments: Sequence[str] | None) -> SimpleNamespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "simulate":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return SimpleNamespace(**vars(options), rest=rest)


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="praetor-agent", description="Runs processes on this device, as the gateway asks, and reports."
    )
    parser.add_argument("--version", action="version", version=f"praetor-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run_flags(commands.add_parser("run", help="run the agent", description="Run the agent until SIGTERM."))
    _status_flags(commands.add_parser("status", help="show what this device thinks, without network"))
    _installation(commands)
    _confirm_flags(commands.add_parser("confirm", help="let a changed process stay, whose spec asks to be confirmed"))
    commands.add_parser("simulate", add_help=False, help="be many pretend devices, for demos and load")
    return parser


def _installation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="look at this host and say how to mend what is not right")
    _run_flags(parser)
    flag(parser, "-o", "--output", default="table", help="table or json")
    parser = commands.add_parser("install", help="make this agent a service that is kept running")
    _run_flags(parser)
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
    flag(parser, "--hold-file", default=DEFAULT_HOLD_FILE, help="the file that the agent was told of")
    flag(parser, "-o", "--output", default="table", help="table or json")


def _confirm_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="name of the DeviceProcess")
    parser.add_argument("--namespace", help="its namespace, where several have that name")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    gateway_flags(parser)
    flag(parser, "--proxy", help="HTTP(S) proxy to the gateway, or none; else as HTTPS_PROXY and NO_PROXY say")
    flag(parser, "--device", help="name of this device (the host's name)")
    flag(parser, "--state-dir", default=DEFAULT_STATE_DIR, help="where the agent keeps what it knows")
    flag(parser, "--hold-file", default=DEFAULT_HOLD_FILE, help="while this file is there, nothing is changed")
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
