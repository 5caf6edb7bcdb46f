# SPDX-License-Identifier: Apache-2.0
"""Why a device is where it is: a code for programs and a detail for people. Every device has exactly one reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from attrs import frozen


class ReasonCode(StrEnum):
    """The codes in `status.reasons`, metrics and explanations."""

    UP_TO_DATE = "UpToDate"
    CREATING = "Creating"
    UPDATING = "Updating"
    NOT_READY = "NotReady"
    BECOMING_AVAILABLE = "BecomingAvailable"
    FAILING = "Failing"
    SILENT_SINCE_OFFER = "SilentSinceOffer"
    FLEET_SILENT = "FleetSilent"
    OFFLINE_SINCE = "OfflineSince"
    NEVER_CONNECTED = "NeverConnected"
    IN_MAINTENANCE = "InMaintenance"
    UPDATE_HELD = "UpdateHeld"
    AGENT_TOO_OLD = "AgentTooOld"
    REFERENCE_MISSING = "ReferenceMissing"
    REFERENCE_REFUSED = "ReferenceRefused"
    OVERRIDE_INVALID = "OverrideInvalid"
    REQUIREMENT_NOT_MET = "RequirementNotMet"
    FACTS_NOT_REPORTED = "FactsNotReported"
    PAUSED = "Paused"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    WAITING_FOR_WAVE = "WaitingForWave"
    SOAKING = "Soaking"
    AWAITING_APPROVAL = "AwaitingApproval"
    WAVE_MATCHES_NOTHING = "WaveMatchesNothing"
    WAVE_HAS_NO_ELIGIBLE_DEVICE = "WaveHasNoEligibleDevice"
    WAVE_UNCHANGED = "WaveUnchanged"
    WAVE_LOST_ITS_DEVICES = "WaveLostItsDevices"
    WAVE_FAILED = "WaveFailed"
    BUDGET_MATCHES_NOTHING = "BudgetMatchesNothing"
    WAITING_FOR_DELETION = "WaitingForDeletion"
    TERMINATING = "Terminating"
    NAME_TAKEN = "NameTaken"
    CANNOT_CONVERGE = "CannotConverge"
    WAITING_FOR_REMOVAL = "WaitingForRemoval"
    REMOVING = "Removing"
    REMOVAL_HELD = "RemovalHeld"
    GATEWAY_UNAVAILABLE = "GatewayUnavailable"


@frozen
class Reason:
    """One device's reason; *detail* is empty when the code says it all."""

    code: ReasonCode
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}({self.detail})" if self.detail else self.code.value


class Reasons(Mapping[str, Reason]):
    """Reasons by device. *names* and *reasons* are in one order; the index by name is made on first use."""

    def __init__(self, names: Sequence[str], reasons: Sequence[Reason]) -> None:
        self._names = names
        self._reasons = reasons
        self._by_name: dict[str, Reason] | None = None

    def __getitem__(self, name: str) -> Reason:
        return self._index()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._reasons)

    def _index(self) -> dict[str, Reason]:
        if self._by_name is None:
            self._by_name = dict(zip(self._names, self._reasons, strict=True))
        return self._by_name
