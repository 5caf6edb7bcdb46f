# SPDX-License-Identifier: Apache-2.0
"""The pages lead where they say: links between pages, and the paths that the architecture names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = {"controller", "gateway", "agent", "praetor-api"}


def pages() -> list[Path]:
    folders = ("docs", "packages", "deploy", "tools")
    return [*ROOT.glob("*.md"), *(page for folder in folders for page in sorted((ROOT / folder).rglob("*.md")))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that a forge makes of the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_every_page_below_docs_links_back_to_the_index() -> None:
    lost = [page.name for page in (ROOT / "docs").rglob("*.md") if "README.md)" not in page.read_text()]
    assert lost == []


def answers() -> Iterator[tuple[str, str]]:
    """Yield the wheel and the path of each answer in the table of the architecture."""
    wheel = ""
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if found := re.match(r"\| \*\*([\w-]+)\*\*", line):
            wheel = found[1]
        elif wheel in WHEELS and line.startswith("| "):
            yield from ((wheel, path) for path in re.findall(r"`([\w/]+\.py)`", line))
        elif line.startswith("## "):
            wheel = ""


def test_every_question_of_the_architecture_is_answered_by_a_file_that_exists() -> None:
    found = list(answers())
    assert len(found) >= 20
    for wheel, path in found:
        name = wheel if wheel.startswith("praetor-") else f"praetor-{wheel}"
        assert (ROOT / "packages" / name / "src" / name.replace("-", "_") / path).exists(), f"{wheel}: {path}"
