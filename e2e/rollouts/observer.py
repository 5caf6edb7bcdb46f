# SPDX-License-Identifier: Apache-2.0
"""Evaluate what a watch showed of a rollout, by rules that share nothing with the programs. Pure.

A device is *disrupted* from the moment when the spec of its process is written while it is available, until its
process is available again. That is what budgets bound. A device that goes down by itself is unavailable, but not
disrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from attrs import field, frozen, mutable

from e2e.stack.kube import Object, conditions
from e2e.stack.recorder import Frame
from e2e.suite.readiness import READY_CONDITIONS, is_ready
from praetor_api.annotations import DEPLOYMENT_LABEL, OFFERED_AT_ANNOTATION, REVISION_ANNOTATION, WAVE_ANNOTATION

Labels = Mapping[str, Mapping[str, str]]


class SpecWrite(NamedTuple):
    """The spec of a device's process was written; *created* when it had none before."""

    at: float
    device: str
    revision: str
    wave: str
    created: bool


class Sample(NamedTuple):
    """What held from *at* on, in seconds of wall time: devices by how they are, and how many have each revision."""

    at: float
    unavailable: frozenset[str]
    disrupted: frozenset[str]
    revisions: Mapping[str, int]


@frozen(kw_only=True)
class Timeline:
    """A rollout as it was observed. *began* is when the record did; *deleted* are the names of processes."""

    began: float
    samples: Sequence[Sample]
    writes: Sequence[SpecWrite]
    deleted: Sequence[str]

    def __str__(self) -> str:
        """Return what was written and which devices were down, a line each, in the order of time."""
        lines = [(each.at, f"{each.device} got {each.revision} in {each.wave or 'no wave'}") for each in self.writes]
        lines += [(at, f"disrupted: {sorted(hit)}, down: {sorted(down)}") for at, down, hit, _ in self.samples]
        return "\n".join(f"{at - self.began:8.3f} s {text}" for at, text in sorted(lines))

    def worst(self, chosen: Callable[[Sample], Iterable[str]] | None = None) -> int:
        """Return the greatest number of devices that were disrupted at a time, or of those that are *chosen*."""
        return max((len(list((chosen or _disrupted)(sample))) for sample in self.samples), default=0)

    def worst_by_domain(self, keys: Sequence[str], labels: Labels) -> dict[str, int]:
        """Return for each failure domain, `key=value,…`, how many of its devices were disrupted at a time at most."""
        worst: Counter[str] = Counter()
        for sample in self.samples:
            worst |= Counter(filter(None, (domain(keys, labels.get(name, {})) for name in sample.disrupted)))
        return dict(worst)

    def writes_of(self, revision: str) -> list[SpecWrite]:
        """Return the writes of *revision* in their order."""
        return [write for write in self.writes if write.revision == revision]


def domain(keys: Sequence[str], labels: Mapping[str, str]) -> str:
    """Return the failure domain of a device, empty when it lacks one of the labels."""
    return ",".join(f"{key}={labels[key]}" for key in keys) if all(key in labels for key in keys) else ""


def observe(frames: Sequence[Frame], deployment: str, *, listed: int, min_ready_s: float) -> Timeline:
    """Return what *frames* show of the processes of *deployment*.

    The first *listed* are the world at the beginning. Their wall clock is the one of the times in the objects.
    """
    view = _ObservedProcesses(min_ready_s)
    began = frames[0].wall if frames else 0.0
    samples: list[Sample] = []
    for number, frame in enumerate(frames):
        samples += view.pass_time(frame.wall)
        mine = frame.object["metadata"].get("labels", {}).get(DEPLOYMENT_LABEL) == deployment
        if mine:
            view.apply(frame.type, frame.object, frame.wall, initial=number < listed)
        if mine and number >= max(0, listed - 1):
            samples.append(view.sample(frame.wall))
    return Timeline(began=began, samples=samples, writes=view.writes, deleted=view.deleted)


def together(*timelines: Timeline) -> Timeline:
    """Return the timelines of several deployments in one record as one: a device is down when any has it down."""
    latest = [Sample(0.0, frozenset(), frozenset(), {}) for _ in timelines]
    samples: list[Sample] = []
    every = [(sample.at, number, sample) for number, each in enumerate(timelines) for sample in each.samples]
    for at, number, sample in sorted(every, key=lambda item: item[0]):
        latest[number] = sample
        unavailable = frozenset[str]().union(*(each.unavailable for each in latest))
        disrupted = frozenset[str]().union(*(each.disrupted for each in latest))
        samples.append(Sample(at, unavailable, disrupted, sum((Counter(each.revisions) for each in latest), Counter())))
    return Timeline(
        began=min(each.began for each in timelines),
        samples=samples,
        writes=sorted((write for each in timelines for write in each.writes), key=lambda write: write.at),
        deleted=[device for each in timelines for device in each.deleted],
    )


@mutable
class _ObservedProcesses:
    """The processes as they are now."""

    min_ready_s: float
    generation: dict[str, int] = field(factory=dict)
    revision: dict[str, str] = field(factory=dict)
    unavailable: set[str] = field(factory=set)
    disrupted: set[str] = field(factory=set)
    ripening: dict[str, float] = field(factory=dict)  # ready, and available from then on
    written: dict[str, float] = field(factory=dict)  # when the spec was
    writes: list[SpecWrite] = field(factory=list)
    deleted: list[str] = field(factory=list)

    def pass_time(self, now: float) -> Iterator[Sample]:
        """Yield what changed until *now* by time alone."""
        for device, at in sorted(self.ripening.items(), key=lambda item: item[1]):
            if at <= now:
                self._available(device)
                yield self.sample(at)

    def apply(self, kind: str, process: Object, now: float, *, initial: bool) -> None:
        """Apply one event."""
        device, generation = process["spec"]["deviceRef"]["name"], process["metadata"]["generation"]
        if kind == "DELETED":
            self.deleted.append(process["metadata"]["name"])
            self._forget(device)
            return
        known = self.generation.get(device)
        if known != generation and not initial:
            self._spec_written(device, process, now, created=known is None)
        self.generation[device] = generation
        self.revision[device] = _annotation(process, REVISION_ANNOTATION)
        self.ripening.pop(device, None)
        ripe_at = available_at(process, self.min_ready_s, self.written.get(device))
        if ripe_at is not None and ripe_at <= now:
            self._available(device)
            return
        self.unavailable.add(device)
        if ripe_at is not None:
            self.ripening[device] = ripe_at

    def sample(self, at: float) -> Sample:
        return Sample(at, frozenset(self.unavailable), frozenset(self.disrupted), Counter(self.revision.values()))

    def _spec_written(self, device: str, process: Object, now: float, *, created: bool) -> None:
        revision, wave = (_annotation(process, name) for name in (REVISION_ANNOTATION, WAVE_ANNOTATION))
        self.written[device] = now
        self.writes.append(SpecWrite(now, device, revision, wave, created))
        if not created and device not in self.unavailable:
            self.disrupted.add(device)

    def _available(self, device: str) -> None:
        self.ripening.pop(device, None)
        self.unavailable.discard(device)
        self.disrupted.discard(device)

    def _forget(self, device: str) -> None:
        self._available(device)
        self.generation.pop(device, None)
        self.revision.pop(device, None)
        self.written.pop(device, None)


def available_at(process: Mapping[str, Any], min_ready_s: float, written_at: float | None = None) -> float | None:
    """Return since when the process is available, or from when it will be; None while it is not ready.

    *written_at* is when its spec was seen to be written, which may be late; the stamp of the offer is a second ahead
    for each offer that follows another one in the same second. What is earlier counts.
    """
    if not is_ready(process) or "deletionTimestamp" in process["metadata"]:
        return None
    times = [conditions(process)[kind]["lastTransitionTime"] for kind in READY_CONDITIONS]
    offered_at = _annotation(process, OFFERED_AT_ANNOTATION)
    offers = [*([_epoch(offered_at)] if offered_at else []), *([] if written_at is None else [written_at])]
    return max(min(offers, default=0.0), *map(_epoch, times)) + min_ready_s


def _annotation(process: Mapping[str, Any], name: str) -> str:
    return str((process["metadata"].get("annotations") or {}).get(name, ""))


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _disrupted(sample: Sample) -> frozenset[str]:
    return sample.disrupted
