# SPDX-License-Identifier: Apache-2.0
"""The command `praetorctl`: its groups, and where a failed request becomes a sentence.

A command is imported when it is run, so that help and errors of usage come at once: the path of a command is the path
of its module below commands/.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from praetor_api.kube.client.errors import KubeError
from praetor_controller.__about__ import __version__
from praetor_controller.ctl.errors import ExitCode, command_failed
from praetor_controller.ctl.forwarding import ForwardingGroup
from praetor_controller.ctl.output import warn

_COMMANDS = "praetor_controller.ctl.commands"


class LazyGroup(ForwardingGroup):
    """A group whose commands may raise KubeError.

    *summaries* are its commands' lines in the help, by name; *package* is where their modules are.
    """

    def __init__(self, *args: Any, package: str = "", summaries: Mapping[str, str] | None = None, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._package = package
        self._summaries = summaries or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._summaries})

    def load_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._summaries:
            return super().load_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"{self._package}.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            close = get_close_matches(name, known, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self._lines(formatter.width))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with *incomplete*; no command is imported for its summary."""
        found = [CompletionItem(name, help=line) for name, line in self._lines() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def _lines(self, width: int = 80) -> list[tuple[str, str]]:
        """Return the commands with their lines in the help, those of groups at most *width* characters long."""
        groups = {name: group.get_short_help_str(limit=width) for name, group in self.commands.items()}
        return sorted({**groups, **self._summaries}.items())

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KubeError as e:
            raise command_failed(e) from e
        except KeyboardInterrupt:
            warn("")  # whatever was painted last stays whole
            ctx.exit(ExitCode.INTERRUPTED)


@click.group(
    cls=LazyGroup,
    package=_COMMANDS,
    summaries={
        "completion": "Print the script that teaches a shell to complete praetorctl.",
        "conformance": "Check a gateway or an agent against the sentences of the device protocol.",
        "devices": "Show the devices: connection, agent, running processes.",
        "explain": "Explain the state of a device, or of each device of a deployment.",
        "plan": "Forecast what the controller would do with the deployments in a file.",
        "render": "Show the command, arguments, environment and files that DEVICE gets from a deployment.",
        "replay": "Replay the decisions that praetor-controller --record FILE recorded.",
    },
    context_settings={"auto_envvar_prefix": "PRAETOR_CTL", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="praetorctl")
def main() -> None:
    """Inspect devices and rollouts of Praetor, and control them. As a plugin: kubectl praetor.

    \b
    Exit codes:
      0  done
      1  the cluster cannot be reached, refuses, or lacks what was named; a replay with a different outcome
      2  the command line, or something it names, cannot be used
      3  failed: a rollout that stopped, a token that is refused, a sentence of the protocol that does not hold,
         an archive that is damaged
      4  the rollout is paused
      5  the time given with --timeout was up
      6  the rollout is under way, and --watch=false was given
      130  Ctrl-C

    Options that commands share may come before the command, too: --kubeconfig, --context, -n, -A and -o. They are
    environment variables as well: PRAETOR_CTL_KUBECONFIG, PRAETOR_CTL_CONTEXT, PRAETOR_CTL_NAMESPACE and
    PRAETOR_CTL_OUTPUT. The help of a command names those of its other options.

    Completion, for bash, zsh and fish: praetorctl completion --help
    """


@main.group(
    cls=LazyGroup,
    package=f"{_COMMANDS}.airgap",
    summaries={
        "bundle": "Make one archive that installs everything without an internet.",
        "verify": "Check that an archive is whole, unchanged and complete.",
    },
)
def airgap() -> None:
    """Bring a release into a network without an internet."""


@main.group(
    cls=LazyGroup,
    package=f"{_COMMANDS}.token",
    summaries={
        "mint": "Make the tokens of devices from the newest secret of the gateway.",
        "verify": "Check whether a gateway with these secrets accepts TOKEN from DEVICE.",
    },
)
def token() -> None:
    """Make and check the tokens of devices."""


@main.group(
    cls=LazyGroup,
    package=f"{_COMMANDS}.rollout",
    summaries={
        "approve": "Let a wave with approval: Manual begin.",
        "history": "Show the revisions of a deployment's template, oldest first.",
        "pause": "Stop a rollout where it is.",
        "restart": "Restart every process of a deployment, as a rollout.",
        "resume": "Let a paused rollout go on.",
        "retry": "Try writes that the API refused again at once, after their cause was removed.",
        "status": "Follow the rollout of a deployment to its end: it is done, has failed or is paused.",
        "undo": "Bring an earlier template back, as a rollout.",
    },
)
def rollout() -> None:
    """Follow and control the rollouts of deployments."""
