"""`hatch run build`: the files, the table and an honest exit status."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from e2e.release import build
from e2e.release.build import BuildError, Built, build_all, files_of, main, table

PACKAGE = "praetor-agent"


def test_a_package_becomes_a_wheel_and_an_sdist_and_older_builds_of_it_go(tmp_path: Path) -> None:
    stale = tmp_path / "praetor_agent-0.0.1-py3-none-any.whl"
    others = tmp_path / "praetor_api-0.0.1-py3-none-any.whl"
    for file in (stale, others):
        file.touch()
    done = CliRunner().invoke(main, [PACKAGE, "--out", str(tmp_path)])
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
    with zipfile.ZipFile(wheel) as archive:
        assert "praetor_agent/py.typed" in archive.namelist()


def test_a_package_that_cannot_be_built_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
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
