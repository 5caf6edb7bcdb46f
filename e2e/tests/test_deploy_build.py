# SPDX-License-Identifier: Apache-2.0
"""`hatch run build`: the files, the table and an honest exit status."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from e2e.release import build
from e2e.release.build import (
    BuildError,
    Built,
    build_all,
    files_of,
    main,
    read_sizes,
    table,
    unexplained_growth,
    write_sizes,
)

PACKAGE = "praetor-agent"
BUILD_S = 300  # it takes three seconds on two idle cores


@pytest.mark.timeout(BUILD_S)
def test_a_package_becomes_a_wheel_and_an_sdist_and_older_builds_of_it_go(tmp_path: Path) -> None:
    stale = tmp_path / "praetor_agent-0.0.1-py3-none-any.whl"
    others = tmp_path / "praetor_api-0.0.1-py3-none-any.whl"
    for file in (stale, others):
        file.touch()
    sizes = tmp_path / "sizes.toml"
    write_sizes(sizes, {PACKAGE: 1, "praetor-api": 7})
    done = CliRunner().invoke(main, [PACKAGE, "--out", str(tmp_path), "--sizes", str(sizes), "--record"])
    assert done.exit_code == 0
    wheel, sdist = files_of(PACKAGE, tmp_path)
    assert (wheel.suffix, sdist.name.endswith(".tar.gz")) == (".whl", True)
    assert not stale.exists()
    assert others.exists()
    assert (
        done.output.splitlines()
        == table(
            tuple(Built(package=PACKAGE, path=path, size=path.stat().st_size) for path in (wheel, sdist))
        ).splitlines()
    )
    assert read_sizes(sizes) == {PACKAGE: wheel.stat().st_size, "praetor-api": 7}
    with zipfile.ZipFile(wheel) as archive:
        assert "praetor_agent/py.typed" in archive.namelist()


def test_a_package_that_cannot_be_built_is_an_error_and_older_builds_stay(tmp_path: Path) -> None:
    before = tmp_path / "praetor_missing-0.0.1.tar.gz"
    before.touch()
    with pytest.raises(BuildError, match="praetor-missing could not be built"):
        build_all(("praetor-missing",), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]


def test_an_unknown_package_is_refused_by_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["praetor-missing", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "praetor-missing" in done.output


def test_every_package_of_the_workspace_is_built() -> None:
    assert {path.name for path in (build.ROOT / "packages").iterdir() if path.is_dir()} == set(build.PACKAGES)


def test_the_table_has_a_line_for_each_file_with_its_size() -> None:
    files = (Built(package="a", path=Path("a-1.whl"), size=1234), Built(package="a", path=Path("a-1.tar.gz"), size=5))
    assert table(files).splitlines() == ["a-1.whl         1,234 B", "a-1.tar.gz          5 B"]


CHANGELOG = """# Changelog

## 0.2.0 - unreleased

- Something else.
- The wheel of the agent
  has 106 kB: it speaks to a third kind of registry.

## 0.1.0

- The wheel has 900 kB.
"""


@pytest.mark.parametrize(
    ("size", "changelog", "refused"),
    [
        pytest.param(105_000, "", False, id="a-twentieth"),
        pytest.param(105_001, "", True, id="more"),
        pytest.param(106_000, CHANGELOG, False, id="explained"),
        pytest.param(106_001, CHANGELOG, True, id="more-than-explained"),
        pytest.param(900, CHANGELOG, False, id="smaller"),
    ],
)
def test_a_wheel_that_grows_needs_an_entry_in_its_changelog(size: int, changelog: str, refused: bool) -> None:
    assert (unexplained_growth(PACKAGE, size, 100_000, changelog) is not None) is refused


def test_the_message_says_how_much_a_wheel_grew_and_which_entry_is_missing() -> None:
    fault = unexplained_growth(PACKAGE, 110_500, 100_000, "")
    assert fault is not None
    assert "the wheel of praetor-agent grew by 10.5%, from 100,000 to 110,500 bytes" in fault
    entry = "- The wheel has 111 kB: "
    assert "packages/praetor-agent/CHANGELOG.md" in fault
    assert entry in fault
    assert unexplained_growth(PACKAGE, 110_500, 100_000, f"## Unreleased\n\n{entry}reasons") is None


@pytest.mark.timeout(BUILD_S)
def test_a_build_whose_wheel_grew_fails_and_keeps_the_recorded_size(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.toml"
    write_sizes(sizes, {"praetor-gateway": 1000})
    changelog = tmp_path / "praetor-gateway" / "CHANGELOG.md"
    changelog.parent.mkdir()
    changelog.write_text("## 0.1.0 - unreleased\n\n- It serves devices.\n")
    places = ["--out", str(tmp_path), "--sizes", str(sizes), "--changelogs", str(tmp_path)]
    refused = CliRunner().invoke(main, ["praetor-gateway", *places])
    assert refused.exit_code == 1
    assert "the wheel of praetor-gateway grew" in refused.output
    assert read_sizes(sizes) == {"praetor-gateway": 1000}


def test_the_size_of_every_wheel_is_recorded() -> None:
    assert read_sizes(build.RECORDED).keys() == set(build.PACKAGES)
