# SPDX-License-Identifier: Apache-2.0
"""The unmodified kubectl works as people are used to: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from contract.cluster import Cluster
from contract.widgets import GROUP, Collection, Eventually, widget

LIMIT_S = 30


class Said(NamedTuple):
    """What a run of kubectl came to."""

    status: int
    out: str
    err: str

    @property
    def table(self) -> list[list[str]]:
        """The printed lines as lists of words."""
        return [line.split() for line in self.out.splitlines()]


Kubectl = Callable[..., Said]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose home is empty, so that no cached discovery of another cluster is found."""
    home = str(tmp_path_factory.mktemp("home"))
    return {"PATH": os.environ["PATH"], "HOME": home, "KUBECACHEDIR": f"{home}/cache"}


@pytest.fixture
def command(cluster: Cluster, namespace: str) -> list[str]:
    """The start of every command line."""
    if cluster.kubectl is None:
        pytest.skip("there is no kubectl")
    return [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]


@pytest.fixture
def kubectl(command: list[str], environment: dict[str, str], widgets: Collection) -> Kubectl:
    """Run kubectl in the test's namespace; *stdin* is given as JSON."""

    def run(*words: str, stdin: Any = None) -> Said:
        done = subprocess.run(
            [*command, *words],
            input=None if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
            env=environment,
            timeout=LIMIT_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def test_apply_creates_and_changes(kubectl: Kubectl, widgets: Collection) -> None:
    first = kubectl("apply", "-f", "-", stdin=widget("a", label="abc"))
    assert (first.status, first.out) == (0, f"widget.{GROUP}/a created\n")
    again = kubectl("apply", "-f", "-", stdin=widget("a", label="abc"))
    assert (again.status, again.out) in [(0, f"widget.{GROUP}/a {word}\n") for word in ("unchanged", "configured")]
    changed = kubectl("apply", "-f", "-", stdin=widget("a", size=5))
    assert (changed.status, changed.out) == (0, f"widget.{GROUP}/a configured\n")
    assert widgets.read("a")["spec"]["size"] == 5
    assert "label" not in widgets.read("a")["spec"]


def test_server_side_apply(kubectl: Kubectl, widgets: Collection) -> None:
    done = kubectl("apply", "--server-side", "-f", "-", stdin=widget("a"))
    assert (done.status, done.out) == (0, f"widget.{GROUP}/a serverside-applied\n")
    widgets.patch("a", {"spec": {"size": 2}}, fieldManager="another")
    conflict = kubectl("apply", "--server-side", "-f", "-", stdin=widget("a", size=3))
    assert conflict.status == 1
    assert 'conflict with "another"' in conflict.err
    forced = kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=widget("a", size=3))
    assert forced.status == 0
    assert widgets.read("a")["spec"]["size"] == 3


def test_what_is_invalid_is_refused_in_words(kubectl: Kubectl, widgets: Collection) -> None:
    one = kubectl("apply", "-f", "-", stdin=widget("a", size=400))
    assert one.status == 1
    assert one.err == (
        'The Widget "a" is invalid: spec.size: Invalid value: 400: '
        "spec.size in body should be less than or equal to 100\n"
    )
    assert kubectl("apply", "-f", "-", stdin=widget("a", bogus=1)).status == 1
    assert widgets.names() == []


def test_diff_reports_differences_by_its_exit_status(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=widget("a"))
    changed = kubectl("diff", "-f", "-", stdin=widget("a", size=7))
    assert changed.status == 1
    assert "+  size: 7" in changed.out
    assert kubectl("diff", "-f", "-", stdin=widget("a")).status == 0


def test_get_prints_the_columns_of_the_definition(kubectl: Kubectl, widgets: Collection) -> None:
    widgets.made(widget("a", note="hi"))
    widgets.made(widget("b", size=2, color="blue"))
    widgets.patch("a", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
    header, first, second = kubectl("get", "widgets").table
    assert header == ["NAME", "SIZE", "COLOR", "READY", "AGE"]
    assert first[:-1] == ["a", "1", "red", "True"]
    assert second[:-1] == ["b", "2", "blue"]
    assert re.fullmatch(r"\d+s", second[-1])
    wide = kubectl("get", "wd", "a", "-o", "wide").table
    assert wide[0] == ["NAME", "SIZE", "COLOR", "READY", "NOTE", "AGE"]
    assert wide[1][4] == "hi"


def test_get_in_other_forms(kubectl: Kubectl, widgets: Collection) -> None:
    made = widgets.made(widget("a", metadata={"labels": {"app": "x"}}))
    made["metadata"].pop("managedFields", None)
    assert kubectl("get", "widget/a", "-o", "name").out == f"widget.{GROUP}/a\n"
    assert kubectl("get", "wd", "a", "-o", "jsonpath={.spec.color}").out == "red"
    found = json.loads(kubectl("get", f"widgets.{GROUP}", "a", "-o", "json").out)
    found["metadata"].pop("managedFields", None)
    assert found == made
    assert kubectl("get", "contract", "-l", "app=x", "--no-headers").table[0][0] == "a"
    assert kubectl("get", "wd", "--field-selector", "metadata.name=nope").err.startswith("No resources found in ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("get", "wd", "nope"), f'Error from server (NotFound): widgets.{GROUP} "nope" not found\n'),
        (("get", "gizmos"), 'error: the server doesn\'t have a resource type "gizmos"\n'),
        (("delete", "wd", "nope"), f'Error from server (NotFound): widgets.{GROUP} "nope" not found\n'),
    ],
)
def test_a_missing_object_is_reported(kubectl: Kubectl, words: tuple[str, ...], message: str) -> None:
    said = kubectl(*words)
    assert (said.status, said.err) == (1, message)


def test_describe_shows_spec_and_events(
    kubectl: Kubectl, widgets: Collection, in_namespace: Any, namespace: str
) -> None:
    made = widgets.made(widget("a", label="abc"))
    regarding = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "namespace": namespace, "name": "a"}
    in_namespace("events.k8s.io/v1", "events").made(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "e"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "example.com/tester",
            "reportingInstance": "tester-1",
            "action": "Making",
            "reason": "WasMade",
            "regarding": {**regarding, "uid": made["metadata"]["uid"]},
            "note": "made by hand",
            "type": "Normal",
        }
    )
    said = kubectl("describe", "wd", "a")
    assert said.status == 0
    assert re.search(r"^Name: +a$", said.out, re.MULTILINE)
    assert re.search(r"^ +Label: +abc$", said.out, re.MULTILINE)
    assert re.search(r"Normal +WasMade .*made by hand", said.out)
    assert kubectl("get", "events").table[1][-3:] == ["made", "by", "hand"]


def test_explain_reads_the_descriptions(kubectl: Kubectl, eventually: Eventually) -> None:
    eventually(lambda: kubectl("explain", "widget").status == 0)  # schemas are published with a delay
    said = kubectl("explain", "widget.spec.size")
    assert said.status == 0
    assert "How large it is, in millimetres." in said.out
    assert re.search(r"FIELD: +size <integer>", said.out)
    everything = kubectl("explain", "widgets", "--recursive").out
    assert re.search(r"conditions\s+<\[\]Object>", everything)
    assert kubectl("explain", "widget.spec.nonsense").status == 1


def test_labels_and_annotations(kubectl: Kubectl, widgets: Collection) -> None:
    widgets.made(widget("a"))
    assert kubectl("label", "wd", "a", "x=y").out == f"widget.{GROUP}/a labeled\n"
    assert kubectl("label", "wd", "a", "x=z").status == 1
    assert kubectl("label", "wd", "a", "x=z", "--overwrite").status == 0
    assert kubectl("annotate", "wd", "a", "n=o").out == f"widget.{GROUP}/a annotated\n"
    metadata = widgets.read("a")["metadata"]
    assert (metadata["labels"], metadata["annotations"]) == ({"x": "z"}, {"n": "o"})
    assert kubectl("label", "wd", "a", "x-").status == 0
    assert "labels" not in widgets.read("a")["metadata"]


def test_patches(kubectl: Kubectl, widgets: Collection) -> None:
    widgets.made(widget("a"))
    merged = kubectl("patch", "wd", "a", "--type=merge", "-p", '{"spec": {"size": 5}}')
    assert (merged.status, merged.out) == (0, f"widget.{GROUP}/a patched\n")
    same = kubectl("patch", "wd", "a", "--type=merge", "-p", '{"spec": {"size": 5}}')
    assert (same.status, same.out) == (0, f"widget.{GROUP}/a patched (no change)\n")
    operations = '[{"op": "replace", "path": "/spec/size", "value": 0}]'
    invalid = kubectl("patch", "wd", "a", "--type=json", "-p", operations)
    assert (invalid.status, invalid.err.startswith('The Widget "a" is invalid: spec.size')) == (1, True)
    strategic = kubectl("patch", "wd", "a", "-p", '{"spec": {"size": 6}}')
    assert strategic.status == 1
    assert widgets.read("a")["spec"]["size"] == 5


def test_wait_for_a_condition(kubectl: Kubectl, widgets: Collection) -> None:
    widgets.made(widget("a"))
    late = kubectl("wait", "--for=condition=Ready", "wd/a", "--timeout=1s")
    assert (late.status, late.err) == (1, "error: timed out waiting for the condition on widgets/a\n")
    widgets.patch("a", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
    met = kubectl("wait", "--for=condition=Ready", "wd/a", "--timeout=20s")
    assert (met.status, met.out) == (0, f"widget.{GROUP}/a condition met\n")


def test_wait_for_a_condition_that_comes_later(
    command: list[str], environment: dict[str, str], widgets: Collection
) -> None:
    widgets.made(widget("a"))
    words = ["wait", "--for=condition=Ready", "wd/a", "--timeout=20s"]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, env=environment) as waiting:
        widgets.patch("a", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status")
        out, _ = waiting.communicate(timeout=LIMIT_S)
    assert (waiting.returncode, out) == (0, f"widget.{GROUP}/a condition met\n")


def test_wait_for_a_deletion(command: list[str], environment: dict[str, str], widgets: Collection) -> None:
    widgets.made(widget("a"))
    words = ["wait", "--for=delete", "wd/a", "--timeout=20s"]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, env=environment) as waiting:
        widgets.delete("a")
        waiting.communicate(timeout=LIMIT_S)
    assert waiting.returncode == 0


def test_get_watch_prints_changes_as_they_come(
    command: list[str], environment: dict[str, str], widgets: Collection
) -> None:
    widgets.made(widget("a"))
    with subprocess.Popen(
        [*command, "get", "wd", "-w"], stdout=subprocess.PIPE, text=True, env=environment
    ) as watching:
        assert watching.stdout is not None
        lines = (line.split() for line in watching.stdout)
        try:
            assert next(lines) == ["NAME", "SIZE", "COLOR", "READY", "AGE"]
            assert next(lines)[:3] == ["a", "1", "red"]
            widgets.patch("a", {"spec": {"size": 2}})
            assert next(lines)[:3] == ["a", "2", "red"]
            widgets.made(widget("b"))
            assert next(lines)[:3] == ["b", "1", "red"]
        finally:
            watching.terminate()


def test_create_replace_and_delete(kubectl: Kubectl, widgets: Collection) -> None:
    assert kubectl("create", "-f", "-", stdin=widget("a")).out == f"widget.{GROUP}/a created\n"
    twice = kubectl("create", "-f", "-", stdin=widget("a"))
    assert (twice.status, "(AlreadyExists)" in twice.err) == (1, True)
    assert kubectl("replace", "-f", "-", stdin=widget("a", size=8)).out == f"widget.{GROUP}/a replaced\n"
    dry = kubectl("create", "-f", "-", "--dry-run=server", "-o", "name", stdin=widget("b"))
    assert (dry.status, dry.out) == (0, f"widget.{GROUP}/b\n")
    gone = kubectl("delete", "wd", "a")
    assert gone.status == 0
    assert gone.out.startswith(f'widget.{GROUP} "a" deleted')
    assert widgets.names() == []
    assert kubectl("delete", "wd", "a", "--ignore-not-found").status == 0


def test_delete_waits_for_finalizers(kubectl: Kubectl, widgets: Collection) -> None:
    widgets.made(widget("a", metadata={"finalizers": ["example.com/hold"]}))
    held = kubectl("delete", "wd", "a", "--timeout=1s")
    assert (held.status, "timed out" in held.err) == (1, True)
    widgets.patch("a", {"metadata": {"finalizers": None}})
    assert widgets.get("a").status == 404


def test_delete_by_label(kubectl: Kubectl, widgets: Collection) -> None:
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        widgets.made(widget(name, metadata={"labels": {"app": app}}))
    assert kubectl("delete", "wd", "-l", "app=x").status == 0
    assert widgets.names() == ["c"]
    assert kubectl("delete", "wd", "--all").status == 0
    assert widgets.names() == []


def test_resources_are_listed(kubectl: Kubectl) -> None:
    table = kubectl("api-resources", f"--api-group={GROUP}").table
    assert ["widgets", "wd", f"{GROUP}/v1", "true", "Widget"] in table
    assert ["depots", f"{GROUP}/v1", "false", "Depot"] in table
    assert f"{GROUP}/v1" in kubectl("api-versions").out.split()


@pytest.mark.parametrize("kind", ["configmaps", "leases", "controllerrevisions", "events", "namespaces", "crds"])
def test_built_in_kinds_are_known_by_name(kubectl: Kubectl, kind: str) -> None:
    assert kubectl("get", kind).status == 0


def test_configmaps_from_literals(kubectl: Kubectl) -> None:
    assert kubectl("create", "configmap", "c", "--from-literal=a=b").status == 0
    assert kubectl("get", "cm", "c", "-o", "jsonpath={.data.a}").out == "b"


def test_version_and_permissions(kubectl: Kubectl) -> None:
    assert "Server Version: " in kubectl("version").out
    assert kubectl("auth", "can-i", "list", "widgets").out == "yes\n"
    assert kubectl("cluster-info").status == 0
