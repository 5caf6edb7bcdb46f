"""What the demo shows: a live table on a terminal, one line a change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from e2e.stack.kube import condition
from praetor_api.annotations import REVISION_ANNOTATION
from praetor_api.conditions import ConditionType

COLUMNS = ("DEVICE", "VERSION", "REVISION", "PHASE", "CONNECTED", "OBSERVED", "STARTED", "HEALTHY", "PID", "RESTARTS")
CONDITIONS = (
    ConditionType.AGENT_CONNECTED,
    ConditionType.SPEC_OBSERVED,
    ConditionType.PROCESS_STARTED,
    ConditionType.HEALTHY,
)
COLOURS = {"True": "green", "False": "red", "Unknown": "yellow", "Running": "green", "Failed": "red", "Pending": "cyan"}
SHOWN_AS = {"True": "yes", "False": "no", "": "-"}

Processes = Mapping[str, Mapping[str, Any]]


class View:
    """Shows the same processes again and again; enter it for as long as a step lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._lines: dict[str, str] = {}

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def show(self, processes: Processes, counts: Mapping[str, Any]) -> None:
        """Show the state of every device, and the deployment's counts."""
        rows = {device: row(device, process) for device, process in sorted(processes.items())}
        if self._live is not None:
            self._live.update(table(rows, counts), refresh=True)
            return
        for device, cells in rows.items():
            line = "  ".join(f"{name.lower()}={cell}" for name, cell in zip(COLUMNS[1:], cells[1:], strict=True))
            if self._lines.get(device) != line:
                self._lines[device] = line
                self._console.print(f"  {device}  {line}", soft_wrap=True)


def row(device: str, process: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one device."""
    status = process.get("status") or {}
    env = {entry["name"]: entry.get("value", "") for entry in process["spec"]["execution"].get("env", ())}
    revision = process["metadata"].get("annotations", {}).get(REVISION_ANNOTATION, "-")
    shown = (SHOWN_AS.get(value, value) for value in (condition(dict(process), kind) for kind in CONDITIONS))
    return (
        device,
        env.get("VERSION", "-"),
        revision[:10],
        status.get("phase") or "-",
        *shown,
        str(status.get("pid") or "-"),
        str(status.get("restartCount") or 0),
    )


def table(rows: Mapping[str, tuple[str, ...]], counts: Mapping[str, Any]) -> Table:
    """Return the table of all devices."""
    caption = "  ".join(f"{name} {counts.get(field, 0)}" for name, field in COUNTS)
    drawn = Table(box=None, header_style="bold", caption=caption, caption_justify="left")
    for name in COLUMNS:
        drawn.add_column(name, no_wrap=True)
    for cells in rows.values():
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, PLAIN.get(cell, ""))) for cell in cells))
    return drawn


PLAIN = {"yes": "green", "no": "red"}
COUNTS = (
    ("desired", "desiredNumberScheduled"),
    ("updated", "updatedNumberScheduled"),
    ("ready", "numberReady"),
    ("available", "numberAvailable"),
)
