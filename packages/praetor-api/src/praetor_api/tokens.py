# SPDX-License-Identifier: Apache-2.0
"""Device tokens: one shared by all, or HMAC-SHA256 over the device's name.

A device's credential epoch separates its current tokens from revoked ones. A
check always does the same work and compares in constant time, and there is no
path on which a token that matches nothing is accepted.
"""

from __future__ import annotations

import hmac
from dataclasses import field

from praetor_api.backports import StrEnum, dataclass

__all__ = ["TokenKind", "TokenVerifier", "device_token"]


class TokenKind(StrEnum):
    """How a token was accepted."""

    SHARED = "shared"
    HMAC = "hmac"


def device_token(secret: bytes, device: str, epoch: int = 0) -> str:
    """Return the token of *device*: `hex(HMAC-SHA256(secret, device))`, 64 characters.

    From epoch 1 on the input is `device/epoch`: a device name has no slash, so no two devices share a token.
    ValueError without a secret, and for a negative epoch.
    """
    if not secret:
        raise ValueError("the secret is empty")
    if epoch < 0:
        raise ValueError("the epoch is negative")
    bearer = f"{device}/{epoch}" if epoch else device
    return hmac.digest(secret, bearer.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVerifier:
    """Accepts a shared token, and tokens derived from any active secret (newest first, so that they can be rotated)."""

    shared: tuple[bytes, ...] = field(default=(), repr=False)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.shared and not self.secrets:
            raise ValueError("no token and no secret: nothing could be verified")
        if not all((*self.shared, *self.secrets)):
            raise ValueError("an empty token or secret would admit every client")

    def verify(self, device: str, token: str, epoch: int = 0) -> TokenKind | None:
        """Return how *token* authenticates *device* in its *epoch*; None when it does not.

        A shared token belongs to epoch 0: it must not authenticate a device whose tokens were revoked.
        """
        given = token.encode("utf-8", "surrogatepass")
        kind = None
        for secret in self.secrets:
            if hmac.compare_digest(given, device_token(secret, device, epoch).encode()):
                kind = TokenKind.HMAC
        for shared in self.shared:
            if hmac.compare_digest(given, shared) and epoch == 0:
                kind = TokenKind.SHARED
        return kind if given else None
