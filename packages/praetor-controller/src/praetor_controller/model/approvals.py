# SPDX-License-Identifier: Apache-2.0
"""Which contents of files a revision approves: those of references that restart a process when they change. Pure.

A gateway says what ConfigMaps and Secrets hold, as digests. They are put into the template, so that a changed content
is a new revision, which waves, budgets and the failure policy roll out as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import evolve

from praetor_api.values import (
    ABSENT,
    INCOMPLETE,
    approved_sources,
    pending_references,
    required_sources,
    with_approved,
)
from praetor_controller.model.projection import project_template
from praetor_controller.model.rows import DeploymentRow, Template

Digests = Mapping[str, str]
"""Digests by their sources as text."""


def with_approvals(deployment: DeploymentRow, digests: Digests | None, newest: Template | None) -> DeploymentRow:
    """Return *deployment* with its template as it is approved by *digests*, those of its namespace.

    What they lack stays as the *newest* revision approved it: an object that was deleted by mistake restarts nothing.
    If that did not name it either, the deployment has a fault, and nothing is written until a gateway says more. Only
    files that are optional may be approved as absent, where the digests are not INCOMPLETE. None: no gateway says what
    the namespace holds.
    """
    template = deployment.template
    sources = {str(source) for part in _parts(template) for source in approved_sources(part).values()}
    if not sources and not any(_approves(part) for part in _parts(template)):
        return deployment
    required = {str(source) for part in _parts(template) for source in required_sources(part)}
    known = dict(approvals_of(newest)) if newest is not None else {}
    if digests is not None:
        if INCOMPLETE not in digests:
            known |= dict.fromkeys(sources - required, ABSENT)
        known |= {each: digest for each, digest in digests.items() if digest != ABSENT or each not in required}
    lacks = (sources - known.keys()) | {each for each in required if known.get(each) == ABSENT}
    if missing := sorted(lacks):
        return evolve(deployment, fault=pending_references(missing))
    return evolve(deployment, template=approved(deployment.name, template, known))


def approved(name: str, template: Template, digests: Digests) -> Template:
    """Return the *template* of the deployment *name* with *digests*, and with no other approval."""
    raw = {**template.raw, "spec": with_approved(template.raw.get("spec") or {}, digests)}
    return project_template(name, raw, [dict(with_approved(each, digests)) for each in template.overrides])


def as_approved(deployment: DeploymentRow, newest: Template | None) -> DeploymentRow:
    """Return *deployment* as the controller takes it to be that knows what *newest* approved, and nothing later.

    What that does not name has an approval all the same, which stands for one that only gateways know.
    """
    known = approvals_of(newest) if newest is not None else {}
    sources = {str(source) for part in _parts(deployment.template) for source in approved_sources(part).values()}
    return with_approvals(deployment, {each: known.get(each, "unknown") for each in sources}, newest)


def unapproved(
    template: Mapping[str, Any], overrides: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return spec.template and spec.overrides as a user writes them, from what a revision keeps of them."""
    spec = template.get("spec")
    plain = {**template, "spec": with_approved(spec, None)} if isinstance(spec, Mapping) else dict(template)
    return plain, [dict(with_approved(each, None)) for each in overrides]


def approvals_of(template: Template) -> Digests:
    """Return what *template* approves."""
    found: dict[str, str] = {}
    for part in _parts(template):
        sources = approved_sources(part)
        for file in _files(part):
            source = sources.get(str(file.get("path")))
            if source is not None and file.get("approved"):
                found[str(source)] = str(file["approved"])
    return found


def _parts(template: Template) -> Iterator[Mapping[str, Any]]:
    yield template.raw.get("spec") or {}
    yield from template.overrides


def _approves(part: Mapping[str, Any]) -> bool:
    return any("approved" in file for file in _files(part))


def _files(part: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    execution = part.get("execution")
    files = execution.get("files") if isinstance(execution, Mapping) else None
    return [each for each in files if isinstance(each, Mapping)] if isinstance(files, list | tuple) else ()
