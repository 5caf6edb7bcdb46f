# SPDX-License-Identifier: Apache-2.0
"""The help of praetorctl: complete, and there at once."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from praetor_controller.ctl import commands
from praetor_controller.ctl.cli import LazyGroup, main

HEAVY = ("aiohttp", "attrs", "cattrs", "kubernetes", "prometheus_client", "structlog", "yaml")
"""Libraries that take most of the time of a command; the help needs none of them."""


def groups() -> list[LazyGroup]:
    return [main, *(each for each in main.commands.values() if isinstance(each, LazyGroup))]


@pytest.mark.parametrize("group", groups(), ids=lambda group: str(group.name))
def test_the_summary_of_a_command_is_the_first_sentence_of_its_help(group: LazyGroup) -> None:
    context = click.Context(group)
    names = group.list_commands(context)
    assert names
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
        summary = command.get_short_help_str(limit=200)
        assert f"{name} {summary.removesuffix('.')}" in " ".join(group.get_help(context).split())


@pytest.mark.parametrize("group", groups(), ids=lambda group: str(group.name))
def test_every_module_of_a_group_is_a_command(group: LazyGroup) -> None:
    folder = Path(commands.__file__).parent / ("" if group is main else str(group.name))
    modules = {found.name for found in pkgutil.iter_modules([str(folder)])}
    assert set(group.list_commands(click.Context(group))) == modules


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["rollout", "stop"])
    assert result.exit_code == 2
    assert "No such command 'stop'" in result.stderr


def test_the_help_imports_no_heavy_library() -> None:
    program = (
        "import sys; from praetor_controller.ctl.cli import main; main(['--help'], standalone_mode=False); "
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("command", [["explain"], ["devices"], ["rollout", "status"]])
def test_the_help_names_the_variables_of_the_options_that_all_share(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "-h"])
    shared = ("KUBECONFIG", "CONTEXT", "NAMESPACE", "OUTPUT")
    assert [name for name in shared if f"PRAETOR_CTL_{name}" not in done.output] == []


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    program = "from praetor_controller.ctl.__main__ import main; main()"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": paths},
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")
