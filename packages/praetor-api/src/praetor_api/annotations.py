# SPDX-License-Identifier: Apache-2.0
"""Every label and annotation that Praetor's programs write or read. They are stored data: names never change.

A name ends in `LABEL` where Kubernetes or a container runtime selects by it, in `ANNOTATION` where it only carries
a value.
"""

from __future__ import annotations

__all__ = [
    "APPROVED_WAVES_ANNOTATION",
    "CHANGE_CAUSE_ANNOTATION",
    "CONFIRMED_ANNOTATION",
    "CONTAINER_DEVICE_LABEL",
    "CONTAINER_INSTALLATION_LABEL",
    "CONTAINER_SPEC_HASH_LABEL",
    "CONTAINER_UID_LABEL",
    "DELIVER_LABEL",
    "DEPLOYMENT_LABEL",
    "IMPORTED_ANNOTATION",
    "JUDGES_WITHIN_ANNOTATION",
    "LONGEST_HEARTBEAT_ANNOTATION",
    "MANAGED_ANNOTATION",
    "MIN_READY_ANNOTATION",
    "OFFERED_AT_ANNOTATION",
    "PEER_ADDRESS_ANNOTATION",
    "PEER_UNHEARD_ANNOTATION",
    "REMOVAL_ANNOTATION",
    "RESTARTED_AT_ANNOTATION",
    "RETRY_ANNOTATION",
    "REVISION_ANNOTATION",
    "REVISION_LABEL",
    "ROLLED_OUT_ANNOTATION",
    "ROLLED_OUT_BEFORE_ANNOTATION",
    "STARTED_AT_ANNOTATION",
    "TRACEPARENT_ANNOTATION",
    "WAVES_ANNOTATION",
    "WAVE_ANNOTATION",
]


DEPLOYMENT_LABEL = "azure.com/deployment"
"""On a DeviceProcess and a ControllerRevision: the deployment's name, or its beginning and a hash."""

REVISION_ANNOTATION = "azure.com/revision"
"""On a DeviceProcess: the revision (a hash) of the template that its spec comes from."""

REVISION_LABEL = "azure.com/revision"
"""On a DeviceProcess: as the annotation, to select by. Written with a spec alone, so older ones may lack it."""

OFFERED_AT_ANNOTATION = "azure.com/offered-at"
"""On a DeviceProcess: when the controller last wrote its spec (RFC 3339)."""

MANAGED_ANNOTATION = "azure.com/template-keys"
"""On a DeviceProcess: the label and annotation keys that came from the template and leave with it (JSON)."""

WAVE_ANNOTATION = "azure.com/wave"
"""On a DeviceProcess: the rollout wave in which its spec was written."""

MIN_READY_ANNOTATION = "azure.com/min-ready-seconds"
"""On a DeviceProcess: minReadySeconds of its deployment, if not 0, when the controller last wrote its spec."""

CONFIRMED_ANNOTATION = "azure.com/confirmed"
"""On a DeviceProcess: the spec hash that an operator confirmed."""

REMOVAL_ANNOTATION = "azure.com/removal-approved"
"""On a DeviceProcess: a hash of the selector and the device's labels that it may be deleted for."""

RESTARTED_AT_ANNOTATION = "azure.com/restarted-at"
"""On a template: raised to restart every process under the rollout's policy (RFC 3339)."""

APPROVED_WAVES_ANNOTATION = "azure.com/approved-waves"
"""On a deployment: `<revision>/<wave>[,…]`, so that an approval never carries over to another revision.

`<revision>/<wave>/<number of the ControllerRevision>` passes a wave that lost its devices or saw them fail.
"""

WAVES_ANNOTATION = "azure.com/waves"
"""On a ControllerRevision: which waves of its rollout had devices, were passed, or saw it fail (JSON)."""

STARTED_AT_ANNOTATION = "azure.com/rollout-started-at"
"""On a ControllerRevision: when its rollout began last (RFC 3339)."""

RETRY_ANNOTATION = "azure.com/retry"
"""On a deployment: changed to try writes that the API refused again at once (RFC 3339)."""

ROLLED_OUT_ANNOTATION = "azure.com/rolled-out"
"""On a ControllerRevision: the number that it had when every device had it for the first time."""

ROLLED_OUT_BEFORE_ANNOTATION = "azure.com/rolled-out-before"
"""On a ControllerRevision: a time after the offers that every device had taken then, and not after later ones
(RFC 3339)."""

TRACEPARENT_ANNOTATION = "azure.com/traceparent"
"""On a ControllerRevision and a DeviceProcess: the span that wrote it (W3C trace context); only with --tracing."""

CHANGE_CAUSE_ANNOTATION = "kubernetes.io/change-cause"
"""On a deployment, and copied to the ControllerRevision that begins with it: why a user changed the template."""

PEER_ADDRESS_ANNOTATION = "azure.com/praetor-gateway-peer-address"
"""On the gateways' Lease: the `host:port` at which the holder accepts reports from the other replicas."""

PEER_UNHEARD_ANNOTATION = "azure.com/praetor-gateway-unheard"
"""On the gateways' Lease: a replica whose reports the holder does not take, with a number that it counts up."""

LONGEST_HEARTBEAT_ANNOTATION = "azure.com/praetor-gateway-longest-heartbeat"
"""On the gateways' Lease: who judges devices by the intervals that they were handed, and the longest, in seconds."""

JUDGES_WITHIN_ANNOTATION = "azure.com/praetor-gateway-judges-within-seconds"
"""On the gateways' Lease: seconds after which a holder that just took it has noticed every silent device."""

IMPORTED_ANNOTATION = "azure.com/imported"
"""On a NetworkSwitch: what `praetorctl devices import` set, from which source, and whether it created it (JSON)."""

CONTAINER_UID_LABEL = "azure.com/praetor-uid"
"""On a container on a device: the UID of its DeviceProcess."""

CONTAINER_DEVICE_LABEL = "azure.com/praetor-device"
"""On a container on a device: the name of the device that owns it."""

CONTAINER_INSTALLATION_LABEL = "azure.com/praetor-installation"
"""On a container: the random id of the agent's state directory."""

CONTAINER_SPEC_HASH_LABEL = "azure.com/praetor-spec-hash"
"""On a container on a device: the hash of the spec that it was created from."""

DELIVER_LABEL = "azure.com/deliver"
"""`true` on a ConfigMap or Secret whose values processes may refer to; the gateway sees no others."""
