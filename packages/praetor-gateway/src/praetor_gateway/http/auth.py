"""Which requests are from the device that they name. Fails closed: without a verifier nothing is admitted, unless the
operator said `--insecure`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from praetor_api.tokens import TokenKind, TokenVerifier


class Admission(StrEnum):
    """How a request was admitted, or that it was not."""

    SHARED = "shared"
    HMAC = "hmac"
    INSECURE = "insecure"
    REFUSED = "refused"


_ADMITTED = {None: Admission.REFUSED, TokenKind.SHARED: Admission.SHARED, TokenKind.HMAC: Admission.HMAC}


class Authenticator:
    """Checks tokens; *count* is told of each decision. *verifier* None stands for `--insecure`."""

    def __init__(self, verifier: TokenVerifier | None, count: Callable[[Admission], None]) -> None:
        self._verifier = verifier
        self._count = count

    def replace(self, verifier: TokenVerifier) -> None:
        """Check with other tokens and secrets from now on; an insecure gateway stays one."""
        if self._verifier is not None:
            self._verifier = verifier

    def admits(self, device: str, token: bytes | None, epoch: int) -> bool:
        """Tell whether *token* is good for *device* in its credential *epoch*."""
        admission = self._judge(device, token, epoch)
        self._count(admission)
        return admission is not Admission.REFUSED

    def _judge(self, device: str, token: bytes | None, epoch: int) -> Admission:
        if self._verifier is None:
            return Admission.INSECURE
        return _ADMITTED[self._verifier.verify(device, (token or b"").decode("utf-8", "surrogateescape"), epoch)]
