# SPDX-License-Identifier: Apache-2.0
"""The help of praetorctl: complete, and there at once."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ctl_testing import Lab
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


@pytest.mark.parametrize(("args", "found"), [([], ["render", "replay"]), (["rollout"], ["restart", "resume", "retry"])])
def test_completing_a_command_imports_no_heavy_library(args: list[str], found: list[str]) -> None:
    program = (
        "import sys; from click.shell_completion import ShellComplete; from praetor_controller.ctl.cli import main; "
        f"items = ShellComplete(main, {{}}, 'praetorctl', '_').get_completions({args!r}, 're'); "
        f"print([item.value for item in items], [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{found} []\n"


def every_command(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the path of each command, and the command: also of a group that is one itself."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


COMMANDS = dict(every_command())
ON_CLUSTER = [path for path, command in COMMANDS.items() if "namespace" in {each.name for each in command.params}]


def arguments_of(command: click.Command, folder: Path) -> list[str]:
    """Return what the command cannot do without."""
    if command.name == "plan":
        manifest = folder / "web.yaml"
        manifest.write_text(
            "apiVersion: azure.com/v1alpha1\nkind: DeviceProcessDeployment\nmetadata: {name: web}\n"
            "spec: {selector: {}, template: {spec: {execution: {backend: process, command: [/bin/true]}}}}\n"
        )
        return [f"--filename={manifest}"]
    if command.name == "transfer":
        return ["leaf-1", "--to", "other"]
    return ["web" for each in command.params if isinstance(each, click.Argument)]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_names_the_variable_of_each_option(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*path, "-h"], env={"COLUMNS": "80"})
    said = "".join(done.output.split())
    prefix = "_".join(path).upper()
    for each in COMMANDS[path].params:
        shared = {"kubeconfig", "context", "namespace", "output"}
        name = str(each.name).upper() if each.name in shared else f"{prefix}_{str(each.name).upper()}"
        assert not isinstance(each, click.Option) or f"envvar:PRAETOR_CTL_{name}" in said
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize("path", ON_CLUSTER, ids=" ".join)
@pytest.mark.parametrize("at", range(4))
def test_the_options_that_select_a_cluster_may_stand_anywhere(path: tuple[str, ...], at: int, tmp_path: Path) -> None:
    words = [*path, *arguments_of(COMMANDS[path], tmp_path)]
    given = ["-nfleet", "--context", "prod", "--kubeconfig=file"]
    lab = Lab()
    lab.run(*(given + words if at == 0 else words[:at] + given + words[at:]), env={"PRAETOR_CTL_NAMESPACE": "other"})
    assert [(each.kubeconfig, each.context, each.namespace) for each in lab.asked] == [("file", "prod", "fleet")]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-o", "json", "devices"], "[]"),
        (["-ojson", "devices"], "[]"),
        (["--output=json", "-A", "devices"], "[]"),
        (["-n", "lab", "-o", "json", "token", "mint", "leaf-1", "--secret-file", "-"], '"device": "leaf-1"'),
        (["-n", "lab", "completion", "bash"], "_praetorctl_completion"),
        (["-n", "lab"], "Inspect devices and rollouts of Praetor"),
        (["-n", "lab", "rollout", "--help"], "Follow and control the rollouts"),
        (["-n", "lab", "stauts"], "No such command 'stauts'"),
        (["rollout", "-n", "lab", "stauts", "web"], "Did you mean 'status'?"),
        (["-n"], "No such option"),
        (["-A", "rollout", "status", "web"], "No such option '-A'"),
        (["devices", "-l", "a=b", "transfer", "leaf-1", "--to", "x"], "write options after transfer"),
        (["-o", "xml", "devices"], "'xml' is not one of 'table', 'wide', 'json', 'yaml', 'name'"),
    ],
)
def test_what_stands_before_a_command_is_read_as_kubectl_does(args: list[str], words: str) -> None:
    result = Lab().run(*args, input="secret")
    assert words in result.output
    assert "Traceback" not in result.output


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
