# SPDX-License-Identifier: Apache-2.0
"""The controller's metrics. Label values come from closed sets or from names of deployments."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.metrics import ProgramMetrics
from praetor_controller.__about__ import __version__
from praetor_controller.rollout.reasons import ReasonCode

_ROLLOUT_BUCKETS_S = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 259200)


class Metrics:
    """The controller's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.program = ProgramMetrics(self.registry, "praetor_controller", __version__)
        self.reconciles = Counter(
            "praetor_controller_reconciles",
            "Reconciles by result: done, failed, crashed, not_leading.",
            ["result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "praetor_controller_reconcile_seconds", "How long a reconcile took.", registry=self.registry
        )
        self.plan_seconds = Histogram(
            "praetor_controller_plan_seconds", "How long one pass of the planner took.", registry=self.registry
        )
        self.passes = Counter(
            "praetor_controller_passes",
            "Passes over a deployment: of the whole, or of what changed.",
            ["devices"],
            registry=self.registry,
        )
        self.account_errors = Counter(
            "praetor_controller_account_errors",
            "Incremental statuses that a pass over all devices did not confirm; 0 unless there is a bug.",
            registry=self.registry,
        )
        self.queue = Gauge("praetor_controller_queue_depth", "Deployments in the workqueue.", registry=self.registry)
        self.queue_oldest = Gauge(
            "praetor_controller_queue_oldest_seconds",
            "For how long the first deployment in the workqueue has waited for a worker.",
            registry=self.registry,
        )
        self.queued = Histogram(
            "praetor_controller_queue_duration_seconds",
            "How long a deployment waited in the workqueue for a worker.",
            registry=self.registry,
        )
        self.rollouts = Histogram(
            "praetor_controller_rollout_duration_seconds",
            "From a changed template until all its devices had it; rollouts that were replaced or undone are left out.",
            buckets=_ROLLOUT_BUCKETS_S,
            registry=self.registry,
        )
        self.behind = Gauge(
            "praetor_controller_kinds_behind",
            "Kinds whose watch is interrupted at present. Nothing is decided meanwhile.",
            registry=self.registry,
        )
        self.writes = Counter(
            "praetor_controller_writes", "Writes of processes by verb and result.", ["verb", "result"],
            registry=self.registry,
        )  # fmt: skip
        self.status_writes = Counter(
            "praetor_controller_status_writes", "Writes of deployments' statuses.", registry=self.registry
        )
        self.recorded = Counter(
            "praetor_controller_recorded_decisions",
            "Decisions for --record: written, or lost because it was behind, unwritable, too_large or crashed.",
            ["result"],
            registry=self.registry,
        )
        self.recorded_bytes = Counter(
            "praetor_controller_recorded_bytes", "Bytes written for --record.", registry=self.registry
        )
        self.leader = Gauge("praetor_controller_leader", "1 while this process leads.", registry=self.registry)
        self.gateway = Gauge(
            "praetor_controller_gateway_judging",
            "1 while a gateway renews its Lease, 0 while none does, NaN without a Lease to read.",
            registry=self.registry,
        )
        self.devices = Gauge(
            "praetor_controller_devices", "Devices of a deployment by reason.", ["namespace", "deployment", "reason"],
            registry=self.registry,
        )  # fmt: skip

    def show_devices(self, key: Key, reasons: Mapping[ReasonCode, int]) -> None:
        """Show the number of devices of a deployment by reason."""
        for code in ReasonCode:
            self.devices.labels(key.namespace, key.name, code.value).set(reasons.get(code, 0))

    def forget_devices(self, key: Key) -> None:
        """Remove the series of a deployment that is gone."""
        for code in ReasonCode:
            self.devices.remove(key.namespace, key.name, code.value)
