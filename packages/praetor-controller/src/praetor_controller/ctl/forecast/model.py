# SPDX-License-Identifier: Apache-2.0
"""A model of the cluster for forecasts: it carries plans out, and every device that gets a template becomes ready.

Pure: the time is passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, assert_never

from attrs import evolve

from praetor_api.conditions import ConditionType
from praetor_api.kube.client.patches import apply_json_patch, apply_merge_patch
from praetor_api.kube.client.resource import Key
from praetor_api.kube.codec import format_time
from praetor_api.protocol import PendingReason
from praetor_controller.ctl.forecast.refusals import refusals
from praetor_controller.ctl.forecast.warnings import covered_by, spec_warnings
from praetor_controller.ctl.inventory import Inventory
from praetor_controller.ctl.output import names_of
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.model.approvals import unapproved
from praetor_controller.model.kinds import missing_text
from praetor_controller.model.manifests import process_manifest, process_patch
from praetor_controller.model.overrides import PATH
from praetor_controller.model.projection import project_deployment, project_process, project_template
from praetor_controller.model.revisions import project_revision, revision_changes
from praetor_controller.model.rows import DeviceRow, ProcessRow
from praetor_controller.model.wave_record import WaveRecord
from praetor_controller.rollout.availability import Availability, availability_of
from praetor_controller.rollout.budgets import domain_of
from praetor_controller.rollout.neighbours import overlap
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import GatewayState, Plan
from praetor_controller.rollout.status import status_patch

_DOWN = (Availability.UNAVAILABLE, Availability.SILENT_AFTER_OFFER, Availability.SILENT)
_TRUE = (
    ConditionType.AGENT_CONNECTED,
    ConditionType.SPEC_OBSERVED,
    ConditionType.PROCESS_STARTED,
    ConditionType.HEALTHY,
)


class ForecastModel:
    """The objects of a namespace and one deployment that is rolled out there."""

    def __init__(
        self, inventory: Inventory, processes: Sequence[dict[str, Any]], deployment: Mapping[str, Any], now: datetime
    ) -> None:
        self.now = now.replace(microsecond=0)  # the API keeps whole seconds
        self.deployment = inventory.with_stored_template(project_deployment(deployment))
        self._raw_deployment = deployment
        self._raw = {Key.of(obj): obj for obj in processes}
        self._rows = dict(inventory.processes)
        self._had_process = {row.device for row in self._rows.values() if row.owner == self.deployment.uid}
        self._updated: set[Key] = set()
        self._inventory = evolve(inventory, processes=self._rows, revisions=self._revisions(inventory))

    def _revisions(self, inventory: Inventory) -> Any:
        """Return the history with the deployment's template as the newest: its rollout begins now."""
        mine = [row for row in inventory.revisions if row.owner == self.deployment.uid]
        changes = revision_changes(self.deployment, mine, self.now)
        if changes.create is not None:
            return (*inventory.revisions, project_revision(changes.create))
        if changes.rewrite is not None and "revision" in changes.rewrite[1]:
            again = evolve(changes.rewrite[0], started_at=self.now.timestamp())
            return (*(row for row in inventory.revisions if row is not changes.rewrite[0]), again)
        return inventory.revisions

    def plan(self) -> Plan:
        """Return what the controller would do now, and store the status that it would write."""
        planned = self._inventory.plan(self.deployment, self.now, GatewayState.JUDGING)
        if planned.wave_record is not None:
            self._remember(planned.wave_record)
        if planned.status is not None:
            patch = status_patch(self.deployment.status.raw, planned.status)
            status = apply_merge_patch(self.deployment.status.raw, patch)
            self._raw_deployment = {**self._raw_deployment, "status": status}
            self.deployment = self._inventory.with_stored_template(project_deployment(self._raw_deployment))
        return planned

    def warnings(self) -> tuple[str, ...]:
        """Return what in the deployment is probably a mistake; empty when it cannot be acted on."""
        try:
            devices = self._inventory.devices.values()
            found = [*spec_warnings(self.deployment, devices)]
            if lacking := missing_text(self.deployment, self._inventory.missing):
                found.append(f"{ConditionType.KINDS_MISSING}: {lacking}")
            others = (row for row in self._inventory.deployments.values() if row.name != self.deployment.name)
            if same := overlap(self.deployment, others, lambda: devices):
                found.append(f"{ConditionType.OVERLAP}: {same}")
            found += self._refused()
        except InvalidDeployment:
            return ()
        held = self._inventory.plan(self.deployment, self.now, GatewayState.JUDGING).held_removals
        if held:
            names = names_of([each.process.device or each.process.name for each in held])
            found.append(
                f"{ReasonCode.REMOVAL_HELD}({len(held)}): {names}: more devices no longer match than may leave at "
                "once, or only their facts do not; they keep their processes until praetorctl rollout approve --removal"
            )
        return tuple(found)

    def _refused(self) -> Sequence[str]:
        """Return what devices would refuse of what they get, each once with the devices, by what their agents say."""
        found: dict[str, list[str]] = {}
        for row in self._matching():
            for why in refusals(self.deployment.template.resolved(row.labels).spec, row.facts):
                found.setdefault(why, []).append(row.name)
        return [f"{PendingReason.NOT_ALLOWED}({len(names)}): {names_of(names)}: {why}" for why, names in found.items()]

    def overrides(self) -> dict[str, int]:
        """Return how many of the devices that match each override of the template applies to."""
        covered = covered_by(self.deployment.template, self._matching())
        return {f"{PATH}[{index}]": len(devices) for index, devices in covered.items()}

    def spec_changes(self, before: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Return what devices get by *before*, a deployment's spec, and now: each pair once, as process specs.

        That of the templates alone where no device matches.
        """
        name, template = self.deployment.name, self.deployment.template
        old = project_template(name, *unapproved(before.get("template") or {}, before.get("overrides") or ()))
        template = project_template(name, *unapproved(template.raw, template.overrides))
        labels = [row.labels for row in self._matching()] or [{}]
        pairs = [(old.resolved(each), template.resolved(each)) for each in labels]
        return [*{(one.spec_hash, two.spec_hash): (one.spec, two.spec) for one, two in pairs}.values()]

    def _matching(self) -> list[DeviceRow]:
        return [row for row in self._inventory.devices.values() if self.deployment.selects(row)]

    def _remember(self, record: WaveRecord) -> None:
        uid, revision = self.deployment.uid, self.deployment.template.revision
        rows = [
            evolve(row, waves=record) if (row.owner, row.template.revision) == (uid, revision) else row
            for row in self._inventory.revisions
        ]
        self._inventory = evolve(self._inventory, revisions=tuple(rows))

    def next_writes(self) -> Sequence[Action]:
        """Return what the controller would write now; the model stays as it is."""
        return self._inventory.plan(self.deployment, self.now, GatewayState.JUDGING).actions

    def carry_out(self, actions: Sequence[Action]) -> None:
        """Apply *actions*, as the API does."""
        for action in actions:
            match action:
                case Create():
                    body = process_manifest(self.deployment, action, self.now)
                    key = Key(self.deployment.namespace, action.name)
                    self._store(key, _created(body, self.now))
                    self._updated.add(key)
                case Update(process):
                    key = Key(process.namespace, process.name)
                    patched = apply_json_patch(self._raw[key], process_patch(self.deployment, action, self.now))
                    if action.spec:
                        patched["metadata"]["generation"] = patched["metadata"].get("generation", 0) + 1
                        self._updated.add(key)
                    self._store(key, patched)
                case Delete(process):
                    self._forget(Key(process.namespace, process.name))
                case _:
                    assert_never(action)

    def settle(self) -> None:
        """Make every connected device ready with its new template, and remove what is terminating."""
        for key in self._updated:
            device = self._inventory.devices.get(self._rows[key].device)
            if device is not None and device.connected:
                self._store(key, {**self._raw[key], "status": _ready(self._raw[key], self.now)})
        self._updated.clear()
        for key in [key for key, row in self._rows.items() if row.terminating]:
            self._forget(key)

    def down(self) -> list[DeviceRow]:
        """Return the selected devices that had a process at the beginning and have none that is available now."""
        min_ready_s, at = float(self.deployment.policy.min_ready_seconds), self.now.timestamp()
        found = []
        for row in self._rows.values():
            device = self._inventory.devices.get(row.device)
            mine = row.owner == self.deployment.uid and row.device in self._had_process
            if mine and device is not None and availability_of(row, device, min_ready_s, at) in _DOWN:
                found.append(device)
        return found

    def down_by_domain(self) -> Counter[tuple[int, str]]:
        """Return how many are down in each failure domain, by the number of its budget and its labels."""
        counts: Counter[tuple[int, str]] = Counter()
        for device in self.down():
            for number, budget in enumerate(self.deployment.policy.update_strategy.rolling_update.budgets):
                counts[number, domain_of(budget, device)] += 1
        return counts

    def _store(self, key: Key, obj: dict[str, Any]) -> None:
        self._raw[key] = obj
        self._rows[key] = project_process(obj)

    def _forget(self, key: Key) -> ProcessRow:
        del self._raw[key]
        self._updated.discard(key)
        return self._rows.pop(key)


def _created(body: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    name = body["metadata"]["name"]
    stored = {"uid": f"forecast-{name}", "resourceVersion": "1", "generation": 1, "creationTimestamp": format_time(now)}
    return {**body, "metadata": {**body["metadata"], **stored}}


def _ready(process: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    generation = process["metadata"].get("generation", 1)
    at = format_time(now)
    conditions = [{"type": type_, "status": "True", "reason": "Forecast", "lastTransitionTime": at} for type_ in _TRUE]
    return {"phase": "Running", "observedGeneration": generation, "conditions": conditions}
