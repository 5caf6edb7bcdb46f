"""The closed set of words that the gateway writes for machines: condition types, reasons and events."""

from __future__ import annotations

from enum import StrEnum


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
    """Why a condition is what it is."""

    HEARD = "HeartbeatReceived"
    SILENT = "HeartbeatMissed"
    CURRENT = "SpecCurrent"
    OUTDATED = "SpecOutdated"
    HASH_MISSING = "HashNotReported"
    DOWNLOADED = "Downloaded"
    NOT_DOWNLOADED = "NotDownloaded"
    DOWNLOAD_FAILED = "DownloadFailed"
    VERIFIED = "Verified"
    NOT_VERIFIED = "NotVerified"
    VERIFICATION_FAILED = "VerificationFailed"
    UNAUTHORIZED = "Unauthorized"
    NOT_FOUND = "NotFound"
    UNREACHABLE = "Unreachable"
    DIGEST_MISMATCH = "DigestMismatch"
    SIZE_MISMATCH = "SizeMismatch"
    TOO_LARGE = "TooLarge"
    DISK_FULL = "DiskFull"
    UNSAFE_ARCHIVE = "UnsafeArchive"
    PLATFORM_MISSING = "PlatformMissing"
    UNSUPPORTED = "Unsupported"
    NOT_ALLOWED = "NotAllowed"
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
    CRASH_LOOP = "CrashLoop"
    HEALTH_CHECK_FAILED = "HealthCheckFailed"
    CONFIRM_TIMED_OUT = "ConfirmTimedOut"
    OTHER = "Other"
    NOT_ROLLED_BACK = "NotRolledBack"
    HELD = "HeldOnDevice"
    NOT_HELD = "NotHeld"


class EventReason(StrEnum):
    """What happened, in one word."""

    AGENT_CONNECTED = "AgentConnected"
    AGENT_DISCONNECTED = "AgentDisconnected"
    MANY_AGENTS_SILENT = "ManyAgentsSilent"
    DEVICE_AMBIGUOUS = "DeviceAmbiguous"
    SPEC_OBSERVED = "SpecObserved"
    SPEC_WARNING = "SpecWarning"
    ROLLED_BACK = "RolledBack"
    UPDATE_HELD = "UpdateHeld"
    UPDATE_RELEASED = "UpdateReleased"
    PROCESS_STARTED = "ProcessStarted"
    PROCESS_RESTARTED = "ProcessRestarted"
    PROCESS_SUCCEEDED = "ProcessSucceeded"
    PROCESS_FAILED = "ProcessFailed"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


class EventType(StrEnum):
    """Whether a person should look."""

    NORMAL = "Normal"
    WARNING = "Warning"
