# SPDX-License-Identifier: Apache-2.0
"""What the admission policies of deploy/components refuse on a real apiserver; the whole suite runs with them on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from contract.rawapi import JSON, MERGE, Answer, RawApi

from e2e.clusters.cluster import GATEWAY, SYSTEM_NAMESPACE, Capability, Cluster, account
from e2e.stack.kube import DEFINITIONS, NAMESPACES, PLURALS, PROCESSES, Kube, Object, accepted
from e2e.stack.manifests import deployment, device_process, network_switch
from e2e.stack.waiting import eventually
from e2e.suite.workloads import sleeping

pytestmark = pytest.mark.needs(Capability.POLICIES)

ALLOW = {"metadata": {"annotations": {"azure.com/allow-deletion": "true"}}}
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
RBAC = "rbac.authorization.k8s.io"
WORDS = "the gateway writes statuses of its devices and processes, events, its Lease and two ConfigMaps"
DRY = "All"  # admission is asked in a dry run, too


def foreign(name: str) -> dict[str, Any]:
    """Return a process that names a device of another namespace."""
    process = device_process(name, "leaf-1", sleeping())
    process["spec"]["deviceRef"]["namespace"] = "elsewhere"
    return process


def refusal(send: Callable[[], Answer]) -> Answer:
    """Return the answer of a dry run that is refused as soon as the policies are in force."""
    return eventually(send, lambda answer: answer.status >= HTTPStatus.BAD_REQUEST, what="it is refused")


def test_a_process_of_another_namespace_is_refused_and_one_that_is_stored_can_be_changed(kube: Kube) -> None:
    path = kube.path(PROCESSES)
    refused = refusal(lambda: kube.api.post(path, foreign("a"), dryRun=DRY))
    assert (refused.status, "must be the process's own namespace" in refused.message) == (422, True)
    own = device_process("a", "leaf-1", sleeping())
    own["spec"]["deviceRef"]["namespace"] = kube.namespace
    assert kube.api.post(path, own).status == 201
    binding = accepted(kube.api.get(f"{BINDINGS}/praetor-deviceref"))
    kube.api.delete(f"{BINDINGS}/praetor-deviceref")
    try:
        eventually(lambda: kube.api.post(path, foreign("old")).status == 201, what="the policy is off")
    finally:
        accepted(kube.api.post(BINDINGS, {**binding, "metadata": {"name": "praetor-deviceref"}}))
    eventually(lambda: kube.api.post(path, foreign("b"), dryRun=DRY).status == 422, what="the policy is on again")
    assert kube.api.patch(f"{path}/old", {"metadata": {"labels": {"seen": "yes"}}}).status == 200
    assert kube.api.delete(f"{path}/old").status == 200


def test_a_guarded_namespace_is_deleted_only_once_it_is_annotated(kube: Kube) -> None:
    path = f"{NAMESPACES}/{kube.namespace}"
    assert kube.api.delete(path, dryRun=DRY).status == 200
    accepted(kube.api.patch(path, {"metadata": {"labels": {"azure.com/guarded": "true"}}}))
    refused = refusal(lambda: kube.api.delete(path, dryRun=DRY))
    assert (refused.status, "annotate it with azure.com/allow-deletion=true first" in refused.message) == (403, True)
    accepted(kube.api.patch(path, ALLOW))
    assert kube.api.delete(path).status == 200


@pytest.mark.parametrize("plural", PLURALS.values())
def test_our_definitions_are_deleted_only_once_they_are_annotated(kube: Kube, plural: str) -> None:
    path = f"{DEFINITIONS}/{plural}.azure.com"
    refused = refusal(lambda: kube.api.delete(path, dryRun=DRY))
    assert (refused.status, "would stop every process" in refused.message) == (403, True)
    accepted(kube.api.patch(path, ALLOW))
    try:
        assert kube.api.delete(path, dryRun=DRY).status == 200
    finally:
        accepted(kube.api.patch(path, {"metadata": {"annotations": {"azure.com/allow-deletion": None}}}))


def core(kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


OURS = "/apis/azure.com/v1alpha1/namespaces/{namespace}"
CORE = "/api/v1/namespaces/{namespace}"
SYSTEM = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases"
POD = {"containers": [{"name": "c", "image": "busybox", "command": ["sh"]}]}
TO_ALL = {"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []}
LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "other"}, "spec": {}}
ABOUT = {"kind": "DeviceProcess", "name": "p", "namespace": "{namespace}"}
Write = tuple[str, str, Object | None]

REFUSED: dict[str, Write] = {
    "create a process": ("POST", f"{OURS}/deviceprocesses", device_process("new", "leaf-1", sleeping())),
    "change a process": ("PATCH", f"{OURS}/deviceprocesses/p", {"spec": {"restartPolicy": "Never"}}),
    "label a process": ("PATCH", f"{OURS}/deviceprocesses/p", {"metadata": {"labels": {"app": "x"}}}),
    "hold a process": ("PATCH", f"{OURS}/deviceprocesses/p", {"metadata": {"finalizers": ["a.example/b"]}}),
    "delete a process": ("DELETE", f"{OURS}/deviceprocesses/p", None),
    "delete all processes": ("DELETE", f"{OURS}/deviceprocesses", None),
    "revoke a token": ("PATCH", f"{OURS}/networkswitches/leaf-1", {"spec": {"credentialEpoch": 7}}),
    "pause a deployment": ("PATCH", f"{OURS}/deviceprocessdeployments/d", {"spec": {"paused": True}}),
    "claim a rollout": ("PATCH", f"{OURS}/deviceprocessdeployments/d/status", {"status": {"observedGeneration": 9}}),
    "create a secret": ("POST", f"{CORE}/secrets", core("Secret", "s")),
    "create a pod": ("POST", f"{CORE}/pods", core("Pod", "p", spec=POD)),
    "bind names elsewhere": ("POST", f"{CORE}/configmaps", core("ConfigMap", "praetor-device-bindings")),
    "create another config map": ("POST", f"{SYSTEM}/configmaps", core("ConfigMap", "other")),
    "create another lease": ("POST", LEASES, LEASE),
    "delete its lease": ("DELETE", f"{LEASES}/praetor-gateway-arbiter", None),
    "give rights": ("POST", f"/apis/{RBAC}/v1/clusterrolebindings", {"metadata": {"name": "more"}, **TO_ALL}),
    "create a namespace": ("POST", NAMESPACES, core("Namespace", "more")),
}
ALLOWED: dict[str, Write] = {
    "write a process's status": ("PATCH", f"{OURS}/deviceprocesses/p/status", {"status": {"phase": "Running"}}),
    "write a switch's status": ("PATCH", f"{OURS}/networkswitches/leaf-1/status", {"status": {"bootID": "x"}}),
    "create an event": ("POST", f"{CORE}/events", {"metadata": {"generateName": "e-"}, "involvedObject": ABOUT}),
    "renew its lease": ("PATCH", f"{LEASES}/praetor-gateway-arbiter", {"metadata": {"labels": {"a": "b"}}}),
}


@pytest.fixture
def gateway(cluster: Cluster, kube: Kube) -> Iterator[RawApi]:
    """The gateway's account, to which a mistake has given all rights."""
    bindings, subject = f"/apis/{RBAC}/v1/clusterrolebindings", {"apiGroup": RBAC, "kind": "User"}
    mistake = {**TO_ALL, "metadata": {"name": "mistake"}, "subjects": [{**subject, "name": account(GATEWAY)}]}
    accepted(kube.api.post(bindings, mistake))
    with RawApi.from_kubeconfig(cluster.kubeconfig_for(GATEWAY)) as api:
        eventually(lambda: api.get("/api/v1/secrets").status == HTTPStatus.OK, what="it may do everything")
        yield api
    kube.api.delete(f"{bindings}/mistake")


@pytest.fixture
def written(kube: Kube) -> Kube:
    """A namespace with one object of each kind of ours, to write to."""
    kube.apply(
        network_switch("leaf-1", {"role": "none"}),
        device_process("p", "leaf-1", sleeping()),
        deployment("d", sleeping(), match={"role": "some"}),
    )
    return kube


def attempt(api: RawApi, kube: Kube, write: Write) -> Answer:
    """Try a write in a dry run."""
    verb, path, body = write
    filled = json.loads(json.dumps(body).replace("{namespace}", kube.namespace))
    place, encoding = path.format(namespace=kube.namespace), MERGE if verb == "PATCH" else JSON
    return api.request(verb, place, filled, content_type=encoding, dryRun=DRY)


@pytest.mark.parametrize("what", REFUSED)
def test_the_gateways_account_may_not_do_what_the_gateway_does_not(gateway: RawApi, written: Kube, what: str) -> None:
    assert attempt(written.api, written, REFUSED[what]).status < HTTPStatus.BAD_REQUEST  # as the administrator
    refused = refusal(lambda: attempt(gateway, written, REFUSED[what]))
    assert (refused.status, WORDS in refused.message) == (HTTPStatus.FORBIDDEN, True), refused


@pytest.mark.parametrize("what", ALLOWED)
def test_the_gateways_account_writes_what_the_gateway_does(gateway: RawApi, written: Kube, what: str) -> None:
    answer = attempt(gateway, written, ALLOWED[what])
    assert answer.status < HTTPStatus.BAD_REQUEST, answer
