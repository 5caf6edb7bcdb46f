# SPDX-License-Identifier: Apache-2.0
"""`praetorctl token`: secrets from files only, and no token is valid that a gateway would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from praetor_api.tokens import TokenVerifier, device_token
from praetor_controller.ctl.cli import main

NEWEST, OLDER = b"newest", b"older"


@pytest.fixture
def secrets(tmp_path: Path) -> str:
    path = tmp_path / "secrets"
    path.write_text("\n newest \n\nolder\n")
    return str(path)


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["token", *args], input=stdin)


def test_one_token_is_printed_alone_and_is_of_the_newest_secret(secrets: str) -> None:
    result = run("mint", "leaf-1", "--secret-file", secrets)
    assert (result.exit_code, result.output) == (0, device_token(NEWEST, "leaf-1") + "\n")
    assert TokenVerifier(secrets=(NEWEST,)).verify("leaf-1", result.output.strip())


def test_several_tokens_come_in_a_table(secrets: str) -> None:
    lines = run("mint", "leaf-1", "leaf-2", "--secret-file", secrets).output.splitlines()
    assert lines[0].split() == ["DEVICE", "TOKEN"]
    assert [line.split() for line in lines[1:]] == [[name, device_token(NEWEST, name)] for name in ("leaf-1", "leaf-2")]


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_read_tokens_by_device(secrets: str, output: str, load: object) -> None:
    assert callable(load)
    printed = run("mint", "leaf-1", "--secret-file", secrets, "-o", output).output
    assert load(printed) == [{"device": "leaf-1", "token": device_token(NEWEST, "leaf-1")}]


def test_secrets_come_from_standard_input() -> None:
    result = run("mint", "leaf-1", "--secret-file", "-", stdin="older\n")
    assert result.output == device_token(OLDER, "leaf-1") + "\n"


@pytest.mark.parametrize(
    ("device", "token", "code", "words"),
    [
        pytest.param("leaf-1", device_token(NEWEST, "leaf-1"), 0, "good: leaf-1 may use this token\n", id="newest"),
        pytest.param("leaf-1", device_token(OLDER, "leaf-1"), 0, "it is of secret 2 of 2", id="older"),
        pytest.param("leaf-1", device_token(NEWEST, "leaf-2"), 3, "refused", id="another-device"),
        pytest.param("leaf-1", device_token(b"no", "leaf-1"), 3, "refused", id="another-secret"),
        pytest.param("leaf-1", "", 3, "refused", id="empty"),
    ],
)
def test_a_token_is_verified_as_a_gateway_does(secrets: str, device: str, token: str, code: int, words: str) -> None:
    result = run("verify", device, token, "--secret-file", secrets)
    assert result.exit_code == code
    assert words in result.output


def test_a_token_is_valid_in_its_epoch_alone(secrets: str) -> None:
    token = run("mint", "leaf-1", "--secret-file", secrets, "--epoch", "2").output.strip()
    assert token == device_token(NEWEST, "leaf-1", 2)
    said = {
        epoch: run("verify", "leaf-1", token, "--secret-file", secrets, "--epoch", epoch) for epoch in ("0", "1", "2")
    }
    assert {epoch: result.exit_code for epoch, result in said.items()} == {"0": 3, "1": 3, "2": 0}
    assert said["1"].output == "refused: no secret makes this token for leaf-1 in epoch 1\n"
    older = run("verify", "leaf-1", device_token(OLDER, "leaf-1", 2), "--secret-file", secrets, "--epoch", "2")
    assert "it is of secret 2 of 2" in older.output


@pytest.mark.parametrize("epoch", ["-1", "one", "1.5"])
@pytest.mark.parametrize("command", [("mint", "leaf-1"), ("verify", "leaf-1", "token")], ids=["mint", "verify"])
def test_what_is_no_epoch_is_refused_by_name(secrets: str, command: tuple[str, ...], epoch: str) -> None:
    result = run(*command, "--secret-file", secrets, "--epoch", epoch)
    assert result.exit_code == 2
    assert "--epoch" in result.output


def test_the_help_says_where_a_devices_epoch_is() -> None:
    for command in ("mint", "verify"):
        assert "spec.credentialEpoch" in run(command, "--help").output


def test_the_data_of_a_token_name_its_secret(secrets: str) -> None:
    result = run("verify", "leaf-1", device_token(OLDER, "leaf-1"), "--secret-file", secrets, "-o", "json")
    assert json.loads(result.output) == {"device": "leaf-1", "valid": True, "secret": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"\n \n", "is empty; write one secret a line", id="empty"),
        pytest.param("schlüssel".encode(), "is not printable ASCII", id="not-ascii"),
        pytest.param(b"\xff\xfe", "is not text", id="binary"),
    ],
)
def test_bad_secrets_are_named_with_their_option(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "secrets"
    path.write_bytes(content)
    result = run("mint", "leaf-1", "--secret-file", str(path))
    assert result.exit_code == 2
    assert "--secret-file: " in result.output
    assert words in result.output


def test_a_file_that_is_not_there_is_no_traceback(tmp_path: Path) -> None:
    result = run("mint", "leaf-1", "--secret-file", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "No such file" in result.output


def test_what_cannot_be_a_device_gets_no_token(secrets: str) -> None:
    result = run("mint", "Leaf_1", "--secret-file", secrets)
    assert result.exit_code == 2
    assert "DEVICE: 'Leaf_1'" in result.output


def test_a_secret_has_no_place_on_the_command_line() -> None:
    assert run("mint", "leaf-1").exit_code == 2


def test_a_file_of_secrets_without_end_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "secrets").open("wb") as large:
        large.truncate(1 << 40)
    result = run("mint", "leaf-1", "--secret-file", str(tmp_path / "secrets"))
    assert result.exit_code == 2
    assert "has more than 1 MiB; give a file of secrets" in result.stderr
