# SPDX-License-Identifier: Apache-2.0
"""`hatch run playground`: what the example of docs/first-rollout.md starts from, until Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

import click

from e2e.clusters.embedded import Embedded
from e2e.clusters.errors import ClusterError
from e2e.release.build import ROOT
from e2e.rollouts.fleet import SimulatedFleet
from e2e.stack.errors import StackError
from e2e.stack.stack import Stack, StackSettings, script

PAGE = ROOT / "docs" / "first-rollout.md"
DEVICES = [f"leaf-{number}" for number in range(1, 9)]
FLAGS = ("--fail-on=broken",)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTERRUPTED = 130
_NAMED = re.compile(r"# (\S+\.yaml)\n")
_TEXT = """\
A control plane, a controller, a gateway and {count} simulated devices are running.
In another terminal, where switches.yaml and beacon.yaml are ready:

  cd {folder}
  export KUBECONFIG={kubeconfig}
  export PATH={programs}:$PATH

Then follow the example of docs/first-rollout.md. It begins with

  kubectl apply -f switches.yaml
  kubectl wait --for=condition=AgentConnected nsw --all --timeout=60s
  praetorctl plan -f beacon.yaml --approve
{missing}
Ctrl-C ends everything, and so do {minutes} minutes.
"""
_MISSING = "\nkubectl was not found; install it, or use praetorctl alone.\n"


@click.command()
@click.option("--minutes", type=click.IntRange(1, 1440), default=60, show_default=True, help="When it ends by itself.")
def main(minutes: int) -> None:
    """Start the devices of the example in docs/first-rollout.md, and say what to type; Ctrl-C ends it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="praetor-playground-") as name, ExitStack() as opened:
            folder = Path(name)
            cluster = opened.enter_context(Embedded(folder / "cluster"))
            stack = opened.enter_context(Stack(cluster, folder / "stack", StackSettings()))
            fleet = opened.enter_context(closing(SimulatedFleet(stack, stack.kube(cluster.namespace))))
            fleet.power_on(DEVICES, *FLAGS)
            save_files(folder)
            kubectl = None if shutil.which("kubectl") else cluster.kubectl
            programs = [str(Path(each).parent) for each in (script("praetorctl"), kubectl) if each]
            click.echo(
                _TEXT.format(
                    count=len(DEVICES),
                    folder=folder,
                    kubeconfig=cluster.kubeconfig,
                    programs=os.pathsep.join(programs),
                    missing="" if cluster.kubectl else _MISSING,
                    minutes=minutes,
                )
            )
            threading.Event().wait(minutes * 60)
    except KeyboardInterrupt:
        click.echo("\nAll programs were ended.")
        sys.exit(INTERRUPTED)
    except (ClusterError, StackError) as error:
        raise click.ClickException(str(error)) from error


def save_files(folder: Path) -> None:
    """Save the manifests of the page that have a name into *folder*."""
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        named = _NAMED.match(text)
        if language == "yaml" and named:
            (folder / named[1]).write_text(text, encoding="utf-8")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
