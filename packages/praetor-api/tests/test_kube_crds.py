# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from praetor_api.kube.codec import decode
from praetor_api.kube.crds import CUSTOM_RESOURCES, crd, main
from praetor_api.kube.objects import DeviceProcessDeployment
from praetor_api.spec import DeviceKind

CRDS: dict[str, dict[str, Any]] = {resource.kind: crd(resource) for resource in CUSTOM_RESOURCES}


def version(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]
    return found


def schema(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = version(kind)["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in node:
            yield from nodes(node[word], f"{path}[]")


ALL_NODES = [pytest.param(node, id=path) for kind in CRDS for path, node in nodes(schema(kind), kind)]
DESCRIBED = [
    pytest.param(child, id=f"{path}.{name}")
    for kind in CRDS
    for path, node in nodes(schema(kind), kind)
    for name, child in node.get("properties", {}).items()
    if name != "metadata" or path != kind
]


@pytest.mark.parametrize("node", ALL_NODES)
def test_every_string_and_list_has_a_maximum(node: dict[str, Any]) -> None:
    """Without one the apiserver assumes the worst and refuses CEL rules for their cost."""
    match node.get("type"):
        case "string":
            assert {"maxLength", "enum", "format"} & node.keys() or node.get("description", "").startswith("Always")
        case "array":
            assert "maxItems" in node


@pytest.mark.parametrize("node", DESCRIBED)
def test_every_field_has_a_description_for_kubectl_explain(node: dict[str, Any]) -> None:
    inner = node.get("description", "")
    assert inner.endswith(".")
    assert inner[0].isupper()


@pytest.mark.parametrize(
    ("kind", "short", "plural"),
    [
        ("NetworkSwitch", "nsw", "networkswitches"),
        ("BMC", "", "bmcs"),
        ("DPU", "", "dpus"),
        ("Server", "srv", "servers"),
        ("SOC", "", "socs"),
        ("DeviceProcess", "dp", "deviceprocesses"),
        ("DeviceProcessDeployment", "dpd", "deviceprocessdeployments"),
    ],
)
def test_kinds_are_namespaced_with_short_names_and_a_status(kind: str, short: str, plural: str) -> None:
    spec = CRDS[kind]["spec"]
    assert (spec["group"], spec["scope"]) == ("azure.com", "Namespaced")
    assert (spec["names"].get("shortNames", [""]), spec["names"]["plural"]) == ([short], plural)
    assert version(kind)["subresources"] == {"status": {}}
    assert version(kind)["additionalPrinterColumns"][-1]["name"] == "Age"


def test_devices_of_all_kinds_have_one_schema_and_the_same_columns() -> None:
    assert {kind.value for kind in DeviceKind} == {*CRDS} - {"DeviceProcess", "DeviceProcessDeployment"}
    for kind in DeviceKind:
        named = schema("NetworkSwitch")["properties"] | {"kind": {"type": "string", "description": f"Always {kind}."}}
        assert schema(kind)["properties"] == named
        assert version(kind)["additionalPrinterColumns"] == version("NetworkSwitch")["additionalPrinterColumns"]


def test_processes_can_be_selected_by_their_device() -> None:
    assert version("DeviceProcess")["selectableFields"] == [{"jsonPath": ".spec.deviceRef.name"}]


def test_the_device_of_a_process_cannot_be_changed() -> None:
    reference = schema("DeviceProcess")["properties"]["spec"]["properties"]["deviceRef"]
    assert [rule["rule"] for rule in reference["x-kubernetes-validations"]] == ["self == oldSelf"]


@pytest.mark.parametrize("kind", CRDS)
def test_conditions_are_a_map_by_type(kind: str) -> None:
    conditions = schema(kind)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("kind", CRDS)
def test_nothing_is_filled_into_a_status(kind: str) -> None:
    assert not [path for path, node in nodes(schema(kind)["properties"]["status"], "status") if "default" in node]


def test_defaults_are_those_of_the_classes() -> None:
    spec = schema("DeviceProcessDeployment")["properties"]["spec"]["properties"]
    strategy = spec["updateStrategy"]
    assert (strategy["default"], strategy["properties"]["rollingUpdate"]["default"]) == ({}, {})
    assert strategy["properties"]["rollingUpdate"]["properties"]["maxUnavailable"]["default"] == "10%"
    assert spec["progressDeadlineSeconds"]["default"] == 600
    assert "default" not in spec["template"]["properties"]["metadata"]
    execution = spec["template"]["properties"]["spec"]["properties"]["execution"]["properties"]
    assert execution["terminationGracePeriodSeconds"]["default"] == 30


ORIGINAL = """
apiVersion: azure.com/v1alpha1
kind: DeviceProcessDeployment
metadata: {name: firmware, namespace: default}
spec:
  selector:
    matchLabels: {role: leaf}
    matchExpressions: [{key: rack, operator: In, values: [r1, r2]}]
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 10%}}
  template:
    metadata: {labels: {app: firmware}}
    spec:
      artifact: {type: oci, url: "registry.example/fw@sha256:%s"}
      execution:
        backend: systemd
        command: [/usr/bin/fwd]
        args: [--port, "80"]
        env: [{name: MODE, value: fast}]
        workingDir: /var/lib/fwd
        user: fwd
      restartPolicy: OnFailure
      healthCheck: {exec: {command: [/usr/bin/fwctl, ok]}, periodSeconds: 10, timeoutSeconds: 2}
""".replace("%s", "ab" * 32)


def test_a_manifest_of_the_original_system_fits_schema_and_classes() -> None:
    manifest = yaml.safe_load(ORIGINAL)
    jsonschema.validate(manifest, schema("DeviceProcessDeployment"))
    spec = decode(manifest, DeviceProcessDeployment).spec.template.spec
    assert spec.execution.user == "fwd"
    assert spec.health_check is not None
    assert spec.health_check.failure_threshold == 3


def test_the_files_are_the_generated_ones(tmp_path: Path) -> None:
    main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "azure.com_bmcs.yaml",
        "azure.com_deviceprocessdeployments.yaml",
        "azure.com_deviceprocesses.yaml",
        "azure.com_dpus.yaml",
        "azure.com_networkswitches.yaml",
        "azure.com_servers.yaml",
        "azure.com_socs.yaml",
    ]
    assert all(yaml.safe_load(path.read_text()) in CRDS.values() for path in tmp_path.iterdir())
