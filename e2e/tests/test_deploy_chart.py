# SPDX-License-Identifier: Apache-2.0
"""The Helm chart installs what kustomize does, for every value that switches something on, and refuses bad values."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from click.testing import CliRunner

from e2e.release.build import ROOT
from e2e.release.chart import CHART, main, package, render
from e2e.release.manifests import BASE, Object, collection_of, read, with_component

COMPONENTS = ROOT / "deploy" / "components"
SECRETS = {
    "gateway": {
        "deviceTokens": {"existingSecret": "praetor-device-tokens"},
        "peers": {"existingSecret": "praetor-gateway-peers"},
    }
}
# what `helm install` and the chart add to every object
HELMS_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}
SWITCHES = {
    "networkPolicies": "networkpolicy",
    "flowSchemas": "flowcontrol",
    "tenancy": "tenancy",
    "deletionGuard": "deletionguard",
    "gatewayPin": "gatewaypin",
    "monitoring": "monitoring",
}


def values(**more: Any) -> dict[str, Any]:
    return merged(SECRETS, more)


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(one))
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def by_identity(objects: Iterable[Object]) -> dict[tuple[str, str], Object]:
    """Return the objects without what only one of the two ways of installing has."""
    found = {}
    for each in objects:
        item = copy.deepcopy(each)
        if item["kind"] == "Namespace" or "helm.sh/hook" in item["metadata"].get("annotations", {}):
            continue  # `--create-namespace` makes it; a hook is a test
        metadata = item["metadata"]
        annotations = metadata.get("annotations", {})
        annotations.pop("helm.sh/resource-policy", None)
        metadata["annotations"] = annotations
        labels = {key: value for key, value in metadata.get("labels", {}).items() if key not in HELMS_LABELS}
        if item["kind"] == "CustomResourceDefinition":
            labels.pop("app.kubernetes.io/part-of", None)
        metadata["labels"] = labels
        found[item["kind"], metadata["name"]] = item
    return found


def of_kustomize() -> list[Object]:
    """Return base with several gateways, as many as the chart's default."""
    objects = list(with_component(read(BASE), COMPONENTS / "replicas"))
    for item in objects:
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", "praetor-gateway"):
            item["spec"]["replicas"] = 2
    return objects


def component(name: str) -> list[Object]:
    folder = COMPONENTS / name
    said = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    texts = [(folder / path).read_text(encoding="utf-8") for path in said["resources"]]
    return [item for text in texts for item in yaml.safe_load_all(text)] + [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": made["name"],
                "namespace": made["namespace"],
                "labels": made["options"]["labels"],
            },
            "data": {Path(path).name: (folder / path).read_text(encoding="utf-8") for path in made["files"]},
        }
        for made in said.get("configMapGenerator", ())
    ]


def gateway(**more: Any) -> dict[str, Any]:
    """Return the Pod of the gateway in a release with these values of it."""
    objects = by_identity(render(values(gateway=more)))
    pod: dict[str, Any] = objects["Deployment", "praetor-gateway"]["spec"]["template"]["spec"]
    return pod


def test_the_chart_is_without_a_finding() -> None:
    report = helm_python.lint(CHART, SECRETS, strict=True)
    assert [each for each in report["messages"] if each["error"] != "icon is recommended"] == []
    assert report["errors"] == []


def test_a_release_with_the_default_values_is_what_kustomize_installs_for_several_gateways() -> None:
    assert by_identity(render(values())) == by_identity(of_kustomize())


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_value_that_switches_a_component_on_adds_just_that_component(switch: str) -> None:
    with_it = by_identity(render(values(**{switch: {"enabled": True}})))
    assert with_it == by_identity([*of_kustomize(), *component(SWITCHES[switch])])


def test_every_component_is_a_value() -> None:
    assert {path.name for path in COMPONENTS.iterdir()} == {*SWITCHES.values(), "references", "replicas"}


def test_namespaces_with_references_get_the_role_of_the_component_and_their_flag() -> None:
    namespaces = ["fabric-a", "fabric-b"]
    objects = render(values(references={"namespaces": namespaces}))
    expected = [
        each | {"metadata": each["metadata"] | {"namespace": namespace}}
        for namespace in namespaces
        for each in component("references")
    ]
    for namespace in namespaces:
        of_one = [each for each in objects if each["metadata"].get("namespace") == namespace]
        assert by_identity(of_one) == by_identity(
            each for each in expected if each["metadata"]["namespace"] == namespace
        )
    others = by_identity(each for each in objects if each["metadata"].get("namespace") not in namespaces)
    args = others["Deployment", "praetor-gateway"]["spec"]["template"]["spec"]["containers"][0]["args"]
    for namespace in namespaces:
        args.remove(f"--references-namespace={namespace}")
    assert others == by_identity(render(values()))


def test_nothing_names_another_namespace_than_the_releases() -> None:
    everything = values(**{switch: {"enabled": True} for switch in SWITCHES})
    objects = render(everything, namespace="fleet")
    assert "praetor-system" not in yaml.safe_dump_all(objects)
    assert {item["metadata"].get("namespace", "fleet") for item in objects} == {"fleet"}
    controller = by_identity(objects)["Deployment", "praetor-controller"]["spec"]["template"]["spec"]["containers"][0]
    assert "--leader-elect-namespace=fleet" in controller["args"]


def test_crds_and_secrets_outlive_the_release() -> None:
    definitions = [item for item in render(values()) if item["kind"] == "CustomResourceDefinition"]
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in definitions} == {"keep"}
    without = render(values(crds={"install": False}))
    assert not [item for item in without if item["kind"] == "CustomResourceDefinition"]


def test_a_proxy_that_ends_tls_is_declared() -> None:
    [container] = gateway(tls={"terminated": True})["containers"]
    assert "--tls-terminated" in container["args"]
    [container] = gateway()["containers"]
    assert "--tls-terminated" not in container["args"]


def test_a_certificate_is_mounted_and_served() -> None:
    pod = gateway(tls={"existingSecret": "gateway-tls"})
    [container] = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"--tls-cert=/etc/praetor/tls/tls.crt", "--tls-key=/etc/praetor/tls/tls.key"} <= set(container["args"])
    assert mounts["tls"] == "/etc/praetor/tls"
    assert {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}["tls"] == "gateway-tls"


def test_placement_flags_and_resources_reach_the_pod() -> None:
    wanted = {
        "nodeSelector": {"role": "edge"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
    }
    pod = gateway(**wanted, extraArgs=["--log-level=debug"], resources={"limits": {"memory": "4Gi"}}, tag="1.2.3")
    [container] = pod["containers"]
    assert pod | wanted == pod
    assert container["args"][-1] == "--log-level=debug"
    assert container["resources"]["limits"] == {"memory": "4Gi"}
    assert container["image"] == "localhost/praetor-gateway:1.2.3"


@pytest.mark.parametrize("endpoint", ["", "http://collector.observability:4318"])
def test_both_programs_send_spans_where_an_endpoint_is_given(endpoint: str) -> None:
    objects = by_identity(render(values(tracing={"endpoint": endpoint})))
    for program in ("controller", "gateway"):
        [container] = objects["Deployment", f"praetor-{program}"]["spec"]["template"]["spec"]["containers"]
        sent_to = {each["name"]: each.get("value") for each in container.get("env", ())}
        assert ("--tracing" in container["args"]) is bool(endpoint)
        assert sent_to.get("OTEL_EXPORTER_OTLP_ENDPOINT", "") == endpoint


def test_the_service_can_be_reached_from_outside() -> None:
    wanted = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]}
    objects = by_identity(render(values(gateway={"service": {**wanted, "nodePort": 30080}})))
    service = objects["Service", "praetor-gateway"]["spec"]
    assert service | wanted == service
    assert service["ports"][0]["nodePort"] == 30080


def test_gateways_outside_the_cluster_need_only_their_account() -> None:
    kinds = {kind for kind, name in by_identity(render({"gateway": {"enabled": False}})) if name == "praetor-gateway"}
    assert kinds == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}


def test_metrics_of_both_programs_are_scraped() -> None:
    chosen = {
        "enabled": True,
        "labels": {"release": "prom"},
        "interval": "10s",
        "runbooks": "https://wiki.example.com/r",
    }
    objects = by_identity(render(values(monitoring=chosen)))
    monitor, rules = objects["PodMonitor", "praetor"], objects["PrometheusRule", "praetor"]
    assert {item["metadata"]["labels"]["release"] for item in (monitor, rules)} == {"prom"}
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == "10s"
    [selected] = monitor["spec"]["selector"]["matchExpressions"]
    for program in ("controller", "gateway"):
        template = objects["Deployment", f"praetor-{program}"]["spec"]["template"]
        assert template["metadata"]["labels"][selected["key"]] in selected["values"]
        assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    links = [rule["annotations"]["runbook_url"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert {link.partition("#")[0] for link in links} == {"https://wiki.example.com/r"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replicas": 0}}, "/gateway/replicas"),
        ({"controller": {"extraArgs": ["qps=5"]}}, "/controller/extraArgs/0"),
        ({"gateway": {"service": {"type": "Loadbalancer"}}}, "/gateway/service/type"),
        ({"monitoring": {"interval": 30}}, "/monitoring/interval"),
        ({"tracing": {"endpoint": "collector:4317"}}, "/tracing/endpoint"),
        ({"image": {"registry": "https://registry.example.com"}}, "/image/registry"),
        ({"gateway": {"peers": SECRETS["gateway"]["peers"]}}, "gateway.deviceTokens.existingSecret"),
        ({"gateway": {"deviceTokens": SECRETS["gateway"]["deviceTokens"]}}, "gateway.peers.existingSecret"),
    ],
)
def test_a_bad_value_is_named(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_python.HelmError, match=said.replace(".", r"\.")):
        render(bad)


def test_every_value_has_a_schema() -> None:
    with helm_python.Chart.load(CHART) as chart:
        schema, defaults = chart.schema, chart.values

    def unknown(value: Any, schema: Mapping[str, Any], path: str) -> Iterable[str]:
        if isinstance(value, dict) and "properties" in schema:
            yield from (f"{path}.{key}" for key in value.keys() - schema["properties"].keys())
            for key in value.keys() & schema["properties"].keys():
                yield from unknown(value[key], schema["properties"][key], f"{path}.{key}")

    assert schema is not None
    assert list(unknown(defaults, schema, "")) == []


@pytest.mark.parametrize("program", ["controller", "gateway"])
def test_the_images_are_those_of_this_version(program: str) -> None:
    of_chart, of_base = (
        by_identity(objects)["Deployment", f"praetor-{program}"]["spec"]["template"]["spec"]["containers"][0]["image"]
        for objects in (render(values()), read(BASE))
    )
    assert of_chart == of_base


def test_the_archive_has_the_registry_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    one, other = (package(tmp_path / name, "registry.example.com/net") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    with helm_python.Chart.load(one) as chart:
        chart_image = chart.render(values(), name="praetor")["praetor/templates/controller.yaml"]
    assert "image: registry.example.com/net/praetor-controller:" in chart_image


def test_install_yaml_is_base_with_images_of_the_registry(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--registry", "registry.example.com", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    objects = list(yaml.safe_load_all((tmp_path / "install.yaml").read_text(encoding="utf-8")))
    assert [(item["kind"], collection_of(item)) for item in objects] == [
        (item["kind"], collection_of(item)) for item in read(BASE)
    ]
    images = {
        container["image"].rpartition(":")[0]
        for item in objects
        if item["kind"] == "Deployment"
        for container in item["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example.com/praetor-controller", "registry.example.com/praetor-gateway"}
