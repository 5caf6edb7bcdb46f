# SPDX-License-Identifier: Apache-2.0
"""The gateway's errors; each class is what a caller does about it.

Exception
├── BadOption    (praetor_api.kube.options) a flag or a file that it names is bad: correct it and start again
└── Problem      a request that is answered with application/problem+json

Errors of the API (praetor_api.kube.client.errors) and of bodies (praetor_api.wire.WireError) are handled where they
arise: the status writer makes an outcome of the first, the device API a Problem of the second.
"""

from __future__ import annotations

from collections.abc import Mapping

from praetor_api.wire import Fault


class Problem(Exception):
    """A request that is answered with *status* and *detail*; *faults* name bad fields of its body."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        faults: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})
