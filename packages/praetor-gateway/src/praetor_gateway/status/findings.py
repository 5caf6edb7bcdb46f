# SPDX-License-Identifier: Apache-2.0
"""What one observation says of each condition, and why a device is not sent a spec. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.objects import Condition
from praetor_api.protocol import ArtifactReason, Observation, PendingReason, RollbackReason
from praetor_api.spec import RestartPolicy
from praetor_api.values import Resolved, lacks_an_object
from praetor_api.wire import clean_text
from praetor_gateway.fleet.references import Refusal
from praetor_gateway.fleet.rows import CachedProcess

_TRIAL = "the device has not run this version for long enough to rule out that it makes the device reboot"
_OUTDATED = "the process runs with the values that it was started with; restart it to have the new ones"
_TOO_OLD = f"{ProcessReason.AGENT_TOO_OLD}("
_MISSING = f"{ProcessReason.REFERENCE_MISSING}("
_REFUSED = f"{ProcessReason.REFERENCE_REFUSED}("
_ARTIFACT = {reason.value: reason for reason in ArtifactReason}
_PENDING = {reason.value: reason for reason in PendingReason}
_ROLLED_BACK = {reason.value: reason for reason in RollbackReason}


@frozen
class Finding:
    """What one condition is to say; *holds* None stands for Unknown."""

    type: ConditionType
    holds: bool | None
    reason: ProcessReason | ArtifactReason | PendingReason | RollbackReason
    message: str = ""


def too_old(missing: Iterable[str]) -> str:
    """Return why a device whose agent does not know the features *missing* is not sent the spec."""
    return f"{_TOO_OLD}{','.join(sorted(missing))}): upgrade praetor-agent; until then the device keeps what it has"


_REMEDIES: Mapping[str, str] = {
    Refusal.NOT_ENABLED.value: "apply deploy/components/references there and start the gateway with "
    "--references-namespace",
    Refusal.NOT_READABLE.value: "apply deploy/components/references in that namespace",
    Refusal.TOO_LARGE.value: "refer to less",
    Refusal.INVALID_SPEC.value: "write one source for a variable or a file; and a Secret into no argument, which "
    "everyone on the device can read: have the program read its environment",
    Refusal.PLAIN_TEXT.value: "Secrets are given over TLS only; start the gateway with --tls-cert, or with "
    "--tls-terminated behind a proxy that ends TLS",
    Refusal.SHARED_TOKEN.value: "Secrets are given to a device with a token of its own; give it one, see praetorctl "
    "devices token",
}
_LACKS_OBJECT = (
    'its namespace has no such object with the label azure.com/deliver: "true", or no such key in it; until it has one '
    "the device keeps what it runs. Or write optional: true"
)
_LACKS_FIELD = "the device has no such value; until it has one it keeps what it runs. Or write optional: true"


def withholds(resolved: Resolved) -> str | None:
    """Return why a device is not sent the spec with the values *resolved*; None when it is."""
    held = resolved.held
    if not held:
        return None
    if resolved.refused:
        remedy = _REMEDIES[resolved.refused.partition(" ")[0]]
        return f"{clean_text(held)}: {remedy}; until then the device keeps what it runs"
    return f"{clean_text(held)}: {_LACKS_OBJECT if lacks_an_object(held) else _LACKS_FIELD}"


def findings_of(
    row: CachedProcess, spec_hash: str, known: Mapping[str, Condition], seen: Observation
) -> tuple[Finding, ...]:
    """Return what *seen* says of *row*, whose spec has *spec_hash* and whose conditions are *known*."""
    current = seen.observed_spec_hash == spec_hash
    completed = (
        current and not seen.pid and seen.exit_code == 0 and row.shared.restart_policy is not RestartPolicy.ALWAYS
    )
    probed = row.probed
    return (
        _spec(spec_hash, seen),
        *_artifact(seen),
        *_started(completed, seen),
        *_healthy(completed, seen, probed=probed),
        *_lasting(seen, spec_hash, known),
    )


def _spec(spec_hash: str, seen: Observation) -> Finding:
    kind = ConditionType.SPEC_OBSERVED
    if seen.observed_spec_hash == spec_hash:
        return Finding(kind, True, ProcessReason.CURRENT)
    if not seen.observed_spec_hash and seen.pending_reason not in _PENDING:
        return Finding(kind, False, ProcessReason.HASH_MISSING, "the device names no spec")
    if seen.failed_spec_hash == spec_hash:
        return Finding(kind, False, ProcessReason.GIVEN_UP, "the device went back to an older spec")
    if seen.update_held_message is not None:
        return Finding(kind, False, _why_held(seen), seen.update_held_message)
    if seen.error_message and seen.artifact_downloaded is False:
        return Finding(kind, False, _why(seen, ArtifactReason.DOWNLOAD_FAILED), seen.error_message)
    if seen.error_message and seen.artifact_verified is False:
        return Finding(kind, False, _why(seen, ArtifactReason.VERIFICATION_FAILED), seen.error_message)
    message = seen.pending_message or "the device does not act on the current spec yet"
    return Finding(kind, False, _PENDING.get(seen.pending_reason or "", ProcessReason.OUTDATED), message)


def _artifact(seen: Observation) -> Iterator[Finding]:
    error = seen.error_message or ""
    if seen.artifact_downloaded:
        yield Finding(ConditionType.ARTIFACT_DOWNLOADED, True, ProcessReason.DOWNLOADED)
    elif seen.artifact_downloaded is False:
        missing = _why(seen, ArtifactReason.DOWNLOAD_FAILED) if error else ProcessReason.NOT_DOWNLOADED
        yield Finding(ConditionType.ARTIFACT_DOWNLOADED, False, missing, error)
    kind = ConditionType.ARTIFACT_VERIFIED
    if seen.artifact_verified:
        yield Finding(kind, True, ProcessReason.VERIFIED)
    elif seen.artifact_verified is False:
        if error and seen.artifact_downloaded:
            yield Finding(kind, False, _why(seen, ArtifactReason.VERIFICATION_FAILED), error)
        else:
            yield Finding(kind, False, ProcessReason.NOT_VERIFIED)
    elif seen.artifact_downloaded:
        # said, for what was found of an older spec, which pinned its artifact, is not so any more
        yield Finding(kind, None, ProcessReason.NOT_PINNED, "the spec gives no checksum to verify the artifact by")


def _why(seen: Observation, otherwise: ArtifactReason) -> ArtifactReason:
    """Return the word that the device gave if it is one of ours; its own words never become a reason."""
    return _ARTIFACT.get(seen.artifact_reason or "", otherwise)


def _started(completed: bool, seen: Observation) -> Iterator[Finding]:
    kind, error = ConditionType.PROCESS_STARTED, seen.error_message or ""
    if completed:
        yield Finding(kind, True, ProcessReason.COMPLETED)
    elif seen.process_started:
        yield Finding(kind, True, ProcessReason.STARTED)
    elif seen.process_started is False:
        if error:
            yield Finding(kind, False, ProcessReason.START_FAILED, error)
        elif seen.exit_code is not None:
            message = f"the process ended with exit code {seen.exit_code}"
            yield Finding(kind, False, ProcessReason.EXITED, message)
        else:
            yield Finding(kind, False, ProcessReason.NOT_STARTED)


def _healthy(completed: bool, seen: Observation, *, probed: bool) -> Iterator[Finding]:
    kind = ConditionType.HEALTHY
    if completed:
        yield Finding(kind, True, ProcessReason.COMPLETED)
    elif seen.process_started is False:
        yield Finding(kind, False, ProcessReason.NOT_RUNNING)
    elif seen.healthy:
        yield Finding(kind, True, ProcessReason.HEALTHY)
    elif seen.healthy is False:
        yield Finding(kind, False, ProcessReason.UNHEALTHY, seen.error_message or "")
    elif seen.process_started:
        yield Finding(kind, None, ProcessReason.NOT_PROBED if probed else ProcessReason.JUST_STARTED)


def _why_held(seen: Observation) -> ProcessReason:
    said = seen.update_held_message or ""
    if said.startswith(_MISSING):
        return ProcessReason.REFERENCE_MISSING
    if said.startswith(_REFUSED):
        return ProcessReason.REFERENCE_REFUSED
    return ProcessReason.AGENT_TOO_OLD if said.startswith(_TOO_OLD) else ProcessReason.HELD


def _lasting(seen: Observation, spec_hash: str, known: Mapping[str, Condition]) -> Iterator[Finding]:
    """Yield the conditions that only exceptions have: once there, they are False when the exception is over."""
    rolled_back = _ROLLED_BACK.get(seen.rolled_back_reason or "", ProcessReason.OTHER)
    outdated = _OUTDATED if seen.values_outdated else None
    message = seen.rolled_back_message or "" if seen.failed_spec_hash == spec_hash else None
    for kind, said, reason, otherwise in (
        (ConditionType.SPEC_WARNING, seen.warning_message or None, ProcessReason.WARNED, ProcessReason.NOT_WARNED),
        (ConditionType.ROLLED_BACK, message, rolled_back, ProcessReason.NOT_ROLLED_BACK),
        (ConditionType.UPDATE_HELD, seen.update_held_message, _why_held(seen), ProcessReason.NOT_HELD),
        (ConditionType.ON_TRIAL, _TRIAL if seen.on_trial else None, ProcessReason.NOT_PROVEN, ProcessReason.PROVEN),
        (ConditionType.VALUES_OUTDATED, outdated, ProcessReason.VALUES_CHANGED, ProcessReason.VALUES_CURRENT),
    ):
        if said is not None:
            yield Finding(kind, True, reason, said)
        elif kind in known:
            yield Finding(kind, False, otherwise)
