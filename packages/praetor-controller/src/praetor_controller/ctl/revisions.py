# SPDX-License-Identifier: Apache-2.0
"""The history of a deployment as a table, and the revision that an undo restores. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import unified_diff
from typing import Any

from praetor_api.kube.codec import format_time
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.ctl.output import Column, OutputFormat, for_people, painted, screen_width, structured, table
from praetor_controller.ctl.times import age
from praetor_controller.model.approvals import unapproved
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import RevisionRow, overrides_of, project_revision, template_of, to_restore

_COLUMNS: tuple[str | Column, ...] = ("REVISION", "HASH", Column("STARTED", leaves=1), Column("RUNS", cut=True))


def owned(objects: Sequence[Mapping[str, Any]], uid: str) -> list[Mapping[str, Any]]:
    """Return the ControllerRevisions among *objects* that belong to the deployment *uid*, oldest first."""
    mine = [obj for obj in objects if project_revision(obj).owner == uid]
    return sorted(mine, key=lambda obj: project_revision(obj).number)


def before(revisions: Sequence[Mapping[str, Any]], deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the newest revision that was rolled out before the template of *deployment*; CommandFailed without one.

    One that was not rolled out may have failed, so only a user can choose it.
    """
    name, row = deployment["metadata"]["name"], project_deployment(deployment)
    spec = deployment["spec"]
    present = unapproved(spec.get("template") or {}, spec.get("overrides") or ())
    # a revision that differs in contents of files alone has nothing to bring back: the objects hold them
    others = [each for each in revisions if unapproved(template_of(each), overrides_of(each)) != present]
    if not others:
        raise CommandFailed(f"{name} has no earlier revision; see: praetorctl rollout history {name}")
    rows = list(map(project_revision, revisions))
    known = {project_revision(each).template.revision for each in others}
    same = {row.template.revision, *(each.template.revision for each in rows)} - known
    found = to_restore(rows, same, row.status.failed_revision)
    if found is None:
        numbers = ", ".join(str(each.get("revision")) for each in others)
        raise CommandFailed(f"no other revision of {name} was rolled out; choose one with --to-revision: {numbers}")
    return next(each for each in others if project_revision(each).template.revision == found.template.revision)


def chosen(revisions: Sequence[Mapping[str, Any]], number: int, name: str) -> Mapping[str, Any]:
    """Return revision *number*. CommandFailed when there is none."""
    for revision in revisions:
        if revision.get("revision") == number:
            return revision
    known = ", ".join(str(each.get("revision")) for each in revisions) or "none"
    raise CommandFailed(f"{name} has no revision {number}; there are: {known}")


def history_text(revisions: Sequence[Mapping[str, Any]], current: str | None, output: str, now: datetime) -> str:
    """Return what is printed about *revisions*; *current* is the hash of the one that was rolled out last."""
    rows = [project_revision(each) for each in revisions]
    if not for_people(output):
        return structured([_data(row, each, current) for row, each in zip(rows, revisions, strict=True)], output)
    newest = rows[-1].number if rows else 0
    has_causes = any(row.change_cause for row in rows)
    differs = next((each for each in (_artifact, _command, _environment) if len(set(map(each, rows))) > 1), _runs)
    return table(
        (*_COLUMNS, *((Column("CAUSE", cut=True),) if has_causes else ()), ""),
        [
            (
                str(row.number),
                row.template.revision,
                age(_started(row), now),
                differs(row),
                *((" ".join(row.change_cause.split()) or "-",) if has_causes else ()),
                _mark(row, newest, current),
            )
            for row in rows
        ],
        width=screen_width(output),
    )


def details(revisions: Sequence[Mapping[str, Any]], number: int, current: str | None, name: str, now: datetime) -> str:
    """Return what is printed about revision *number*: when and why it was made, its template, and what it changed."""
    revision = chosen(revisions, number, name)
    row, template = project_revision(revision), template_to_restore(revision, name)
    facts = {
        "hash": row.template.revision,
        "created": _ago(_created(revision), now),
        "started": _ago(_started(row), now),
        "change cause": row.change_cause or "-",
        "rolled out": _rolled_out(row, current),
    }
    width = max(map(len, facts)) + 2
    lines = [f"{name} revision {number}", *(f"{fact + ':':{width}}{value}" for fact, value in facts.items())]
    lines += ["template:", *_indented(_lines(template))]
    if overrides := overrides_of(revision):
        lines += ["overrides:", *_indented(_lines(overrides))]
    before = _before(revisions, number)
    if before is None:
        return "\n".join([*lines, "it is the oldest revision that is kept"])
    older, newer = (f"revision {each.get('revision')}" for each in (before, revision))
    changes = list(unified_diff(_all_lines(before), _all_lines(revision), older, newer, lineterm=""))
    return "\n".join([*lines, "changes:", *_indented(map(_painted, changes))])


def _before(revisions: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any] | None:
    earlier = [each for each in revisions if int(each.get("revision") or 0) < number]
    return earlier[-1] if earlier else None


def _lines(part: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    return structured(part, OutputFormat.YAML).splitlines()


def _all_lines(revision: Mapping[str, Any]) -> list[str]:
    overrides = overrides_of(revision)
    return [*_lines(template_of(revision)), *(_lines({"overrides": overrides}) if overrides else ())]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


def _painted(line: str) -> str:
    return painted(line, {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], ""))


def _ago(at: str, now: datetime) -> str:
    ago = age(at, now)
    return f"{at} ({ago} ago)" if ago else "-"


def _created(revision: Mapping[str, Any]) -> str:
    return str(revision["metadata"].get("creationTimestamp") or "")


def _data(row: RevisionRow, revision: Mapping[str, Any], current: str | None) -> dict[str, Any]:
    template = row.template
    return {
        "revision": row.number,
        "hash": template.revision,
        "template": dict(template.raw),
        **({"overrides": [*template.overrides]} if template.overrides else {}),
        "rolledOut": template.revision == current,
        "everRolledOut": template.revision == current or row.rolled_out is not None,
        "created": _created(revision),
        "started": _started(row),
        "changeCause": row.change_cause,
    }


def _rolled_out(row: RevisionRow, current: str | None) -> str:
    if row.template.revision == current:
        return "yes, last"
    return "yes, earlier" if row.rolled_out is not None else "no, or before it was recorded"


def _mark(row: RevisionRow, newest: int, current: str | None) -> str:
    earlier = "rolled out earlier" if row.rolled_out is not None else ""
    state = "rolled out" if row.template.revision == current else earlier
    words = ("template" if row.number == newest else "", state)
    return ", ".join(word for word in words if word)


def _artifact(row: RevisionRow) -> str:
    spec = row.template.raw.get("spec") or {}
    return (spec.get("artifact") or {}).get("url") or ""


def _command(row: RevisionRow) -> str:
    execution = (row.template.raw.get("spec") or {}).get("execution") or {}
    return " ".join((*(execution.get("command") or ()), *(execution.get("args") or ())))


def _environment(row: RevisionRow) -> str:
    execution = (row.template.raw.get("spec") or {}).get("execution") or {}
    return " ".join(f"{each.get('name')}={each.get('value', '')}" for each in execution.get("env") or ())


def _runs(row: RevisionRow) -> str:
    return _artifact(row) or _command(row)


def _started(row: RevisionRow) -> str:
    return format_time(datetime.fromtimestamp(row.started_at, UTC))


def template_to_restore(revision: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the template that *revision* holds, as a user writes it; CommandFailed when it holds none."""
    template, _ = unapproved(template_of(revision), ())
    if not template:
        raise CommandFailed(f"revision {revision.get('revision')} of {name} holds no template; choose another one")
    return template
