# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices token`: what it prints is what a gateway accepts, and no one else can read what it writes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ctl_testing import Lab
from kube_testing import body_of
from praetor_api.kube.client.errors import Forbidden, api_error
from praetor_api.kube.client.resource import NETWORK_SWITCHES, SECRETS, Key
from praetor_api.tokens import device_token

NEWEST, OLDER = b"newest", b"older"
EPOCHS = {"leaf-1": 0, "leaf-2": 3, "spine-1": 1}
TOKENS = {name: device_token(NEWEST, name, epoch) for name, epoch in EPOCHS.items()}
SECRET = Key("praetor-system", "praetor-device-tokens")


def put_secret(lab: Lab, content: str | None, key: Key = SECRET) -> None:
    data = {} if content is None else {"data": {"secrets": content}}
    asyncio.run(lab.kube.create(SECRETS, key.namespace, body_of(SECRETS, key.name, **data)))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture
def bare() -> Lab:
    """Return a lab of three devices, without the gateway's Secret."""
    lab = Lab()
    for name, epoch in EPOCHS.items():
        lab.switch(name, {"role": name.partition("-")[0]}, spec={"credentialEpoch": epoch} if epoch else {})
    return lab


@pytest.fixture
def lab(bare: Lab) -> Lab:
    put_secret(bare, encoded(b"\n newest \nolder\n"))
    return bare


@pytest.mark.parametrize(
    ("words", "names"),
    [
        pytest.param(["spine-1", "leaf-2", "spine-1"], ["leaf-2", "spine-1"], id="several"),
        pytest.param(["-l", "role=leaf"], ["leaf-1", "leaf-2"], id="selector"),
        pytest.param(["-l", "role=spine"], ["spine-1"], id="selector-of-one"),
        pytest.param(["--all"], list(EPOCHS), id="all"),
    ],
)
def test_the_tokens_of_several_devices_are_a_table_each_of_its_epoch(
    lab: Lab, words: list[str], names: list[str]
) -> None:
    lines = lab.run("devices", "token", *words).output.splitlines()
    assert lines[0].split() == ["DEVICE", "TOKEN"]
    assert [line.split() for line in lines[1:]] == [[name, TOKENS[name]] for name in names]
    assert max(map(len, lines)) <= 80
    printed = json.loads(lab.run("devices", "token", *words, "-o", "json").output)
    assert printed == [{"device": name, "epoch": EPOCHS[name], "token": TOKENS[name]} for name in names]


def test_one_devices_token_is_printed_alone(lab: Lab) -> None:
    assert lab.run("devices", "token", "leaf-2").stdout == TOKENS["leaf-2"] + "\n"


def test_secrets_come_from_a_file_standard_input_or_a_secret_of_another_name(bare: Lab, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_bytes(OLDER)
    put_secret(bare, encoded(OLDER), Key("other", "mine"))
    expected = device_token(OLDER, "leaf-1") + "\n"
    for words in (
        [f"--secret-file={tmp_path / 'secrets'}"],
        ["--secret-file=-"],
        ["--gateway-namespace=other", "--gateway-secret=mine"],
    ):
        assert bare.run("devices", "token", "leaf-1", *words, input="older").output == expected


def test_files_are_their_owners_alone_and_replace_what_was_there(lab: Lab, tmp_path: Path) -> None:
    folder, victim = tmp_path / "new" / "tokens", tmp_path / "victim"
    folder.mkdir(parents=True)
    victim.write_text("mine")
    (folder / "leaf-1").symlink_to(victim)
    (folder / "leaf-2").write_text("an old token")
    (folder / "leaf-2").chmod(0o644)
    before = os.umask(0)
    try:
        result = lab.run("devices", "token", "--all", "--output-dir", str(folder))
    finally:
        os.umask(before)
    assert result.output == f"3 tokens in {folder}, each in a file with the name of its device\n"
    assert {path.name: path.read_text().strip() for path in folder.iterdir()} == TOKENS
    assert {stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()} == {0o600}
    assert victim.read_text() == "mine"


def test_a_new_folder_is_its_owners_alone_and_programs_read_where_the_files_are(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    result = lab.run("devices", "token", "leaf-2", "--output-dir", str(folder), "-o", "json")
    assert json.loads(result.output) == [{"device": "leaf-2", "epoch": 3, "file": str(folder / "leaf-2")}]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "words_of_error"),
    [
        pytest.param([], "DEVICE: name devices, or write -l SELECTOR or --all", id="nothing"),
        pytest.param(["leaf-1", "--all"], "one of the three", id="a-device-and-all"),
        pytest.param(["-l", "role=leaf", "--all"], "one of the three", id="a-selector-and-all"),
        pytest.param(
            ["leaf-1", "--secret-file", "none"], "--secret-file: cannot read none: No such file", id="no-file"
        ),
        pytest.param(["leaf-1", "--output-dir", __file__], "--output-dir: cannot write", id="no-folder"),
    ],
)
def test_what_cannot_be_used_is_named(lab: Lab, words: list[str], words_of_error: str) -> None:
    result = lab.run("devices", "token", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words_of_error in result.stderr


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        pytest.param(
            encoded(b" \n"), 2, "--gateway-secret: secrets of praetor-system/praetor-device-tokens is empty", id="empty"
        ),
        pytest.param(None, 2, "is empty; write one secret a line", id="without-the-key"),
        pytest.param(encoded("schlüssel".encode()), 2, "is not printable ASCII", id="not-ascii"),
        pytest.param(encoded(b"\xff"), 2, "is not text", id="binary"),
    ],
)
def test_a_bad_secret_of_the_cluster_is_named(bare: Lab, content: str | None, code: int, words: str) -> None:
    put_secret(bare, content)
    result = bare.run("devices", "token", "--all")
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr


def no_secret(_: Lab) -> None: ...


def forbidden(lab: Lab) -> None:
    error = api_error(403, "Forbidden", "secrets are not yours")
    assert isinstance(error, Forbidden)
    lab.kube.fail_next(error, verb="get", resource=SECRETS)


@pytest.mark.parametrize(
    ("prepare", "device", "words"),
    [
        pytest.param(no_secret, "leaf-1", "praetor-system has no Secret praetor-device-tokens; write", id="no-secret"),
        pytest.param(forbidden, "leaf-1", "not allowed: secrets are not yours; ask for a role", id="may-not-read-it"),
        pytest.param(no_secret, "leaf-9", "not found: lab has no device leaf-9; declare it", id="not-declared"),
    ],
)
def test_what_the_cluster_lacks_or_refuses_is_named(
    bare: Lab, prepare: Callable[[Lab], None], device: str, words: str
) -> None:
    prepare(bare)
    result = bare.run("devices", "token", device)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


def test_a_selector_that_matches_nothing_says_so(lab: Lab) -> None:
    result = lab.run("devices", "token", "-l", "role=super")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no devices in namespace lab match role=super\n"


def test_a_name_that_belongs_to_another_namespace_gets_no_token_of_a_wrong_epoch(lab: Lab) -> None:
    conflict = {"type": "NameConflict", "status": "True", "reason": "BoundElsewhere", "message": "is another's"}
    lab.patch(NETWORK_SWITCHES, "leaf-1", "status", status={"conditions": [conflict]})
    named = lab.run("devices", "token", "leaf-1", "leaf-2")
    assert (named.exit_code, named.stdout) == (1, "")
    assert "leaf-1: NameConflict, BoundElsewhere: is another's; leave it out" in named.stderr
    everything = lab.run("devices", "token", "--all", "-o", "json")
    assert [each["device"] for each in json.loads(everything.stdout)] == ["leaf-2", "spine-1"]
    assert "no token for leaf-1: NameConflict" in everything.stderr
