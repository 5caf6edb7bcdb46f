# SPDX-License-Identifier: Apache-2.0
"""Which requests are from the device that they name, by tokens that can be rotated without a restart.

Fails closed: without a verifier nothing is admitted, unless the operator gave `--insecure`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import structlog
from attrs import define

from praetor_api.kube.options import BadOption
from praetor_api.kube.runtime.clock import Clock
from praetor_api.tokens import TokenKind, TokenVerifier
from praetor_gateway.settings import Credentials, load_verifier

RELOAD_S = 5.0
"""How often files of tokens are read again: they are small, and a revoked secret should not stay good for long."""

_log = structlog.get_logger()


class TokenDecision(StrEnum):
    """How a request was admitted, or that it was refused; the values are labels of a metric."""

    SHARED = "shared"
    HMAC = "hmac"
    INSECURE = "insecure"
    REFUSED = "refused"


_ADMITTED = {None: TokenDecision.REFUSED, TokenKind.SHARED: TokenDecision.SHARED, TokenKind.HMAC: TokenDecision.HMAC}


@define(eq=False)
class DeviceAuthenticator:
    """Checks tokens; *count* is called with each decision. *verifier* None stands for `--insecure`."""

    _verifier: TokenVerifier | None
    _count: Callable[[TokenDecision], None]

    def replace(self, verifier: TokenVerifier) -> None:
        """Check with *verifier* from now on; an insecure gateway stays insecure."""
        if self._verifier is not None:
            self._verifier = verifier

    def admits(self, device: str, token: bytes | None, epoch: int) -> bool:
        """Return whether *token* is good for *device* in its credential *epoch*."""
        decision = TokenDecision.INSECURE
        if self._verifier is not None:
            decision = _ADMITTED[
                self._verifier.verify(device, (token or b"").decode("utf-8", "surrogateescape"), epoch)
            ]
        self._count(decision)
        return decision is not TokenDecision.REFUSED


async def follow_credentials(credentials: Credentials, authenticator: DeviceAuthenticator, clock: Clock) -> None:
    """Read tokens and secrets again every RELOAD_S seconds until cancelled. A file that turned bad changes nothing."""
    active = load_verifier(credentials)
    while True:
        await clock.sleep(RELOAD_S)
        try:
            fresh = load_verifier(credentials)
        except BadOption as e:
            _log.warning("credentials not reloaded", error=str(e))
            continue
        if fresh != active:
            active = fresh
            authenticator.replace(fresh)
            _log.info("credentials reloaded", tokens=len(fresh.shared), secrets=len(fresh.secrets))
