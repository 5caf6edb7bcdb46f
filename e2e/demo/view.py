# SPDX-License-Identifier: Apache-2.0
"""What the demo shows of its devices: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from e2e.stack.kube import condition
from praetor_api.conditions import ConditionType

WIDTHS = {"DEVICE": 8, "VERSION": 7, "PHASE": 9, "CONNECTED": 9, "OBSERVED": 8, "HEALTHY": 7, "PID": 7, "RESTARTS": 8}
CONDITIONS = (
    ConditionType.AGENT_CONNECTED,
    ConditionType.SPEC_OBSERVED,
    ConditionType.HEALTHY,
)
COLOURS = {"Unknown": "yellow", "Running": "green", "Failed": "red", "Pending": "cyan", "yes": "green", "no": "red"}
SHOWN_AS = {"True": "yes", "False": "no", "Unknown": "-", "": "-"}

Processes = Mapping[str, Mapping[str, Any]]


class View:
    """Shows the processes while they change; a context manager around each wait."""

    def __init__(self, console: Console, *, last_only: bool = False) -> None:
        self._console = console
        self._last_only = last_only  # for a picture: the table as it is when a wait ends
        self._last: Table | None = None
        self._live: Live | None = None
        self._shown: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> View:
        if self._last_only:
            return self
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.__enter__()
        else:
            self._console.print(line(tuple(WIDTHS)))
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._console.print(self._last)
            self._last = None
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def show(self, processes: Processes, counts: Mapping[str, Any]) -> None:
        """Show the state of every device, and the deployment's counts."""
        rows = {device: row(device, process) for device, process in sorted(processes.items())}
        if self._last_only:
            self._last = table(rows, counts)
            return
        if self._live is not None:
            self._live.update(table(rows, counts), refresh=True)
            return
        for device, cells in rows.items():
            if self._shown.get(device) != cells:
                self._shown[device] = cells
                self._console.print(line(cells), soft_wrap=True)


def row(device: str, process: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one device."""
    status = process.get("status") or {}
    env = {entry["name"]: entry.get("value", "") for entry in process["spec"]["execution"].get("env", ())}
    shown = (SHOWN_AS.get(value, value) for value in (condition(dict(process), kind) for kind in CONDITIONS))
    return (
        device,
        env.get("VERSION", "-"),
        status.get("phase") or "-",
        *shown,
        str(status.get("pid") or "-"),
        str(status.get("restartCount") or 0),
    )


def line(cells: tuple[str, ...]) -> str:
    """Return *cells* as a line of aligned columns."""
    return "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True)).rstrip()


def table(rows: Mapping[str, tuple[str, ...]], counts: Mapping[str, Any]) -> Table:
    """Return the table of all devices."""
    caption = "  ".join(f"{name} {counts.get(field, 0)}" for name, field in COUNTS)
    drawn = Table(box=None, header_style="bold", caption=caption, caption_justify="left")
    for name in WIDTHS:
        drawn.add_column(name, no_wrap=True)
    for cells in rows.values():
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in cells))
    return drawn


COUNTS = (
    ("desired", "desiredNumberScheduled"),
    ("updated", "updatedNumberScheduled"),
    ("ready", "numberReady"),
    ("available", "numberAvailable"),
)
