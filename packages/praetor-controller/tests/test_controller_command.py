"""The command: options, errors that name the flag, probes and metrics."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import structlog
from click.testing import CliRunner

from praetor_controller.cli import main
from praetor_controller.errors import BadSettings
from praetor_controller.metrics import Metrics
from praetor_controller.probes import serve
from praetor_controller.settings import Address, Settings, parse_address


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command configures logging for its process, which is the tests' own here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address(host="", port=8080)),
        ("127.0.0.1:0", Address(host="127.0.0.1", port=0)),
        ("[::1]:80", Address(host="::1", port=80)),
        ("0", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    assert parse_address(text, "--x") == address


@pytest.mark.parametrize("text", ["8080", "host:", ":99999", "host:http", ""])
def test_a_bad_address_names_the_flag(text: str) -> None:
    with pytest.raises(BadSettings, match=r"^--x: "):
        parse_address(text, "--x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics-bind-address", "nowhere"], "--metrics-bind-address: 'nowhere' is no address"),
        (["--qps", "0"], "--qps"),
        (["--kubeconfig", "/nonexistent/kubeconfig"], "/nonexistent/kubeconfig"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output


def test_an_option_can_come_from_the_environment(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [], env={"PRAETOR_CONTROLLER_HEALTH_PROBE_BIND_ADDRESS": "nowhere"})
    assert "--health-probe-bind-address: 'nowhere'" in done.output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


@pytest.mark.parametrize("shared", [True, False])
async def test_probes_and_metrics_are_served(shared: bool) -> None:
    first = free_port()
    second = first if shared else free_port()
    settings = Settings(metrics=Address(host="127.0.0.1", port=first), probes=Address(host="127.0.0.1", port=second))
    ready = False
    async with serve(settings, Metrics(), lambda: ready):
        assert (await fetch(second, "/healthz"))[0] == 200
        assert (await fetch(second, "/readyz"))[0] == 503
        ready = True
        assert (await fetch(second, "/readyz"))[0] == 200
        status, text = await fetch(first, "/metrics")
        assert status == 200
        assert "praetor_controller_queue_depth" in text
        assert (await fetch(first, "/readyz"))[0] == (200 if shared else 404)


async def test_nothing_is_served_when_both_are_off() -> None:
    async with serve(Settings(metrics=None, probes=None), Metrics(), lambda: True):
        pass


async def test_a_taken_port_names_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(metrics=None, probes=Address(host="127.0.0.1", port=taken.getsockname()[1]))
        with pytest.raises(BadSettings, match=r"^--health-probe-bind-address: cannot listen"):
            async with serve(settings, Metrics(), lambda: True):
                pass
