"""What can go wrong in the agent, split by what the caller does about it."""

from __future__ import annotations

from praetor_api.protocol import ArtifactReason


class AgentError(Exception):
    """The agent cannot go on; the message names the cause and the mend."""


class UsageError(AgentError):
    """A flag or variable is missing or wrong; the message names it."""


class BackendError(Exception):
    """A backend could not do what it was asked; it is tried again after a backoff."""


class StartError(BackendError):
    """The process could not be started; the message is fit for the report."""


class ArtifactGone(StartError):
    """Somebody took away what the process was to be started from; it is fetched again."""


class ArtifactError(Exception):
    """The artifact could not be had; *reason* is the word for machines, *progress* tells that bytes came."""

    def __init__(
        self, message: str, reason: ArtifactReason = ArtifactReason.DOWNLOAD_FAILED, *, progress: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.progress = progress

    @property
    def downloaded(self) -> bool:
        """Tell whether its bytes were had, so that only the check failed."""
        return self.reason in _CHECKS


_CHECKS = (ArtifactReason.DIGEST_MISMATCH, ArtifactReason.UNSAFE_ARCHIVE, ArtifactReason.VERIFICATION_FAILED)


class GatewayError(Exception):
    """The gateway did not answer as hoped; try again after a backoff, or after *retry_after* seconds if given."""

    def __init__(self, message: str, *, retry_after: float | None = None, unauthorized: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unauthorized = unauthorized
