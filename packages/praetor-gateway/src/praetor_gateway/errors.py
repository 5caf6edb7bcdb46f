"""The gateway's errors; each class is what a caller does about it.

Exception
├── ConfigurationError    a flag or a file that it names is bad: correct it and start again
└── Problem               (http.problems) a request that is answered with application/problem+json

Errors of the API (praetor_api.kube.client.errors) and of bodies (praetor_api.wire.WireError) are handled where they
arise: the status writer makes an outcome of the first, the device API a Problem of the second.
"""

from __future__ import annotations


class ConfigurationError(Exception):
    """A flag or a file that it names is bad: *option* is the flag, *message* says what to write instead."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"{option}: {message}")
        self.option = option
