# SPDX-License-Identifier: Apache-2.0
"""What a process is started with equals what Kubernetes documents for a Pod."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expansion_testing import by_the_rules
from praetor_api.files import MAX_CONTENT
from praetor_api.spec import Backend, EnvVar, Execution, ProcessSpec
from praetor_api.values import (
    INVALID,
    MAX_TEXT,
    MAX_TEXTS,
    MAX_VALUE,
    Contents,
    DeviceFields,
    ExpansionError,
    Reference,
    Resolved,
    Source,
    Unusable,
    Value,
    env_fault,
    expanded,
    exposed_secret,
    lacks_an_object,
    references_of,
    resolve,
    started_with,
    too_large,
)
from praetor_api.wire import read

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


LEAF = DeviceFields(
    name="leaf-1",
    namespace="net",
    labels={"rack": "r1", "empty": "", "example.com/site": "fra1"},
    address="192.0.2.7",
    facts={"os": "Debian 12", "odd (name)": "x"},
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "leaf-1"),
        ("metadata.namespace", "net"),
        ("metadata.labels['rack']", "r1"),
        ("metadata.labels['example.com/site']", "fra1"),
        ("metadata.labels['empty']", ""),
        ("metadata.labels['none']", None),
        ("spec.managementAddress", "192.0.2.7"),
        ("status.facts['os']", "Debian 12"),
        ("status.facts['odd (name)']", "x"),
        ("status.facts['none']", None),
        ("metadata.uid", None),
        ("metadata.annotations['rack']", None),
        ("metadata.labels", None),
        ("metadata.labels['rack", None),
        ("metadata.labels['rack']x", None),
        ("spec.managementAddress\n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_a_reference_names_a_field_of_the_device(path: str, value: str | None, optional: bool) -> None:
    found = resolve([Reference("A", path, optional), Reference("B", path, optional)], LEAF)
    if value is None:
        assert (found.values, found.missing) == ({}, () if optional else (path,))
    else:
        assert (found.values, found.missing) == ({"A": value, "B": value}, ())


def test_a_device_without_an_object_has_its_name_alone() -> None:
    bare = DeviceFields(name="leaf-1", namespace="net")
    paths = [
        "metadata.name",
        "metadata.namespace",
        "metadata.labels['a']",
        "spec.managementAddress",
        "status.facts['os']",
    ]
    found = resolve([Reference(path, path) for path in paths], bare)
    assert (list(found.values.values()), list(found.missing)) == (["leaf-1", "net"], paths[2:])


def ref(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"deviceFieldRef": {"fieldPath": path, **more}}}


@pytest.mark.parametrize(
    ("env", "references"),
    [
        pytest.param([{"name": "A", "value": "x"}], (), id="values"),
        pytest.param([ref("A", "metadata.name")], (Reference("A", "metadata.name"),), id="reference"),
        pytest.param([ref("A", "x", optional=True)], (Reference("A", "x", optional=True),), id="optional"),
        pytest.param([ref("A", "x", optional=False)], (Reference("A", "x"),), id="not-optional"),
        pytest.param([ref("A", "x") | {"value": ""}], (Reference("A", "x"),), id="empty-value-beside"),
        pytest.param([{"name": "A", "valueFrom": {"deviceFieldRef": 3}}, 3], (Reference("A", "None"),), id="nonsense"),
        pytest.param(None, (), id="no-env"),
    ],
)
def test_what_is_stored_has_references(env: Any, references: tuple[Reference, ...]) -> None:
    assert references_of({"execution": {"env": env}}) == references
    assert resolve(references, LEAF).missing == tuple(
        each.path for each in references if not each.optional and each.path != "metadata.name"
    )


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        pytest.param(ref("A", "x") | {"value": "y"}, "env[1] has a value and a valueFrom, of which", id="value-beside"),
        pytest.param({"name": "A", "valueFrom": {}}, "env[1].valueFrom has no source that is known, and", id="none"),
        pytest.param({"name": "A", "valueFrom": 3}, "env[1].valueFrom has no source that is known, and", id="nonsense"),
        pytest.param({"name": "A", "valueFrom": {"podRef": {}}}, "env[1].valueFrom has no source that", id="unknown"),
        pytest.param(
            {"name": "A", "valueFrom": {"deviceFieldRef": {}, "secretKeyRef": {}}},
            "env[1].valueFrom has several sources, and needs one; write one of deviceFieldRef, configMapKeyRef and",
            id="several",
        ),
        pytest.param({"name": "A", "valueFrom": {"deviceFieldRef": {}, "secretKeyRef": None}}, "", id="null-beside"),
        pytest.param({"name": "A", "value": "x", "valueFrom": None}, "", id="null"),
    ],
)
def test_a_variable_of_two_sources_or_none_is_given_nothing(variable: dict[str, Any], said: str) -> None:
    env = [ref("B", "metadata.name"), variable]
    assert env_fault(env).startswith(f"execution.{said}" if said else "")
    assert bool(env_fault(env)) is bool(said)
    found = references_of({"execution": {"env": env}})
    assert [each.source is not None and each.source.kind == INVALID for each in found] == (
        [True] if said else [False] * len(found)
    )


@pytest.mark.parametrize("spec", [{}, {"execution": 3}])
def test_what_is_no_spec_has_no_reference(spec: dict[str, Any]) -> None:
    assert references_of(spec) == ()


@given(TEXTS)
def test_a_value_of_a_reference_is_not_expanded_and_may_be_referred_to(value: str) -> None:
    env = [{"name": "A", "value": "a"}, ref("FACT", "status.facts['f']"), {"name": "B", "value": "$(A)-$(FACT)"}]
    spec = {"backend": "process", "command": ["/bin/x"], "args": ["$(B)"], "env": [*env, ref("GONE", "metadata.x")]}
    execution = read(ProcessSpec, {"execution": {**spec, "expandVariables": True}}).execution
    started = started_with(execution, {"FACT": value})
    assert started.env == {"A": "a", "FACT": value, "B": f"a-{value}"}
    assert started.args == (f"a-{value}",)
    plain = started_with(read(ProcessSpec, {"execution": spec}).execution, {"FACT": value})
    assert plain.env == {"A": "a", "FACT": value, "B": "$(A)-$(FACT)"}


def test_the_digest_of_values_is_stored_data() -> None:
    found = resolve([Reference("B", "metadata.name"), Reference("A", "metadata.labels['rack']")], LEAF)
    again = resolve([Reference("A", "metadata.labels['rack']"), Reference("B", "metadata.name")], LEAF)
    assert found.digest == again.digest == "sha256:6f9749f0d532529c206d83ebe96f39fc0ec93abe33040b691f8d5c8c40b399ef"


LEVEL = Source("configmap", "settings", "level")


def from_config_map(**more: Any) -> dict[str, Any]:
    return {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level", **more}}}


@pytest.mark.parametrize(
    ("found", "optional", "values", "missing"),
    [
        pytest.param("debug", False, {"A": "debug"}, (), id="found"),
        pytest.param("", False, {"A": ""}, (), id="empty"),
        pytest.param(None, False, {}, ("configmap/settings key level",), id="missing"),
        pytest.param(None, True, {}, (), id="missing-and-optional"),
        pytest.param(Unusable("is no text"), True, {}, ("configmap/settings key level is no text",), id="unusable"),
    ],
)
def test_a_key_is_read_of_its_source(
    found: Any, optional: bool, values: dict[str, str], missing: tuple[str, ...]
) -> None:
    references = references_of({"execution": {"env": [from_config_map(optional=optional)]}})
    assert references == (Reference("A", "configmap/settings key level", optional, LEVEL),)
    resolved = resolve(references, LEAF, {LEVEL: found}.get)
    assert (resolved.values, resolved.missing) == (values, missing)


@pytest.mark.parametrize(
    ("reason", "of_all"),
    [
        pytest.param("ReferenceMissing(configmap/a key b): its namespace", True, id="object"),
        pytest.param("ReferenceMissing(metadata.labels['rack'], configmap/a key b)", True, id="both"),
        pytest.param("ReferenceMissing(metadata.labels['rack']): configmap/a key b", False, id="field"),
        pytest.param("ReferenceMissing(metadata.labels['configmap/a'])", False, id="label-called-so"),
        pytest.param("AgentTooOld(configmap/a key b)", False, id="another-reason"),
        pytest.param("", False, id="none"),
    ],
)
def test_what_an_object_lacks_is_missing_for_all_devices(reason: str, of_all: bool) -> None:
    assert lacks_an_object(reason) is of_all


def test_the_digest_of_values_shows_neither_them_nor_the_key() -> None:
    plain, keyed = Resolved({"A": "x"}), Resolved({"A": "x"}, key=b"secret")
    assert plain.digest != keyed.digest
    assert keyed.digest != Resolved({"A": "x"}, key=b"other").digest
    assert keyed.digest == Resolved({"A": "x"}, key=b"secret").digest
    assert "x" not in repr(Resolved({"A": "x"}, key=b"x")).replace("missing", "")


def file_of(kind: str, path: str = "etc/a", **more: Any) -> dict[str, Any]:
    return {"path": path, kind: {"name": "settings", "key": "level"}, **more}


def test_a_file_is_read_of_its_source_as_bytes() -> None:
    files = [file_of("configMapKeyRef"), file_of("secretKeyRef", "b"), {"path": "c", "content": "inline"}]
    optional = {"path": "d", "configMapKeyRef": {"name": "settings", "key": "none", "optional": True}}
    references = references_of({"execution": {"env": [from_config_map()], "files": [*files, optional]}})
    secret, none = Source("secret", "settings", "level"), Source("configmap", "settings", "none")
    assert references == (
        Reference("A", "configmap/settings key level", False, LEVEL),
        Reference("", "configmap/settings key level", False, LEVEL, "etc/a"),
        Reference("", "secret/settings key level", False, secret, "b"),
        Reference("", "configmap/settings key none", True, none, "d"),
    )
    there: dict[Source, Value] = {LEVEL: "é\n", secret: b"\xff\0"}
    found = resolve(references, LEAF, there.get)
    assert (found.values, found.missing) == ({"A": "é\n"}, ())
    assert found.files is not None
    assert found.files.by_path == {"etc/a": "w6kK", "b": "/wA="}
    assert found.files.size == 5
    assert "w6kK" not in repr(found)
    assert resolve(references[:1], LEAF, {LEVEL: "x"}.get).files is None


@pytest.mark.parametrize(
    ("value", "of_variable", "of_file"),
    [
        pytest.param("a\0", " is no text", None, id="nul"),
        pytest.param(b"\xff", " is no text", None, id="bytes"),
        pytest.param("x" * (MAX_VALUE + 1), " has more than 32768 characters", None, id="long"),
        pytest.param("é" * MAX_CONTENT, " has more than 32768 characters", " has more than 131072 bytes", id="longer"),
        pytest.param(None, "", "", id="none"),
    ],
)
def test_a_file_takes_what_no_variable_can_hold(value: Any, of_variable: str | None, of_file: str | None) -> None:
    execution = {"env": [from_config_map()], "files": [file_of("configMapKeyRef")]}
    variable, file = references_of({"execution": execution})
    for reference, why in ((variable, of_variable), (file, of_file)):
        missing = () if why is None else (f"configmap/settings key level{why}",)
        assert resolve([reference], LEAF, {LEVEL: value}.get).missing == missing


@pytest.mark.parametrize("file", [file_of("configMapKeyRef", content=""), file_of("secretKeyRef", configMapKeyRef={})])
def test_a_file_of_two_sources_is_given_nothing(file: dict[str, Any]) -> None:
    (found,) = references_of({"execution": {"files": [file]}})
    assert (found.file, found.source) == ("", Source(INVALID, found.path, ""))
    assert found.path == "spec.execution.files: etc/a has several sources, and a file has one; leave the others out"


def test_the_digest_covers_the_contents_of_files_with_its_key() -> None:
    digests = [
        Resolved({"A": "x"}, key=key, files=files).digest
        for key in (b"", b"secret", b"other")
        for files in (None, Contents({}), Contents({"a": "eA=="}), Contents({"a": "eQ=="}), Contents({"b": "eA=="}))
    ]
    assert len(set(digests)) == len(digests)
    shared = Contents({"a": "eA=="})
    assert Resolved({}, key=b"k", files=shared).digest == Resolved({}, key=b"k", files=shared).digest


PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}


@pytest.mark.parametrize(
    ("env", "fields", "where"),
    [
        pytest.param([PASSWORD], {"args": ["-p", "$(PASSWORD)"]}, "args[1]", id="args"),
        pytest.param([PASSWORD], {"command": ["a", "x=$(PASSWORD)y"]}, "command[1]", id="command"),
        pytest.param(
            [PASSWORD, {"name": "URL", "value": "u:$(PASSWORD)@h"}, {"name": "MORE", "value": "<$(URL)>"}],
            {"args": ["$(MORE)"]},
            "args[0]",
            id="expanded-twice",
        ),
        pytest.param([PASSWORD], {"args": ["$$(PASSWORD)", "$PASSWORD"]}, "", id="escaped"),
        pytest.param([PASSWORD], {"args": ["$(OTHER)"]}, "", id="another"),
        pytest.param([PASSWORD], {"args": ["$(PASSWORD)"], "expandVariables": False}, "", id="not-expanded"),
        pytest.param(
            [{"name": "URL", "value": "u:$(PASSWORD)@h"}, PASSWORD], {"args": ["$(URL)"]}, "", id="before-the-secret"
        ),
        pytest.param([PASSWORD], {"args": [3, None, "$(" * 9]}, "", id="nonsense"),
    ],
)
def test_a_secret_in_an_argument_is_found(env: list[Any], fields: dict[str, Any], where: str) -> None:
    spec = {"execution": {"env": env, "expandVariables": True, **fields}}
    found = exposed_secret(spec)
    assert found.startswith(f"spec.execution.{where} names the secret variable ") if where else found == ""
    kinds = {each.source.kind for each in references_of(spec) if each.source is not None}
    assert kinds == ({INVALID} if where else {"secret"})


@pytest.mark.parametrize(
    ("values", "files", "said"),
    [
        pytest.param({"A": "x" * MAX_TEXTS}, None, "", id="just-small-enough"),
        pytest.param({"A": "x" * MAX_TEXTS, "B": "y"}, None, "TooLarge more than 1048576 characters", id="values"),
        pytest.param({}, Contents({"a": b64encode(b"x" * MAX_CONTENT).decode()}), "", id="files-just-small-enough"),
        pytest.param(
            {},
            Contents(dict.fromkeys("ab", b64encode(b"x" * 100_000).decode())),
            "TooLarge files of more than 131072 bytes",
            id="files",
        ),
    ],
)
def test_what_is_too_large_together_is_refused(values: dict[str, str], files: Contents | None, said: str) -> None:
    assert too_large(Resolved(values, files=files)) == said
