"""Reads tokens and secrets again when their files change, so that they can be rotated without a restart."""

from __future__ import annotations

import structlog

from praetor_api.kube.runtime.clock import Clock
from praetor_gateway.errors import ConfigurationError
from praetor_gateway.http.auth import Authenticator
from praetor_gateway.settings import Credentials, load_verifier

RELOAD_S = 5.0

_log = structlog.get_logger()


class CredentialReloader:
    """Follows the files behind an authenticator."""

    def __init__(self, credentials: Credentials, authenticator: Authenticator, clock: Clock) -> None:
        self._credentials = credentials
        self._authenticator = authenticator
        self._clock = clock

    async def run(self) -> None:
        """Look again every few seconds, for ever. A file that turned bad changes nothing."""
        active = load_verifier(self._credentials)
        while True:
            await self._clock.sleep(RELOAD_S)
            try:
                fresh = load_verifier(self._credentials)
            except ConfigurationError as e:
                _log.warning("credentials not reloaded", error=str(e))
                continue
            if fresh != active:
                active = fresh
                self._authenticator.replace(fresh)
                _log.info("credentials reloaded", tokens=len(fresh.shared), secrets=len(fresh.secrets))
