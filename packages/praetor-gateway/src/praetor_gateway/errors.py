"""What can go wrong in the gateway's own domain; each class is what a caller does about it."""

from __future__ import annotations


class ConfigurationError(Exception):
    """A flag or a file that it names is bad: *option* is the flag, the message says the mend."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"{option}: {message}")
        self.option = option
