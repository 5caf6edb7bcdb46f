# SPDX-License-Identifier: Apache-2.0
"""What a release is called: the version of a wheel, its tag and its section of the changelog, which must agree."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click
from attrs import frozen

VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
FORM = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(rc[1-9][0-9]*)?")
UNRELEASED = "unreleased"


class ReleaseError(click.ClickException):
    """A release cannot be made; the message says what to write."""


@frozen(kw_only=True)
class Release:
    """One version of one wheel."""

    wheel: str
    version: str

    @property
    def tag(self) -> str:
        """The name of the git tag."""
        return f"{self.wheel}-v{self.version}"

    @property
    def stem(self) -> str:
        """What the names of the files begin with."""
        return f"{self.wheel.replace('-', '_')}-{self.version}"

    @property
    def about(self) -> str:
        """The path of the file that holds the version."""
        return f"packages/{self.wheel}/src/{self.wheel.replace('-', '_')}/__about__.py"

    @property
    def changelog(self) -> str:
        """The path of the wheel's changelog."""
        return f"packages/{self.wheel}/CHANGELOG.md"


def read_release(wheel: str, about: str) -> Release:
    """Return the release that *about*, the text of the wheel's __about__.py, names."""
    found = VERSION.search(about)
    release = Release(wheel=wheel, version=found[1] if found else "")
    if not FORM.fullmatch(release.version):
        raise ReleaseError(f'{release.about} has no version that can be released; write __version__ = "1.2.3" there')
    return release


def check_tag(release: Release, tags: Iterable[str], *, required: bool) -> None:
    """Raise ReleaseError if one of *tags*, those of the commit, names another version of the wheel.

    With *required*, the commit must have the tag of *release*.
    """
    own = sorted(tag for tag in tags if re.fullmatch(rf"{re.escape(release.wheel)}-v?[0-9].*", tag))
    for tag in own:
        if tag != release.tag:
            version = tag.removeprefix(f"{release.wheel}-").removeprefix("v")
            raise ReleaseError(
                f"the tag {tag} is on a commit whose {release.about} says {release.version}; "
                f'write __version__ = "{version}" there, commit and move the tag, or tag {release.tag} instead'
            )
    if required and not own:
        raise ReleaseError(
            f"the commit has no tag {release.tag}; write: git tag --sign {release.tag}; or use --dry-run"
        )


def check_changelog(release: Release, changelog: str, today: str, *, dated: bool) -> str:
    """Return the entries of the section of *release* in *changelog*; ReleaseError if it has none.

    With *dated*, the section must have a date; *today* is the one that the message proposes.
    """
    heading = f"## {release.version}"
    found = re.search(
        rf"^{re.escape(heading)}(?: - (\S+))?$\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )  # fmt: skip
    if not found:
        raise ReleaseError(
            f'{release.changelog} has no section for {release.version}; write "{heading} - {today}" above its entries'
        )
    date, entries = found[1], found[2].strip()
    if not re.search(r"^- ", entries, re.MULTILINE):
        raise ReleaseError(f'{release.changelog} has no entries below "{found[0].splitlines()[0]}"; write some')
    if dated and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date or ""):
        raise ReleaseError(
            f'{release.changelog} dates {release.version} "{date or ""}"; write "{heading} - {today}" instead'
        )
    return entries


def refusal(wheel: str, needs: Iterable[str], confirmed: Iterable[str]) -> str | None:
    """Return why *wheel* may not go to the public index; None if it may.

    *needs* are the project's wheels that it asks for: an index that has a foreign one of that name would serve it.
    """
    foreign = sorted({wheel, *needs} - set(confirmed))
    if not foreign:
        return None
    return (
        f"{wheel} is not published to the public index: the owner has not confirmed that {' and '.join(foreign)} "
        f"{'belongs' if len(foreign) == 1 else 'belong'} to this project there; "
        "see docs/adr/0027-names-on-the-public-index.md, then add to confirmed_names in e2e/release/release.toml"
    )
