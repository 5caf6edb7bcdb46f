# SPDX-License-Identifier: Apache-2.0
"""Golden copies of names that stand in stored objects and on devices: changing one would orphan stored data."""

from __future__ import annotations

import praetor_api.annotations as keys
from praetor_api.conditions import (
    CRASH_LOOP_COUNT,
    STABILITY_WINDOW_SECONDS,
    ConditionType,
    DeploymentReason,
    ProcessReason,
)
from praetor_api.names import DEVICE_BINDINGS, GATEWAY_LEASE


def test_label_and_annotation_keys_never_change() -> None:
    assert {name: getattr(keys, name) for name in keys.__all__} == {
        "APPROVED_WAVES_ANNOTATION": "azure.com/approved-waves",
        "CHANGE_CAUSE_ANNOTATION": "kubernetes.io/change-cause",
        "CONFIRMED_ANNOTATION": "azure.com/confirmed",
        "CONTAINER_DEVICE_LABEL": "azure.com/praetor-device",
        "CONTAINER_INSTALLATION_LABEL": "azure.com/praetor-installation",
        "CONTAINER_SPEC_HASH_LABEL": "azure.com/praetor-spec-hash",
        "CONTAINER_UID_LABEL": "azure.com/praetor-uid",
        "DELIVER_LABEL": "azure.com/deliver",
        "DEPLOYMENT_LABEL": "azure.com/deployment",
        "MANAGED_ANNOTATION": "azure.com/template-keys",
        "MIN_READY_ANNOTATION": "azure.com/min-ready-seconds",
        "OFFERED_AT_ANNOTATION": "azure.com/offered-at",
        "IMPORTED_ANNOTATION": "azure.com/imported",
        "JUDGES_WITHIN_ANNOTATION": "azure.com/praetor-gateway-judges-within-seconds",
        "LONGEST_HEARTBEAT_ANNOTATION": "azure.com/praetor-gateway-longest-heartbeat",
        "PEER_ADDRESS_ANNOTATION": "azure.com/praetor-gateway-peer-address",
        "PEER_UNHEARD_ANNOTATION": "azure.com/praetor-gateway-unheard",
        "REMOVAL_ANNOTATION": "azure.com/removal-approved",
        "RESTARTED_AT_ANNOTATION": "azure.com/restarted-at",
        "REVISION_ANNOTATION": "azure.com/revision",
        "REVISION_LABEL": "azure.com/revision",
        "RETRY_ANNOTATION": "azure.com/retry",
        "ROLLED_OUT_ANNOTATION": "azure.com/rolled-out",
        "ROLLED_OUT_BEFORE_ANNOTATION": "azure.com/rolled-out-before",
        "STARTED_AT_ANNOTATION": "azure.com/rollout-started-at",
        "TRACEPARENT_ANNOTATION": "azure.com/traceparent",
        "WAVES_ANNOTATION": "azure.com/waves",
        "WAVE_ANNOTATION": "azure.com/wave",
    }


def test_names_of_what_the_gateway_keeps_never_change() -> None:
    assert (GATEWAY_LEASE, DEVICE_BINDINGS) == ("praetor-gateway-arbiter", "praetor-device-bindings")


def test_condition_types_never_change() -> None:
    assert {each.value for each in ConditionType} >= {
        "AgentConnected", "SpecObserved", "ArtifactDownloaded", "ArtifactVerified", "ProcessStarted", "Healthy",
        "SpecWarning", "UpdateHeld", "RolledBack", "Available", "Progressing", "Paused",
        "RemovalHeld",
        "Duplicate", "GatewayAvailable", "Refused", "NameConflict",
    }  # fmt: skip


def test_condition_reasons_never_change() -> None:
    assert {each.value for each in ProcessReason} >= {
        "HeartbeatReceived", "HeartbeatMissed", "SpecCurrent", "SpecOutdated", "HashNotReported", "Downloaded",
        "NotDownloaded", "Verified", "NotVerified", "NothingToVerifyBy", "Started", "NotStarted", "StartFailed",
        "Exited", "Completed", "Healthy", "Unhealthy", "NotProbedYet", "JustStarted", "NotRunning",
        "Reported", "NoWarning",
        "SpecRolledBack", "Other", "NotRolledBack", "HeldOnDevice", "NotHeld", "SeveralBootsReport", "OneBootReports",
            "NeverConnected", "NotDeclared",
        "OwnerGone", "BoundElsewhere", "ForeignNamespace", "Accepted", "AgentTooOld",
    }  # fmt: skip
    assert {each.value for each in DeploymentReason} >= {
        "MinimumDevicesAvailable", "TooManyUnavailable", "RolloutInProgress", "NewRevisionRolledOut",
        "ProgressDeadlineExceeded", "WaitingForDeletion", "DeploymentPaused", "FailurePolicy", "InvalidSpec",
        "GatewayUnavailable",
        "DevicesNoLongerMatch", "FactsNoLongerMatch", "NoDevices", "WaveMatchesNothing",
        "WaveHasNoEligibleDevice", "WaveLostItsDevices", "WaveUnchanged",
        "WaveFailed",
        "BudgetMatchesNothing",
    }  # fmt: skip


def test_a_crash_loop_is_three_exits_each_within_ten_minutes() -> None:
    assert (CRASH_LOOP_COUNT, STABILITY_WINDOW_SECONDS) == (3, 600.0)
