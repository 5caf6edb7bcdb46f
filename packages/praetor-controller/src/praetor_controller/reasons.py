"""Why a device is where it is: one word for machines and a detail for people. Every device has exactly one."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen


class ReasonCode(StrEnum):
    """The words of `status.reasons`, of metrics and of explanations."""

    UP_TO_DATE = "UpToDate"
    CREATING = "Creating"
    UPDATING = "Updating"
    NOT_READY = "NotReady"
    BECOMING_AVAILABLE = "BecomingAvailable"
    FAILING = "Failing"
    SILENT_SINCE_OFFER = "SilentSinceOffer"
    OFFLINE_SINCE = "OfflineSince"
    NEVER_CONNECTED = "NeverConnected"
    IN_MAINTENANCE = "InMaintenance"
    PAUSED = "Paused"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    WAITING_FOR_WAVE = "WaitingForWave"
    SOAKING = "Soaking"
    AWAITING_APPROVAL = "AwaitingApproval"
    WAITING_FOR_DELETION = "WaitingForDeletion"
    TERMINATING = "Terminating"
    NAME_TAKEN = "NameTaken"
    CANNOT_CONVERGE = "CannotConverge"


@frozen
class Reason:
    """One device's reason; *detail* is empty when the word says it all."""

    code: ReasonCode
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}({self.detail})" if self.detail else self.code.value
