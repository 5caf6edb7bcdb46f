# SPDX-License-Identifier: Apache-2.0
"""What is printed: tables for people, JSON and YAML for programs. Colours and moving lines on a terminal only."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias, TypeVar

import click

from praetor_api.wire import clean_text

F = TypeVar("F", bound=Callable[..., Any])

Cell: TypeAlias = tuple[str, str]
"""A text and its colour; no colour when that is empty."""
Row: TypeAlias = Sequence[str | Cell]


class OutputFormat(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def output_option(command: F) -> F:
    """Add `-o` for a command that shows something."""
    return _output_option(OutputFormat.TABLE, OutputFormat.WIDE, OutputFormat.JSON, OutputFormat.YAML)(command)


def objects_option(command: F) -> F:
    """Add `-o` for a command that lists objects, which have names."""
    return _output_option(*OutputFormat)(command)


def _output_option(*formats: OutputFormat) -> Callable[[F], F]:
    words = "A table for people, wide with every column; json or yaml for programs"
    return click.option(
        "-o",
        "--output",
        type=click.Choice([each.value for each in formats]),
        default=OutputFormat.TABLE.value,
        show_default=True,
        envvar="PRAETOR_CTL_OUTPUT",
        help=words + ("; name for kubectl." if OutputFormat.NAME in formats else "."),
    )


def for_people(output: str) -> bool:
    """Return whether *output* is text that may change, not a format for programs."""
    return output in (OutputFormat.TABLE, OutputFormat.WIDE)


def object_names(resource: str, names: Iterable[str]) -> str:
    """Return what `-o name` prints: what kubectl takes as an object, such as `networkswitch.azure.com/leaf-1`."""
    return "\n".join(f"{resource}/{name}" for name in names)


_SHOWN = 3
_GAP = 3
_LEAST = 12  # characters of a column that is cut
_NARROWEST = 40
_INDENT = "    "


def names_of(names: Sequence[str]) -> str:
    """Return *names* as text: the first three, and how many there are besides."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, word: str, plural: str = "") -> str:
    """Return *number* with *word*, in the plural where it is not 1."""
    return f"{number} {word if number == 1 else plural or word + 's'}"


class Column(NamedTuple):
    """A column of a table. On a narrow terminal those with the greatest *leaves* are left out first; 0 stays.

    Where no column may leave any more, the middle of texts that may be *cut* is: they are not to be typed.
    """

    title: str
    leaves: int = 0
    cut: bool = False


class Table:
    """Rows under headers, in columns as wide as they need to be, of at most *width* characters if that is possible."""

    def __init__(
        self, columns: Sequence[str | Column], rows: Sequence[Row], *, width: int | None = None, indent: str = ""
    ) -> None:
        self._columns = [Column(each) if isinstance(each, str) else each for each in columns]
        self._indent = indent
        texts = [[title for title, *_ in self._columns], *([text for text, _ in _cells(row)] for row in rows)]
        self._widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        self._kept = list(range(len(self._columns)))
        if width is not None:
            self._fit(width)
        self._rows = rows

    def _fit(self, width: int) -> None:
        while self._total() > width:
            leaving = [number for number in self._kept if self._columns[number].leaves]
            if not leaving:
                break
            self._kept.remove(max(leaving, key=lambda number: self._columns[number].leaves))
        for number in sorted(self._kept, key=lambda number: -self._widths[number]):
            if self._columns[number].cut and self._total() > width:
                room = width - (self._total() - self._widths[number])
                self._widths[number] = max(room, len(self._columns[number].title), _LEAST)

    def _total(self) -> int:
        return len(self._indent) + sum(self._widths[number] for number in self._kept) + _GAP * (len(self._kept) - 1)

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """Return more *rows* in the same columns."""
        return [self._line(_cells(row)) for row in rows]

    def _line(self, row: Sequence[Cell]) -> str:
        parts = []
        for number in self._kept:
            (text, colour), width = row[number], self._widths[number]
            if self._columns[number].cut and len(text) > width:
                head = (width - 3) // 2  # names and addresses often differ in their ends
                text = text[:head] + "..." + text[head + 3 - width :]
            parts.append(painted(text, colour) + " " * (width - len(text)))
        return (self._indent + (" " * _GAP).join(parts)).rstrip()

    def __str__(self) -> str:
        headers = [(title, "") for title, *_ in self._columns]
        return "\n".join([self._line(headers), *self.lines(self._rows)])


def _cells(row: Row) -> list[Cell]:
    return [cell if isinstance(cell, tuple) else (cell, "") for cell in row]


def table(columns: Sequence[str | Column], rows: Sequence[Row], *, width: int | None = None, indent: str = "") -> str:
    """Return *rows* under *columns*, see Table."""
    return str(Table(columns, rows, width=width, indent=indent))


_COMMAND = re.compile(r"((?:praetorctl|kubectl|praetor-agent)(?: [^\s,;()]*[^\s,;().:])+)")


def fitted(text: str, width: int | None) -> str:
    """Return a sentence in lines of at most *width* characters; those after the first are indented.

    If it does not fit, a command to type gets a line of its own, which is never broken.
    """
    if width is None or len(click.unstyle(text)) <= width:
        return text
    start = text[: len(text) - len(text.lstrip())]
    hanging = start or _INDENT
    lines: list[str] = []
    for part in _COMMAND.split(text.strip()):
        if _COMMAND.fullmatch(part):
            lines.append(hanging + part)
        elif words := part.lstrip(",;). ").rstrip("( ").split():
            lines += _wrapped(words, width, hanging if lines else start, hanging)
    return "\n".join(lines)


def _wrapped(words: Sequence[str], width: int, first: str, hanging: str) -> list[str]:
    lines, line = [], first + words[0]
    for word in words[1:]:
        if len(click.unstyle(line)) + 1 + len(click.unstyle(word)) > width:
            lines.append(line)
            line = hanging + word
        else:
            line += f" {word}"
    return [*lines, line]


def fitted_lines(lines: Iterable[str], output: str) -> str:
    """Return *lines* as text that fits the screen, each as a sentence of its own."""
    width = screen_width(output)
    return "\n".join(fitted(line, width) for line in lines)


def screen_width(output: str = OutputFormat.TABLE) -> int | None:
    """Return how many characters a line may have: $COLUMNS, else those of the terminal; None where nothing limits it.

    Nothing does when *output* is wide, or goes to a file or another program, as with kubectl.
    """
    given = os.environ.get("COLUMNS", "")
    if output != OutputFormat.TABLE or not (on_terminal() or given):
        return None
    return max(int(given) if given.isdecimal() else shutil.get_terminal_size().columns, _NARROWEST)


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
    """Print *text* to standard error, without what a terminal would act on: it may quote files and answers."""
    click.echo(fitted(clean_text(text), screen_width()), err=True)
