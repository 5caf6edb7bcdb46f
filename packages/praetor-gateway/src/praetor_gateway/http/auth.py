# SPDX-License-Identifier: Apache-2.0
"""Which requests are from the device that they name, by tokens that can be rotated without a restart.

Fails closed: without a verifier nothing is admitted, unless the operator gave `--insecure`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from enum import StrEnum
from hmac import compare_digest
from typing import Generic, TypeAlias, TypeVar

import structlog
from attrs import define, field

from praetor_api.kube.options import BadOption
from praetor_api.kube.runtime.clock import Clock
from praetor_api.tokens import TokenKind, TokenVerifier
from praetor_gateway.fleet.session import DeviceSession

T = TypeVar("T")

DIGEST_OF_VALUES = b"values\0v1"
"""What a device secret signs for the key of digests: no device has such a name, so that no token is that key."""

RELOAD_S = 5.0
"""How often files of tokens are read again: they are small, and a revoked secret should not stay good for long."""
WARN_S = 60.0
"""How often files that cannot be read are logged."""

_log = structlog.get_logger()


class TokenDecision(StrEnum):
    """How a request was admitted, or that it was refused; the values are labels of a metric."""

    SHARED = "shared"
    HMAC = "hmac"
    INSECURE = "insecure"
    REFUSED = "refused"


Accepted: TypeAlias = tuple[TokenVerifier, int, TokenDecision]
"""By what a token was accepted, in which credential epoch, and how."""

_ADMITTED = {None: TokenDecision.REFUSED, TokenKind.SHARED: TokenDecision.SHARED, TokenKind.HMAC: TokenDecision.HMAC}


@define(eq=False)
class DeviceAuthenticator:
    """Checks tokens; *count* is called with each decision. *verifier* None stands for `--insecure`.

    The session of a device remembers its last good token: to derive it again took a quarter of the time of a poll.
    """

    _verifier: TokenVerifier | None
    _count: Callable[[TokenDecision], None]
    _last: Accepted | None = field(default=None, init=False)
    """With what the last token was accepted: the same for most devices, so that it is kept once."""

    def replace(self, verifier: TokenVerifier) -> None:
        """Check with *verifier* from now on; an insecure gateway stays insecure."""
        if self._verifier is not None:
            self._verifier = verifier

    @property
    def digest_keys(self) -> Sequence[bytes]:
        """The keys of digests, newest first. Replicas with the same device secrets have the same, no device has one.

        None without device secrets: then no device is given a Secret.
        """
        secrets = self._verifier.secrets if self._verifier is not None else ()
        return [hmac.digest(each, DIGEST_OF_VALUES, "sha256") for each in secrets]

    def admits(self, device: str, token: bytes | None, epoch: int, session: DeviceSession | None = None) -> bool:
        """Return whether *token* is good for *device* in its credential *epoch*; a declared one has a *session*."""
        return self.decide(device, token, epoch, session) is not TokenDecision.REFUSED

    def decide(
        self, device: str, token: bytes | None, epoch: int, session: DeviceSession | None = None
    ) -> TokenDecision:
        """Return how *token* admits *device* in its credential *epoch*, or REFUSED."""
        decision = TokenDecision.INSECURE
        if (verifier := self._verifier) is not None:
            decision = self._check(verifier, device, token or b"", epoch, session)
        self._count(decision)
        return decision

    def _check(
        self, verifier: TokenVerifier, device: str, token: bytes, epoch: int, session: DeviceSession | None
    ) -> TokenDecision:
        before: Accepted | None = session.accepted if session is not None else None
        if session is not None and before is not None:
            by, of_epoch, as_before = before
            if by is verifier and of_epoch == epoch and compare_digest(session.token, token):
                return as_before
        decision = _ADMITTED[verifier.verify(device, token.decode("utf-8", "surrogateescape"), epoch)]
        if session is not None and decision is not TokenDecision.REFUSED:
            accepted = verifier, epoch, decision
            if accepted != self._last:
                self._last = accepted
            session.accepted, session.token = self._last, token
        return decision


@define(eq=False)
class CredentialFollower(Generic[T]):
    """Reads *what* again with *read*, and calls *use* with what differs.

    A file that turned bad changes nothing, and *problem* says what is wrong with it. Serving on is safer than to refuse
    a whole fleet for an empty file; what is meant to revoke must write a new secret.
    """

    what: str
    _read: Callable[[], T]
    _use: Callable[[T], None]
    _clock: Clock
    _failed: Callable[[], None]
    problem: str = field(default="", init=False)

    async def run(self) -> None:
        """Read the files every RELOAD_S seconds until cancelled; count each failure with *failed*."""
        active = self._read()
        said_at = -WARN_S
        while True:
            await self._clock.sleep(RELOAD_S)
            try:
                fresh, self.problem = self._read(), ""
            except BadOption as e:
                self.problem = f"{e}; those that were read last stay valid"
                self._failed()
                if self._clock.monotonic() - said_at >= WARN_S:
                    said_at = self._clock.monotonic()
                    _log.error("credentials not reloaded", what=self.what, error=self.problem)
                continue
            said_at = -WARN_S
            if fresh != active:
                active = fresh
                self._use(fresh)
                _log.info("credentials reloaded", what=self.what)
