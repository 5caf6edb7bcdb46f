"""The closed set of words that the gateway writes into conditions for machines: types and reasons."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from praetor_api.protocol import ArtifactReason, RollbackReason


class ConditionType(StrEnum):
    """What a condition is about."""

    AGENT_CONNECTED = "AgentConnected"
    SPEC_OBSERVED = "SpecObserved"
    ARTIFACT_DOWNLOADED = "ArtifactDownloaded"
    ARTIFACT_VERIFIED = "ArtifactVerified"
    PROCESS_STARTED = "ProcessStarted"
    HEALTHY = "Healthy"
    SPEC_WARNING = "SpecWarning"
    ROLLED_BACK = "RolledBack"
    UPDATE_HELD = "UpdateHeld"


class Reason(StrEnum):
    """Why a condition is what it is, in words of our own; the device's are those of the protocol."""

    HEARD = "HeartbeatReceived"
    SILENT = "HeartbeatMissed"
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
    NOT_RUNNING = "NotRunning"
    WARNED = "Reported"
    NOT_WARNED = "NoWarning"
    GIVEN_UP = "SpecRolledBack"
    OTHER = "Other"
    NOT_ROLLED_BACK = "NotRolledBack"
    HELD = "HeldOnDevice"
    NOT_HELD = "NotHeld"


ConditionReason: TypeAlias = Reason | ArtifactReason | RollbackReason
"""All that a condition's reason may be."""
