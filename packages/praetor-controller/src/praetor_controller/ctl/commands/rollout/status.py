# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout status`."""

from __future__ import annotations

import click
from attrs import evolve

from praetor_api.conditions import DeploymentReason
from praetor_controller.ctl.cluster import Cluster, Opener, Target, cluster_options, run_on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.errors import ExitCode
from praetor_controller.ctl.output import (
    fitted_lines,
    for_people,
    on_terminal,
    output_option,
    painted,
    show,
    structured,
    warn,
)
from praetor_controller.ctl.progress import Progress, Verdict, as_data, final_line, wave_data, wave_lines
from praetor_controller.ctl.rollout_watch import Screen, follow, waves_of
from praetor_controller.ctl.times import duration_option, format_duration
from praetor_controller.rollout.snapshot import WaveState


class WatchCommand(click.Command):
    """Accepts --watch=false, too, as kubectl does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        no, yes = ("--watch=false", "-w=false"), ("--watch=true", "-w=true")
        words = dict.fromkeys(no, "--no-watch") | dict.fromkeys(yes, "--watch")
        return super().parse_args(ctx, [words.get(each, each) for each in args])


@click.command("status", cls=WatchCommand)
@deployment_argument
@click.option("-w", "--watch/--no-watch", default=True, show_default="--watch", help="Follow it to its end.")
@click.option(
    "--timeout",
    callback=duration_option,
    default="10m",
    show_default=True,
    help="How long to follow it; 0 is no limit.",
)
@click.option("--allow-empty", is_flag=True, help="Done, not failed, when no device matches the selector.")
@cluster_options
@output_option
@click.pass_context
def status(
    context: click.Context,
    target: Target,
    opener: Opener,
    deployment: str,
    watch: bool,
    timeout: float,
    allow_empty: bool,
    output: str,
) -> None:
    """Follow the rollout of a deployment to its end: it is done, has failed or is paused.

    \b
    Exit codes:
      0  every device that can have the template has it, and is available
      1  the cluster cannot be reached, refuses, or has no such deployment
      2  the command line is wrong
      3  failed: no progress within its deadline, stopped by its failure policy,
         held until a user acts (a wave or budget matches nothing, a wave lost its
         devices or saw them fail), no device matches, or an invalid spec
      4  paused
      5  --timeout was up
      6  under way, and --watch=false was given

    On a terminal there is a bar for each wave as well, where listing the namespace's devices and processes is allowed.
    The bar: # is up to date, o has the template and is not available yet, . waits, - is deferred (offline, in
    maintenance, or short of a requirement). With -o json or yaml only the last state is printed.
    """
    screen = Screen(terminal=on_terminal(), quiet=not for_people(output))

    async def work(cluster: Cluster) -> tuple[Progress, bool, tuple[WaveState, ...]]:
        last, in_time = await follow(cluster, deployment, screen, watch=watch, timeout_s=timeout)
        return last, in_time, await waves_of(cluster, last) if screen.quiet or not watch else ()

    last, in_time, states = run_on_cluster(opener, target, work)
    if allow_empty and last.reason == DeploymentReason.NO_DEVICES:
        last = evolve(last, verdict=Verdict.DONE)
    screen.end()
    if screen.quiet:
        show(structured(as_data(last) | {"waves": wave_data(states)}, output))
    else:
        show(fitted_lines([*wave_lines(last, states), painted(final_line(last), last.colour)], output))
    if not in_time:
        warn(f"Error: --timeout: {format_duration(timeout)} were up; the rollout goes on")
    context.exit(last.exit_code if in_time else ExitCode.TIMEOUT)
