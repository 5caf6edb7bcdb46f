# SPDX-License-Identifier: Apache-2.0
"""What is printed: tables for people, JSON and YAML for programs. Colours and moving lines on a terminal only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import click

Cell: TypeAlias = tuple[str, str]
"""A text and its colour; no colour when that is empty."""


class OutputFormat(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice([each.value for each in OutputFormat]),
    default=OutputFormat.TABLE.value,
    show_default=True,
    envvar="PRAETOR_CTL_OUTPUT",
    show_envvar=True,
    help="A table for people; json or yaml for programs.",
)


_SHOWN = 3


def names_of(names: Sequence[str]) -> str:
    """Return *names* as text: the first three, and how many there are besides."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def table(headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], indent: str = "") -> str:
    """Return *rows* under *headers*, in columns as wide as they need to be."""
    cells = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in ([*headers], *rows)]
    widths = [max(len(row[column][0]) for row in cells) for column in range(len(headers))]
    return "\n".join(indent + _line(row, widths) for row in cells)


def _line(row: Sequence[Cell], widths: Sequence[int]) -> str:
    last = len(row) - 1
    parts = [
        painted(text, colour) + " " * (width - len(text) if number != last else 0)
        for number, ((text, colour), width) in enumerate(zip(row, widths, strict=True))
    ]
    return "   ".join(parts).rstrip()


def painted(text: str, colour: str) -> str:
    """Return *text* in *colour*; show() takes colours out again where they are not wanted."""
    return click.style(text, fg=colour) if colour else text


def structured(value: Mapping[str, Any] | Sequence[Any], output: str) -> str:
    """Return *value* as JSON or YAML."""
    if output == OutputFormat.YAML:
        import yaml  # only here: help and tables do not wait for it

        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip("\n")
    return json.dumps(value, indent=2, ensure_ascii=False)


def wants_colour(environ: Mapping[str, str], *, terminal: bool) -> bool:
    """Return whether to use colours: on a terminal, unless NO_COLOR is set or the terminal is dumb."""
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def show(text: str, *, newline: bool = True) -> None:
    """Print *text*."""
    click.echo(text, nl=newline, color=wants_colour(os.environ, terminal=on_terminal()))


def warn(text: str) -> None:
    """Print *text* to standard error."""
    click.echo(text, err=True)
