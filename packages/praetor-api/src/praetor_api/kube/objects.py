# SPDX-License-Identifier: Apache-2.0
"""The custom resources of azure.com/v1alpha1 as frozen attrs classes.

They embed the spec dataclasses that devices receive; nothing is defined twice.
They know nothing of JSON: `praetor_api.kube.codec` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from attrs import field, frozen

from praetor_api.constraints import Constraint
from praetor_api.spec import NAME_PATTERN, Artifact, DeviceKind, DeviceProcessSpec, Execution, ProcessSpec

__all__ = [
    "API_VERSION",
    "ATOMIC",
    "DEVICE_PLURALS",
    "FACT_PATTERN",
    "GROUP",
    "INT_OR_STRING",
    "LABEL_KEY_PATTERN",
    "LABEL_VALUE_PATTERN",
    "MAP_BY_TYPE",
    "PERCENT_PATTERN",
    "VERSION",
    "VERSION_PATTERN",
    "Annotations",
    "Approval",
    "Budget",
    "Condition",
    "ConditionStatus",
    "Conditions",
    "DeviceProcess",
    "DeviceProcessDeployment",
    "DeviceProcessDeploymentSpec",
    "DeviceProcessDeploymentStatus",
    "DeviceProcessStatus",
    "FactOperator",
    "FactRequirement",
    "FactSelector",
    "FactSelectorRequirement",
    "FactValue",
    "FailureAction",
    "FailurePolicy",
    "LabelSelector",
    "LabelSelectorRequirement",
    "LabelValue",
    "Labels",
    "Maintenance",
    "NetworkSwitch",
    "NetworkSwitchSpec",
    "NetworkSwitchStatus",
    "ObjectMeta",
    "ObservedGeneration",
    "Override",
    "OwnerReference",
    "Phase",
    "ProcessCounts",
    "ProcessTemplate",
    "Reported",
    "RollingUpdate",
    "SelectorOperator",
    "StrategyType",
    "TemplateMeta",
    "UpdateStrategy",
    "Wave",
    "int_or_percent",
]

GROUP = "azure.com"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
PERCENT_PATTERN = r"^(100|[0-9]{1,2})%$"
FACT_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$"
DEVICE_PLURALS: Mapping[DeviceKind, str] = {
    DeviceKind.NETWORK_SWITCH: "networkswitches",
    DeviceKind.BMC: "bmcs",
    DeviceKind.DPU: "dpus",
    DeviceKind.SERVER: "servers",
    DeviceKind.SOC: "socs",
}
"""The kinds of devices, by the names of their objects in URLs. All are described by one class, NetworkSwitch."""
VERSION_PATTERN = r"^[vV]?[0-9]"
"""How a text begins that can be compared as a version."""
MAP_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
ATOMIC = {"x-kubernetes-list-type": "atomic"}
INT_OR_STRING = {"x-kubernetes-int-or-string": True}

LabelValue = Annotated[str, Constraint(max_length=63, pattern=LABEL_VALUE_PATTERN)]
Labels = Mapping[str, LabelValue]
Annotations = Mapping[str, Annotated[str, Constraint(max_length=4096)]]


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Phase(StrEnum):
    """Phase of a process."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class StrategyType(StrEnum):
    """How a changed template reaches the devices."""

    ROLLING_UPDATE = "RollingUpdate"
    RECREATE = "Recreate"
    ON_DELETE = "OnDelete"


class Approval(StrEnum):
    """Whether a wave starts by itself."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class FailureAction(StrEnum):
    """What happens when too many devices fail."""

    PAUSE = "Pause"
    ROLLBACK = "Rollback"


class SelectorOperator(StrEnum):
    """How a label is compared with a set of values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class FactOperator(StrEnum):
    """How a fact is compared with values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    GE = "Ge"
    LT = "Lt"
    LE = "Le"


@frozen(kw_only=True)
class OwnerReference:
    """The object that this one belongs to, and is collected with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


@frozen(kw_only=True)
class ObjectMeta:
    """The part of metadata that Praetor reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: Mapping[str, str] = field(factory=dict)
    annotations: Mapping[str, str] = field(factory=dict)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    owner_references: tuple[OwnerReference, ...] = ()


@frozen(kw_only=True, weakref_slot=False)
class Condition:
    """One observed fact about an object."""

    type: Annotated[str, Constraint(doc="Name of the condition.", min_length=1, max_length=316)]
    status: Annotated[ConditionStatus, Constraint(doc="True, False or Unknown.")]
    reason: Annotated[str, Constraint(doc="Why, as one CamelCase word for machines.", max_length=1024)] = ""
    message: Annotated[str, Constraint(doc="Why, for people.", max_length=32768)] = ""
    last_transition_time: Annotated[datetime | None, Constraint(doc="When the status last changed.")] = None
    observed_generation: Annotated[
        int | None, Constraint(doc="The generation of the spec that this condition is about.", minimum=0)
    ] = None


Conditions = Annotated[
    tuple[Condition, ...], Constraint(doc="Observed facts, one of each type.", max_items=32, schema=MAP_BY_TYPE)
]


def int_or_percent(doc: str) -> Constraint:
    """Return the constraint of a number of devices that may be given as a percentage."""
    return Constraint(doc=doc, minimum=0, pattern=PERCENT_PATTERN, max_length=4, schema=INT_OR_STRING)


ObservedGeneration = Annotated[int, Constraint(doc="The generation of the spec that this status is about.", minimum=0)]


@frozen(kw_only=True)
class Maintenance:
    """The device is being serviced: no rollout changes it, and it costs no budget."""

    reason: Annotated[str, Constraint(doc="Why, for operators.", max_length=1024)] = ""
    until: Annotated[datetime | None, Constraint(doc="When it ends; it lasts until it is removed when unset.")] = None


@frozen(kw_only=True)
class NetworkSwitchSpec:
    """Properties of a device that its owner declares."""

    model: Annotated[str | None, Constraint(doc="Model, as the vendor names it.", max_length=253)] = None
    serial_number: Annotated[str | None, Constraint(doc="Serial number.", max_length=253)] = None
    management_address: Annotated[
        str | None, Constraint(doc="Name or address of the management interface.", max_length=253)
    ] = None
    maintenance: Annotated[
        Maintenance | None,
        Constraint(doc="While set, no rollout changes the device and it costs no budget."),
    ] = None
    credential_epoch: Annotated[
        int | None,
        Constraint(
            doc=(
                "Raise it to revoke the device's tokens: all of them become invalid, and the shared one for it, until "
                "it gets a token of this epoch (praetorctl token mint --epoch). 0 when unset."
            ),
            minimum=0,
        ),
    ] = None


@frozen(kw_only=True)
class ProcessCounts:
    """Numbers of the device's processes. None of them is written as 0, because a column shows it."""

    desired: Annotated[int | None, Constraint(doc="Processes that the device has to run.", minimum=0)] = None
    running: Annotated[int | None, Constraint(doc="Processes that run.", minimum=0)] = None
    healthy: Annotated[int | None, Constraint(doc="Processes that are healthy.", minimum=0)] = None


@frozen(kw_only=True, weakref_slot=False)
class Reported:
    """Which report a status holds: an older one that arrives late, through whichever gateway, is ignored."""

    boot_id: Annotated[str, Constraint(doc="The boot of the device that reported it.", wire="bootID", max_length=64)]
    previous_boot_id: Annotated[
        str | None,
        Constraint(
            doc="The boot that reported before; its late reports are ignored.", wire="previousBootID", max_length=64
        ),
    ] = None
    revision: Annotated[int | None, Constraint(doc="The device's number of the report within its boot.", minimum=0)] = (
        None
    )


@frozen(kw_only=True, weakref_slot=False)
class NetworkSwitchStatus:
    """State of a device, written by the gateway."""

    observed_generation: ObservedGeneration = 0
    conditions: Conditions = ()
    agent_version: Annotated[str | None, Constraint(doc="Version of the agent.", max_length=64)] = None
    boot_id: Annotated[str | None, Constraint(doc="Changes with every boot.", wire="bootID", max_length=64)] = None
    facts: Annotated[
        Mapping[str, Annotated[str, Constraint(max_length=256)]] | None,
        Constraint(doc="What the agent found: os, kernel, arch and the like.", max_items=32),
    ] = None
    processes: Annotated[ProcessCounts | None, Constraint(doc="Counts of the device's processes.")] = None
    reported: Annotated[Reported | None, Constraint(doc="Which report of the agent this status holds.")] = None


@frozen(kw_only=True)
class NetworkSwitch:
    """A device that can carry processes. Deployments select it by its kind and labels."""

    metadata: ObjectMeta
    spec: Annotated[NetworkSwitchSpec, Constraint(doc="Declared properties of the device.")] = NetworkSwitchSpec()
    status: Annotated[NetworkSwitchStatus, Constraint(doc="State of the device, written by the gateway.")] = (
        NetworkSwitchStatus()
    )


@frozen(kw_only=True, weakref_slot=False)
class DeviceProcessStatus:
    """What the device reported, merged by the gateway."""

    phase: Annotated[Phase | None, Constraint(doc="Pending, Running, Succeeded, Failed or Unknown.")] = None
    reason: Annotated[
        str | None, Constraint(doc="Why it is not ready: the reason of the condition in the way.", max_length=128)
    ] = None
    observed_generation: ObservedGeneration = 0
    conditions: Conditions = ()
    observed_spec_hash: Annotated[
        str | None, Constraint(doc="Hash of the spec that the device acts on.", max_length=128)
    ] = None
    artifact_digest: Annotated[str | None, Constraint(doc="Digest of the artifact in use.", max_length=128)] = None
    pid: Annotated[int | None, Constraint(doc="Process id on the device.", minimum=0)] = None
    start_time: Annotated[datetime | None, Constraint(doc="When the process was started.")] = None
    restart_count: Annotated[int | None, Constraint(doc="Restarts since this spec arrived.", minimum=0)] = None
    exit_code: Annotated[int | None, Constraint(doc="How the process last ended.")] = None
    last_termination_reason: Annotated[str | None, Constraint(doc="Why the process last ended.", max_length=1024)] = (
        None
    )
    artifact_attempts: Annotated[int | None, Constraint(doc="Attempts to fetch the artifact.", minimum=0)] = None
    failed_spec_hash: Annotated[
        str | None, Constraint(doc="Hash of the spec that the device rolled back, see RolledBack.", max_length=128)
    ] = None
    drift_count: Annotated[
        int | None, Constraint(doc="Changes of the process on the device that were not made by its agent.", minimum=0)
    ] = None
    output_tail: Annotated[
        str | None, Constraint(doc="End of the output of the latest run that ended.", max_length=2048)
    ] = None
    reported: Annotated[Reported | None, Constraint(doc="Which observation of the device this status holds.")] = None


@frozen(kw_only=True)
class DeviceProcess:
    """One process on one device. Deployments create them; users may create them, too."""

    metadata: ObjectMeta
    spec: Annotated[DeviceProcessSpec, Constraint(doc="What runs, and on which device.")]
    status: Annotated[DeviceProcessStatus, Constraint(doc="What the device reported.")] = DeviceProcessStatus()


@frozen(kw_only=True)
class LabelSelectorRequirement:
    """One comparison of a label."""

    key: Annotated[str, Constraint(doc="Label key.", min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
    operator: Annotated[SelectorOperator, Constraint(doc="In, NotIn, Exists or DoesNotExist.")]
    values: Annotated[
        tuple[LabelValue, ...],
        Constraint(doc="Values, for In and NotIn.", max_items=256, schema=ATOMIC),
    ] = ()


@frozen(kw_only=True)
class LabelSelector:
    """Which devices; all parts must hold, and an empty one selects every device."""

    match_labels: Annotated[Labels, Constraint(doc="Labels that the device has.", max_items=64)] = field(factory=dict)
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...],
        Constraint(doc="Comparisons that hold for the device's labels.", max_items=64, schema=ATOMIC),
    ] = ()


@frozen(kw_only=True)
class Wave:
    """A part of the fleet that gets a new revision before the rest."""

    name: Annotated[str, Constraint(doc="Name of the wave.", min_length=1, max_length=63, pattern=NAME_PATTERN)]
    selector: Annotated[LabelSelector | None, Constraint(doc="Which of the devices; all of them when unset.")] = None
    limit: Annotated[
        int | str | None,
        int_or_percent("Maximum number of devices in the wave: a number or a percentage."),
    ] = None
    success_threshold: Annotated[
        int, Constraint(doc="Percentage that must be available before the next wave.", minimum=0, maximum=100)
    ] = 100
    soak_seconds: Annotated[
        int, Constraint(doc="Seconds to watch before the next wave.", minimum=0, maximum=2592000)
    ] = 0
    approval: Annotated[Approval, Constraint(doc="Manual: the wave waits until an operator approves it.")] = (
        Approval.AUTOMATIC
    )
    allow_empty: Annotated[
        bool, Constraint(doc="When no device matches: true passes the wave over, false holds the rollout there.")
    ] = False


@frozen(kw_only=True)
class Budget:
    """How many devices of one failure domain may be unavailable at a time."""

    group_by: Annotated[
        tuple[Annotated[str, Constraint(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)], ...],
        Constraint(
            doc="Label keys whose values name the failure domain, such as rack; devices without one of them form one.",
            min_items=1,
            max_items=8,
        ),
    ]
    max_unavailable: Annotated[
        int | str,
        int_or_percent("Maximum number of unavailable devices of one domain: a number or a percentage."),
    ]
    allow_empty: Annotated[
        bool, Constraint(doc="When no device has the labels: true takes all as one domain, false holds the rollout.")
    ] = False


@frozen(kw_only=True)
class RollingUpdate:
    """How fast and in which order."""

    max_unavailable: Annotated[
        int | str,
        int_or_percent(
            "Maximum number of devices that the rollout may make unavailable: a number or a percentage, rounded up."
        ),
    ] = "10%"
    waves: Annotated[
        tuple[Wave, ...],
        Constraint(
            doc="Parts of the fleet in order; the devices of no wave form the last one.",
            max_items=32,
            schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    budgets: Annotated[
        tuple[Budget, ...], Constraint(doc="Failure domains and their limits.", max_items=8, schema=ATOMIC)
    ] = ()


@frozen(kw_only=True)
class UpdateStrategy:
    """How a changed template reaches the devices."""

    type: Annotated[
        StrategyType,
        Constraint(doc="RollingUpdate, Recreate (all at once) or OnDelete (as processes are deleted)."),
    ] = StrategyType.ROLLING_UPDATE
    rolling_update: Annotated[RollingUpdate, Constraint(doc="How fast and in which order, for RollingUpdate.")] = (
        RollingUpdate()
    )


@frozen(kw_only=True)
class FailurePolicy:
    """When a rollout stops."""

    max_failures: Annotated[
        int | str,
        int_or_percent("Maximum number of devices that may fail: a number or a percentage."),
    ]
    action: Annotated[FailureAction, Constraint(doc="Pause or Rollback.")] = FailureAction.PAUSE


@frozen(kw_only=True)
class TemplateMeta:
    """What every process of the deployment carries in its metadata."""

    labels: Annotated[Labels, Constraint(doc="Labels of the processes.", max_items=64)] = field(factory=dict)
    annotations: Annotated[Annotations, Constraint(doc="Annotations of the processes.", max_items=64)] = field(
        factory=dict
    )


@frozen(kw_only=True)
class ProcessTemplate:
    """What every matching device runs."""

    metadata: Annotated[TemplateMeta, Constraint(doc="Labels and annotations of the processes.")] = TemplateMeta()
    spec: Annotated[ProcessSpec, Constraint(doc="What to run, and how.")]


@frozen(kw_only=True)
class Override:
    """What some of the devices run instead; what it does not name is as in the template."""

    selector: Annotated[LabelSelector, Constraint(doc="Which of the devices, by their labels; it may not be empty.")]
    artifact: Annotated[
        Mapping[str, Any] | None,
        Constraint(
            doc="Fields of the artifact that they get instead of the template's.",
            part_of=Artifact,
            schema={"minProperties": 1},
        ),
    ] = None
    execution: Annotated[
        Mapping[str, Any] | None,
        Constraint(
            doc="Fields of the execution that they get instead of the template's. env merges by name and files by "
            "path; every other field is replaced as a whole.",
            part_of=Execution,
            schema={"minProperties": 1},
        ),
    ] = None


@frozen(kw_only=True)
class FactRequirement:
    """One comparison of a fact, by versions: 9 is less than 10, and 12 equals 12.0."""

    fact: Annotated[
        str,
        Constraint(
            doc="Name of a fact in the device's status.facts, such as os.version.",
            min_length=1,
            max_length=128,
            pattern=FACT_PATTERN,
        ),
    ]
    operator: Annotated[FactOperator, Constraint(doc="In, NotIn, Exists, DoesNotExist, Gt, Ge, Lt or Le.")]
    values: Annotated[
        tuple[Annotated[str, Constraint(min_length=1, max_length=256)], ...],
        Constraint(doc="Values: one version for Gt, Ge, Lt and Le.", max_items=64, schema=ATOMIC),
    ] = ()


FactValue = Annotated[str, Constraint(max_length=256)]


@frozen(kw_only=True)
class FactSelectorRequirement:
    """One comparison of a fact, as it is reported."""

    key: Annotated[str, Constraint(doc="Name of a fact.", min_length=1, max_length=128, pattern=FACT_PATTERN)]
    operator: Annotated[SelectorOperator, Constraint(doc="In, NotIn, Exists or DoesNotExist.")]
    values: Annotated[
        tuple[FactValue, ...], Constraint(doc="Values, for In and NotIn.", max_items=256, schema=ATOMIC)
    ] = ()


@frozen(kw_only=True)
class FactSelector:
    """Which devices, by their status.facts; all parts must hold, and an empty one selects every device."""

    match_labels: Annotated[Mapping[str, FactValue], Constraint(doc="Facts that the device reports.", max_items=32)] = (
        field(factory=dict)
    )
    match_expressions: Annotated[
        tuple[FactSelectorRequirement, ...],
        Constraint(doc="Comparisons that hold for the device's facts.", max_items=32, schema=ATOMIC),
    ] = ()


@frozen(kw_only=True)
class DeviceProcessDeploymentSpec:
    """Which devices run what, and how changes reach them."""

    device_kinds: Annotated[
        tuple[DeviceKind, ...],
        Constraint(
            doc="Kinds of the devices that the selector selects from.",
            min_items=1,
            max_items=len(DeviceKind),
            schema={"x-kubernetes-list-type": "set"},
        ),
    ] = (DeviceKind.NETWORK_SWITCH,)
    selector: Annotated[LabelSelector, Constraint(doc="Which devices, by their labels; {} selects every device.")]
    fact_selector: Annotated[
        FactSelector | None,
        Constraint(
            doc="Which of these devices, by what they report; a fact that changes removes no process by itself."
        ),
    ] = None
    template: Annotated[ProcessTemplate, Constraint(doc="What every matching device runs.")]
    overrides: Annotated[
        tuple[Override, ...],
        Constraint(
            doc="What some of the devices run instead, such as another binary for another CPU. For each field, the "
            "first that matches the device and sets it wins.",
            max_items=16,
            schema=ATOMIC,
        ),
    ] = ()
    requirements: Annotated[
        tuple[FactRequirement, ...],
        Constraint(
            doc="What a device must report to be given the template; one that does not keeps what it has.",
            max_items=16,
            schema=ATOMIC,
        ),
    ] = ()
    update_strategy: Annotated[UpdateStrategy, Constraint(doc="How a changed template reaches the devices.")] = (
        UpdateStrategy()
    )
    min_ready_seconds: Annotated[
        int, Constraint(doc="Seconds that a process must be ready to count as available.", minimum=0, maximum=86400)
    ] = 0
    progress_deadline_seconds: Annotated[
        int, Constraint(doc="Seconds without progress after which a rollout is stuck.", minimum=1, maximum=2592000)
    ] = 600
    revision_history_limit: Annotated[
        int, Constraint(doc="How many old revisions are kept.", minimum=0, maximum=1000)
    ] = 10
    paused: Annotated[bool, Constraint(doc="While true, no process is changed.")] = False
    failure_policy: Annotated[FailurePolicy | None, Constraint(doc="When a rollout stops.")] = None


@frozen(kw_only=True)
class DeviceProcessDeploymentStatus:
    """State of the deployment and its rollout, written by the controller."""

    observed_generation: ObservedGeneration = 0
    desired_number_scheduled: Annotated[
        int,
        Constraint(doc="Devices that match, without those that have no process and may get none.", minimum=0),
    ] = 0
    current_number_scheduled: Annotated[int, Constraint(doc="Matching devices that have a process.", minimum=0)] = 0
    updated_number_scheduled: Annotated[
        int, Constraint(doc="Matching devices whose process has the current template.", minimum=0)
    ] = 0
    number_ready: Annotated[int, Constraint(doc="Processes that are ready.", minimum=0)] = 0
    number_available: Annotated[
        int, Constraint(doc="Processes that have been ready for minReadySeconds.", minimum=0)
    ] = 0
    number_unavailable: Annotated[int, Constraint(doc="Matching devices without an available process.", minimum=0)] = 0
    current_revision: Annotated[str | None, Constraint(doc="Revision that was rolled out last.", max_length=253)] = None
    update_revision: Annotated[str | None, Constraint(doc="Revision of the template.", max_length=253)] = None
    wave: Annotated[str | None, Constraint(doc="Wave that is being rolled out.", max_length=63)] = None
    failed_revision: Annotated[
        str | None, Constraint(doc="Revision that the failure policy stopped.", max_length=253)
    ] = None
    reasons: Annotated[
        Mapping[str, Annotated[int, Constraint(minimum=0)]] | None,
        Constraint(doc="Number of devices by the reason for their state.", max_items=64),
    ] = None
    conditions: Conditions = ()


@frozen(kw_only=True)
class DeviceProcessDeployment:
    """A process that every matching device runs, and how changes to it are rolled out."""

    metadata: ObjectMeta
    spec: Annotated[DeviceProcessDeploymentSpec, Constraint(doc="Which devices run what.")]
    status: Annotated[
        DeviceProcessDeploymentStatus,
        Constraint(doc="State of the deployment and its rollout, written by the controller."),
    ] = DeviceProcessDeploymentStatus()
