# SPDX-License-Identifier: Apache-2.0
"""A user who may edit one namespace tries to reach a device of another, and fails visibly each time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from attrs import define, frozen
from contract.rawapi import Answer, RawApi

from e2e.clusters.cluster import GATEWAY, SYSTEM_NAMESPACE, TENANT, Capability, Cluster
from e2e.release.manifests import BASE, read
from e2e.stack.ctl import Ctl
from e2e.stack.errors import Refused
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube, Object, accepted, condition, conditions
from e2e.stack.manifests import deployment, device_process, network_switch
from e2e.stack.server import Server
from e2e.stack.stack import Stack, environment, script
from e2e.stack.waiting import eventually, steadily
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import is_alive
from e2e.suite.workloads import prompt, sleeping
from praetor_api.tokens import device_token

LEAF = {"role": "leaf"}
RBAC = "/apis/rbac.authorization.k8s.io/v1"
BINDINGS = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps"
UNDISTURBED_S = 6.0  # two stale limits of the suite's heartbeat


@frozen
class Victim:
    """A device of another namespace with a process that runs, as they were before."""

    device: str
    kube: Kube
    owner: Object
    process: Object
    switch: Object

    @property
    def name(self) -> str:
        return str(self.process["metadata"]["name"])


@define
class Attacker:
    """The user with the rights of an editor in a namespace, and the victim."""

    stack: Stack
    kube: Kube
    victim: Victim

    @property
    def ref(self) -> Object:
        """A reference to the victim's device."""
        return {"name": self.victim.device, "namespace": self.victim.kube.namespace}

    def post(self, plural: str, body: Mapping[str, Any], into: Kube | None = None) -> Answer:
        """Create an object, in the own namespace unless another is given."""
        return self.kube.api.post((into or self.kube).path(plural), body)

    def process(
        self, name: str, metadata: Mapping[str, Any] | None = None, ref: Mapping[str, str] | None = None
    ) -> str:
        """Create a process, by default for the victim's device in its namespace; return its name."""
        item = device_process(name, self.victim.device, sleeping())
        item["metadata"] |= metadata or {}
        item["spec"]["deviceRef"] = {**self.ref, **(ref or {})}
        accepted(self.post(PROCESSES, item))
        return name


Seen = Callable[[], object]
"""Returns something true once the outcome of an attack shows to the attacker."""


def shows(attacker: Attacker, name: str, kind: str, reason: str, plural: str = PROCESSES) -> Seen:
    """Return whether the object has the condition, and an event has its words."""

    def look() -> object:
        found = conditions(attacker.kube.get(plural, name) or {}).get(kind, {})
        told = [
            event for event in attacker.kube.events() if event["regarding"]["name"] == name and event["reason"] == kind
        ]
        return (found.get("status"), found.get("reason")) == ("True", reason) and told

    return look


def refused(attacker: Attacker, name: str) -> Seen:
    return shows(attacker, name, "Refused", "ForeignNamespace")


def is_status(answer: Answer, *statuses: int) -> Seen:
    return lambda: answer.status in statuses


def name_the_device(attacker: Attacker) -> Seen:
    return refused(attacker, attacker.process("by-reference"))


def name_it_as_another_kind(attacker: Attacker) -> Seen:
    return refused(attacker, attacker.process("by-kind", ref={"kind": "DPU"}))


def use_the_name_of_its_process(attacker: Attacker) -> Seen:
    return refused(attacker, attacker.process(attacker.victim.name))


def pretend_to_be_of_its_deployment(attacker: Attacker) -> Seen:
    victim = attacker.victim.process["metadata"]
    return refused(
        attacker,
        attacker.process("by-labels", {"labels": victim["labels"], "annotations": victim["annotations"]}),
    )


def be_owned_by_its_deployment(attacker: Attacker) -> Seen:
    """Name an owner of another namespace, which the garbage collector takes for one that is gone."""
    owner = attacker.victim.owner["metadata"]
    reference = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment"}
    name = attacker.process(
        "by-owner",
        {"ownerReferences": [reference | {"name": owner["name"], "uid": owner["uid"], "controller": True}]},
    )
    seen = refused(attacker, name)
    return lambda: attacker.kube.get(PROCESSES, name) is None or seen()


def change_the_reference_later(attacker: Attacker) -> Seen:
    name = attacker.process("by-change", ref={"name": "none", "namespace": attacker.kube.namespace})
    answer = attacker.kube.api.patch(attacker.kube.path(PROCESSES, name), {"spec": {"deviceRef": attacker.ref}})
    if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return lambda: True
    accepted(answer)  # an apiserver without rules of CRDs
    return refused(attacker, name)


def use_its_name(attacker: Attacker) -> Seen:
    name = attacker.process("by-name", ref={"namespace": attacker.kube.namespace})
    return shows(attacker, name, "NameConflict", "BoundElsewhere")


def declare_it_again_and_revoke_its_tokens(attacker: Attacker) -> Seen:
    accepted(attacker.post(SWITCHES, network_switch(attacker.victim.device, LEAF, credentialEpoch=7)))
    return shows(attacker, attacker.victim.device, "NameConflict", "BoundElsewhere", SWITCHES)


def select_it_with_a_deployment(attacker: Attacker) -> Seen:
    """Select its labels: what matches is the attacker's own switch of the same name."""
    accepted(attacker.post(DEPLOYMENTS, deployment("by-labels", sleeping(), match=LEAF)))
    return shows(attacker, f"by-labels-{attacker.victim.device}", "NameConflict", "BoundElsewhere")


def name_it_in_a_template(attacker: Attacker) -> Seen:
    spec = {**sleeping(), "deviceRef": attacker.ref}
    accepted(attacker.post(DEPLOYMENTS, deployment("by-template", spec)))
    return shows(attacker, f"by-template-{attacker.victim.device}", "NameConflict", "BoundElsewhere")


def write_into_its_namespace(attacker: Attacker) -> Seen:
    item = device_process("intruder", attacker.victim.device, sleeping())
    return is_status(attacker.post(PROCESSES, item, into=attacker.victim.kube), 403)


def delete_its_process(attacker: Attacker) -> Seen:
    path = attacker.victim.kube.path(PROCESSES, attacker.victim.name)
    return is_status(attacker.kube.api.delete(path, {}), 403)


def write_its_status(attacker: Attacker) -> Seen:
    path = attacker.victim.kube.path(SWITCHES, attacker.victim.device)
    return is_status(attacker.kube.api.patch(f"{path}/status", {"status": {"bootID": "x"}}), 403)


def write_a_status_of_its_own(attacker: Attacker) -> Seen:
    name = attacker.process("by-status", ref={"namespace": attacker.kube.namespace})
    path = f"{attacker.kube.path(PROCESSES, name)}/status"
    answer = attacker.kube.api.patch(path, {"status": {"phase": "Running", "conditions": []}})
    return is_status(answer, 403)


def bind_its_name(attacker: Attacker) -> Seen:
    data = {"data": {attacker.victim.device: attacker.kube.namespace}}
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "praetor-device-bindings"}}
    answers = (
        attacker.kube.api.patch(f"{BINDINGS}/praetor-device-bindings", data),
        attacker.kube.api.post(BINDINGS, {**metadata, **data}),
    )
    return lambda: {answer.status for answer in answers} == {403}


def report_for_it_with_the_token_of_an_own_device(attacker: Attacker) -> Seen:
    own, metadata = f"{attacker.kube.namespace}-own", attacker.victim.process["metadata"]
    accepted(attacker.post(SWITCHES, network_switch(own)))
    token, url = attacker.stack.token(own), attacker.stack.gateway_url
    observation = {
        "uid": metadata["uid"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "healthy": False,
    }
    assert DeviceApi(url, attacker.victim.device, token).report(observations=[observation]).status_code == 401

    def rejected() -> object:
        answer = DeviceApi(url, own, token).report(heartbeat=True, observations=[observation])
        return answer.json().get("rejected")

    return rejected


ATTACKS = (
    name_the_device,
    name_it_as_another_kind,
    use_the_name_of_its_process,
    pretend_to_be_of_its_deployment,
    be_owned_by_its_deployment,
    change_the_reference_later,
    use_its_name,
    declare_it_again_and_revoke_its_tokens,
    select_it_with_a_deployment,
    name_it_in_a_template,
    write_into_its_namespace,
    delete_its_process,
    write_its_status,
    write_a_status_of_its_own,
    bind_its_name,
    report_for_it_with_the_token_of_an_own_device,
)


def tried(attack: Callable[[Attacker], Seen], attacker: Attacker) -> Seen:
    """Make an attack; where deploy/components/tenancy is in force it may be refused at once, with a reason."""
    try:
        return attack(attacker)
    except Refused as refusal:
        if Capability.POLICIES not in attacker.stack.cluster.capabilities:
            raise
        said = str(refusal)
        return lambda: "must be the process's own namespace" in said


@pytest.fixture
def attacker(cluster: Cluster, stack: Stack, kube: Kube, fleet: AgentFleet) -> Iterator[Attacker]:
    """A user with the roles of an editor in a namespace of their own, and a device of another with a process."""
    [device] = fleet.add(labels=LEAF)
    kube.apply(deployment("sleeper", prompt(), match=LEAF))
    process = await_ready(kube, [device])[device]
    victim = Victim(device, kube, kube.deployment("sleeper"), process, kube.switch(device))
    own = stack.kube(f"e2e-{secrets.token_hex(3)}").create_namespace()
    grant(own, "praetor-view", "praetor-edit")
    with RawApi.from_kubeconfig(cluster.kubeconfig_for(TENANT)) as api:
        theirs = Reader(api, own)
        eventually(lambda: api.get(theirs.path(PROCESSES)).status == HTTPStatus.OK, what="the roles are bound")
        yield Attacker(stack, theirs, victim)
    own.delete_namespace()


class Reader(Kube):
    """The attacker's client; events are read as the administrator, for the role of the built-in view is not here."""

    def __init__(self, api: RawApi, admin: Kube) -> None:
        super().__init__(api, admin.namespace)
        self._admin = admin

    def events(self) -> tuple[Object, ...]:
        return self._admin.events()


def harm(attacker: Attacker) -> dict[str, object]:
    """Return what is not as it was of the victim: what is served, what runs, and what its objects say."""
    victim = attacker.victim
    process, switch = victim.kube.process(victim.name), victim.kube.switch(victim.device)
    desired = eventually(
        DeviceApi.of(attacker.stack, victim.device).desired,
        lambda answer: answer.status_code != HTTPStatus.TOO_MANY_REQUESTS,  # we ask more often than a device may
        what="the device is answered",
    )
    items = desired.json().get("items", ())
    checks = {
        "status code": (desired.status_code, HTTPStatus.OK),
        "items": ([(item["namespace"], item["name"]) for item in items], [(victim.kube.namespace, victim.name)]),
        "process": (_facts(process), _facts(victim.process)),
        "alive": (is_alive(victim.process["status"]["pid"]), True),
        "healthy": (condition(process, "Healthy"), "True"),
        "connected": (conditions(switch)["AgentConnected"], conditions(victim.switch)["AgentConnected"]),
        "conflict": (condition(switch, "NameConflict"), ""),
        "processes": ({item["metadata"]["name"] for item in victim.kube.list(PROCESSES)}, {victim.name}),
    }
    return {name: (now, was) for name, (now, was) in checks.items() if now != was}


def _facts(process: Object) -> tuple[object, ...]:
    metadata, status = process["metadata"], process["status"]
    return metadata["uid"], metadata["generation"], status["pid"], status["phase"]


@pytest.mark.needs(Capability.RBAC)
def test_an_editor_of_one_namespace_reaches_no_device_of_another(attacker: Attacker) -> None:
    assert harm(attacker) == {}
    outcomes = {attack.__name__: tried(attack, attacker) for attack in ATTACKS}
    for name, seen in outcomes.items():
        eventually(seen, what=f"{name} shows to the attacker")
        assert harm(attacker) == {}, name
    steadily(lambda: harm(attacker), lambda found: not found, what="the device is as it was", for_s=UNDISTURBED_S)
    attacker.stack.gateway.restart(kill=True)
    steadily(lambda: harm(attacker), lambda found: not found, what="a restart changes nothing", for_s=UNDISTURBED_S)


@pytest.mark.needs(Capability.RBAC)
def test_an_administrator_alone_gives_a_device_to_another_namespace(cluster: Cluster, attacker: Attacker) -> None:
    victim, tenant = attacker.victim, attacker.kube
    for claim in (declare_it_again_and_revoke_its_tokens, use_its_name):
        eventually(claim(attacker), what="the conflict shows")
    eventually(
        lambda: bindings(victim.kube).get(victim.device),
        lambda bound: bound == victim.kube.namespace,
        what="it is kept",
    )
    transfer = ("devices", "transfer", victim.device, "--to", tenant.namespace)
    refused = Ctl(cluster.kubeconfig_for(TENANT), tenant.namespace).run(*transfer)
    assert (refused.returncode, "not allowed" in refused.stderr) == (1, True)
    assert harm(attacker) == {}
    tenant.patch(SWITCHES, victim.device, {"spec": {"credentialEpoch": 0}})
    Ctl(cluster.kubeconfig, tenant.namespace)(*transfer)
    pid = victim.process["status"]["pid"]
    eventually(lambda: not is_alive(pid), what="what the device ran before is stopped")
    eventually(lambda: tenant.process("by-name")["status"]["phase"] == "Running", what="it runs what is theirs")
    lost = eventually(
        lambda: conditions(victim.kube.switch(victim.device)),
        lambda found: found.get("NameConflict", {}).get("status") == "True",
        what="the former owner sees it",
    )
    assert "AgentConnected" not in lost


def bindings(kube: Kube) -> Mapping[str, str]:
    """Return to which namespace each contested name belongs."""
    return dict(accepted(kube.api.get(f"{BINDINGS}/praetor-device-bindings")).get("data", {}))


@pytest.mark.needs(Capability.RBAC)
def test_a_gateway_of_a_tenants_own_needs_no_rights_elsewhere_and_loses_no_name(
    cluster: Cluster, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    stack.gateway.program.terminate()  # it would judge the same devices
    device, squatter = f"{kube.namespace}-1", stack.kube(f"e2e-{secrets.token_hex(3)}").create_namespace()
    squatter.apply(network_switch(device))
    kube.apply(network_switch(device), device_process("ours", device, sleeping()))
    grant(kube, "praetor-gateway", "praetor-gateway-leases")

    def arguments(ports: Sequence[int]) -> tuple[str, ...]:
        return (
            script(GATEWAY),
            f"--kubeconfig={cluster.kubeconfig_for(TENANT)}",
            f"--addr=127.0.0.1:{ports[0]}",
            f"--health-probe-bind-address=127.0.0.1:{ports[1]}",
            f"--namespace={kube.namespace}",
            f"--lease-namespace={kube.namespace}",
            "--device-token-secret=tenant",
        )

    server = Server("gateway", arguments, ports=2, workdir=tmp_path, env=environment())
    try:
        server.start()
        url = f"http://127.0.0.1:{server.ports[0]}"
        assert DeviceApi(url, device, stack.token(device)).desired().status_code == HTTPStatus.UNAUTHORIZED
        served = DeviceApi(url, device, device_token(b"tenant", device)).desired().json()["items"]
        assert [(item["namespace"], item["name"]) for item in served] == [(kube.namespace, "ours")]
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{kube.namespace}/leases/praetor-gateway-arbiter"
        eventually(lambda: kube.api.get(lease).status == HTTPStatus.OK, what="it has a Lease of its own")
        assert "praetor_gateway_names_contested 0.0" in server.metrics()
    finally:
        server.program.stop()
        squatter.delete_namespace()


def grant(kube: Kube, *roles: str) -> None:
    """Give the tenant's user these roles of deploy/base in the namespace, and in no other."""
    for role in read(BASE):
        name, kind = role["metadata"]["name"], role["kind"]
        if name in roles and kind in ("Role", "ClusterRole"):
            if kind == "Role":
                role["metadata"]["namespace"] = kube.namespace
                accepted(kube.api.post(f"{RBAC}/namespaces/{kube.namespace}/roles", role))
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": TENANT}
            body = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
            accepted(kube.api.post(f"{RBAC}/namespaces/{kube.namespace}/rolebindings", body))
