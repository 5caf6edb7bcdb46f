# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_testing import command
from praetor_agent.backends.protocol import Owner
from praetor_agent.backends.resources import cpu_percent
from praetor_agent.backends.systemd import (
    Marks,
    exec_line,
    quote_value,
    quote_word,
    read_marks,
    render_environment,
    render_unit,
    unit_name,
)
from praetor_agent.errors import StartError
from praetor_agent.settings import bytes_of
from praetor_api.spec import Hardening, Resources

COMMAND = command("/bin/fw", uid="8f0e", spec_hash="sha256:1")
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=40)
VALUE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"], include_characters="\t\n\x80"), max_size=40)
ANYWHERE = ["\0", "\r", "\x1b", "\x7f", "\ud800", "\ufdd0", "\uffff", "\U0010fffe"]
IN_WORDS = ["\n", "\t", "\x85", "\u2028"]


def systemd_words(line: str) -> list[str]:
    """Return the words of a command line as systemd.service(5) and systemd.syntax(7) say it takes them apart."""
    words: list[str] = []
    assert not re.search(r"(^| );( |$)", line), "a bare semicolon begins another command"
    for match in re.finditer(r'"((?:[^"\\]|\\.)*)"(?: |$)', line):
        word = re.sub(r"\\(.)", r"\1", match[1])
        assert not re.search(r"(?<!%)(%%)*%([^%]|$)", word), "a specifier is left"
        word = word.replace("%%", "%")
        assert not re.search(r"(?<!\$)(\$\$)*\$([^$]|$)", word), "a variable is left"
        words.append(word.replace("$$", "$"))
    return words


def environment_values(text: str) -> dict[str, str]:
    """Return the variables as systemd reads an environment file, character by character (src/basic/env-file.c)."""
    found: dict[str, str] = {}
    while text:
        name, _, text = text.partition("=")
        assert text[0] == '"'
        value, at = "", 1
        while text[at] != '"':
            if text[at] != "\\":
                value += text[at]
            elif text[at + 1] in '"\\`$':
                at += 1
                value += text[at]
            else:
                value, at = value + ("" if text[at + 1] == "\n" else text[at : at + 2]), at + 1
            at += 1
        assert text[at + 1] == "\n"
        found[name], text = value, text[at + 2 :]
    return found


@given(st.lists(TEXT, max_size=6))
def test_quoted_arguments_come_out_of_systemd_unchanged(words: list[str]) -> None:
    argv = ("/bin/fw", *words)
    assert systemd_words(exec_line(argv)) == list(argv)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), VALUE, max_size=5))
@example({"A": "x\n", "B": '\n\n\\\n"\n$x\n'})
def test_variables_come_out_of_systemd_as_they_went_in(env: dict[str, str]) -> None:
    assert environment_values(render_environment(env)) == env


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("", '""'),
        (";", '";"'),
        ("-@:+!|", '"-@:+!|"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('a"b', '"a\\"b"'),
        ("a\\nb", '"a\\\\nb"'),
    ],
)
def test_a_word_is_quoted(word: str, quoted: str) -> None:
    assert quote_word("argv[1]", word) == quoted


@given(TEXT, st.sampled_from(ANYWHERE + IN_WORDS), TEXT)
def test_what_systemd_does_not_pass_on_is_refused_naming_the_place(before: str, control: str, after: str) -> None:
    with pytest.raises(StartError, match=r"argv\[3\] holds .*, which systemd does not pass on; write it without"):
        quote_word("argv[3]", before + control + after)
    if control in ANYWHERE:
        with pytest.raises(StartError, match=r"spec\.execution\.env\[X\] holds .*, which systemd does not pass on"):
            quote_value("X", before + control + after)
    with pytest.raises(StartError):
        render_unit(replace(COMMAND, working_dir="/" + before + control + after), Owner("leaf-1"), "/env")


@pytest.mark.parametrize("program", ["-/bin/x", "@/bin/x", ":/bin/x", "+/bin/x", "!/bin/x", "|/bin/x", "x", "/a/$b"])
def test_a_program_that_systemd_would_read_in_its_own_way_is_refused(program: str) -> None:
    with pytest.raises(StartError, match=r"command\[0\]"):
        exec_line((program,))


@pytest.mark.parametrize("name", ["a-b", "a.b", "1a", "", "a b", "A="])
def test_a_variable_that_systemd_would_drop_is_refused(name: str) -> None:
    with pytest.raises(StartError, match=r"spec\.execution\.env"):
        render_environment({name: "x"})


@pytest.mark.parametrize("directory", ["relative", "/ends\\", "/ends "])
def test_a_directory_that_cannot_be_written_is_refused(directory: str) -> None:
    with pytest.raises(StartError, match="workingDir"):
        render_unit(replace(COMMAND, working_dir=directory), Owner("leaf-1"), "/env")


def test_a_unit_carries_its_marks() -> None:
    text = render_unit(COMMAND, Owner("leaf-1", "i1"), "/env")
    assert read_marks(text) == Marks(uid="8f0e", owner=Owner("leaf-1", "i1"), spec_hash="sha256:1")


@pytest.mark.parametrize("text", ["", "[Unit]\nX-Praetor-UID=1\n"])
def test_a_foreign_unit_has_no_marks(text: str) -> None:
    assert read_marks(text) is None
    assert read_marks(render_unit(COMMAND, Owner("leaf-1"), "/env").replace("X-Praetor-UID=8f0e\n", "")) is None


def test_only_what_shall_come_up_at_boot_is_installed() -> None:
    assert "WantedBy=multi-user.target" in render_unit(COMMAND, Owner("leaf-1"), "/env")
    assert "[Install]" not in render_unit(replace(COMMAND, at_boot=False), Owner("leaf-1"), "/env")


def test_limits_and_user_are_written_in_systemds_units() -> None:
    limits = Resources(memory="64Mi", cpu="500m", tasks=20)
    lines = render_unit(replace(COMMAND, resources=limits, user="daemon"), Owner("leaf-1"), "/e%v").split("\n")
    for line in ("MemoryMax=67108864", "CPUQuota=50%", "TasksMax=20", "User=daemon", "EnvironmentFile=/e%%v"):
        assert line in lines
    assert not [
        line for line in render_unit(replace(COMMAND, resources=Resources()), Owner("l"), "/e").split() if "Max" in line
    ]


def test_hardening_grows_from_nothing_to_strict() -> None:
    def lines(hardening: Hardening) -> set[str]:
        return set(
            render_unit(replace(COMMAND, hardening=hardening, working_dir='/a "b"%'), Owner("leaf-1"), "/env").split(
                "\n"
            )
        )

    nothing, baseline, strict = map(lines, (Hardening.UNCONFINED, Hardening.BASELINE, Hardening.STRICT))
    assert baseline - nothing == {"NoNewPrivileges=yes", "LockPersonality=yes", "ProtectControlGroups=yes"}
    assert nothing < baseline < strict
    assert {"ProtectSystem=strict", "PrivateDevices=yes", 'ReadWritePaths="/a \\"b\\"%%"'} <= strict


def test_hardening_is_the_baseline_when_unset() -> None:
    assert render_unit(COMMAND, Owner("l"), "/e") == render_unit(
        replace(COMMAND, hardening=Hardening.BASELINE), Owner("l"), "/e"
    )


@pytest.mark.parametrize(
    ("quantity", "size"), [(1, 1), ("1", 1), ("2k", 2000), ("2K", 2000), ("3Mi", 3 * 2**20), ("1G", 10**9)]
)
def test_memory_is_counted_in_bytes(quantity: int | str, size: int) -> None:
    assert bytes_of(quantity) == size


@pytest.mark.parametrize("quantity", ["", "x", "1Q", "-1"])
def test_what_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        bytes_of(quantity)


@pytest.mark.parametrize(
    ("quantity", "percent"), [(1, "100"), ("2", "200"), ("0.5", "50"), ("500m", "50"), ("1m", "0.1"), ("1500m", "150")]
)
def test_cpu_is_counted_in_percent_of_a_core(quantity: int | str, percent: str) -> None:
    assert cpu_percent(quantity) == percent


@given(st.text(max_size=300), st.text(min_size=1, max_size=40))
def test_a_units_name_is_safe_and_ours(name: str, uid: str) -> None:
    assert re.fullmatch(r"praetor-[a-z0-9-]{0,60}-[0-9a-f]{16}\.service", unit_name(name, uid))


def test_units_of_one_name_differ_by_uid() -> None:
    assert unit_name("fw", "1") != unit_name("fw", "2")
