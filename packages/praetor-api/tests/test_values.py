# SPDX-License-Identifier: Apache-2.0
"""What a process is started with equals what Kubernetes documents for a Pod."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.spec import Backend, EnvVar, Execution
from praetor_api.values import MAX_TEXT, MAX_TEXTS, ExpansionError, expanded, started_with

ENV = {"VAR_A": "A", "VAR_B": "B", "EMPTY": "", "REF": "$(VAR_A)", "DOLLARS": "$$", "with.dot-": "dot", "a b": "space"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("no reference", "no reference", id="plain"),
        pytest.param("$(VAR_A)", "A", id="whole"),
        pytest.param("___$(VAR_B)___", "___B___", id="within"),
        pytest.param("$(VAR_A)$(VAR_B)", "AB", id="adjacent"),
        pytest.param("$(VAR_A)-1-$(VAR_A)", "A-1-A", id="twice"),
        pytest.param("x$(EMPTY)y", "xy", id="empty-value"),
        pytest.param("$(with.dot-)", "dot", id="any-name-of-a-variable"),
        pytest.param("$(a b)", "space", id="space"),
        pytest.param("$(UNKNOWN)-$(VAR_A)", "$(UNKNOWN)-A", id="unknown-stays"),
        pytest.param("$(REF)", "$(VAR_A)", id="values-are-not-expanded-again"),
        pytest.param("$(DOLLARS)", "$$", id="nor-are-their-dollars"),
        pytest.param("$$(VAR_A)", "$(VAR_A)", id="escaped"),
        pytest.param("$$$(VAR_A)", "$A", id="dollar-before-a-reference"),
        pytest.param("$$$$(VAR_A)", "$$(VAR_A)", id="two-escapes"),
        pytest.param("$$$$$(VAR_A)", "$$A", id="two-dollars-before-a-reference"),
        pytest.param("a$$b$$", "a$b$", id="dollars-anywhere"),
        pytest.param("$VAR_A ${VAR_A} $1", "$VAR_A ${VAR_A} $1", id="what-a-shell-expands"),
        pytest.param("$", "$", id="alone"),
        pytest.param("$(VAR_A)$", "A$", id="at-the-end"),
        pytest.param("$(VAR_A", "$(VAR_A", id="not-closed"),
        pytest.param("$(VAR_A$$", "$(VAR_A$", id="not-closed-with-an-escape"),
        pytest.param("$(VAR_A)$(VAR_B$$(", "A$(VAR_B$(", id="the-last-not-closed"),
        pytest.param("$()", "$()", id="no-name"),
        pytest.param("$((VAR_A))", "$((VAR_A))", id="arithmetic-of-a-shell"),
        pytest.param("$($(VAR_A))", "$($(VAR_A))", id="nested"),
        pytest.param("$(VAR_A))", "A)", id="closed-twice"),
    ],
)
def test_a_reference_expands_as_in_a_pod(text: str, result: str) -> None:
    assert expanded(text, ENV) == result


def by_the_rules(text: str, env: dict[str, str]) -> str:
    """Return the expansion of *text*, one character after the other."""
    if not text.startswith("$"):
        return text[0] + by_the_rules(text[1:], env) if text else ""
    if text.startswith("$$"):
        return "$" + by_the_rules(text[2:], env)
    name, closed, rest = text[2:].partition(")")
    if not text.startswith("$(") or not closed:
        return "$" + by_the_rules(text[1:], env)
    return env.get(name, f"$({name})") + by_the_rules(rest, env)


TEXTS = st.lists(st.sampled_from(["$", "$$", "(", ")", "$(", "A", "B", "$(A)", "$(B)", "\n", "é", "x"])).map("".join)


@given(TEXTS, st.dictionaries(st.sampled_from(["A", "B", "", "x", "(A", "$(A"]), TEXTS))
def test_any_text_expands_by_the_rules(text: str, env: dict[str, str]) -> None:
    assert expanded(text, env) == by_the_rules(text, env)


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_doubled_dollars_keep_any_text_as_it_is(text: str, env: dict[str, str]) -> None:
    assert expanded(text.replace("$", "$$"), env) == text


def execution(env: dict[str, str], *words: str, expand: bool | None = True) -> Execution:
    variables = tuple(EnvVar(name=name, value=value) for name, value in env.items())
    return Execution(backend=Backend.PROCESS, command=words[:1], args=words[1:], env=variables, expand_variables=expand)


def test_a_variable_may_use_those_before_it_as_the_kubernetes_documentation_shows() -> None:
    started = started_with(
        execution(
            {
                "SERVICE_PORT": "80",
                "SERVICE_IP": "172.17.0.1",
                "UNCHANGED_REFERENCE": "$(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)",
                "PROTOCOL": "https",
                "SERVICE_ADDRESS": "$(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)",
                "ESCAPED_REFERENCE": "$$(PROTOCOL)://$(SERVICE_IP):$(SERVICE_PORT)",
                "ITSELF": "$(ITSELF)",
            },
            "/bin/$(PROTOCOL)",
            "$(SERVICE_ADDRESS)",
            "$(ESCAPED_REFERENCE)",
        )
    )
    assert started.env == {
        "SERVICE_PORT": "80",
        "SERVICE_IP": "172.17.0.1",
        "UNCHANGED_REFERENCE": "$(PROTOCOL)://172.17.0.1:80",
        "PROTOCOL": "https",
        "SERVICE_ADDRESS": "https://172.17.0.1:80",
        "ESCAPED_REFERENCE": "$(PROTOCOL)://172.17.0.1:80",
        "ITSELF": "$(ITSELF)",
    }
    assert started.command == ("/bin/https",)
    assert started.args == ("https://172.17.0.1:80", "$(PROTOCOL)://172.17.0.1:80")


@pytest.mark.parametrize("expand", [None, False])
@given(st.dictionaries(st.text(), TEXTS), st.lists(TEXTS, min_size=1))
def test_without_expand_variables_every_byte_stays(expand: bool | None, env: dict[str, str], words: list[str]) -> None:
    started = started_with(execution(env, *words, expand=expand))
    assert (*started.command, *started.args) == tuple(words)
    assert list(started.env.items()) == list(env.items())


@pytest.mark.parametrize(
    ("env", "words", "field"),
    [
        pytest.param(
            {f"V{n}": f"$(V{n - 1})$(V{n - 1})" if n else "x" for n in range(200)}, (), "env[17].value", id="doubled"
        ),
        pytest.param({"A": "x" * 20_000}, ("/bin/a", "$(A)" * 1_000), "args[0]", id="one-argument"),
        pytest.param({"A": "x" * 100_000}, ("/bin/a", *["$(A)"] * 50), "args[9]", id="all-together"),
    ],
)
def test_an_expansion_that_nothing_can_be_started_with_names_the_field(
    env: dict[str, str], words: tuple[str, ...], field: str
) -> None:
    with pytest.raises(ExpansionError) as raised:
        started_with(execution(env, *words))
    assert str(raised.value).startswith(f"spec.execution.{field}: ")
    assert any(str(most) in str(raised.value) for most in (MAX_TEXT, MAX_TEXTS))


def test_references_that_are_never_closed_take_no_time() -> None:
    text = "$(" * 2_000_000
    with pytest.raises(ExpansionError):
        expanded(text, {})
    assert expanded("$(" * 60_000 + "$$", {}) == "$(" * 60_000 + "$"
