"""The history of a deployment as a table, and which revision an undo means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from praetor_api.kube.codec import format_time
from praetor_controller.ctl.exits import CommandFailed
from praetor_controller.ctl.output import OutputFormat, structured, table
from praetor_controller.ctl.times import age
from praetor_controller.revisions import RevisionRow, project_revision, template_of

_HEADERS = ("REVISION", "HASH", "STARTED", "RUNS", "")


def owned(objects: Sequence[Mapping[str, Any]], uid: str) -> list[Mapping[str, Any]]:
    """Return the ControllerRevisions among *objects* that belong to the deployment *uid*, oldest first."""
    mine = [obj for obj in objects if project_revision(obj).owner == uid]
    return sorted(mine, key=lambda obj: project_revision(obj).number)


def chosen(revisions: Sequence[Mapping[str, Any]], number: int, name: str) -> Mapping[str, Any]:
    """Return revision *number*; 0 means the one before the newest. CommandFailed when there is none."""
    if number == 0:
        if len(revisions) < 2:
            raise CommandFailed(f"{name} has no earlier revision; see: praetorctl rollout history {name}")
        return revisions[-2]
    for revision in revisions:
        if revision.get("revision") == number:
            return revision
    known = ", ".join(str(each.get("revision")) for each in revisions) or "none"
    raise CommandFailed(f"{name} has no revision {number}; there are: {known}")


def history(revisions: Sequence[Mapping[str, Any]], current: str | None, output: str, now: datetime) -> str:
    """Return what is printed about *revisions*; *current* is the hash of the one that was rolled out last."""
    rows = [project_revision(each) for each in revisions]
    if output != OutputFormat.TABLE:
        return structured([_data(row, current) for row in rows], output)
    newest = rows[-1].number if rows else 0
    return table(
        _HEADERS,
        [
            (
                str(row.number),
                row.template.revision,
                age(_started(row, now), now),
                _runs(row),
                _mark(row, newest, current),
            )
            for row in rows
        ],
    )


def _data(row: RevisionRow, current: str | None) -> dict[str, Any]:
    template = row.template
    return {
        "revision": row.number,
        "hash": template.revision,
        "template": dict(template.raw),
        "rolledOut": template.revision == current,
    }


def _mark(row: RevisionRow, newest: int, current: str | None) -> str:
    words = ("template" if row.number == newest else "", "rolled out" if row.template.revision == current else "")
    return ", ".join(word for word in words if word)


def _runs(row: RevisionRow) -> str:
    """Return what tells templates apart for a person: the artifact, else the command."""
    spec = row.template.raw.get("spec") or {}
    artifact, execution = spec.get("artifact") or {}, spec.get("execution") or {}
    words = artifact.get("url") or " ".join((*(execution.get("command") or ()), *(execution.get("args") or ())))
    return words if len(words) <= 60 else words[:57] + "..."


def _started(row: RevisionRow, now: datetime) -> str:
    return format_time(datetime.fromtimestamp(row.started_at, now.tzinfo))


def template_to_restore(revision: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the template that *revision* holds; CommandFailed when somebody broke it."""
    template = template_of(revision)
    if not template:
        raise CommandFailed(f"revision {revision.get('revision')} of {name} holds no template; choose another one")
    return template
