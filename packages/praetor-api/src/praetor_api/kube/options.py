# SPDX-License-Identifier: Apache-2.0
"""Command-line options that the programs of the control plane share, and the error for one that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

__all__ = [
    "ADDRESS",
    "ADDRESS_OR_OFF",
    "BadOption",
    "BindAddress",
    "Program",
    "kubeconfig_options",
    "log_options",
    "namespaces_option",
    "parse_address",
    "tracing_option",
]


F = TypeVar("F", bound=Callable[..., Any])


class BadOption(click.BadParameter):
    """An option, or a file that it names, cannot be used. click prints it and exits with status 2.

    *option* is the flag as the user writes it; *message* explains what is wrong and what to write instead.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message, param_hint=option)
        self.option = option

    def __str__(self) -> str:
        return f"{self.option}: {self.message}"


class Program(click.Command):
    """A program of one command: `-h` is its help, which names the environment variable of each option."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.context_settings = {"show_default": True, "help_option_names": ["-h", "--help"], **self.context_settings}
        for each in self.params:
            if isinstance(each, click.Option):
                each.show_envvar = each.name != "version"


class BindAddress(NamedTuple):
    """Where to listen; an empty *host* is every interface, *port* 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> BindAddress:
    """Return the address that `host:port`, `[ipv6]:port` or `:port` names; ValueError saying what to write instead."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; write host:port, or :port for all interfaces")
    return BindAddress(host.strip("[]"), int(port))


class _AddressType(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    name = "host:port"

    def __init__(self, *, may_be_off: bool) -> None:
        self._may_be_off = may_be_off

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BindAddress | None:
        if isinstance(value, BindAddress):
            return value
        if self._may_be_off and value == "0":
            return None
        try:
            return parse_address(value)
        except ValueError as e:
            self.fail(f"{e}, or 0 to turn it off" if self._may_be_off else str(e), param, ctx)


ADDRESS = _AddressType(may_be_off=False)
ADDRESS_OR_OFF = _AddressType(may_be_off=True)
"""As ADDRESS, but `0` gives None: nothing is served."""


def kubeconfig_options(envvar_prefix: str = "") -> Callable[[F], F]:
    """Add `--kubeconfig` and `--context`.

    With *envvar_prefix* their variables are `<prefix>_KUBECONFIG` and `<prefix>_CONTEXT` in every command.
    """

    def variable(name: str) -> str | None:
        return f"{envvar_prefix}_{name}" if envvar_prefix else None

    return _all(
        click.option(
            "--kubeconfig",
            type=click.Path(),
            envvar=variable("KUBECONFIG"),
            show_envvar=True,
            help="Kubeconfig; $KUBECONFIG, ~/.kube/config or the pod's when unset.",
        ),
        click.option(
            "--context",
            envvar=variable("CONTEXT"),
            show_envvar=True,
            help="Context of the kubeconfig; its current one when unset.",
        ),
    )


def namespaces_option() -> Callable[[F], F]:
    """Add `--namespace`, repeatable, as *namespaces*."""
    text = "Namespace to watch; may be repeated. All of them when unset."
    return click.option("--namespace", "namespaces", multiple=True, help=text)


def log_options() -> Callable[[F], F]:
    """Add `--log-level` and `--log-format`, the arguments of configure_logs()."""
    return _all(
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text"),
    )


def tracing_option() -> Callable[[F], F]:
    """Add `--tracing`, the argument of recording_tracer()."""
    text = "Record spans of rollouts with OpenTelemetry; its variables OTEL_… say where they go."
    return click.option("--tracing/--no-tracing", default=False, help=text)


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
