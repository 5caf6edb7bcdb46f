# SPDX-License-Identifier: Apache-2.0
"""What plan and render say of a spec before a device has it: variables that stay as they are, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.spec import ProcessSpec
from praetor_api.values import started_with, variables_in
from praetor_api.wire import read
from praetor_controller.ctl.forecast.api_words import dropped_fields, refused_fields
from praetor_controller.ctl.forecast.refusals import refusals
from praetor_controller.ctl.forecast.variables import variable_warnings


def spec_of(*env: tuple[str, str], args: list[str] | None = None, **execution: Any) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in env]
    given = {"backend": "process", "command": ["/a"], "args": args or [], "env": variables, "expandVariables": True}
    return {"execution": given | execution}


SITE = {"name": "SITE", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.labels['site']", "optional": True}}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param(spec_of(("A", "a"), ("B", "$(A)"), args=["$(B)", "$$(C)", "$D"]), (), id="all-known"),
        pytest.param(
            spec_of(("A", "$(B)"), ("B", "$(A)")),
            ("the variable A and the variable B refer to each other, and $(B) stays as it is; write one",),
            id="circle",
        ),
        pytest.param(
            spec_of(("A", "$(B)"), ("B", "$(C)"), ("C", "$(A)")),
            (
                "the variable A and the variable B refer to each other, and $(B) stays as it is; write one",
                "the variable B and the variable C refer to each other, and $(C) stays as it is; write one",
            ),
            id="circle-of-three",
        ),
        pytest.param(spec_of(("A", "x$(A)")), ("the variable A refers to itself, and $(A) stays as",), id="itself"),
        pytest.param(
            spec_of(("A", "$(B) $(B)"), ("B", "b")),
            ("the variable A refers to B, which stands after it, so that $(B) stays as it is; put B before A",),
            id="later",
        ),
        pytest.param(
            spec_of(("A", "$(NO)"), args=["-c", "$(date)"], command=["/bin/$(TOOL)"]),
            (
                "the variable A refers to NO, which env does not have, so that $(NO) stays as it is; correct the name, "
                "or write $$(NO) if",
                "command[0] refers to TOOL, which env does not have",
                "args[1] refers to date, which env does not have",
            ),
            id="unknown",
        ),
        pytest.param(spec_of(("A", "$(B)"), expandVariables=False), (), id="not-expanded"),
        pytest.param(spec_of(("A", "$(B)"), expandVariables=None), (), id="unset"),
        pytest.param(spec_of(env=[SITE], args=["$(SITE)"]), (), id="optional"),
        pytest.param(spec_of(args=["$(PRAETOR_FILES)/a"], files=[{"path": "a", "content": ""}]), (), id="files"),
        pytest.param(
            spec_of(args=["$(PRAETOR_FILES)/a"], files=[{"path": "/a", "content": ""}]),
            ("args[0] refers to PRAETOR_FILES, which env does not have, so that $(PRAETOR_FILES) stays as it is",),
            id="no-own-files",
        ),
        pytest.param(
            spec_of(args=[f"$({'x' * 999})"]), (f"args[0] refers to {'x' * 64}…, which env does not have",), id="long"
        ),
        pytest.param({}, (), id="no-execution"),
    ],
)
def test_what_stays_as_it_is_is_named_with_what_to_write(spec: dict[str, Any], said: tuple[str, ...]) -> None:
    found = variable_warnings(spec)
    assert len(found) == len(said)
    for one, words in zip(found, said, strict=True):
        assert one.startswith(words)


NAMES = st.sampled_from("ABC")
TEXT = st.lists(st.one_of(st.just("x"), st.just("$$"), NAMES.map("$({})".format)), max_size=3).map("".join)


@given(st.dictionaries(NAMES, TEXT), st.lists(TEXT, max_size=2))
def test_there_is_a_warning_exactly_where_something_stays_as_it_is(env: dict[str, str], args: list[str]) -> None:
    spec = spec_of(*env.items(), args=args)
    seen: dict[str, str] = {}
    stays = False
    for name, text in env.items():
        stays |= any(each not in seen for each in variables_in(text))
        seen[name] = text
    stays |= any(each not in seen for text in args for each in variables_in(text))
    assert bool(variable_warnings(spec)) is stays
    started_with(read(ProcessSpec, spec).execution)  # it is no error


ROOTS = {"agent.fileRoots": "/etc/app,/run"}


def with_files(*paths: str) -> dict[str, Any]:
    return {"execution": {"files": [{"path": path} for path in paths]}}


def with_container(**container: Any) -> dict[str, Any]:
    return {"execution": {"container": container}}


@pytest.mark.parametrize(
    ("spec", "facts", "said"),
    [
        pytest.param(with_files("a", "/etc/app/b", "/run"), ROOTS, (), id="allowed"),
        pytest.param(with_files("/etc/x"), None, (), id="no-facts"),
        pytest.param(with_files("/etc/x"), {"os": "linux"}, (), id="an-older-agent"),
        pytest.param(with_files("/etc/x"), {"agent.fileRoots": "/etc/app,…"}, (), id="more-than-a-fact-holds"),
        pytest.param(
            with_files("a", "/etc/application", "/etc/app/../x"),
            ROOTS,
            (
                "execution.files[1].path: /etc/application is in no directory that is allowed there; write a relative "
                "path, or start the agent with --allow-file-root /etc",
                "execution.files[2].path: /etc/app/../x is in no directory",
            ),
            id="elsewhere",
        ),
        pytest.param(
            with_files("/x"), {"agent.fileRoots": "none"}, ("execution.files[0].path: /x is in no",), id="nothing"
        ),
        pytest.param(
            with_container(
                volumes=[{"hostPath": "/run/x"}, {"hostPath": "/srv"}],
                devices=[{"hostPath": "/dev/i2c-1"}],
                capabilities={"add": ["CAP_NET_ADMIN", "SYS_TIME"], "drop": ["ALL"]},
                network="br0",
                privileged=True,
            ),
            ROOTS | {"agent.volumes": "/run", "agent.capabilities": "NET_ADMIN"},
            (
                "execution.container.volumes[1].hostPath: /srv is not allowed there; leave it out, or start the agent "
                "with --allow-volumes /srv",
                "execution.container.devices[0].hostPath: /dev/i2c-1 is not allowed there; leave it out, or start",
                "execution.container.capabilities.add: SYS_TIME is not allowed there",
                "execution.container.network: br0 is not allowed there; leave it out, or start the agent with --allow-",
                "execution.container.privileged: true is not allowed there",
            ),
            id="container",
        ),
        pytest.param(
            with_container(capabilities={"add": ["SYS_TIME"]}, network="br0", privileged=True),
            ROOTS | {"agent.capabilities": "ALL", "agent.networks": "br0", "agent.privileged": "true"},
            (),
            id="container-allowed",
        ),
        pytest.param(
            with_container(capabilities={"add": ["SYS_TIME"]}, network="br0"),
            ROOTS | {"agent.capabilities": "A,…", "agent.networks": "…"},
            (),
            id="lists-that-are-cut",
        ),
        pytest.param(with_container(network="none"), ROOTS, (), id="less-than-the-default"),
        pytest.param({}, ROOTS, (), id="no-execution"),
    ],
)
def test_what_a_device_would_refuse_is_told_where_its_agent_says_so(
    spec: dict[str, Any], facts: dict[str, str] | None, said: tuple[str, ...]
) -> None:
    found = refusals(spec, facts)
    assert len(found) == len(said)
    for one, words in zip(found, said, strict=True):
        assert one.startswith(words)


def test_what_an_object_says_is_not_taken_for_the_words_of_the_api() -> None:
    quoted = r"\"note\":\"strict decoding error: unknown field \\\"spec.a\\\"\""
    message = f' "" is invalid: patch: Invalid value: "{{{quoted}}}": strict decoding error: unknown field "spec.b"'
    assert refused_fields(message) == ("spec.b",)
    assert refused_fields(f'is invalid: spec.note: Invalid value: "{quoted}": is too long') == ()
    assert refused_fields('unknown field "spec.a"') == ()


def test_what_was_dropped_is_found_at_every_depth() -> None:
    sent = {"kind": "x", "a": {"b": [{"c": 1, "d": 2}, 3], "e": None}, "f": {}, "metadata": {"g": 1}}
    stored = {"a": {"b": [{"c": 1, "more": 4}, 3]}, "metadata": {}}
    assert dropped_fields(sent, stored) == ("a.b[0].d", "f")
