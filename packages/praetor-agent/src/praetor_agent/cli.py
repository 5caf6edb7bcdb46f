# SPDX-License-Identifier: Apache-2.0
"""The command line: flags, their environment variables, and one call for each command.

A command loads no module that it does not need.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from praetor_agent import flags
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.flags import ENVIRONMENT_PREFIX, LOG_LEVELS
from praetor_agent.masked_log import MaskedFormatter
from praetor_agent.settings import DEFAULT_ROOT, DEFAULT_STATE_DIR, RunSettings

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

_NO_GATEWAY = 3
"""Exit status of `install --require-gateway`: the agent is installed, and its gateway does not answer."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of *arguments*; exit 2 when they are wrong, 1 when the command cannot do its work."""
    _adopt_installed(os.environ)
    options = _options(arguments)
    try:
        _COMMANDS[options.command](options)
    except (AgentError, OSError) as e:  # such as a full or missing disk; a traceback would not help
        sys.stderr.write(f"praetor-agent {options.command}: {e}\n")
        sys.exit(2 if isinstance(e, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _adopt_installed(environment: MutableMapping[str, str]) -> None:
    """Use the installed agent's settings as defaults, so that `status` and `doctor` are about that agent."""
    root = environment.get(ENVIRONMENT_PREFIX + "ROOT") or DEFAULT_ROOT
    try:
        with open(os.path.join(root, "agent.env"), encoding="utf-8") as file:
            for line in file:
                name, _, value = line.rstrip("\n").partition("=")
                environment.setdefault(name, value)
    except OSError:
        return


def _run(options: SimpleNamespace) -> None:
    chosen = _run_settings(options)
    _log(options.log_level)
    for name in ("argparse", "gettext"):  # parsed; their memory is free for what is loaded next
        sys.modules.pop(name, None)
    gc.collect()
    from praetor_agent.app import run

    run(chosen)


def _run_settings(options: SimpleNamespace, problems: list[str] | None = None) -> RunSettings:
    """Return the settings of `run`; UsageError if a flag is wrong, unless *problems* collects them."""
    from pathlib import Path

    from praetor_agent import settings
    from praetor_agent.core.allowances import NOTHING
    from praetor_api.conditions import PROVING_SECONDS

    def checked(check: Callable[..., T], *given: Any, otherwise: T) -> T:
        try:
            return check(*given)
        except UsageError as e:
            if problems is None:
                raise
            problems.append(str(e))
            return otherwise

    none: tuple[str | None, Path | None] = (None, None)
    token, token_file = checked(settings.token_of, options.token, options.token_file, otherwise=none)
    registries = (options.insecure_registry, options.registry_mirror, options.registry_auth_file)
    bundle = (options.artifact_ca_bundle, "--artifact-ca-bundle")
    allowed = (
        options.allow_volumes,
        options.allow_devices,
        options.allow_capabilities,
        options.allow_networks,
        options.allow_privileged,
    )
    return settings.RunSettings(
        gateway=checked(settings.gateway_url, options.gateway, otherwise=""),
        device=checked(settings.device_name, options.device, otherwise=""),
        state_dir=Path(options.state_dir),
        token=token,
        token_file=token_file,
        ca_bundle=checked(settings.ca_bundle_of, options.ca_bundle, otherwise=None),
        proxy=checked(settings.proxy_of, options.proxy, otherwise=None),
        poll_wait=checked(settings.poll_wait_of, options.poll_wait, otherwise=None),
        start_splay=checked(settings.seconds, "--start-splay", options.start_splay, otherwise=0.0),
        proving_seconds=checked(
            settings.seconds, "--proving-seconds", options.proving_seconds, otherwise=PROVING_SECONDS
        ),
        freeze_file=Path(options.hold_file),
        registries=checked(settings.registries_of, *registries, otherwise=settings.Registries()),
        artifact_ca_bundle=checked(settings.ca_bundle_of, *bundle, otherwise=None),
        artifact_store_bytes=checked(
            settings.store_size, options.artifact_store_size, otherwise=settings.DEFAULT_STORE_BYTES
        ),
        container_runtime=checked(settings.container_runtime_of, options.container_runtime, otherwise=None),
        container_options=checked(settings.words, "--container-options", options.container_options, otherwise=()),
        allowances=checked(settings.allowances_of, *allowed, otherwise=NOTHING),
        file_roots=checked(settings.file_roots_of, options.allow_file_root, otherwise=()),
    )


def _status(options: SimpleNamespace) -> None:
    from pathlib import Path

    if options.output not in ("table", "json"):
        raise UsageError(f"--output: invalid choice {options.output!r}; choose table or json")
    from praetor_agent.service.status import status

    status(Path(options.state_dir), Path(options.hold_file), options.output)


def _simulate(options: SimpleNamespace) -> None:
    if sys.version_info < (3, 11):
        raise UsageError("simulate needs Python 3.11 or later; what runs on a device works from 3.9 on")
    from praetor_agent.simulate.flags import settings_of
    from praetor_agent.simulate.processes import simulate

    simulate(settings_of(options.rest))


def _doctor(options: SimpleNamespace) -> None:
    if options.output not in ("table", "json"):
        raise UsageError(f"--output: invalid choice {options.output!r}; choose table or json")
    problems: list[str] = []
    chosen = _run_settings(options, problems)
    from praetor_agent.service.doctor import doctor

    if not doctor(chosen, options.output, problems):
        sys.exit(1)


def _confirm(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.status import confirm

    confirm(Path(options.state_dir), options.name, options.namespace)


def _logs(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.logs import logs

    lines = options.tail
    if lines is not None and not lines.isdigit():
        raise UsageError(f"--tail {lines!r} is not a number of lines; write it as --tail=100")
    number = None if lines is None else int(lines)
    logs(Path(options.state_dir), options.name, options.namespace, follow=options.follow, lines=number)


def _install(options: SimpleNamespace) -> None:
    from pathlib import Path

    from praetor_agent.service.installation import install
    from praetor_agent.settings import loose_mode

    if options.token_file == "-":  # noqa: S105  # as with other programs: standard input
        options.token, options.token_file = sys.stdin.readline().strip(), None
        if not options.token:
            raise UsageError("--token-file -: standard input holds no token; pipe what praetorctl printed into it")
    chosen = _run_settings(options)
    loose = chosen.token_file and loose_mode(chosen.token_file)
    if loose:  # the operator who installs can fix it
        raise UsageError(f"--token-file: {loose}")
    token = chosen.token if chosen.token_file is None else _copied_token(chosen.token_file)
    given: dict[str, str | None] = {name: getattr(options, name) for name in _kept_flags()}
    paths = ("state_dir", "ca_bundle", "hold_file", "registry_auth_file", "artifact_ca_bundle")
    given |= {name: os.path.abspath(text) for name in paths if (text := given[name])}
    variables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": text for name, text in given.items() if text}
    said = install(Path(os.path.abspath(options.root)), options.init, variables, token)
    sys.stdout.write(said + _closed(chosen.state_dir.absolute()) + "\n")
    sys.stdout.flush()
    silent = _unanswered(chosen)
    if silent:
        sys.stderr.write(f"praetor-agent install: the agent runs and tries again, but {silent}\n")
        if options.require_gateway:
            sys.exit(_NO_GATEWAY)


def _closed(state_dir: Path) -> str:
    """Keep other users from reading an existing state directory; return what was done."""
    with suppress(OSError):
        mode = os.stat(state_dir).st_mode & 0o777
        if mode & 0o066:
            os.chmod(state_dir, mode & ~0o066)
            return f"; {state_dir} was readable for others and has mode {mode & ~0o066:04o} now"
    return ""


def _unanswered(chosen: RunSettings) -> str:
    """Return that the gateway does not answer, and what to do; "" if it does."""
    from praetor_agent.errors import GatewayError
    from praetor_agent.link.client import GatewayClient, address_of
    from praetor_agent.service.doctor import remedy_of

    client = GatewayClient(address_of(chosen))
    try:
        client.date()
    except GatewayError as e:
        return f"the gateway does not answer: {e}; {remedy_of(e)}"
    finally:
        client.close()
    return ""


def _copied_token(file: Path) -> str:
    """Return the token in *file*, which may be gone tomorrow; UsageError if there is none."""
    from praetor_agent.errors import GatewayError
    from praetor_agent.link.client import token_file

    try:
        return token_file(file)() or ""
    except GatewayError as e:
        raise UsageError(f"--token-file: {e}; copy the token to the device first") from e


def _kept_flags() -> list[str]:
    """Return the flags of `run` but for those of the token, which is a secret and goes to a file of its own."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    flags.run_flags(parser)
    return sorted(name for name in vars(parser.parse_args([])) if not name.startswith("token"))


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
    "logs": _logs,
    "status": _status,
    "simulate": _simulate,
}


def _log(level: str) -> None:
    if level not in LOG_LEVELS:
        raise UsageError(f"--log-level: invalid choice {level!r}; choose one of {', '.join(LOG_LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(MaskedFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _options(arguments: Sequence[str] | None) -> SimpleNamespace:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = flags.parser()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        parser.error(flags.no_command(arguments[0], commands))
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "simulate":
        commands[options.command].error(flags.unknown(rest, vars(options)))
    return SimpleNamespace(**vars(options), rest=rest)
