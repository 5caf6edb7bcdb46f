# SPDX-License-Identifier: Apache-2.0
"""Which server runs: what is installed decides, unless one is asked for by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import uvloop
from attrs import evolve
from click.testing import CliRunner
from structlog.testing import capture_logs

from gateway_testing import FLAGS, SETTINGS
from praetor_api.kube.options import BadOption
from praetor_api.kube.runtime.tracing import NO_TRACER
from praetor_gateway import main
from praetor_gateway.cli import main as command
from praetor_gateway.http import server
from praetor_gateway.http.server import FAST, chosen_server, event_loop
from praetor_gateway.settings import ServerKind

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: x, user: {}}]
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Have a package be there in another version, or not at all if that is empty."""
    changed: dict[str, str] = {}

    def found(name: str) -> str:
        if changed.get(name) == "":
            raise PackageNotFoundError(name)
        return changed.get(name) or version(name)

    monkeypatch.setattr(server, "version", found)
    return changed.__setitem__


def test_the_faster_server_runs_where_it_is_installed() -> None:
    assert chosen_server(ServerKind.AUTO) is chosen_server(ServerKind.UVICORN) is ServerKind.UVICORN


@pytest.mark.parametrize("name", FAST)
def test_without_one_of_its_packages_the_other_one_runs(name: str, install: Install) -> None:
    install(name, "")
    assert chosen_server(ServerKind.AUTO) is ServerKind.HYPERCORN
    with pytest.raises(BadOption, match=rf"^--server: {name} is not installed; install praetor-gateway\[fast\], or"):
        chosen_server(ServerKind.UVICORN)


@pytest.mark.parametrize("name", FAST)
def test_no_other_minor_version_of_them_is_taken(name: str, install: Install) -> None:
    install(name, f"{FAST[name]}.99")
    assert chosen_server(ServerKind.UVICORN) is ServerKind.UVICORN
    install(name, f"{FAST[name]}0.1")
    assert chosen_server(ServerKind.AUTO) is ServerKind.HYPERCORN
    with pytest.raises(BadOption, match=rf"{name} {FAST[name]}0\.1 is installed, and {FAST[name]} is needed"):
        chosen_server(ServerKind.UVICORN)


def test_hypercorn_runs_whatever_is_installed(install: Install) -> None:
    assert chosen_server(ServerKind.HYPERCORN) is ServerKind.HYPERCORN
    install("uvicorn", "")
    assert chosen_server(ServerKind.HYPERCORN) is ServerKind.HYPERCORN


def test_each_server_has_its_loop(install: Install) -> None:
    def of(kind: ServerKind) -> bool:
        loop = event_loop(kind)
        loop.close()
        return isinstance(loop, uvloop.Loop)

    assert [of(kind) for kind in (ServerKind.AUTO, ServerKind.UVICORN, ServerKind.HYPERCORN)] == [True, True, False]
    install("uvloop", "")
    assert not of(ServerKind.AUTO)


def test_the_program_does_not_start_with_a_server_that_is_not_installed(install: Install) -> None:
    install("httptools", "")
    result = CliRunner().invoke(command, [*FLAGS, "--server=uvicorn"], env={"KUBECONFIG": "/nonexistent"})
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "--server: httptools is not installed; install praetor-gateway[fast], or choose hypercorn" in said


@pytest.mark.parametrize(("lacks", "runs"), [("", "uvicorn"), ("uvloop", "hypercorn")], ids=["all", "no-uvloop"])
async def test_the_log_says_which_server_runs(lacks: str, runs: str, install: Install, tmp_path: Path) -> None:
    if lacks:
        install(lacks, "")
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(KUBECONFIG)
    settings = evolve(SETTINGS, server=ServerKind.AUTO, kubeconfig=str(kubeconfig))
    stop = asyncio.Event()
    with capture_logs() as logs:
        program = asyncio.ensure_future(main._run(settings, stop, NO_TRACER))
        while not (program.done() or any(each["event"] == "gateway started" for each in logs)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stop.set()
        await program
    assert [each["server"] for each in logs if each["event"] == "gateway started"] == [runs]
