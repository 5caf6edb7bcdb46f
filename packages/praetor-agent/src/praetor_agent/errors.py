# SPDX-License-Identifier: Apache-2.0
"""The agent's errors, by what the caller does about them.

AgentFailure
├── AgentError            the command ends with exit status 1
│   └── UsageError        … with exit status 2
├── BackendError          retry the action after a backoff
│   └── StartError        report it, restart by the policy
│       ├── ArtifactGone  fetch the artifact again
│       └── FileError     before a start: keep the old version
├── ArtifactError         report it, fetch again after a backoff
└── GatewayError          retry the request after a backoff
"""

from __future__ import annotations

from praetor_api.protocol import ArtifactReason


class AgentFailure(Exception):
    """Base of the agent's errors; the message is fit for people."""


class AgentError(AgentFailure):
    """The agent cannot go on; the message names the cause and the fix."""


class UsageError(AgentError):
    """A flag or variable is missing or wrong; the message names it."""


class BackendError(AgentFailure):
    """A backend could not carry out an action; it is retried after a backoff."""


class StartError(BackendError):
    """The process could not be started; the message is fit for the report."""


class ArtifactGone(StartError):
    """The artifact of the process was removed from the device; it is fetched again."""


class FileError(StartError):
    """A file of the process cannot be written; *allowed* is whether this device's settings allow it."""

    def __init__(self, message: str, *, allowed: bool = True) -> None:
        super().__init__(message)
        self.allowed = allowed


class ArtifactError(AgentFailure):
    """The artifact could not be fetched; *reason* is for machines, *progress* is whether bytes were received.

    The server asked not to be asked again for *retry_after* seconds.
    """

    def __init__(
        self,
        message: str,
        reason: ArtifactReason = ArtifactReason.DOWNLOAD_FAILED,
        *,
        progress: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.progress = progress
        self.retry_after = retry_after

    @property
    def downloaded(self) -> bool:
        """Whether it was downloaded, so that only its verification failed."""
        return self.reason in _CHECKS


_CHECKS = (ArtifactReason.DIGEST_MISMATCH, ArtifactReason.UNSAFE_ARCHIVE, ArtifactReason.VERIFICATION_FAILED)


class GatewayError(AgentFailure):
    """The gateway did not answer as it should; retry after a backoff, or after *retry_after* seconds if given."""

    def __init__(self, message: str, *, retry_after: float | None = None, unauthorized: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unauthorized = unauthorized


def root_cause(error: BaseException) -> str:
    """Return the root cause of *error* in a few words; requests and urllib3 wrap it four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def unforeseen(e: Exception) -> str:
    """Return what to say of an error that the agent was not written for, and where it comes from.

    Its text is left out, unless the system wrote it: it may hold a value of a process.
    """
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" ({at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno})" if at is not None else ""
    said = f": {e.strerror}" if isinstance(e, OSError) and e.strerror else ""
    return f"the agent cannot handle it: {type(e).__name__}{said}{where}"
