"""`praetorctl rollout status`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence

import click

from praetor_api.kube.client.errors import Forbidden, NotFound, Unauthorized, api_error
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.kube.runtime.clock import first
from praetor_api.kube.runtime.informer import Informer
from praetor_controller.ctl.cluster import Cluster, Opener, Where, cluster_options
from praetor_controller.ctl.cluster import ask as ask_cluster
from praetor_controller.ctl.commands.completion import deployment_names
from praetor_controller.ctl.errors import Exit
from praetor_controller.ctl.inventory import take_census
from praetor_controller.ctl.output import OutputFormat, on_terminal, output_option, painted, show, structured, warn
from praetor_controller.ctl.progress import (
    Progress,
    Verdict,
    as_data,
    final_line,
    line,
    progress,
    wave_data,
    wave_lines,
)
from praetor_controller.ctl.rollout_patch import checked
from praetor_controller.ctl.times import seconds_option, span
from praetor_controller.ctl.wave_watch import WaveWatch
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.waves import WaveState

_LOOK_S = 1.0


class WatchCommand(click.Command):
    """Takes --watch=false, too, as kubectl does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = {"--watch=false": "--no-watch", "--watch=true": "--watch"}
        return super().parse_args(ctx, [words.get(each, each) for each in args])


@click.command("status", cls=WatchCommand)
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@click.option("--watch/--no-watch", default=True, show_default=True, help="Follow it to its end.")
@click.option(
    "--timeout", callback=seconds_option, default="10m", show_default=True, help="How long to follow it; 0 for ever."
)
@cluster_options
@output_option
@click.pass_context
def status(
    context: click.Context, where: Where, opener: Opener, deployment: str, watch: bool, timeout: float, output: str
) -> None:
    """Follow the rollout of a deployment until it is done, has failed or is paused.

    \b
    Exit codes:
      0  every device that can have the template has it, and is available
      1  the cluster cannot be reached, refuses, or has no such deployment
      2  the command line is wrong
      3  failed: no progress within its deadline, stopped by its failure policy, or its spec is invalid
      4  paused
      5  --timeout was up
      6  under way, and --watch=false was given

    On a terminal there is a bar for each wave as well, for those who may list the namespace's devices and processes.
    The bar: # is up to date, o has the template and is not available yet, . waits, - is deferred (offline or in
    maintenance). With -o json or yaml only the last state is printed.
    """
    screen = Screen(terminal=on_terminal(), quiet=output != OutputFormat.TABLE)

    async def question(cluster: Cluster) -> tuple[Progress, bool, tuple[WaveState, ...]]:
        last, in_time = await look(cluster, deployment, screen, watch=watch, timeout_s=timeout)
        return last, in_time, await waves_of(cluster, last) if screen.quiet or not watch else ()

    last, in_time, states = ask_cluster(opener, where, question)
    screen.end()
    if screen.quiet:
        show(structured(as_data(last) | {"waves": wave_data(states)}, output))
    else:
        show("\n".join([*wave_lines(last, states), painted(final_line(last), last.colour)]))
    if not in_time:
        warn(f"Error: --timeout: {span(timeout)} were up; the rollout goes on")
    context.exit(last.exit_code if in_time else Exit.TIMEOUT)


class Screen:
    """Shows a rollout as it goes: a picture that changes on a terminal, a line for each change elsewhere."""

    def __init__(self, *, terminal: bool, quiet: bool) -> None:
        self._last = ""
        self.terminal = terminal
        self.quiet = quiet

    def show(self, shown: Progress, states: Sequence[WaveState] = ()) -> None:
        text = line(shown)
        if self.terminal:
            width = max(20, shutil.get_terminal_size().columns - 1)  # a line that wraps cannot be painted over
            lines = [line(shown, name_waves=not states), *wave_lines(shown, states)]
            text = "\n".join(each[:width] for each in lines)
        if self.quiet or text == self._last:
            return
        show(self._over() + text if self.terminal else text, newline=not self.terminal)
        self._last = text

    def _over(self) -> str:
        """Return what goes back to where the last picture began, and clears it."""
        above = self._last.count("\n")
        return "\r" + (f"\x1b[{above}A" if above else "") + "\x1b[J"

    def end(self) -> None:
        if self.terminal and self._last:
            show("")


async def waves_of(cluster: Cluster, state: Progress) -> tuple[WaveState, ...]:
    """Return how far each wave is; empty without waves, once all is rolled out, and where one may not look."""
    if not state.waves:
        return ()
    try:
        seen = await take_census(cluster)
    except (Forbidden, NotFound):
        return ()
    deployment, now = seen.deployments.get(state.name), cluster.clock.now()
    return plan(seen.snapshot(deployment, now), now).waves if deployment is not None else ()


async def look(cluster: Cluster, name: str, screen: Screen, *, watch: bool, timeout_s: float) -> tuple[Progress, bool]:
    """Return how the rollout stands, at its end if *watch*; False with it when *timeout_s* was up before."""
    key = Key(cluster.namespace, checked(name))
    state = progress(await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, key))
    if not watch or state.verdict is not Verdict.IN_PROGRESS:
        return state, True
    screen.show(state)
    watch_waves = WaveWatch(cluster, name) if state.waves and screen.terminal and not screen.quiet else None
    following = Following(cluster, key, screen, state, watch_waves)
    await first(following.run(), following.wait(timeout_s))
    return following.state, following.state.verdict is not Verdict.IN_PROGRESS


class Following:
    """Follows one deployment with an informer of that one object."""

    def __init__(
        self, cluster: Cluster, key: Key, screen: Screen, state: Progress, waves: WaveWatch | None = None
    ) -> None:
        self._waves = waves
        self._clock = cluster.clock
        self._key = key
        self._screen = screen
        self._gone = False
        self._changed = asyncio.Event()
        self.state = state
        self._informer: Informer[Progress] = Informer(
            cluster.api,
            DEVICE_PROCESS_DEPLOYMENTS,
            project=progress,
            clock=cluster.clock,
            namespace=key.namespace,
            field_selector=f"metadata.name={key.name}",
        )
        self._informer.add_handler(self._on_change)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(), name="follow the deployment")
            if self._waves is not None:
                group.create_task(self._waves.run(), name="follow its waves")

    async def wait(self, timeout_s: float) -> None:
        """Return at the rollout's end, or when *timeout_s* (0: never) is up; KubeError when it cannot be followed."""
        ends_at = self._clock.monotonic() + timeout_s
        while self.state.verdict is Verdict.IN_PROGRESS and not (timeout_s and self._clock.monotonic() >= ends_at):
            self._changed.clear()
            await first(self._news(), self._clock.sleep(_LOOK_S))
            self._show()
            self._raise_what_stays_wrong()

    async def _news(self) -> None:
        await self._changed.wait()

    def _raise_what_stays_wrong(self) -> None:
        if self._gone:
            raise api_error(404, "NotFound", f"{self._key} was deleted")
        if isinstance(self._informer.last_error, (Forbidden, NotFound, Unauthorized)):
            raise self._informer.last_error

    def _on_change(self, _: Key, __: Progress | None, new: Progress | None) -> None:
        self._gone = new is None
        if new is not None:
            self.state = new
            self._show()
        self._changed.set()

    def _show(self) -> None:
        going = self._waves is not None and self.state.verdict is Verdict.IN_PROGRESS
        self._screen.show(self.state, self._waves.waves() if going and self._waves is not None else ())
