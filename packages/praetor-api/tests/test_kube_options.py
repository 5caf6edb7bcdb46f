# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from praetor_api.kube.options import (
    ADDRESS,
    ADDRESS_OR_OFF,
    BadOption,
    BindAddress,
    kubeconfig_options,
    log_options,
    namespaces_option,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", BindAddress("", 8080)),
        ("127.0.0.1:0", BindAddress("127.0.0.1", 0)),
        ("[::1]:80", BindAddress("::1", 80)),
        ("leaf-1.example:80", BindAddress("leaf-1.example", 80)),
    ],
)
def test_an_address_is_parsed_and_written_as_it_was_given(text: str, address: BindAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["8080", "host:", ":99999", "host:http", ":-1", ""])
def test_a_bad_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address; write host:port, or :port for all interfaces"):
        parse_address(text)


@click.command(context_settings={"auto_envvar_prefix": "PROGRAM"})
@click.option("--addr", type=ADDRESS, default=":8080", show_default=True)
@click.option("--metrics", type=ADDRESS_OR_OFF, default=":8081")
@namespaces_option()
@kubeconfig_options()
@log_options()
def program(**options: object) -> None:
    if options["kubeconfig"] == "broken":
        raise BadOption("--kubeconfig", "cannot read broken; name a readable file")
    for name, value in sorted(options.items()):
        click.echo(f"{name}={value}")


def output(*arguments: str, **environment: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(program, arguments, env=environment)
    return done.exit_code, done.output.splitlines()


def test_the_shared_options_have_defaults() -> None:
    assert output() == (
        0,
        [
            "addr=:8080",
            "context=None",
            "kubeconfig=None",
            "log_format=text",
            "log_level=info",
            "metrics=:8081",
            "namespaces=()",
        ],
    )


def test_options_come_from_the_environment() -> None:
    _, lines = output(PROGRAM_KUBECONFIG="/k", PROGRAM_LOG_LEVEL="debug", PROGRAM_METRICS="0")
    assert {"kubeconfig=/k", "log_level=debug", "metrics=None"} <= set(lines)


def test_a_prefix_names_the_variables_of_every_command() -> None:
    @click.command(context_settings={"auto_envvar_prefix": "PROGRAM_SUBCOMMAND"})
    @kubeconfig_options("PROGRAM")
    def subcommand(kubeconfig: str | None, context: str | None) -> None:
        click.echo(f"{kubeconfig} {context}")

    environment = {"PROGRAM_KUBECONFIG": "/k", "PROGRAM_CONTEXT": "lab"}
    assert CliRunner().invoke(subcommand, env=environment).output == "/k lab\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--addr", "nowhere"], "'--addr': 'nowhere' is not an address; write host:port, or :port for all interfaces"),
        (["--addr", "0"], "'--addr': '0' is not an address; write host:port, or :port for all interfaces"),
        (["--metrics", "1"], "'--metrics': '1' is not an address; write host:port, or :port for all interfaces, or 0"),
        (["--kubeconfig", "broken"], "--kubeconfig: cannot read broken; name a readable file"),
    ],
)
def test_a_bad_option_is_refused_with_its_flag_and_what_to_write(arguments: list[str], words: str) -> None:
    status, lines = output(*arguments)
    assert status == 2
    assert words in " ".join(lines)
    assert "Traceback" not in " ".join(lines)


def test_a_bad_option_reads_as_flag_and_message() -> None:
    assert str(BadOption("--addr", "choose another")) == "--addr: choose another"
