# SPDX-License-Identifier: Apache-2.0
"""Explains the state of devices and deployments with the controller's own planner. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import evolve, frozen

from praetor_api.conditions import ConditionType
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.ctl.inventory import Inventory
from praetor_controller.ctl.output import (
    Column,
    counted,
    fitted_lines,
    for_people,
    names_of,
    painted,
    screen_width,
    structured,
    table,
)
from praetor_controller.model.actions import Create, Delete, Update
from praetor_controller.model.overrides import PATH
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Plan

MEANINGS: Mapping[str, str] = {
    "UpToDate": "runs the template and is available",
    "Creating": "is being given its first process",
    "Updating": "is being given the template, or has not reported it yet",
    "NotReady": "has the template and is not ready yet",
    "BecomingAvailable": "is ready, and waits for minReadySeconds, or until its device has proven the version",
    "Failing": "has the template, and its process fails",
    "SilentSinceOffer": "went silent after it was offered a template, and counts as down",
    "FleetSilent": "waits, because devices with the new revision fell silent together with many others",
    "OfflineSince": "was offline before the offer; it is deferred and costs nothing",
    "NeverConnected": "has never connected; it is deferred and costs nothing",
    "InMaintenance": "is in maintenance, and not touched",
    "AgentTooOld": "keeps what it has, because its agent does not know a feature; upgrade it",
    "ReferenceMissing": "keeps what it has, because it lacks a value that env or a file refers to; it costs nothing",
    "ReferenceRefused": "keeps what it has, because the gateway gives no values that it refers to; it costs nothing",
    "OverrideInvalid": "keeps what it has, because what spec.overrides make of the template cannot run",
    "RequirementNotMet": "keeps what it has, because it does not meet spec.requirements; it costs nothing",
    "FactsNotReported": "keeps what it has, because its agent has not reported the facts that decide; it costs nothing",
    "UpdateHeld": "takes no change, because updates are held on the device; it is deferred and costs nothing",
    "Paused": "is not touched while the rollout is paused or stopped",
    "BudgetExhausted": "waits, because no more devices may be unavailable",
    "WaitingForWave": "waits for the waves before its own",
    "Soaking": "waits until the wave before has been watched for long enough",
    "AwaitingApproval": "waits for the approval of its wave",
    "WaveMatchesNothing": "waits, because no device matches a wave before its own",
    "WaveHasNoEligibleDevice": "waits, because no device of a wave before its own can show the revision now",
    "WaveUnchanged": "waits, because the overrides change nothing for the devices of a wave before its own",
    "WaveLostItsDevices": "waits, because a wave before its own lost its devices before it was passed",
    "WaveFailed": "waits, because devices of a wave before its own failed and left",
    "BudgetMatchesNothing": "waits, because no device has the labels of a budget",
    "WaitingForDeletion": "waits until its process is deleted, as OnDelete asks",
    "Terminating": "waits until an older process is gone",
    "NameTaken": "waits for a name that a process of another owner, or of none, has",
    "CannotConverge": "cannot get the template: the API refuses it",
    "WaitingForRemoval": "waits until the process of a deployment that no longer matches it is gone",
    "Removing": "no longer matches; its process is being removed",
    "RemovalHeld": "no longer matches, and too many do so at once, or only its facts do not",
    "GatewayUnavailable": "waits until a gateway judges again which devices are connected",
}
_COMMANDS = {
    ReasonCode.AWAITING_APPROVAL: "praetorctl rollout approve {}",
    ReasonCode.WAVE_UNCHANGED: "praetorctl rollout approve {}",
    ReasonCode.WAVE_LOST_ITS_DEVICES: "praetorctl rollout approve {}",
    ReasonCode.WAVE_FAILED: "praetorctl rollout approve {}",
    ReasonCode.REMOVAL_HELD: "praetorctl rollout approve {} --removal",
}
_COLOURS = {
    ReasonCode.UP_TO_DATE: "green",
    ReasonCode.FAILING: "red",
    ReasonCode.SILENT_SINCE_OFFER: "red",
    ReasonCode.NAME_TAKEN: "red",
    ReasonCode.CANNOT_CONVERGE: "red",
    ReasonCode.OVERRIDE_INVALID: "red",
}

_FOREIGN = "spec.deviceRef names another namespace, so nothing runs it; name a device of the process's own"
_RESTART = "praetorctl rollout restart {}"
_MEANING_OLDER = "runs with older values, until its process starts again"
_OLDER = f"{ConditionType.VALUES_OUTDATED}: it {_MEANING_OLDER}"


def command_for(code: ReasonCode, deployment: str) -> list[str]:
    """Return the command that ends what *code* waits for, as an indented line, if there is one for a user to type."""
    return [f"    {_COMMANDS[code].format(deployment)}"] if code in _COMMANDS else []


@frozen(kw_only=True)
class Explanation:
    """A deployment and its plan now. *fresh*: the controller has observed its present spec.

    *outdated* are devices whose process runs with older values than it would be started with.
    """

    deployment: DeploymentRow
    plan: Plan
    fresh: bool
    outdated: Sequence[str] = ()


def explain_deployment(inventory: Inventory, name: str, now: datetime) -> Explanation:
    """Return the plan of the deployment *name*; CommandFailed when there is none."""
    deployment = inventory.deployments.get(name)
    if deployment is None:
        known = ", ".join(inventory.deployments) or "none"
        raise CommandFailed(f"not found: there is no deployment {name}; there are: {known}")
    observed = deployment.status.raw.get("observedGeneration") or 0
    planned = inventory.plan(deployment, now)
    said = {row.device: inventory.pending.get(row.name, "") for row in inventory.processes_of(deployment)}
    reasons = {
        device: reason if reason.detail else evolve(reason, detail=said.get(device, ""))
        for device, reason in planned.reasons.items()
    }
    planned = evolve(planned, reasons=reasons)
    outdated = sorted(row.device for row in inventory.processes_of(deployment) if row.name in inventory.outdated)
    fresh = observed >= deployment.generation
    return Explanation(deployment=deployment, plan=planned, fresh=fresh, outdated=outdated)


def deployment_text(explanation: Explanation, output: str, max_devices: int) -> str:
    """Return what is printed about a deployment, with at most *max_devices* devices for each reason in a table."""
    if not for_people(output):
        return structured(_deployment_data(explanation), output)
    status, name = explanation.plan.status, explanation.deployment.name
    if status is None:
        return f"{name}: is being deleted"
    lines = [f"{name}: {each.type}={each.status} {each.reason}: {each.message}" for each in status.conditions]
    if not explanation.fresh:
        lines.append(f"{name}: the controller has not observed its present spec yet; check that it runs")
    lines.append(f"{name}: the controller's next writes: {_writes(explanation.plan)}")
    groups = by_reason(_all_reasons(explanation.plan))
    for code in sorted(groups, key=lambda code: _COLOURS.get(code) != "red"):  # failures come first
        devices = groups[code]
        head = painted(code, _COLOURS.get(code, ""))
        details = {detail for _, detail in devices}
        shared = details.pop() if len(details) == 1 and len(devices) > 1 else ""
        why = f" ({shared})" if shared else ""
        lines.append(f"{head}: {counted(len(devices), 'device')}: {MEANINGS[code]}{why}")
        shown = [
            f"{device} ({detail})" if detail and not shared else device for device, detail in devices[:max_devices]
        ]
        rest = [f"and {len(devices) - max_devices} more"] if len(devices) > max_devices else []
        lines.append("    " + ", ".join([*shown, *rest]))
        lines += command_for(code, name)
    if explanation.outdated:
        count = counted(len(explanation.outdated), "device")
        lines.append(f"{ConditionType.VALUES_OUTDATED}: {count}: {_MEANING_OLDER}")
        lines += [f"    {names_of(explanation.outdated)}", f"    {_RESTART.format(name)}"]
    return fitted_lines(lines, output)


def _all_reasons(planned: Plan) -> dict[str, Reason]:
    """Return the reasons of the devices that match, and of those that no longer do and keep a process."""
    left = {each.process.device or each.process.name: each.reason for each in planned.removals}
    return left | dict(planned.reasons)


def by_reason(reasons: Mapping[str, Reason]) -> dict[ReasonCode, list[tuple[str, str]]]:
    """Return the devices of each reason with their details, the most frequent reason first."""
    groups: dict[ReasonCode, list[tuple[str, str]]] = {}
    for device, reason in sorted(reasons.items()):
        groups.setdefault(reason.code, []).append((device, reason.detail))
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))


def _writes(planned: Plan) -> str:
    kinds = ((Create, "create"), (Update, "update"), (Delete, "delete"))
    counts = [(sum(isinstance(action, kind) for action in planned.actions), word) for kind, word in kinds]
    return ", ".join(f"{word} {count}" for count, word in counts if count) or "none"


def _deployment_data(explanation: Explanation) -> dict[str, Any]:
    status = explanation.plan.status
    conditions = status.conditions if status is not None else ()
    return {
        "deployment": explanation.deployment.name,
        "observed": explanation.fresh,
        "conditions": [
            {"type": each.type, "status": each.status.value, "reason": each.reason, "message": each.message}
            for each in conditions
        ],
        "reasons": [
            {
                "reason": code.value,
                "count": len(devices),
                "devices": [{"device": device, "detail": detail} for device, detail in devices],
            }
            for code, devices in by_reason(_all_reasons(explanation.plan)).items()
        ],
        "valuesOutdated": [*explanation.outdated],
    }


@frozen(kw_only=True)
class DeviceReason:
    """The reason of a device with one deployment; *process* and *revision* are empty when it has none.

    *revision* is what it was offered last, *running* what it runs, which is empty when that is not known. *overrides*
    are those of the deployment that apply to the device. *outdated*: its process runs with older values than it would
    be started with.
    """

    deployment: str
    reason: Reason
    process: str
    revision: str
    running: str
    wanted: str
    overrides: Sequence[str] = ()
    outdated: bool = False


def explain_device(inventory: Inventory, name: str, now: datetime, deployment: str | None = None) -> list[DeviceReason]:
    """Return the reasons of a device, one for each deployment that selects it; CommandFailed when it is unknown."""
    if name not in inventory.devices:
        raise CommandFailed(f"not found: there is no device {name}; see: praetorctl devices")
    found = []
    for each in [deployment] if deployment else list(inventory.deployments):
        explanation = explain_deployment(inventory, each, now)
        reason = _all_reasons(explanation.plan).get(name)
        if reason is not None:
            found.append(_device_reason(inventory, explanation.deployment, name, reason))
    return found


def _device_reason(inventory: Inventory, deployment: DeploymentRow, device: str, reason: Reason) -> DeviceReason:
    process = next((row for row in inventory.processes_on(device) if row.owner == deployment.uid), None)
    return DeviceReason(
        deployment=deployment.name,
        reason=reason,
        process=process.name if process else "",
        revision=process.revision if process else "",
        running=inventory.running_revision(process) if process else "",
        wanted=deployment.template.revision,
        overrides=[f"{PATH}[{each}]" for each in deployment.template.applying(inventory.devices[device].labels)],
        outdated=process is not None and process.name in inventory.outdated,
    )


def device_text(device: str, found: Sequence[DeviceReason], output: str, refused: str = "", absent: str = "") -> str:
    """Return what is printed about a device.

    *refused* is why the gateway ignores its object, *absent* why it was never heard.
    """
    if not for_people(output):
        data = {"device": device, "deployments": [_device_data(each) for each in found]}
        more = {"refused": refused, "absent": absent}
        return structured(data | {name: why for name, why in more.items() if why}, output)
    lines = [refusal_text(device, refused, output)] if refused else []
    lines += [f"{device}: {absent}"] if absent else []
    if not found:
        return fitted_lines([*lines, f"{device}: no deployment selects it"], output)
    columns = ("DEPLOYMENT", "REASON", Column("PROCESS", leaves=1), "RUNS", "OFFERED", "WANTED")
    rows = [
        (
            each.deployment,
            (each.reason.code.value, _COLOURS.get(each.reason.code, "")),
            each.process or "-",
            each.running or "-",
            each.revision or "-",
            each.wanted,
        )
        for each in found
    ]
    sentences = []
    for each in found:
        detail = f" ({each.reason.detail})" if each.reason.detail else ""
        sentences.append(f"{each.deployment}: {MEANINGS[each.reason.code]}{detail}")
        sentences += command_for(each.reason.code, each.deployment)
        sentences += [f"    it gets the template with {' and '.join(each.overrides)}"] if each.overrides else []
        if each.outdated:
            sentences += [f"    {_OLDER}", f"    {_RESTART.format(each.deployment)}"]
    text = [fitted_lines(lines, output)] if lines else []
    shown = table(columns, rows, width=screen_width(output))
    return "\n".join([*text, shown, fitted_lines(sentences, output)])


def process_text(inventory: Inventory, process: ProcessRow, output: str, owner: str = "no deployment") -> str:
    """Return what is printed about a process of its own, or of a deployment that has no reason for its device."""
    found, outdated = inventory.reported.get(process.name), process.name in inventory.outdated
    if not for_people(output):
        data = {"process": process.name, "device": process.device, "connected": process.connected}
        return structured(data | {"reported": found.words if found else None, "valuesOutdated": outdated}, output)
    said = found.words if found else "its device has not reported it"
    lost = "; its agent is not connected" if process.connected is False else ""
    lines = [f"{process.name}: on {process.device}, of {owner}: {said}{lost}"]
    lines += [f"    {_OLDER}: raise spec.restartedAt"] if outdated else []
    return fitted_lines(lines, output)


def undeclared_text(rows: Sequence[ProcessRow], absent: Mapping[str, str], output: str) -> str:
    """Return what is printed about processes of a device that no object of their namespace declares."""
    found = [
        {"process": row.name, "device": row.device, "connected": row.connected, "absent": absent.get(row.name)}
        for row in rows
    ]
    if not for_people(output):
        return structured({"processes": found}, output)
    words = {True: "its agent is connected", False: "its agent is not connected any more", None: "no gateway says more"}
    lines = (
        f"{row.name}: on {row.device}, which no object declares; {absent.get(row.name, words[row.connected])}"
        if row.device
        else f"{row.name}: {absent.get(row.name, _FOREIGN)}"
        for row in rows
    )
    return fitted_lines(lines, output)


def refusal_text(name: str, why: str, output: str) -> str:
    """Return what is printed about an object that the gateway ignores."""
    if not for_people(output):
        return structured({"name": name, "refused": why}, output)
    return fitted_lines([f"{name}: {painted('ignored', 'red')}, {why}"], output)


def _device_data(each: DeviceReason) -> dict[str, Any]:
    return {
        "deployment": each.deployment,
        "reason": each.reason.code.value,
        "detail": each.reason.detail,
        "process": each.process,
        "revision": each.revision,
        "running": each.running,
        "wanted": each.wanted,
        "overrides": [*each.overrides],
        "valuesOutdated": each.outdated,
    }
