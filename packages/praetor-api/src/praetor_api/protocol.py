# SPDX-License-Identifier: Apache-2.0
"""The device protocol, version 1, between an agent and a gateway.

Fields beyond `deviceName`, `items`, `observations` and what identifies an item
are optional in both directions, so that agents and gateways written by others
keep working. The meaning of a field never changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field as dataclass_field
from dataclasses import is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Optional, Union, get_args

from praetor_api.backports import StrEnum, TypeAlias, dataclass
from praetor_api.constraints import Constraint
from praetor_api.files import FILES_FEATURE, MAX_CONTENT
from praetor_api.keyrefs import FILE_REFERENCES_FEATURE, REFERENCES_FEATURE, SECRETS_FEATURE
from praetor_api.spec import CONTAINER_FEATURE, PROBES_FEATURE, REBOOT_FEATURE, VALUES_FEATURE, ProcessSpec
from praetor_api.wire import Fault, WireError, clean_text, read, wire_fields

__all__ = [
    "AGENT_FEATURES",
    "AND_MORE",
    "DEFAULT_HEARTBEAT_SECONDS",
    "DEFAULT_STALE_MULTIPLIER",
    "FEATURES_HEADER",
    "HEARTBEAT_JITTER",
    "INTERVAL_HEADER",
    "MAX_BODY_BYTES",
    "MAX_OBSERVATIONS",
    "MAX_WAIT_SECONDS",
    "NOTHING_ALLOWED",
    "POLL_HEADER",
    "REPORTED_HEADER",
    "RESYNC_HEADER",
    "TOKEN_HEADER",
    "AllowanceFact",
    "ArtifactReason",
    "Desired",
    "DesiredItem",
    "Facts",
    "FileValue",
    "IncompatibleItem",
    "InvalidItem",
    "Name",
    "Observation",
    "PendingReason",
    "Rejected",
    "Report",
    "ReportAck",
    "Revision",
    "RollbackReason",
    "Text",
    "connect_path",
    "desired_path",
    "features_needed",
    "read_desired",
    "read_report",
    "report_path",
    "valid_traceparent",
]

TOKEN_HEADER = "X-Device-Token"  # noqa: S105 - the header's name, not a token
FEATURES_HEADER = "Praetor-Features"
"""Names the features that an agent knows beyond the first version's, separated by commas, in every request."""
POLL_HEADER = "Praetor-Poll"
"""`bootID/number` in a poll that is a heartbeat: a poll whose number is not new was repeated on the way."""
REPORTED_HEADER = "Praetor-Reported"
"""`bootID/sum.revision` in such a poll: what was acknowledged, as `reported` and `revision` of a report say it."""
INTERVAL_HEADER = "Praetor-Heartbeat-Interval"
"""In the answer to such a poll: it was taken as a heartbeat, and the next one is due after so many seconds."""
RESYNC_HEADER = "Praetor-Resync"
"""`1` in the answer to such a poll: the device must report everything."""
MAX_BODY_BYTES = 256 * 1024
"""Largest body of a report that a gateway reads."""
MAX_OBSERVATIONS = 64
"""Observations in one report; an agent with more sends several."""
MAX_WAIT_SECONDS = 55
"""Longest that a poll is held. Many proxies close a silent connection after 60 seconds."""
DEFAULT_HEARTBEAT_SECONDS = 15
DEFAULT_STALE_MULTIPLIER = 3
"""Heartbeat intervals without a report after which a device counts as disconnected."""
HEARTBEAT_JITTER = 0.1
"""Share of the interval by which an agent moves each heartbeat, so that a fleet does not report in step."""

AGENT_FEATURES = frozenset(
    {
        CONTAINER_FEATURE,
        FILES_FEATURE,
        FILE_REFERENCES_FEATURE,
        PROBES_FEATURE,
        REBOOT_FEATURE,
        REFERENCES_FEATURE,
        SECRETS_FEATURE,
        VALUES_FEATURE,
    }
)
"""The features that an agent of this version knows."""

NOTHING_ALLOWED = "none"
"""The value of an AllowanceFact that names nothing."""
AND_MORE = "…"
"""The last word of an AllowanceFact that names more than a fact can hold."""

_MAX_NAME = 253
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Name = Annotated[str, Constraint(max_length=_MAX_NAME)]
Text = Annotated[Optional[str], Constraint(max_length=1024, truncate=True)]
Revision = Annotated[Optional[int], Constraint(minimum=0, maximum=2**63 - 1)]
"""Orders what one boot of a device says of one thing: it grows with each change. None if the agent counts none."""
Facts = Annotated[
    Optional[Mapping[str, Annotated[str, Constraint(max_length=256, truncate=True)]]], Constraint(max_items=32)
]


class AllowanceFact(StrEnum):
    """Facts by which an agent says what its flags `--allow-…` name: paths or names, separated by commas.

    An agent that says FILE_ROOTS says all of them: it allows nothing of a kind that it leaves out.
    """

    FILE_ROOTS = "agent.fileRoots"
    VOLUMES = "agent.volumes"
    DEVICES = "agent.devices"
    CAPABILITIES = "agent.capabilities"
    NETWORKS = "agent.networks"
    PRIVILEGED = "agent.privileged"


class ArtifactReason(StrEnum):
    """Why an artifact is not available: the values of `artifactReason`."""

    DOWNLOAD_FAILED = "DownloadFailed"
    UNAUTHORIZED = "Unauthorized"
    NOT_FOUND = "NotFound"
    UNREACHABLE = "Unreachable"
    DIGEST_MISMATCH = "DigestMismatch"
    SIZE_MISMATCH = "SizeMismatch"
    TOO_LARGE = "TooLarge"
    DISK_FULL = "DiskFull"
    UNSAFE_ARCHIVE = "UnsafeArchive"
    PLATFORM_MISSING = "PlatformMissing"
    VERIFICATION_FAILED = "VerificationFailed"
    UNSUPPORTED = "Unsupported"
    NOT_ALLOWED = "NotAllowed"


class PendingReason(StrEnum):
    """Why a device does not act on the desired spec yet, besides its artifact: the values of `pendingReason`."""

    BACKEND_UNAVAILABLE = "BackendUnavailable"
    INVALID_SPEC = "InvalidSpec"
    NOT_ALLOWED = "NotAllowed"
    FILES_NOT_WRITTEN = "FilesNotWritten"
    STATE_NOT_WRITABLE = "StateNotWritable"
    FETCHING = "FetchingArtifact"
    ENDING = "EndingOldVersion"
    WAITING = "WaitingForOthersToEnd"
    REFERENCE_PENDING = "ReferencePending"


class RollbackReason(StrEnum):
    """Why a device rolled back to the old version: the values of `rolledBackReason`."""

    START_FAILED = "StartFailed"
    CRASH_LOOP = "CrashLoop"
    HEALTH_CHECK_FAILED = "HealthCheckFailed"
    CONFIRM_TIMED_OUT = "ConfirmTimedOut"


def desired_path(device: str) -> str:
    """Return the path of the device's desired state."""
    return f"/v1/devices/{device}/desired"


def report_path(device: str) -> str:
    """Return the path to which the device posts its reports."""
    return f"/v1/devices/{device}/report"


def connect_path(device: str) -> str:
    """Return the path at which the device announces itself, without waiting for its next report."""
    return f"/v1/devices/{device}/connect"


def valid_traceparent(text: object) -> str:
    """Return *text* if it is a W3C traceparent, else "": anyone may write an annotation, or what a device sends."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else ""


def features_needed(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the features that an agent must know to get *spec*, a process spec as it is stored."""
    return frozenset(feature for path, feature, as_before in _featured() if _uses(spec, path, as_before))


_Featured: TypeAlias = tuple[tuple[str, ...], str, Optional[Union[str, bool]]]


@cache
def _featured() -> tuple[_Featured, ...]:
    return tuple(_fields_with_a_feature(ProcessSpec, ()))


def _fields_with_a_feature(cls: type, path: tuple[str, ...]) -> Iterator[_Featured]:
    for field in wire_fields(cls):
        at, constraint = (*path, field.wire), field.constraint
        if constraint.feature:
            yield at, constraint.feature, constraint.as_before
        for inner in (field.type, *get_args(field.type)):
            if isinstance(inner, type) and is_dataclass(inner):
                yield from _fields_with_a_feature(inner, at)


def _uses(data: object, path: tuple[str, ...], as_before: str | bool | None) -> bool:
    """Return whether something but *as_before* stands at *path* in *data*, in any item where a list is on the way."""
    for depth, name in enumerate(path):
        if isinstance(data, list):
            return any(_uses(item, path[depth:], as_before) for item in data)
        if not isinstance(data, dict):
            return False
        data = data.get(name)
    return data not in (None, [], as_before)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileValue:
    """What the file *path* of a spec holds, in base64, where its content is given by reference."""

    path: Annotated[str, Constraint(max_length=1024)]
    content: Annotated[str, Constraint(max_length=(MAX_CONTENT + 2) // 3 * 4)] = dataclass_field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredItem:
    """One process that the device has to run.

    *kept_files* are the paths of files whose content is another one by now than this version was approved with: the
    device keeps those that it has of the version, or of another one that was approved with the same.
    """

    uid: Name
    namespace: Name
    name: Name
    generation: int = 0
    spec: ProcessSpec
    spec_hash: Annotated[str, Constraint(max_length=128)]
    confirmed_spec_hash: Annotated[Optional[str], Constraint(max_length=128)] = None
    min_ready_seconds: Annotated[Optional[int], Constraint(minimum=0, maximum=2**31 - 1, ignorable=True)] = None
    traceparent: Annotated[Optional[str], Constraint(max_length=64, ignorable=True)] = None
    values: Annotated[
        Optional[Mapping[str, Annotated[str, Constraint(max_length=32768)]]],
        Constraint(max_items=256, feature=VALUES_FEATURE),
    ] = dataclass_field(default=None, repr=False)
    values_hash: Annotated[Optional[str], Constraint(max_length=128, feature=VALUES_FEATURE)] = None
    file_values: Annotated[
        Optional[tuple[FileValue, ...]], Constraint(max_items=32, feature=FILE_REFERENCES_FEATURE)
    ] = None
    kept_files: Annotated[
        Optional[tuple[Annotated[str, Constraint(max_length=1024)], ...]],
        Constraint(max_items=32, feature=FILE_REFERENCES_FEATURE),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IncompatibleItem:
    """A process that the device is not sent, and keeps what it has of.

    Its spec needs *features* that the agent did not name, or has references to values that are *missing*, or that are
    *refused* to the device.
    """

    uid: Name
    namespace: Name
    name: Name
    generation: int
    features: tuple[str, ...]
    missing: tuple[str, ...] = ()
    refused: Optional[str] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidItem:
    """A desired item that this agent cannot decode, with the identifying fields that it could read."""

    uid: str
    namespace: str
    name: str
    spec_hash: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that the device has to run. Any other process of ours has to stop.

    With *poll_is_heartbeat* an agent with nothing to report may poll instead of reporting.
    """

    device_name: str
    heartbeat_interval_seconds: int = DEFAULT_HEARTBEAT_SECONDS
    poll_is_heartbeat: bool = False
    items: tuple[DesiredItem, ...] = ()
    invalid: tuple[InvalidItem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The state of one process as the device observes it. None means not known (yet)."""

    namespace: Name = ""
    name: Annotated[str, Constraint(min_length=1, max_length=253)]
    uid: Name = ""
    observed_spec_hash: Annotated[str, Constraint(max_length=128)] = ""
    process_started: Optional[bool] = None
    healthy: Optional[bool] = None
    pid: Annotated[Optional[int], Constraint(minimum=0, maximum=2**31 - 1)] = None
    start_time: Annotated[Optional[str], Constraint(max_length=64)] = None
    restart_count: Annotated[int, Constraint(minimum=0, maximum=2**31 - 1)] = 0
    exit_code: Annotated[Optional[int], Constraint(minimum=-(2**31), maximum=2**31 - 1)] = None
    termination_reason: Annotated[Optional[str], Constraint(max_length=128, truncate=True)] = None
    error_message: Text = None
    warning_message: Text = None
    artifact_downloaded: Optional[bool] = None
    artifact_verified: Optional[bool] = None
    artifact_digest: Annotated[Optional[str], Constraint(max_length=128)] = None
    artifact_reason: Annotated[Optional[str], Constraint(max_length=64, truncate=True)] = None
    artifact_attempts: Annotated[Optional[int], Constraint(minimum=0, maximum=2**31 - 1)] = None
    failed_spec_hash: Annotated[Optional[str], Constraint(max_length=128)] = None
    rolled_back_reason: Annotated[Optional[str], Constraint(max_length=64, truncate=True)] = None
    rolled_back_message: Text = None
    update_held_message: Text = None
    pending_reason: Annotated[Optional[str], Constraint(max_length=64, truncate=True)] = None
    pending_message: Text = None
    drift_count: Annotated[Optional[int], Constraint(minimum=0, maximum=2**31 - 1)] = None
    output_tail: Annotated[Optional[str], Constraint(max_length=2048, truncate=True)] = None
    on_trial: Optional[bool] = None
    values_outdated: Optional[bool] = None
    revision: Revision = None
    traceparent: Annotated[Optional[str], Constraint(max_length=64, truncate=True)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A heartbeat, with the observations that changed since the last one.

    *revision* is that of the facts, and *reported* the sum of the revisions of the observations that are acknowledged.
    """

    agent_version: Annotated[str, Constraint(max_length=64, truncate=True)] = ""
    timestamp: Annotated[str, Constraint(max_length=64)] = ""
    heartbeat: bool = True
    boot_id: Annotated[str, Constraint(wire="bootID", max_length=64)] = ""
    seq: Annotated[Optional[int], Constraint(minimum=0, maximum=2**63 - 1)] = None
    facts: Facts = None
    revision: Revision = None
    reported: Revision = None
    observations: Annotated[tuple[Any, ...], Constraint(max_items=MAX_OBSERVATIONS)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An observation that was rejected, and why; the others were accepted."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAck:
    """The gateway's answer to a report. With *resync* the next report must hold all observations."""

    ack: bool
    desired_etag: Annotated[Optional[str], Constraint(wire="desiredETag", max_length=256)] = None
    heartbeat_interval_seconds: Annotated[int, Constraint(minimum=1, maximum=86400)] = DEFAULT_HEARTBEAT_SECONDS
    poll_is_heartbeat: bool = False
    resync: bool = False
    rejected: tuple[Rejected, ...] = ()


def read_report(data: object) -> tuple[Report, tuple[Observation, ...], tuple[Rejected, ...]]:
    """Return a report, its valid observations and the rejected ones; WireError when the report itself is invalid."""
    report = read(Report, data)
    observations: list[Observation] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(report.observations):
        try:
            observations.append(read(Observation, item, f"observations[{index}]"))
        except WireError as e:
            rejected.append(Rejected(name=_text(item, "name"), reason=str(e)[:512]))
    return report, tuple(observations), tuple(rejected)


def read_desired(data: object) -> Desired:
    """Return the desired state. Items that cannot be decoded are in *invalid* and do not affect the others."""
    raw = data.get("items") if isinstance(data, Mapping) else None
    if not isinstance(raw, list):
        raise WireError(Fault("items", "must be a list"))
    head = read(Desired, {key: value for key, value in _mapping(data).items() if key not in ("items", "invalid")})
    items: list[DesiredItem] = []
    invalid: list[InvalidItem] = []
    for index, item in enumerate(raw):
        try:
            items.append(read(DesiredItem, item, f"items[{index}]"))
        except WireError as e:
            invalid.append(_invalid(item, e.faults))
    return replace(head, items=tuple(items), invalid=tuple(invalid))


def _invalid(item: object, faults: tuple[Fault, ...]) -> InvalidItem:
    return InvalidItem(
        uid=_text(item, "uid"),
        namespace=_text(item, "namespace"),
        name=_text(item, "name"),
        spec_hash=_text(item, "specHash"),
        faults=faults,
    )


def _mapping(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def _text(item: object, key: str) -> str:
    value = _mapping(item).get(key)
    return clean_text(value)[:_MAX_NAME] if isinstance(value, str) else ""
