# SPDX-License-Identifier: Apache-2.0
"""The manifests of deploy/ agree with each other, with the images and with our kinds."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.release.build import ROOT
from e2e.release.images import COMPONENTS, Image
from e2e.release.manifests import BASE, ManifestError, Object, read, with_component
from praetor_api.kube.codec import decode
from praetor_api.kube.objects import DeviceProcess, DeviceProcessDeployment, NetworkSwitch
from praetor_gateway.cli import main as gateway

DEPLOY = ROOT / "deploy"
SAMPLES = DEPLOY / "samples"
KINDS: dict[str, type[DeviceProcess | DeviceProcessDeployment | NetworkSwitch]] = {
    cls.__name__: cls for cls in (DeviceProcess, DeviceProcessDeployment, NetworkSwitch)
}
PROGRAMS = ("controller", "gateway")


def of_kind(kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in read(BASE) if item["kind"] == kind}


def pod_of(program: str) -> dict[str, Any]:
    pod: dict[str, Any] = of_kind("Deployment")[f"praetor-{program}"]["spec"]["template"]["spec"]
    return pod


def container_of(program: str) -> dict[str, Any]:
    [container] = pod_of(program)["containers"]
    assert isinstance(container, dict)
    return container


def sample_objects() -> Iterator[Object]:
    for name in ("switches", "deployment", "original"):
        yield from yaml.safe_load_all((SAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*.yaml") if path.name != "kustomization.yaml"}


def test_every_file_of_a_kustomization_is_named_in_it() -> None:
    for file in (*DEPLOY.rglob("kustomization.yaml"), ROOT / "crds" / "Kustomization"):
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        patches = [patch["path"] for patch in said.get("patches", ())]
        named = {file.parent / path for path in (*said.get("resources", ()), *patches)}
        there = {path for path in file.parent.glob("*.yaml") if path != file}
        assert there - {SAMPLES / "original.yaml"} == {path for path in named if path.is_file()}


def test_a_kustomization_that_transforms_its_resources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: lab-\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="namePrefix"):
        read(tmp_path)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [BASE, SAMPLES, ROOT / "crds"], ids=lambda folder: folder.name)
def test_kubectl_renders_what_is_read_here(folder: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=60)

    def sorted_(objects: Iterator[Object] | tuple[Object, ...]) -> list[str]:
        return sorted(json.dumps(item, sort_keys=True) for item in objects)

    assert sorted_(yaml.safe_load_all(done.stdout)) == sorted_(read(folder))


def test_everything_but_what_is_cluster_wide_is_in_the_system_namespace() -> None:
    cluster_wide = ("Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding")
    namespaces = {item["metadata"].get("namespace") for item in read(BASE) if item["kind"] not in cluster_wide}
    assert namespaces == {SYSTEM_NAMESPACE}
    assert set(of_kind("Namespace")) == {SYSTEM_NAMESPACE}


def test_the_namespace_enforces_the_restricted_standard() -> None:
    labels = of_kind("Namespace")[SYSTEM_NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("program", PROGRAMS)
def test_pods_are_restricted(program: str) -> None:
    pod, container = pod_of(program), container_of(program)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@pytest.mark.parametrize("program", PROGRAMS)
def test_pods_are_probed_limited_and_spread(program: str) -> None:
    pod, container = pod_of(program), container_of(program)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "probes"}
    ready = "/readyz?exclude=credentials" if program == "gateway" else "/readyz"
    assert container["readinessProbe"]["httpGet"] == {"path": ready, "port": "probes"}
    assert f"--health-probe-bind-address=:{ports['probes']}" in container["args"]
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_pod_runs_as_the_account_that_is_bound_and_gets_the_token_that_others_do_not(program: str) -> None:
    pod = pod_of(program)
    account = of_kind("ServiceAccount")[pod["serviceAccountName"]]
    assert pod["automountServiceAccountToken"] is True
    assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_is_the_one_that_is_built_of_this_version(program: str) -> None:
    about = ROOT / "packages" / f"praetor-{program}" / "src" / f"praetor_{program}" / "__about__.py"
    version = about.read_text(encoding="utf-8").split('"')[1]
    assert container_of(program)["image"] == Image(component=program, version=version).name


def test_a_gateway_that_ends_has_time_for_its_last_writes() -> None:
    pod = pod_of("gateway")
    [container] = pod["containers"]
    *_, sleeping = container["lifecycle"]["preStop"]["exec"]["command"]
    pause = int(sleeping.split("sleep(")[1].rstrip(")"))
    assert pause > container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= pause + 30


def test_the_secret_of_the_device_tokens_is_a_file_and_never_in_the_environment() -> None:
    pod, container = pod_of("gateway"), container_of("gateway")
    [volume], [mount] = pod["volumes"], container["volumeMounts"]
    assert volume["secret"]["secretName"] == "praetor-device-tokens"
    assert f"--device-token-secret-file={mount['mountPath']}/secrets" in container["args"]
    assert "subPath" not in mount  # which would never see a rotated secret
    assert "env" not in container


def test_the_service_and_the_budget_find_the_gateways_pods() -> None:
    labels = of_kind("Deployment")["praetor-gateway"]["spec"]["template"]["metadata"]["labels"]
    service = of_kind("Service")["praetor-gateway"]["spec"]
    budget = of_kind("PodDisruptionBudget")["praetor-gateway"]["spec"]
    assert service["selector"].items() <= labels.items()
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] == 1
    assert service["ports"][0]["targetPort"] in {port["name"] for port in container_of("gateway")["ports"]}


@pytest.mark.parametrize("component", ["flowcontrol", "networkpolicy"])
def test_components_name_accounts_and_programs_of_the_base(component: str) -> None:
    folder = DEPLOY / "components" / component
    accounts = of_kind("ServiceAccount")
    programs = {f"praetor-{program}" for program in PROGRAMS}
    for file in files_below(folder):
        for item in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            subjects = [subject for rule in item["spec"].get("rules", ()) for subject in rule["subjects"]]
            assert {subject["serviceAccount"]["name"] for subject in subjects} <= accounts.keys()
            selected = item["spec"].get("podSelector", {}).get("matchLabels", {})
            assert set(selected.values()) <= programs


def with_replicas() -> Object:
    objects = with_component(read(BASE), DEPLOY / "components" / "replicas")
    [gateway] = [
        item for item in objects if (item["kind"], item["metadata"]["name"]) == ("Deployment", "praetor-gateway")
    ]
    return gateway


def peer_port(container: dict[str, Any]) -> int:
    [port] = [each["containerPort"] for each in container["ports"] if each["name"] == "peers"]
    return int(port)


def test_replicas_can_report_to_each_other() -> None:
    pod = with_replicas()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}
    port = peer_port(container)
    assert with_replicas()["spec"]["replicas"] > 1
    assert f"--peer-bind-address=:{port}" in container["args"]
    assert f"--peer-advertise-address=$(POD_IP):{port}" in container["args"]
    assert [each["name"] for each in container["env"]] == ["POD_IP"]
    assert f"--peer-token-file={mounts['peers']}/token" in container["args"]
    assert secrets["peers"] == "praetor-gateway-peers"
    known = {option for each in gateway.params for option in each.opts}
    assert {each.split("=")[0] for each in container["args"]} <= known


def test_the_network_policies_let_replicas_report_to_each_other() -> None:
    [policy] = yaml.safe_load_all(
        (DEPLOY / "components" / "networkpolicy" / "gateway.yaml").read_text(encoding="utf-8")
    )
    [container] = with_replicas()["spec"]["template"]["spec"]["containers"]
    port = peer_port(container)
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "praetor-gateway"}}}
    assert {"ports": [{"port": port}], "from": [ours]} in policy["spec"]["ingress"]
    assert {"ports": [{"port": port}], "to": [ours]} in policy["spec"]["egress"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_renders_base_with_all_components(tmp_path: Path) -> None:
    if kubectl_version() < (1, 21):
        pytest.skip("components need kubectl 1.21")
    components = [path.name for path in (DEPLOY / "components").iterdir()]
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copytree(ROOT / "crds", tmp_path / "crds")
    said = {"resources": ["deploy/base"], "components": [f"deploy/components/{each}" for each in components]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    [rendered] = [
        item
        for item in yaml.safe_load_all(done.stdout)
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", "praetor-gateway")
    ]
    assert rendered == with_replicas()


def kubectl_version() -> tuple[int, int]:
    said = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True, timeout=60
    )
    version = json.loads(said.stdout)["clientVersion"]
    return int(version["major"]), int(version["minor"].rstrip("+"))


def test_flow_schemas_cover_the_writes_of_the_roles() -> None:
    folder = DEPLOY / "components" / "flowcontrol"
    documents = [item for file in files_below(folder) for item in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    covered = {
        (group, resource, verb)
        for item in documents
        for rule in item["spec"].get("rules", ())
        for resources in rule["resourceRules"]
        for group in resources["apiGroups"]
        for resource in resources["resources"]
        for verb in resources["verbs"]
    }
    written = {
        (group, resource, verb)
        for item in read(BASE)
        if item["kind"] in ("Role", "ClusterRole") and "app.kubernetes.io/name" in item["metadata"]["labels"]
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if resource.endswith("/status") or resource in ("events", "leases")
        for verb in rule["verbs"]
    }
    assert covered == written


def test_our_flow_schemas_match_before_the_one_of_all_service_accounts() -> None:
    folder = DEPLOY / "components" / "flowcontrol"
    documents = [item for file in files_below(folder) for item in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    schemas = {item["metadata"]["name"]: item["spec"] for item in documents if item["kind"] == "FlowSchema"}
    levels = {item["metadata"]["name"] for item in documents if item["kind"] == "PriorityLevelConfiguration"}
    service_accounts = 9000  # matchingPrecedence of the schema that every cluster has
    assert schemas["praetor-leases"]["matchingPrecedence"] < schemas["praetor-status"]["matchingPrecedence"]
    assert all(spec["matchingPrecedence"] < service_accounts for spec in schemas.values())
    assert {spec["priorityLevelConfiguration"]["name"] for spec in schemas.values()} == {"leader-election", *levels}


@pytest.mark.parametrize("item", tuple(sample_objects()), ids=lambda item: item["metadata"]["name"])
def test_samples_are_valid_and_lose_nothing(item: Object) -> None:
    definition = of_kind("CustomResourceDefinition")[f"{plural_of(item['kind'])}.azure.com"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(item, closed(schema))
    assert decode(item, KINDS[item["kind"]]).metadata.name == item["metadata"]["name"]


def test_the_sample_deployment_selects_the_sample_switches() -> None:
    switches = [item for item in read(SAMPLES) if item["kind"] == "NetworkSwitch"]
    [deployment] = [item for item in read(SAMPLES) if item["kind"] == "DeviceProcessDeployment"]
    match = deployment["spec"]["selector"]["matchLabels"]
    assert len(switches) == 3
    assert all(match.items() <= switch["metadata"]["labels"].items() for switch in switches)


def plural_of(kind: str) -> str:
    names = {
        item["spec"]["names"]["kind"]: item["spec"]["names"] for item in of_kind("CustomResourceDefinition").values()
    }
    plural: str = names[kind]["plural"]
    return plural


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema such that a field it does not name is an error, where an apiserver would drop it."""
    if schema.get("x-kubernetes-int-or-string"):
        return {**schema, "type": ["integer", "string"]}
    inner = {name: closed(part) for name, part in schema.get("properties", {}).items()}
    more: dict[str, Any] = {"properties": inner, "additionalProperties": False} if inner else {}
    if "items" in schema:
        more["items"] = closed(schema["items"])
    return {**schema, **more}


def test_every_component_has_an_image() -> None:
    assert {path.parent.name for path in (DEPLOY / "images").glob("*/Dockerfile")} == set(COMPONENTS)
