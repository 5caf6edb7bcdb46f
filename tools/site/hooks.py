# SPDX-License-Identifier: Apache-2.0
"""Hooks of mkdocs: the pages of the repository, as they stand, are the pages of the site.

Pages outside docs/ join it, links follow them, and nothing is fetched from another host when a page is read.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")

WHEELS = ("praetor-api", "praetor-controller", "praetor-gateway", "praetor-agent")
# where a page of the repository that is not below docs/, or is an index of its folder there, stands in the site
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "all-pages.md",
    "deploy/README.md": "install.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    **{f"packages/{wheel}/README.md": f"{wheel}.md" for wheel in WHEELS},
    **{f"packages/{wheel}/CHANGELOG.md": f"{wheel}-changes.md" for wheel in WHEELS},
}
SOURCES = {target: source for source, target in PAGES.items()}

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
# links back to an index: the site has a navigation
BACK = re.compile(r"^\[(?:All pages|All decisions|Back to the project)\]\([^)]*\)\n", re.MULTILINE)
ITEM = re.compile(r"(?:[-*]|\d+\.) +")
SEQUENCE = re.compile(r"^```mermaid\nsequenceDiagram\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"(\w+)-?->>(\w+): (.*)")
FETCHED = re.compile(r"<(?:script|img|iframe|source|link)[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    root = Path(config.config_file_path).parent
    files.remove(files.src_uris["README.md"])
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages, and write sequence diagrams as lists, for which no script is needed."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    root, folder = Path(config.config_file_path).parent, str(PurePosixPath(source).parent)

    def moved(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return found[0]
        path = normpath(f"{folder}/{path}")
        there = PAGES.get(path, path.removeprefix("docs/"))
        if there in files.src_uris:
            return f"{image}[{text}]({relpath(there, str(PurePosixPath(page.file.src_uri).parent))}{mark}{anchor})"
        # a file of the repository that is no page
        if not (root / path).exists():
            log.warning("%s links to %s, which is not there", source, path)
        repository = config.extra["repository"]
        return f"[{text}]({repository}/blob/HEAD/{path})" if repository else text

    return LINK.sub(moved, indented(SEQUENCE.sub(listed, BACK.sub("", markdown))))


def indented(markdown: str) -> str:
    """Indent what is within items of lists by four spaces a level; a forge also takes the column of the item's text."""
    columns: list[int] = []  # where the text of the items around a line begins
    lines, code = [], False
    for line in markdown.split("\n"):
        text = line.lstrip(" ")
        column = len(line) - len(text)
        while text and not code and columns and column < columns[-1]:
            columns.pop()
        lines.append(" " * max(0, 4 * len(columns) + column - (columns[-1] if columns else 0)) + text)
        if text.startswith("```"):
            code = not code
        elif not code and (item := ITEM.match(text)):
            columns.append(column + len(item[0]))
    return "\n".join(lines)


def listed(found: re.Match[str]) -> str:
    """Return the sequence diagram *found* as a numbered list."""
    names = dict(re.findall(r"participant (\w+) as (.*)", found[1]))
    return "".join(
        f"1. **{names[sender]}{'' if sender == receiver else f' → {names[receiver]}'}**: {text}\n"
        for sender, receiver, text in ARROW.findall(found[1])
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of what a browser would fetch from another host; `--strict` makes that an error."""
    for fetched in FETCHED.findall(output):
        log.warning("%s would be fetched from another host by %s", fetched, page.file.src_uri)
    return output
