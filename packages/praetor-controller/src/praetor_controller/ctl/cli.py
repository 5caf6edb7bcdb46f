"""The command `praetorctl`: its groups, and where a failed request becomes a sentence."""

from __future__ import annotations

from typing import Any

import click

from praetor_api.kube.client.errors import KubeError
from praetor_controller.__about__ import __version__
from praetor_controller.ctl.commands.completion import completion
from praetor_controller.ctl.commands.devices import devices
from praetor_controller.ctl.commands.explain import explain
from praetor_controller.ctl.commands.plan import plan
from praetor_controller.ctl.commands.replay import replay
from praetor_controller.ctl.commands.rollout.approve import approve
from praetor_controller.ctl.commands.rollout.history import history
from praetor_controller.ctl.commands.rollout.pause import pause
from praetor_controller.ctl.commands.rollout.restart import restart
from praetor_controller.ctl.commands.rollout.resume import resume
from praetor_controller.ctl.commands.rollout.status import status
from praetor_controller.ctl.commands.rollout.undo import undo
from praetor_controller.ctl.commands.token.mint import mint
from praetor_controller.ctl.commands.token.verify import verify
from praetor_controller.ctl.errors import Exit, explained
from praetor_controller.ctl.output import warn


class Commands(click.Group):
    """A group whose commands may raise KubeError."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KubeError as e:
            raise explained(e) from e
        except KeyboardInterrupt:
            warn("")  # whatever was painted last stays whole
            ctx.exit(Exit.INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"auto_envvar_prefix": "PRAETOR_CTL", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="praetorctl")
def main() -> None:
    """Look at devices and rollouts of Praetor, and steer them. As a plugin: kubectl praetor.

    \b
    Exit codes:
      0  done
      1  the cluster cannot be reached, refuses, or lacks what was named; a replay that comes out otherwise
      2  the command line, or something it names, cannot be used
      3  failed: a rollout that stopped, a token that is refused
      4  the rollout is paused
      5  the time given with --timeout was up
      6  the rollout is under way, and --watch=false was given
      130  Ctrl-C

    Options that all commands share are environment variables, too: PRAETOR_CTL_KUBECONFIG, PRAETOR_CTL_CONTEXT,
    PRAETOR_CTL_NAMESPACE and PRAETOR_CTL_OUTPUT. The others are PRAETOR_CTL_, the command and the option.

    Completion, for bash, zsh and fish: praetorctl completion --help
    """


@main.group()
def token() -> None:
    """Make and check the tokens of devices."""


main.add_command(completion)
main.add_command(devices)
main.add_command(explain)
main.add_command(plan)
main.add_command(replay)
token.add_command(mint)
token.add_command(verify)


@main.group()
def rollout() -> None:
    """Follow and steer the rollouts of deployments."""


for each in (status, history, undo, pause, resume, restart, approve):
    rollout.add_command(each)
