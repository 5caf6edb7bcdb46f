# SPDX-License-Identifier: Apache-2.0
"""Which devices were ever not connected, by the apiserver's watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from e2e.stack.kube import PROCESSES, SWITCHES, Kube, condition
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack


@contextmanager
def disconnections(stack: Stack, kube: Kube) -> Iterator[Callable[[], set[str]]]:
    """Record switches and processes; yield a function that returns which devices were disconnected meanwhile."""
    kubeconfig = stack.cluster.kubeconfig
    with Recorder(kubeconfig, kube.path(SWITCHES)) as switches, Recorder(kubeconfig, kube.path(PROCESSES)) as processes:
        yield lambda: {
            frame.object["spec"].get("deviceRef", frame.object["metadata"])["name"]
            for frame in (*switches.frames, *processes.frames)
            if condition(frame.object, "AgentConnected") != "True"
        }


def pass_time(stack: Stack, *, seconds: int) -> None:
    """Let time pass, held by a watch that the apiserver ends after so long."""
    with stack.kube("default").api.watch("/api/v1/namespaces/default/events", timeout_s=seconds) as frames:
        for _ in frames:
            continue
