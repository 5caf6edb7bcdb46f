# SPDX-License-Identifier: Apache-2.0
"""An image's build gets the settings of this machine's pip that are about packages, and no others."""

from __future__ import annotations

from pathlib import Path

from e2e.release.pipsettings import CA_INSIDE, config_files, read_settings


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_later_file_wins_and_the_environment_wins_over_files(tmp_path: Path) -> None:
    first = written(tmp_path, "machine.conf", "[global]\nindex-url = https://one.example/simple\ntimeout = 1\n")
    second = written(
        tmp_path, "user.conf", "[global]\nindex-url = https://two.example/simple\n[install]\nretries = 9\n"
    )
    found = read_settings((first, second, tmp_path / "absent.conf"), {"PIP_TIMEOUT": "60", "HOME": "/nowhere"})
    lines = found.config.splitlines()
    assert lines[0] == "[global]"
    assert set(lines[1:]) == {"index-url = https://two.example/simple", "timeout = 60", "retries = 9"}


def test_local_folders_are_named_so_that_the_build_can_be_given_them(tmp_path: Path) -> None:
    index, wheels = tmp_path / "index" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    environment = {
        "PIP_EXTRA_INDEX_URL": f"file://{index} https://three.example/simple file:///not-there/simple",
        "PIP_FIND_LINKS": str(wheels),
    }
    assert read_settings((), environment).folders == (index.parent, wheels)


def test_a_certificate_authority_is_named_by_its_place_inside(tmp_path: Path) -> None:
    found = read_settings((), {"PIP_CERT": str(tmp_path / "ca.pem")})
    assert found.ca == tmp_path / "ca.pem"
    assert f"cert = {CA_INSIDE}" in found.config
    assert str(tmp_path) not in found.config


def test_settings_that_are_not_about_packages_are_not_passed_on() -> None:
    found = read_settings((), {"PIP_CACHE_DIR": "/cache", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_LOG": "/log"})
    assert found.config == "[global]\n"
    assert found.ca is None
    assert found.folders == ()


def test_several_lines_of_a_file_become_one(tmp_path: Path) -> None:
    file = written(tmp_path, "pip.conf", "[global]\nfind-links =\n    https://a.example\n    https://b.example\n")
    assert read_settings((file,), {}).config == "[global]\nfind-links = https://a.example https://b.example\n"


def test_the_file_that_the_environment_names_is_read_last() -> None:
    files = config_files({"PIP_CONFIG_FILE": "/own.conf"}, Path("/home/me"))
    assert files[-1] == Path("/own.conf")
    assert config_files({}, Path("/home/me"))[-1] == Path("/home/me/.config/pip/pip.conf")
