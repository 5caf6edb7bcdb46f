# SPDX-License-Identifier: Apache-2.0
"""The words of status conditions, and the limits that decide when a process counts as crash-looping.

Types and reasons are stored data: they never change. `praetor_api.kube.conditions` sets them on objects.
"""

from __future__ import annotations

from praetor_api.backports import StrEnum

__all__ = [
    "CRASH_LOOP_COUNT",
    "PROVING_SECONDS",
    "STABILITY_WINDOW_SECONDS",
    "STORM_EVENT",
    "STORM_OVER_EVENT",
    "ConditionType",
    "DeploymentReason",
    "ProcessReason",
]


CRASH_LOOP_COUNT = 3
"""Exits in a row after which a process is in a crash loop: the agent rolls it back, the controller counts it failing.

Both must use the same number, or a rollout would go on while its devices roll back.
"""

STABILITY_WINDOW_SECONDS = 600.0
"""Uptime after which a process is stable: the agent's restart backoff starts over, earlier exits no longer count.

Ten minutes, as the kubelet resets a container's backoff.
"""

PROVING_SECONDS = 10.0
"""A version that was up for this time in one boot is not what makes the device reboot, if nothing asks for longer.

The default of the agent's `--proving-seconds`, in seconds.
"""


class ConditionType(StrEnum):
    """The `type` of a condition on a NetworkSwitch, a DeviceProcess or a DeviceProcessDeployment."""

    # of NetworkSwitch and DeviceProcess, written by the gateway
    AGENT_CONNECTED = "AgentConnected"
    NAME_CONFLICT = "NameConflict"
    # of NetworkSwitch, written by the gateway
    DUPLICATE = "Duplicate"
    # of DeviceProcess, written by the gateway
    REFUSED = "Refused"
    SPEC_OBSERVED = "SpecObserved"
    ARTIFACT_DOWNLOADED = "ArtifactDownloaded"
    ARTIFACT_VERIFIED = "ArtifactVerified"
    PROCESS_STARTED = "ProcessStarted"
    HEALTHY = "Healthy"
    SPEC_WARNING = "SpecWarning"
    UPDATE_HELD = "UpdateHeld"
    ON_TRIAL = "OnTrial"
    VALUES_OUTDATED = "ValuesOutdated"
    # of DeviceProcess, written by the gateway, and of DeviceProcessDeployment, written by the controller
    ROLLED_BACK = "RolledBack"
    # of DeviceProcessDeployment, written by the controller
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    REMOVAL_HELD = "RemovalHeld"
    GATEWAY_AVAILABLE = "GatewayAvailable"
    WRITES_REFUSED = "WritesRefused"
    OVERLAP = "Overlap"
    OVERRIDE_INVALID = "OverrideInvalid"
    KINDS_MISSING = "KindsMissing"


STORM_EVENT, STORM_OVER_EVENT = "ManyAgentsSilent", "StormOver"
"""Reasons of the gateway's events when many devices fall silent at once, and when that is over."""


class ProcessReason(StrEnum):
    """The `reason` of a condition that the gateway writes, besides those that a device reports.

    A device's reasons are `praetor_api.protocol.ArtifactReason` and `RollbackReason`.
    """

    HEARD = "HeartbeatReceived"
    SILENT = "HeartbeatMissed"
    STORM = "SilentInStorm"
    FLEET_SILENT = "FleetSilent"
    NEVER_CONNECTED = "NeverConnected"
    NOT_DECLARED = "NotDeclared"
    SEVERAL_BOOTS = "SeveralBootsReport"
    ONE_BOOT = "OneBootReports"
    CURRENT = "SpecCurrent"
    OUTDATED = "SpecOutdated"
    HASH_MISSING = "HashNotReported"
    DOWNLOADED = "Downloaded"
    NOT_DOWNLOADED = "NotDownloaded"
    VERIFIED = "Verified"
    NOT_VERIFIED = "NotVerified"
    NOT_PINNED = "NothingToVerifyBy"
    STARTED = "Started"
    NOT_STARTED = "NotStarted"
    START_FAILED = "StartFailed"
    EXITED = "Exited"
    COMPLETED = "Completed"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    NOT_PROBED = "NotProbedYet"
    JUST_STARTED = "JustStarted"
    NOT_RUNNING = "NotRunning"
    WARNED = "Reported"
    NOT_WARNED = "NoWarning"
    GIVEN_UP = "SpecRolledBack"
    OTHER = "Other"
    NOT_ROLLED_BACK = "NotRolledBack"
    HELD = "HeldOnDevice"
    AGENT_TOO_OLD = "AgentTooOld"
    REFERENCE_MISSING = "ReferenceMissing"
    REFERENCE_REFUSED = "ReferenceRefused"
    NOT_HELD = "NotHeld"
    NOT_PROVEN = "NotProvenYet"
    PROVEN = "Proven"
    VALUES_CHANGED = "ValuesChanged"
    VALUES_CURRENT = "ValuesCurrent"
    ACCEPTED = "Accepted"
    FOREIGN_NAMESPACE = "ForeignNamespace"
    BOUND_ELSEWHERE = "BoundElsewhere"
    BOUND_TO_ANOTHER_KIND = "BoundToAnotherKind"
    OWNER_GONE = "OwnerGone"


class DeploymentReason(StrEnum):
    """The `reason` of a condition of a DeviceProcessDeployment, written by the controller."""

    MINIMUM_DEVICES_AVAILABLE = "MinimumDevicesAvailable"
    TOO_MANY_UNAVAILABLE = "TooManyUnavailable"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    NEW_REVISION_ROLLED_OUT = "NewRevisionRolledOut"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    WAITING_FOR_DELETION = "WaitingForDeletion"
    DEPLOYMENT_PAUSED = "DeploymentPaused"
    FAILURE_POLICY = "FailurePolicy"
    INVALID_SPEC = "InvalidSpec"
    REFERENCE_PENDING = "ReferencePending"
    GATEWAY_UNAVAILABLE = "GatewayUnavailable"
    REFUSED_BY_API = "RefusedByAPI"
    NOT_INSTALLED = "NotInstalled"
    SAME_COMMAND = "SameCommand"
    NO_DEVICES = "NoDevices"
    DEVICES_NO_LONGER_MATCH = "DevicesNoLongerMatch"
    FACTS_NO_LONGER_MATCH = "FactsNoLongerMatch"
    WAVE_MATCHES_NOTHING = "WaveMatchesNothing"
    WAVE_HAS_NO_ELIGIBLE_DEVICE = "WaveHasNoEligibleDevice"
    WAVE_UNCHANGED = "WaveUnchanged"
    WAVE_LOST_ITS_DEVICES = "WaveLostItsDevices"
    WAVE_FAILED = "WaveFailed"
    BUDGET_MATCHES_NOTHING = "BudgetMatchesNothing"
