# SPDX-License-Identifier: Apache-2.0
"""The phases of a run as a table, as JSON and as pictures."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from e2e.rollouts.svg import Chart, Points, document
from e2e.scale.phases import Phase
from e2e.scale.processes import Usage
from e2e.scale.sampler import Sample

SHOWN = ("gateway", "controller", "apiserver", "load")
WINDOW = 5
"""Samples over which a rate is drawn."""


def lines(phase: Phase) -> Iterator[str]:
    """Yield what a phase measured; 80 columns."""
    yield f"{phase.title} ({phase.name}, {phase.seconds:.0f} s): {phase.writes_per_s:.2f} writes/s"
    for limit in phase.limits:
        yield f"  {limit}"
    for what, value in phase.figures.items():
        yield f"  {what}: {value:,.3g}"
    latencies = _worst_latencies(phase)
    for name, (median, worst) in latencies.items():
        yield f"  {name}: p50 {median:,.1f} ms, p99 {worst:,.1f} ms in the worst two seconds"
    yield f"  {'':12}{'processes':>10}{'processor':>12}{'memory, MiB':>14}{'open files':>12}"
    for program, cost in _cost(phase.samples).items():
        yield (
            f"  {program:12}{cost['processes']:>10.0f}{cost['processor']:>12.2f}{cost['memoryMiB']:>14,.0f}"
            f"{cost['files']:>12,.0f}"
        )


def as_json(phase: Phase) -> Mapping[str, Any]:
    """Return the phase as plain data; processor in cores of all processes, memory and files of the largest one."""
    return {
        "name": phase.name,
        "title": phase.title,
        "seconds": round(phase.seconds, 1),
        "writesPerSecond": round(phase.writes_per_s, 3),
        "writesByResource": _writes(phase.samples),
        "limits": [
            {"what": each.what, "value": each.value, "limit": each.most, "kept": each.kept} for each in phase.limits
        ],
        "figures": dict(phase.figures),
        "marks": {word: round(at - phase.began, 1) for word, at in phase.marks.items()},
        "latenciesMs": {name: {"p50": low, "p99": high} for name, (low, high) in _worst_latencies(phase).items()},
        "errors": sum(each["errors"] for each in phase.summaries),
        "programs": _cost(phase.samples),
    }


def picture(phase: Phase, subject: str) -> str:
    """Return the phase as SVG: writes, connected devices, and processors in use."""
    end = phase.seconds
    marks = {word: at - phase.began for word, at in phase.marks.items()}
    limit = next(((str(each.what), each.most) for each in phase.limits if "writes" in each.what), None)
    at = [sample.at - phase.began for sample in phase.samples]
    connected = list(zip(at, (float(sample.connected) for sample in phase.samples), strict=True))
    charts = [
        Chart(
            title="Writes that the apiserver answered, a second",
            lines={"writes": _rates(phase, lambda sample: float(sum(sample.writes.values())))},
            limit=limit,
            marks=marks,
            end=end,
        ),
        Chart(title="Devices that are connected", lines={"connected": connected}, marks=marks, end=end),
        Chart(
            title="Processors in use",
            lines={name: _rates(phase, lambda sample, name=name: _cpu(sample, name)) for name in SHOWN},
            marks=marks,
            end=end,
        ),
    ]
    return document(f"{phase.title}: {subject}", charts)


def _cpu(sample: Sample, program: str) -> float:
    return sum(usage.cpu_s for usage in sample.programs.get(program, ()))


def _rates(phase: Phase, value: Any) -> Points:
    """Return the growth per second of *value*, over a few samples; what a process used that ended is left out."""
    found = []
    for number in range(1, len(phase.samples)):
        first, last = phase.samples[max(0, number - WINDOW)], phase.samples[number]
        growth = max(0.0, value(last) - value(first))
        found.append((last.at - phase.began, round(growth / max(last.at - first.at, 0.1), 2)))
    return found


def _writes(samples: Sequence[Sample]) -> dict[str, int]:
    if len(samples) < 2:
        return {}
    first, last = samples[0].writes, samples[-1].writes
    grown = {resource: count - first.get(resource, 0) for resource, count in last.items()}
    return {resource: count for resource, count in sorted(grown.items()) if count}


def _cost(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return what each program cost: cores of all its processes, memory and files of the largest one."""
    programs: dict[str, list[list[Usage]]] = defaultdict(list)
    for sample in samples:
        for name, found in sample.programs.items():
            programs[name].append(found)
    return {
        name: {
            "processes": max(map(len, each)),
            "processor": round(_cores(samples, name), 3),
            "memoryMiB": round(max(usage.memory_mib for found in each for usage in found), 1),
            "memoryAllMiB": round(max(sum(usage.memory_mib for usage in found) for found in each), 1),
            "files": max(usage.files for found in each for usage in found),
        }
        for name, each in sorted(programs.items())
    }


def _cores(samples: Sequence[Sample], name: str) -> float:
    """Return the processor time per second that processes of *name* used which were there at both of two samples."""
    used = 0.0
    for first, last in itertools.pairwise(samples):
        before = {usage.pid: usage.cpu_s for usage in first.programs.get(name, ())}
        used += sum(usage.cpu_s - before[usage.pid] for usage in last.programs.get(name, ()) if usage.pid in before)
    return used / max(samples[-1].at - samples[0].at, 1e-3) if len(samples) > 1 else 0.0


def _worst_latencies(phase: Phase) -> dict[str, tuple[float, float]]:
    """Return the median of the medians and the largest p99 of what the devices measured, in milliseconds."""
    found = {}
    for name in ("poll", "report", "reported"):
        said = [each["latenciesMs"][name] for each in phase.summaries if each["latenciesMs"][name]["count"]]
        if said:
            medians = sorted(each["p50"] for each in said)
            found[name] = (medians[len(medians) // 2], max(each["p99"] for each in said))
    return found
