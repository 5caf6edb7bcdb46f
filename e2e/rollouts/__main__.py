# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.rollouts [--cluster envtest] [--devices 300] [--out docs]`: stop a bad version, and draw it."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from e2e.clusters.launch import ClusterName, launch
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import domain
from e2e.rollouts.scenario import PER_RACK, ScenarioResult, run_scenario
from e2e.rollouts.svg import Chart, document
from e2e.stack.stack import Stack

TITLE = "A bad version is stopped and rolled back, a good one goes through three waves"


def draw(result: ScenarioResult) -> str:
    """Return the picture of a result: which devices run what, how many are down, and how many in a rack."""
    timeline, began = result.timeline, result.timeline.began
    end = max(result.marks.values()) - began
    marks = {word: at - began for word, at in result.marks.items() if word not in ("done", "stopped")}
    names = dict(zip(_revisions(result), ("v1", "v2, bad", "v3"), strict=True))
    runs = {
        words: [(sample.at - began, float(sample.revisions.get(revision, 0))) for sample in timeline.samples]
        for revision, words in names.items()
    }
    down = [(sample.at - began, float(len(sample.disrupted))) for sample in timeline.samples]
    worst = [(sample.at - began, float(_worst_rack(result, sample.disrupted))) for sample in timeline.samples]
    limit = (f"maxUnavailable 10% = {result.limit}", float(result.limit))
    rack = (f"budget of a rack: {PER_RACK}", float(PER_RACK))
    count = len(result.devices)
    return document(
        TITLE,
        [
            Chart(title=f"What {count} devices are to run", lines=runs, marks=marks, end=end),
            Chart(title="Devices that are down", lines={"down": down}, limit=limit, marks=marks, end=end),
            Chart(title="Devices down in the worst rack", lines={"down": worst}, limit=rack, marks=marks, end=end),
        ],
    )


def summary(result: ScenarioResult) -> str:
    """Return the figures of a result as a sentence."""
    timeline = result.timeline
    hit = len(timeline.writes_of(result.stopped["status"]["failedRevision"]))
    racks = max(timeline.worst_by_domain(["rack"], result.labels).values())
    return (
        f"{len(result.devices)} devices; the bad version reached {hit}; down at most {timeline.worst()} of "
        f"{result.limit} allowed, in a rack at most {racks} of {PER_RACK}; {len(timeline.samples)} states checked"
    )


def _revisions(result: ScenarioResult) -> list[str]:
    first = next(revision for revision, number in _at_start(result).items() if number)
    later = [write.revision for write in result.timeline.writes]
    return list(dict.fromkeys([first, *later]))


def _at_start(result: ScenarioResult) -> dict[str, int]:
    """Return how many devices have each revision at the beginning."""
    return dict(result.timeline.samples[0].revisions)


def _worst_rack(result: ScenarioResult, devices: frozenset[str]) -> int:
    counts = Counter(domain(["rack"], result.labels[device]) for device in devices)
    return max(counts.values(), default=0)


def main() -> None:
    """Run the scenario once and write `rollout.svg`."""
    parser = argparse.ArgumentParser(prog="python -m e2e.rollouts", description=TITLE)
    parser.add_argument("--cluster", choices=[name.value for name in ClusterName], default="embedded")
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the picture (default: docs)")
    options = parser.parse_args()
    with (
        TemporaryDirectory(prefix="praetor-rollouts-") as folder,
        launch(options.cluster, Path(folder)) as cluster,
        Stack(cluster, Path(folder, "stack")) as stack,
    ):
        kube = stack.kube(f"result-{secrets.token_hex(2)}").create_namespace()
        fleet = SimulatedFleet(stack, kube)
        try:
            result = run_scenario(stack, kube, fleet, options.devices)
        finally:
            fleet.close()
    file = options.out / "rollout.svg"
    file.write_text(draw(result), encoding="utf-8")
    sys.stdout.write(f"{summary(result)}\n{file}\n")


if __name__ == "__main__":
    main()
