# SPDX-License-Identifier: Apache-2.0
"""The kinds that are served without a definition, with as much of their schemas as the project needs."""

from __future__ import annotations

from typing import Any

from kubeplane.errors import Obj
from kubeplane.kinds import event_views
from kubeplane.kinds.resources import ALL_VERBS, Column, Resource, View
from kubeplane.schema.schemas import (
    array,
    boolean,
    free,
    integer,
    map_list,
    mapping,
    micro_time,
    root,
    string,
    strings,
    struct,
    time,
)

REFERENCE = struct(
    "ObjectReference contains enough information to let you inspect or modify the referred object.",
    **{key: string() for key in ("apiVersion", "kind", "name", "namespace", "uid", "resourceVersion", "fieldPath")},
)
_RULE = struct(
    "A rule holds what may be done to which resources.",
    apiGroups=strings(),
    resources=strings(),
    resourceNames=strings(),
    verbs=strings(),
    nonResourceURLs=strings(),
)
_SUBJECT = struct(
    "A subject is a user, a group or a service account.",
    kind=string(),
    apiGroup=string(),
    name=string(),
    namespace=string(),
)
_ROLE_REF = struct("The role that is bound. Cannot be updated.", apiGroup=string(), kind=string(), name=string())
_SERIES = struct("What a repeated event counts.", count=integer(), lastObservedTime=micro_time(), state=string())
_SOURCE = struct("The component that reports.", component=string(), host=string())

NAMESPACE = root(
    "Namespace provides a scope for Names. Use of multiple namespaces is optional.",
    spec=struct("Spec defines the behavior of the Namespace.", finalizers=strings()),
    status=struct(
        "Status describes the current status of a Namespace.",
        phase=string(),
        conditions=map_list(free(), "type"),
    ),
)
CONFIG_MAP = root(
    "ConfigMap holds configuration data for pods to consume.",
    data=mapping("Data contains the configuration data."),
    binaryData=mapping("BinaryData contains the binary data.", string(format="byte")),
    immutable=boolean("Immutable, if set to true, ensures that data stored in the ConfigMap cannot be updated."),
)
SECRET = root(
    "Secret holds secret data of a certain type.",
    data=mapping("Data contains the secret data, in base64.", string(format="byte")),
    stringData=mapping("stringData allows specifying non-binary secret data in string form. Write-only."),
    type=string("Used to facilitate programmatic handling of secret data.", default="Opaque"),
    immutable=boolean("Immutable, if set to true, ensures that data stored in the Secret cannot be updated."),
)
SERVICE_ACCOUNT = root(
    "ServiceAccount binds together a name, a principal and a set of secrets.",
    secrets=map_list(REFERENCE, "name"),
    imagePullSecrets=array(struct(name=string())),
    automountServiceAccountToken=boolean(),
)
LEASE = root(
    "Lease defines a lease concept.",
    spec=struct(
        "spec contains the specification of the Lease.",
        holderIdentity=string("holderIdentity contains the identity of the holder of a current lease."),
        leaseDurationSeconds=integer("How long candidates wait, measured from renewTime.", format="int32"),
        acquireTime=micro_time("When the current lease was acquired."),
        renewTime=micro_time("When the current holder has last updated the lease."),
        leaseTransitions=integer("The number of transitions of a lease between holders.", format="int32"),
        strategy=string(),
        preferredHolder=string(),
    ),
)
EVENT = root(
    "Event is a report of an event somewhere in the cluster.",
    involvedObject=REFERENCE,
    reason=string("A short, machine understandable string that gives the reason for the transition."),
    message=string("A human-readable description of the status of this operation."),
    source=_SOURCE,
    firstTimestamp=time("The time at which the event was first recorded."),
    lastTimestamp=time("The time at which the most recent occurrence of this event was recorded."),
    count=integer("The number of times this event has occurred.", format="int32"),
    type=string("Type of this event (Normal, Warning), new types could be added in the future."),
    eventTime=micro_time("Time when this Event was first observed."),
    series=_SERIES,
    action=string("What action was taken/failed regarding to the Regarding object."),
    related=REFERENCE,
    reportingComponent=string("Name of the controller that emitted this Event."),
    reportingInstance=string("ID of the controller instance."),
)
EVENT_V1 = root(
    "Event is a report of an event somewhere in the cluster, as events.k8s.io has it.",
    eventTime=micro_time("eventTime is the time when this Event was first observed. It is required."),
    series=_SERIES,
    reportingController=string("Name of the controller that emitted this Event."),
    reportingInstance=string("ID of the controller instance."),
    action=string("What action was taken/failed regarding to the regarding object."),
    reason=string("Why the action was taken."),
    regarding=REFERENCE,
    related=REFERENCE,
    note=string("A human-readable description of the status of this operation."),
    type=string("Type of this event (Normal, Warning)."),
    deprecatedSource=_SOURCE,
    deprecatedFirstTimestamp=time(),
    deprecatedLastTimestamp=time(),
    deprecatedCount=integer(),
)
CONTROLLER_REVISION = root(
    "ControllerRevision implements an immutable snapshot of state data.",
    data=free("Data is the serialized representation of the state."),
    revision=integer("Revision indicates the revision of the state.", format="int64", default=0),
)


def _rbac(kind: str, **properties: Obj) -> Obj:
    return root(f"{kind} is stored, and enforced when RBAC is switched on.", **properties)


_DEFINITION = root(
    "CustomResourceDefinition represents a resource that should be exposed on the API server.",
    spec=free("spec describes how the user wants the resources to appear"),
    status=struct(
        "status indicates the actual state of the CustomResourceDefinition",
        acceptedNames=free(),
        conditions=map_list(free(), "type"),
        storedVersions=strings(),
    ),
)


_AGE = Column("Age", "date", ".metadata.creationTimestamp", "When the object was created.")
_CREATED_AT = Column("Created At", "date", ".metadata.creationTimestamp")


def _resource(group: str, kind: str, plural: str, schema: Obj | None = None, **more: Any) -> Resource:
    """Return a kind of version v1; without a schema it is a workload: stored, with nothing that runs it."""
    schema = schema or root(f"{kind}: stored, with nothing that runs it.", spec=free(), status=free())
    names = {"singular": kind.lower(), "list_kind": f"{kind}List", "table": f"{group}/{plural}"}
    given = names | {"columns": (_AGE,)} | more
    return Resource(group=group, version="v1", kind=kind, plural=plural, schema=schema, **given)


_RBAC = "rbac.authorization.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
_ABOUT = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT_FIELDS = (*(f"involvedObject.{key}" for key in _ABOUT), "reason", "reportingComponent", "source", "type")
_EVENT_V1_FIELDS = (*(f"regarding.{key}" for key in _ABOUT), "reason", "reportingController", "type")
_EVENT_COLUMNS = (
    Column("Last Seen", "date", ".lastSeen"),
    Column("Type", "string", ".type"),
    Column("Reason", "string", ".reason"),
    Column("Object", "string", ".object"),
    Column("Subobject", "string", ".involvedObject.fieldPath", priority=1),
    Column("Source", "string", ".reporter", priority=1),
    Column("Message", "string", ".message"),
    Column("First Seen", "date", ".firstSeen", priority=1),
    Column("Count", "string", ".times", priority=1),
    Column("Name", "string", ".metadata.name", format="name", priority=1),
)

BUILTIN: tuple[Resource, ...] = (
    _resource(
        "", "Namespace", "namespaces", NAMESPACE, namespaced=False, short_names=("ns",), status=True,
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        selectable=("status.phase",), columns=(Column("Status", "string", ".status.phase"), _AGE),
    ),
    _resource(
        "", "ConfigMap", "configmaps", CONFIG_MAP, short_names=("cm",),
        columns=(Column("Data", "integer", ".dataCount"), _AGE),
    ),
    _resource(
        "", "Secret", "secrets", SECRET, selectable=("type",),
        columns=(Column("Type", "string", ".type"), Column("Data", "integer", ".dataCount"), _AGE),
    ),
    _resource("", "ServiceAccount", "serviceaccounts", SERVICE_ACCOUNT, short_names=("sa",)),
    _resource(
        "", "Event", "events", EVENT, table="/events", short_names=("ev",),
        selectable=_EVENT_FIELDS, columns=_EVENT_COLUMNS,
    ),
    _resource(
        "events.k8s.io", "Event", "events", EVENT_V1, table="/events", short_names=("ev",),
        selectable=_EVENT_V1_FIELDS, columns=_EVENT_COLUMNS,
        view=View("events.k8s.io/v1", event_views.to_events_v1, event_views.to_core_v1),
    ),
    _resource(
        "", "Service", "services", short_names=("svc",), status=True,
        columns=(Column("Type", "string", ".spec.type"), _AGE),
    ),
    _resource("", "Pod", "pods", short_names=("po",), status=True),
    _resource("", "Node", "nodes", namespaced=False, short_names=("no",)),
    _resource(
        "apps", "ControllerRevision", "controllerrevisions", CONTROLLER_REVISION,
        columns=(Column("Controller", "string", ".controller"), Column("Revision", "integer", ".revision"), _AGE),
    ),
    _resource(
        "apps", "Deployment", "deployments", short_names=("deploy",), categories=("all",), status=True, generation=True
    ),
    _resource(
        "coordination.k8s.io", "Lease", "leases", LEASE,
        columns=(Column("Holder", "string", ".spec.holderIdentity"), _AGE),
    ),
    _resource(
        "policy", "PodDisruptionBudget", "poddisruptionbudgets", short_names=("pdb",), status=True, generation=True
    ),
    _resource("networking.k8s.io", "NetworkPolicy", "networkpolicies", short_names=("netpol",), generation=True),
    _resource(_FLOW, "FlowSchema", "flowschemas", namespaced=False, status=True, generation=True),
    _resource(
        _FLOW, "PriorityLevelConfiguration", "prioritylevelconfigurations",
        namespaced=False, status=True, generation=True,
    ),
    _resource(
        _RBAC, "ClusterRole", "clusterroles", _rbac("ClusterRole", rules=array(_RULE), aggregationRule=free()),
        namespaced=False, columns=(_CREATED_AT,),
    ),
    _resource(_RBAC, "Role", "roles", _rbac("Role", rules=array(_RULE)), columns=(_CREATED_AT,)),
    _resource(
        _RBAC, "ClusterRoleBinding", "clusterrolebindings",
        _rbac("ClusterRoleBinding", subjects=array(_SUBJECT), roleRef=_ROLE_REF),
        namespaced=False, columns=(Column("Role", "string", ".role"), _AGE),
    ),
    _resource(
        _RBAC, "RoleBinding", "rolebindings", _rbac("RoleBinding", subjects=array(_SUBJECT), roleRef=_ROLE_REF),
        columns=(Column("Role", "string", ".role"), _AGE),
    ),
    _resource(
        "apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", _DEFINITION,
        namespaced=False, short_names=("crd", "crds"), categories=("api-extensions",), status=True, generation=True,
        columns=(_CREATED_AT,),
    ),
)  # fmt: skip
