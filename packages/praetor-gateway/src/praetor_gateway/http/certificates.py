# SPDX-License-Identifier: Apache-2.0
"""The TLS certificate, read again when its files change, so that it can be renewed without a restart."""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
from attrs import frozen

from praetor_api.kube.runtime.clock import Clock

CHECK_S = 30.0
"""How often the files are checked: certificates are renewed long before they expire."""

_log = structlog.get_logger()


@frozen(kw_only=True)
class TlsFiles:
    """Certificate and key files."""

    cert: Path
    key: Path


class CertificateReloader:
    """Follows the files of *tls*; *read* makes a context of them. Raises OSError when that cannot be done.

    *failed* is called when it cannot be done later.

    The context is replaced as a whole, in each handshake: loading a certificate into one that is in use would leave it
    without a key when the files do not match, as while they are being written.
    """

    def __init__(
        self,
        tls: TlsFiles,
        read: Callable[[], ssl.SSLContext],
        clock: Clock,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._tls = tls
        self._read = read
        self._clock = clock
        self._failed = failed
        self._stamp = _stamp(tls)
        self._current = read()
        self.expires_at = _expiry(tls.cert)
        """When the certificate expires, in seconds since 1970."""
        self.context = read()
        """What to listen with: each handshake gets the certificate that is current then."""
        self.context.sni_callback = self._choose  # called for clients, too, that name no server

    async def follow(self) -> None:
        """Read the files again when they changed, every CHECK_S seconds until cancelled. Bad ones change nothing."""
        while True:
            await self._clock.sleep(CHECK_S)
            try:
                self._check()
            except OSError as e:  # ssl.SSLError is one
                self._failed()
                _log.warning("certificate not reloaded", cert=str(self._tls.cert), key=str(self._tls.key), error=str(e))

    def _check(self) -> None:
        stamp = _stamp(self._tls)
        if stamp != self._stamp:
            self._current, self.expires_at = self._read(), _expiry(self._tls.cert)
            self._stamp = stamp
            _log.info("certificate reloaded", cert=str(self._tls.cert))

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._current


def _expiry(cert: Path) -> float:
    """Return when the first certificate of the file expires. The ssl module decodes one only in this function."""
    decoded = _ssl._test_decode_cert(str(cert))  # type: ignore[attr-defined]
    return float(ssl.cert_time_to_seconds(str(decoded["notAfter"])))


def _stamp(tls: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """Return what differs when a file was written, or replaced by another one as mounted Secrets are."""
    stats = [path.stat() for path in (tls.cert, tls.key)]
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)
