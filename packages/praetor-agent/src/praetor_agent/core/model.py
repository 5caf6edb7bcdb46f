# SPDX-License-Identifier: Apache-2.0
"""What the agent remembers of each process, on disk and between passes; and what it observes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Optional

from praetor_agent.core.allowances import NOTHING, Allowances
from praetor_agent.core.health import Health
from praetor_api.backports import StrEnum, dataclass
from praetor_api.conditions import PROVING_SECONDS
from praetor_api.protocol import DesiredItem, RollbackReason
from praetor_api.spec import Artifact, ArtifactType, Backend


class ProcessStage(StrEnum):
    """How far a process has come under its current spec. Stored: the values never change."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    WAITING = "Waiting"
    COMPLETED = "Completed"


class FailureReason(StrEnum):
    """Why the desired spec does not run, besides `praetor_api.protocol.ArtifactReason`. Stored: values never change."""

    INVALID_SPEC = "InvalidSpec"
    BACKEND_UNAVAILABLE = "BackendUnavailable"
    MEMORY_NOT_KEPT = "MemoryNotKept"
    START_ERROR = "StartError"
    WAITING = "WaitingForOthersToEnd"
    NOT_ALLOWED = "NotAllowed"
    FILES_NOT_WRITTEN = "FilesNotWritten"
    REFERENCE_PENDING = "ReferencePending"


class TerminationReason(StrEnum):
    """How a process ended; `SIGNAL` is followed by a colon and the signal's name. Stored: values never change."""

    COMPLETED = "Completed"
    ERROR = "Error"
    SIGNAL = "Signal"
    OUT_OF_MEMORY = "OOMKilled"
    START_ERROR = "StartError"
    LOST = "Lost"
    REBOOTED = "Rebooted"
    POST_CHECK_FAILED = "PostCheckFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the desired spec does not run. *reason* is a FailureReason, or an ArtifactReason for artifacts."""

    reason: str
    message: str
    artifact_downloaded: Optional[bool] = None
    artifact_verified: Optional[bool] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A spec that was started, with the artifact that it was started from; enough to start it again offline.

    Where only contents of files changed since, *item* is the newer spec under the hash that the process was started
    with, and *applied* is its own.
    """

    item: DesiredItem
    artifact_path: Optional[str] = None
    artifact_digest: Optional[str] = None
    applied: Optional[str] = None

    @property
    def spec_hash(self) -> str:
        """Hash of the spec that runs, its files included."""
        return self.applied or self.item.spec_hash

    def restarted(self) -> Revision:
        """Return what is started next: the spec under its own hash."""
        if self.applied is None:
            return self
        return replace(self, item=replace(self.item, spec_hash=self.applied), applied=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A spec that was given up, and why. It is not retried until the spec changes."""

    spec_hash: str
    reason: RollbackReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The timer of a change that must be confirmed by *deadline*, in seconds since the boot *boot_id*.

    *seconds* is the length of the window under that boot.
    """

    boot_id: str
    seconds: float
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Memory of one process. Times are seconds since boot and count only while *boot_id* is the running boot.

    *current* is what was started last, *last_good* the latest revision that proved good, and *rollback* says which
    revision was given up for it. *healthy_since* is about the running instance, *confirmation* is what it waits for.
    *handle* identifies the instance that was observed last; another one that the agent did not start counts as drift.
    *output_tail* is the end of the output of the latest run that ended; None until it was read.
    *trial* orders the versions of all processes by when they began, *proven* is whether the current one was up long
    enough for no reboot to be its fault, and *reboots* counts those in a row that cut it before, up to the boot
    *rebooted_in*. Of a job, *attempts* counts the boots that were cut before it had an outcome; *checking* is whether
    its post-check decides, in the boot *boot_id*, what the reboot that it made came to.
    """

    uid: str
    namespace: str = ""
    name: str = ""
    stage: ProcessStage = ProcessStage.PENDING
    current: Optional[Revision] = None
    last_good: Optional[Revision] = None
    boot_id: str = ""
    handle: Optional[str] = None
    started_at: float = 0.0
    start_time: Optional[str] = None
    restart_count: int = 0
    failures: int = 0
    not_before: float = 0.0
    exit_code: Optional[int] = None
    termination_reason: Optional[str] = None
    stop_deadline: Optional[float] = None
    failure: Optional[Failure] = None
    healthy_since: Optional[float] = None
    rollback: Optional[Rollback] = None
    confirmation: Optional[Confirmation] = None
    drift_count: int = 0
    output_tail: Optional[str] = None
    trial: int = 0
    proven: bool = False
    reboots: int = 0
    rebooted_in: str = ""
    attempts: int = 0
    checking: bool = False

    @property
    def spec_hash(self) -> str | None:
        """Hash of the spec that was started last, or given to the running process by its files."""
        return self.current.spec_hash if self.current else None

    def acts_on(self, revision: Revision) -> bool:
        """Return whether its current version is of the spec of *revision*."""
        return self.spec_hash == revision.spec_hash

    @property
    def mark(self) -> str | None:
        """Hash of the spec that the process was started with, by which its backend knows it."""
        return self.current.item.spec_hash if self.current else None


Memory = Mapping[str, Record]
"""Records by uid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a backend sees of one process: one that runs, or one that ended and left its exit status.

    Of one that ended, an *exit_code* of None means that it is unknown, and a *handle* of None that it was never
    observed running under this boot. *watch* is the pid whose end makes a new observation worthwhile. *edited* is set
    if the definition that the backend wrote was changed. *unlimited* names the resources in the spec that cannot be
    limited on this device. *at_boot* is whether init starts it at boot, None where no init does.

    *renamed* is whether its mark names another device, *unknown* whether the mark is of no or another installation;
    *mark* says for people what carries it. *unseen* is why nothing else is known of it, not even whether it runs.
    """

    uid: str
    backend: Backend
    spec_hash: str
    running: bool
    handle: Optional[str] = None
    pid: Optional[int] = None
    watch: Optional[int] = None
    exit_code: Optional[int] = None
    termination_reason: Optional[str] = None
    error: Optional[str] = None
    edited: bool = False
    unlimited: tuple[str, ...] = ()
    at_boot: Optional[bool] = None
    renamed: bool = False
    unknown: bool = False
    mark: str = ""
    unseen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactState:
    """How far the artifact of one spec is: *path* when it is ready, *failure* when the last attempt failed.

    *attempts* counts the attempts to fetch it, the successful one included; 0 if it was there already.
    *pinned* is whether the spec has a digest to verify it by.
    """

    path: Optional[str] = None
    digest: Optional[str] = None
    failure: Optional[Failure] = None
    attempts: int = 0
    pinned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The latest report: when it was sent, its result, and when a report was last acknowledged."""

    at: str
    answer: str
    acknowledged_at: Optional[str] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What only the running agent knows, stored for `praetor-agent status`. *health* is by uid."""

    exchange: Optional[Exchange] = None
    health: Mapping[str, Health] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedDevice:
    """The device as one pass observes it.

    *observed* and *health* are by uid, *artifacts* by spec hash. *unavailable* says why a backend cannot be used,
    *silent* why one did not answer this time: it may run processes that are not in *observed*. *unseen* says by uid
    why it is unknown whether a process runs, though its backend answered. *freeze* is why nothing
    may be changed, if a freeze file exists. *confirmed* are the spec hashes, by uid, that an operator confirmed.
    *heard_at* is when the latest successful exchange with the gateway began, in seconds since boot. *persistence_error*
    is why the memory or the desired state cannot be stored. A version that was up for *proving_seconds* is not what
    makes the device reboot, if nothing asks for longer. *allowances* are what containers may have. *file_problems* say
    by uid why the files of a desired item cannot be written, and *edited_files* are the uids of those whose files were
    changed on the device.
    """

    boot_id: str
    observed: Mapping[str, Observed] = field(default_factory=dict)
    artifacts: Mapping[str, ArtifactState] = field(default_factory=dict)
    unavailable: Mapping[Backend, str] = field(default_factory=dict)
    silent: Mapping[Backend, str] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    freeze: Optional[str] = None
    confirmed: Mapping[str, str] = field(default_factory=dict)
    heard_at: Optional[float] = None
    persistence_error: Optional[str] = None
    proving_seconds: float = PROVING_SECONDS
    allowances: Allowances = NOTHING
    file_problems: Mapping[str, Failure] = field(default_factory=dict)
    edited_files: frozenset[str] = frozenset()


def pinned(artifact: Artifact) -> str | None:
    """Return the checksum that the spec demands, as 64 lower-case hexadecimal digits."""
    if artifact.type is ArtifactType.OCI:
        return artifact.url.rpartition("@sha256:")[2].lower() if "@sha256:" in artifact.url else None
    checksum = artifact.checksum_sha256
    return checksum.removeprefix("sha256:").lower() if checksum else None
