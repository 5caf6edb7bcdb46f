# SPDX-License-Identifier: Apache-2.0
"""Version, tag, changelog and name of a release agree, or an error says what to write."""

from __future__ import annotations

import pytest

from e2e.release.version import Release, ReleaseError, check_changelog, check_tag, read_release, refusal

AGENT = Release(wheel="praetor-agent", version="0.2.0")
TODAY = "2026-11-29"


def test_a_release_has_the_version_of_its_wheel_and_a_tag_of_its_own() -> None:
    release = read_release("praetor-agent", '# SPDX\n__version__ = "0.2.0"\n')
    assert release == AGENT
    assert (release.tag, release.stem) == ("praetor-agent-v0.2.0", "praetor_agent-0.2.0")


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0.dev1", "01.2.0", "0.2.0+local"])
def test_a_version_that_cannot_be_released_is_refused(version: str) -> None:
    with pytest.raises(ReleaseError, match=r'__about__\.py has no version .*; write __version__ = "1\.2\.3"'):
        read_release("praetor-agent", f'__version__ = "{version}"\n')


@pytest.mark.parametrize(
    ("tags", "required"),
    [
        pytest.param((), False, id="dry-run-without-a-tag"),
        pytest.param(("praetor-agent-v0.2.0",), True, id="its-tag"),
        pytest.param(("praetor-agent-v0.2.0", "praetor-gateway-v0.9.0", "v3"), True, id="tags-of-others"),
    ],
)
def test_a_commit_with_the_tag_of_its_version_is_released(tags: tuple[str, ...], required: bool) -> None:
    check_tag(AGENT, tags, required=required)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("tag", ["praetor-agent-v0.3.0", "praetor-agent-0.3.0"])
def test_a_tag_that_names_another_version_is_refused_with_what_to_write(tag: str, required: bool) -> None:
    with pytest.raises(ReleaseError) as caught:
        check_tag(AGENT, ("praetor-agent-v0.2.0", tag), required=required)
    assert f"the tag {tag} is on a commit whose packages/praetor-agent/src/praetor_agent/" in caught.value.message
    assert 'write __version__ = "0.3.0" there' in caught.value.message
    assert "or tag praetor-agent-v0.2.0 instead" in caught.value.message


def test_a_commit_without_a_tag_is_released_by_a_dry_run_alone() -> None:
    with pytest.raises(ReleaseError, match=r"write: git tag --sign praetor-agent-v0\.2\.0; or use --dry-run"):
        check_tag(AGENT, ("praetor-api-v0.2.0",), required=True)


CHANGELOG = "# Changelog\n\n## 0.2.0 - {date}\n\n### Added\n\n- It flies.\n\n## 0.1.0 - 2026-01-01\n\n- It runs.\n"


@pytest.mark.parametrize("dated", [True, False])
def test_the_notes_of_a_release_are_its_section_of_the_changelog(dated: bool) -> None:
    notes = check_changelog(AGENT, CHANGELOG.format(date="2026-11-28"), TODAY, dated=dated)
    assert notes == "### Added\n\n- It flies."


@pytest.mark.parametrize(
    ("changelog", "message"),
    [
        pytest.param("## 0.1.0\n\n- It runs.\n", 'has no section for 0.2.0; write "## 0.2.0 - 2026-11-29"', id="none"),
        pytest.param("## 0.2.01\n\n- It runs.\n", "has no section for 0.2.0", id="another-version"),
        pytest.param("## 0.2.0 - 2026-11-28\n\n## 0.1.0\n\n- It runs.\n", "has no entries below", id="empty"),
        pytest.param(CHANGELOG.format(date="unreleased"), 'write "## 0.2.0 - 2026-11-29" instead', id="no-date"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused_with_what_to_write(changelog: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=r"packages/praetor-agent/CHANGELOG\.md") as caught:
        check_changelog(AGENT, changelog, TODAY, dated=True)
    assert message in caught.value.message


def test_a_dry_run_needs_no_date() -> None:
    assert check_changelog(AGENT, CHANGELOG.format(date="unreleased"), TODAY, dated=False)


@pytest.mark.parametrize(
    ("confirmed", "named"),
    [
        pytest.param((), "praetor-agent and praetor-api belong", id="by-default"),
        pytest.param(("praetor-agent",), "praetor-api belongs", id="what-it-needs"),
        pytest.param(("praetor-api", "praetor-gateway"), "praetor-agent belongs", id="itself"),
    ],
)
def test_a_name_that_the_owner_has_not_confirmed_is_refused(confirmed: tuple[str, ...], named: str) -> None:
    sentence = refusal("praetor-agent", ("praetor-api",), confirmed)
    assert sentence is not None
    assert f"praetor-agent is not published to the public index: the owner has not confirmed that {named}" in sentence


def test_confirmed_names_are_published() -> None:
    assert refusal("praetor-agent", ("praetor-api",), ("praetor-api", "praetor-agent")) is None
