# SPDX-License-Identifier: Apache-2.0
"""The process spec: what custom resources embed and agents receive."""

from __future__ import annotations

from typing import Annotated, Optional, Union

from praetor_api.backports import StrEnum, dataclass
from praetor_api.constraints import CelRule, Constraint, matching
from praetor_api.files import FILES_FEATURE, File
from praetor_api.keyrefs import REFERENCES_FEATURE, SECRETS_FEATURE, ConfigMapKeyRef, SecretKeyRef

__all__ = [
    "CONTAINER_FEATURE",
    "CONTAINER_ONLY",
    "ENV_RULES",
    "EXECUTION_RULES",
    "FIELD_PATH",
    "HEALTH_CHECK_RULES",
    "LOCALHOST",
    "NAME_PATTERN",
    "ONE_CHECK",
    "PROBES_FEATURE",
    "QUANTITY_SCHEMA",
    "REBOOT_FEATURE",
    "VALUES_FEATURE",
    "WRONG_FIELD",
    "Artifact",
    "ArtifactType",
    "Backend",
    "Capabilities",
    "Capability",
    "Confirm",
    "ConfirmMode",
    "Container",
    "ContainerDevice",
    "ContainerVolume",
    "DeviceFieldRef",
    "DeviceKind",
    "DeviceProcessSpec",
    "DeviceRef",
    "EnvVar",
    "ExecProbe",
    "Execution",
    "Hardening",
    "HealthCheck",
    "Host",
    "HostPath",
    "HttpGetProbe",
    "HttpHeader",
    "HttpScheme",
    "Port",
    "PostCheck",
    "ProcessSpec",
    "Reboot",
    "Resources",
    "RestartPolicy",
    "TcpSocketProbe",
    "ValueFrom",
    "Word",
]

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
QUANTITY_SCHEMA = {"x-kubernetes-int-or-string": True}

REBOOT_FEATURE = "reboot.v1"
"""What an agent must know to run a job that reboots the device: another would run it again at every boot."""
VALUES_FEATURE = "values.v1"
"""What an agent must know to put values into command, args and env: another would start `$(NAME)` as it stands."""

PROBES_FEATURE = "probes.v1"
"""What an agent must know to check health over the network."""

ONE_CHECK = "write exactly one of exec, httpGet and tcpSocket"
"""What is said of a health check that has none of them, or several."""

CONTAINER_FEATURE = "container.v1"
"""What an agent must know to give a container more, or less, than its default."""

CONTAINER_ONLY = "execution.container needs execution.backend: container; write both or none"
"""What is said of such a wish for another backend."""

LOCALHOST = "127.0.0.1"

_PATH = r'^/[^,:"\x00-\x1f]*$'  # runtimes separate by these
_NETWORK = r"^[a-zA-Z0-9][-_.a-zA-Z0-9]*$"
_CAPABILITY = r"^[A-Z][A-Z0-9_]*$"
_PERMISSIONS = r"^r?w?m?$"
_VARIABLE = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
_USER = r"^[a-zA-Z0-9_][-.a-zA-Z0-9_$]*$"
_NO_PATH = "is no path that a runtime takes; write an absolute one without comma, colon or quote, such as /run/app"
_PATH_RULES = (matching(_PATH, _NO_PATH),)
_NO_NETWORK = "is no name of a network; write host, none, or letters, digits, -, _ and ., such as br0"
_NO_CAPABILITY = "is no capability; write it in capitals, without CAP_, such as NET_ADMIN"
_NO_PERMISSIONS = "is no permission; write those that are needed of r, w and m, in this order, such as rw"
_NO_VARIABLE = "is no name of a variable; write letters, digits, _, - and ., no digit first, such as LOG_LEVEL"
_NO_USER = "is no user; write a name or a number of the device, such as app or 1000"
FIELD_PATH = (
    r"metadata[.](name|namespace)|spec[.]managementAddress|"
    r"metadata[.]labels\['([-a-zA-Z0-9./_]+)'\]|status[.]facts\['([^']+)'\]"
)
"""What `deviceFieldRef.fieldPath` may be, for CEL and Python alike."""

WRONG_FIELD = (
    "fieldPath is metadata.name, metadata.namespace, metadata.labels['key'], spec.managementAddress or "
    "status.facts['key']; write one of them"
)
"""What is said of another one."""

Word = Annotated[str, Constraint(max_length=4096)]
Port = Annotated[int, Constraint(doc="Port to connect to.", minimum=1, maximum=65535)]
Host = Annotated[
    str,
    Constraint(
        doc="Address or name to connect to, an IPv6 address without brackets. The device itself when unset.",
        max_length=253,
        pattern=r"^[:a-zA-Z0-9][-._:%a-zA-Z0-9]*$",
    ),
]


class ArtifactType(StrEnum):
    """Where an artifact comes from."""

    OCI = "oci"
    HTTP = "http"
    FILE = "file"


class Backend(StrEnum):
    """What supervises the process on the device."""

    CONTAINER = "container"
    SYSTEMD = "systemd"
    INITD = "initd"
    PROCESS = "process"


class RestartPolicy(StrEnum):
    """When a process that ended is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Hardening(StrEnum):
    """How much the backend restricts the process, beyond the permissions of its user."""

    STRICT = "Strict"
    BASELINE = "Baseline"
    UNCONFINED = "Unconfined"


class Reboot(StrEnum):
    """Whether a job reboots the device."""

    NEVER = "Never"
    EXPECTED = "Expected"


class ConfirmMode(StrEnum):
    """What makes a change of the process stay."""

    GATEWAY_REACHABLE = "GatewayReachable"
    MANUAL = "Manual"


class DeviceKind(StrEnum):
    """Kinds of devices that carry processes."""

    SERVER = "Server"
    NETWORK_SWITCH = "NetworkSwitch"
    SOC = "SOC"
    BMC = "BMC"
    DPU = "DPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file, archive or image that the process needs."""

    type: Annotated[ArtifactType, Constraint(doc="How the artifact is fetched: oci, http or file.")]
    url: Annotated[
        str,
        Constraint(
            doc="Where the artifact is: registry/repository@sha256:… for oci, http(s)://… for http, "
            "an absolute path or file:///… for file.",
            min_length=1,
            max_length=2048,
        ),
    ]
    checksum_sha256: Annotated[
        Optional[str],
        Constraint(
            doc="SHA-256 of the file, 64 hexadecimal digits. The process is not started from anything else. "
            "http and file; an oci artifact is pinned by the digest in its url.",
            wire="checksumSHA256",
            max_length=71,
            pattern=r"^(sha256:)?[0-9a-fA-F]{64}$",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFieldRef:
    """A field of the device's own object."""

    field_path: Annotated[
        str,
        Constraint(
            doc="The field: metadata.name, metadata.namespace, metadata.labels['key'], spec.managementAddress or "
            "status.facts['key'].",
            max_length=512,
            rules=(
                CelRule(
                    expression='self.matches("^(' + FIELD_PATH.replace("\\", "\\\\") + ')$")',
                    message=WRONG_FIELD,
                ),
            ),
        ),
    ]
    optional: Annotated[
        Optional[bool],
        Constraint(
            doc="Whether the variable is left out where the device has no such value. false when unset: then the "
            "device keeps what it runs until it has one."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFrom:
    """Where the value of a variable comes from: exactly one source."""

    device_field_ref: Annotated[Optional[DeviceFieldRef], Constraint(doc="A field of the device's own object.")] = None
    config_map_key_ref: Annotated[
        Optional[ConfigMapKeyRef],
        Constraint(doc="A key of a ConfigMap in the process's own namespace.", feature=REFERENCES_FEATURE),
    ] = None
    secret_key_ref: Annotated[
        Optional[SecretKeyRef],
        Constraint(
            doc="A key of a Secret in the process's own namespace. It is given over TLS only, to a device with a token "
            "of its own; command and args cannot have it.",
            feature=SECRETS_FEATURE,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """One variable of the process's environment."""

    name: Annotated[
        str,
        Constraint(
            doc="Name of the variable.",
            min_length=1,
            max_length=253,
            pattern=_VARIABLE,
            rules=(matching(_VARIABLE, _NO_VARIABLE),),
        ),
    ]
    value: Annotated[
        str,
        Constraint(
            doc="Its value, taken literally, unless execution.expandVariables is true.",
            max_length=32768,
        ),
    ] = ""
    value_from: Annotated[
        Optional[ValueFrom],
        Constraint(
            doc="Where its value comes from, instead of value; it is taken literally and read when the process starts.",
            feature=VALUES_FEATURE,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Upper limits for the process; what is not named is not limited."""

    memory: Annotated[
        Optional[Union[int, str]],
        Constraint(
            doc="Maximum memory: bytes, or a quantity such as 64Mi.",
            pattern=r"^[0-9]+(Ki|Mi|Gi|Ti|k|K|M|G|T)?$",
            max_length=20,
            schema=QUANTITY_SCHEMA,
        ),
    ] = None
    cpu: Annotated[
        Optional[Union[int, str]],
        Constraint(
            doc="Maximum CPU: cores, or thousandths of a core such as 500m.",
            pattern=r"^[0-9]+(\.[0-9]{1,3}|m)?$",
            max_length=20,
            schema=QUANTITY_SCHEMA,
        ),
    ] = None
    tasks: Annotated[
        Optional[int], Constraint(doc="Maximum processes and threads at a time.", minimum=1, maximum=4194304)
    ] = None


HostPath = Annotated[
    str,
    Constraint(
        doc="Absolute path on the device, which must exist and be allowed there.",
        max_length=1024,
        pattern=_PATH,
        rules=_PATH_RULES,
    ),
]
Capability = Annotated[
    str, Constraint(max_length=64, pattern=_CAPABILITY, rules=(matching(_CAPABILITY, _NO_CAPABILITY),))
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerVolume:
    """A file or directory of the device that the container sees."""

    host_path: HostPath
    mount_path: Annotated[
        str,
        Constraint(
            doc="Absolute path at which the container sees it.", max_length=1024, pattern=_PATH, rules=_PATH_RULES
        ),
    ]
    read_only: Annotated[bool, Constraint(doc="Whether the container may only read it.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDevice:
    """A device node that the container may use."""

    host_path: HostPath
    mount_path: Annotated[
        Optional[str],
        Constraint(
            doc="Absolute path at which the container sees it; the hostPath when unset.",
            max_length=1024,
            pattern=_PATH,
            rules=_PATH_RULES,
        ),
    ] = None
    permissions: Annotated[
        str,
        Constraint(
            doc="What it may do: r to read, w to write, m to make nodes.",
            min_length=1,
            max_length=3,
            pattern=_PERMISSIONS,
            rules=(matching(_PERMISSIONS, _NO_PERMISSIONS),),
        ),
    ] = "rw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Capabilities of the kernel, such as NET_ADMIN, without CAP_; or ALL."""

    add: Annotated[
        tuple[Capability, ...], Constraint(doc="Those that it gets besides the runtime's default.", max_items=64)
    ] = ()
    drop: Annotated[
        tuple[Capability, ...], Constraint(doc="Those that are taken from it; that needs no flag.", max_items=64)
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a container gets beyond the default, as far as the device's agent was started with --allow-… flags."""

    volumes: Annotated[
        tuple[ContainerVolume, ...],
        Constraint(doc="Files and directories of the device. Needs --allow-volumes.", max_items=32),
    ] = ()
    devices: Annotated[
        tuple[ContainerDevice, ...], Constraint(doc="Device nodes. Needs --allow-devices.", max_items=32)
    ] = ()
    capabilities: Annotated[
        Optional[Capabilities], Constraint(doc="Capabilities. To add some needs --allow-capabilities.")
    ] = None
    network: Annotated[
        str,
        Constraint(
            doc="Network of the container: host, none, or another of the runtime's, which needs --allow-networks.",
            max_length=64,
            pattern=_NETWORK,
            rules=(matching(_NETWORK, _NO_NETWORK),),
        ),
    ] = "host"
    privileged: Annotated[
        bool, Constraint(doc="Whether it may do on the device what root may. Needs --allow-privileged.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the process is run."""

    backend: Annotated[
        Backend,
        Constraint(
            doc="What supervises the process: container, systemd, initd, or process (the agent itself: no init "
            "system and no root needed)."
        ),
    ]
    command: Annotated[
        tuple[Word, ...],
        Constraint(
            doc="Program and first arguments; no shell is involved. A relative path is resolved in the artifact.",
            max_items=64,
        ),
    ] = ()
    args: Annotated[tuple[Word, ...], Constraint(doc="Further arguments.", max_items=256)] = ()
    env: Annotated[
        tuple[EnvVar, ...],
        Constraint(
            doc="Environment of the process.",
            max_items=256,
            schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    expand_variables: Annotated[
        Optional[bool],
        Constraint(
            doc="With true, $(NAME) in command, args and values of env stands for a variable of env, as in a Pod; a "
            "value may use the variables before it. $$ is one $, and an unknown name stays as it is. false when unset.",
            feature=VALUES_FEATURE,
            as_before=False,
        ),
    ] = None
    files: Annotated[
        tuple[File, ...],
        Constraint(
            doc="Files that the agent writes before the process starts, and removes with it.",
            max_items=32,
            feature=FILES_FEATURE,
            schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"]},
        ),
    ] = ()
    working_dir: Annotated[
        Optional[str],
        Constraint(
            doc="Working directory: an absolute path, or relative to the artifact.",
            max_length=4096,
            pattern=r"^[^\x00]+$",
        ),
    ] = None
    user: Annotated[
        Optional[str],
        Constraint(
            doc="User to run as, by name or number; the agent's own user when unset.",
            max_length=64,
            pattern=_USER,
            rules=(matching(_USER, _NO_USER),),
        ),
    ] = None
    resources: Annotated[Optional[Resources], Constraint(doc="Upper limits; none when unset.")] = None
    hardening: Annotated[
        Optional[Hardening],
        Constraint(
            doc="How systemd restricts the process: Baseline when unset (no new privileges, control groups "
            "read-only), Strict (all files read-only but its working directory, a private /tmp, no devices), or "
            "Unconfined. Other backends ignore it, and the status warns of that."
        ),
    ] = None
    termination_grace_period_seconds: Annotated[
        int,
        Constraint(doc="Seconds between asking the process to end and ending it by force.", minimum=0, maximum=3600),
    ] = 30
    container: Annotated[
        Optional[Container],
        Constraint(
            doc="What a container gets beyond the default; only for the backend container.", feature=CONTAINER_FEATURE
        ),
    ] = None
    reboot: Annotated[
        Optional[Reboot],
        Constraint(
            doc="Expected: this job reboots the device. It is not run again after the reboot; postCheck decides "
            "whether it succeeded. Never when unset.",
            feature=REBOOT_FEATURE,
            as_before=Reboot.NEVER,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecProbe:
    """A command whose exit status is the health of the process."""

    command: Annotated[
        tuple[Word, ...],
        Constraint(doc="Command that exits 0 when the process is healthy; no shell.", min_items=1, max_items=64),
    ]


class HttpScheme(StrEnum):
    """How an HTTP server is asked."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHeader:
    """One header of a request."""

    name: Annotated[
        str,
        Constraint(doc="Name of the header.", min_length=1, max_length=256, pattern=r"^[-!#$%&'*+.^_`|~0-9a-zA-Z]+$"),
    ]
    value: Annotated[str, Constraint(doc="Its value, in ASCII.", max_length=4096, pattern=r"^[ -~]*$")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGetProbe:
    """A GET whose answer is the health of the process: a status of 200 to 399 is a success."""

    path: Annotated[
        str,
        Constraint(
            doc="Path to ask for, with its query; it starts with / and is percent-encoded.",
            max_length=2048,
            pattern=r'^/[!-"$-~]*$',
        ),
    ] = "/"
    port: Port
    host: Host = LOCALHOST
    scheme: Annotated[HttpScheme, Constraint(doc="HTTP or HTTPS, whose certificate is not verified.")] = HttpScheme.HTTP
    http_headers: Annotated[
        tuple[HttpHeader, ...],
        Constraint(doc="Headers to send; Host, User-Agent and Accept replace the agent's own.", max_items=32),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSocketProbe:
    """A TCP connection that the process accepts when it is healthy."""

    port: Port
    host: Host = LOCALHOST


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """When a running process counts as healthy, by exactly one of exec, httpGet and tcpSocket."""

    exec: Annotated[Optional[ExecProbe], Constraint(doc="The command to run.")] = None
    http_get: Annotated[
        Optional[HttpGetProbe], Constraint(doc="The HTTP server to ask, from the device.", feature=PROBES_FEATURE)
    ] = None
    tcp_socket: Annotated[
        Optional[TcpSocketProbe], Constraint(doc="The port to connect to, from the device.", feature=PROBES_FEATURE)
    ] = None
    period_seconds: Annotated[int, Constraint(doc="Seconds from one run to the next.", minimum=1, maximum=86400)] = 30
    timeout_seconds: Annotated[
        int, Constraint(doc="Seconds after which a run counts as failed.", minimum=1, maximum=3600)
    ] = 5
    success_threshold: Annotated[
        int, Constraint(doc="Successes in a row that make it healthy.", minimum=1, maximum=100)
    ] = 1
    failure_threshold: Annotated[
        int, Constraint(doc="Failures in a row that make it unhealthy.", minimum=1, maximum=100)
    ] = 3
    startup_grace_seconds: Annotated[
        Optional[int],
        Constraint(
            doc="Seconds after the start in which failures do not count; none when unset. The first success ends it.",
            minimum=0,
            maximum=86400,
        ),
    ] = None

    @property
    def command(self) -> tuple[str, ...]:
        """The command to run; empty for a check over the network."""
        return self.exec.command if self.exec is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PostCheck:
    """Whether a job did its work, asked on the device after the reboot that the job made."""

    command: Annotated[
        tuple[Word, ...],
        Constraint(
            doc="Command that exits 0 when the job succeeded; no shell. It runs on the device, as the job's user.",
            min_items=1,
            max_items=64,
        ),
    ]
    period_seconds: Annotated[int, Constraint(doc="Seconds from one run to the next.", minimum=1, maximum=3600)] = 10
    timeout_seconds: Annotated[
        int, Constraint(doc="Seconds after which a run counts as failed.", minimum=1, maximum=3600)
    ] = 30
    failure_threshold: Annotated[
        int, Constraint(doc="Failures in a row after which the job failed.", minimum=1, maximum=100)
    ] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """A changed spec is kept only when it is confirmed in time; otherwise the device rolls back."""

    mode: Annotated[
        ConfirmMode,
        Constraint(
            doc="GatewayReachable: an authenticated exchange with the gateway after the change confirms it. "
            "Manual: an operator confirms it, by the annotation azure.com/confirmed or on the device."
        ),
    ] = ConfirmMode.GATEWAY_REACHABLE
    timeout_seconds: Annotated[
        int,
        Constraint(doc="Seconds after the start until the old version is restored.", minimum=5, maximum=86400),
    ] = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process and how to supervise it, in a deployment's template and in a device's desired state."""

    artifact: Annotated[
        Optional[Artifact], Constraint(doc="What to fetch first. Leave it out for a command that is on the device.")
    ] = None
    execution: Annotated[Execution, Constraint(doc="What to run, and how.")]
    restart_policy: Annotated[
        RestartPolicy,
        Constraint(doc="Always, OnFailure or Never. OnFailure and Never run to completion once per spec."),
    ] = RestartPolicy.ALWAYS
    health_check: Annotated[
        Optional[HealthCheck], Constraint(doc="How to check its health. Without a check, a started process is healthy.")
    ] = None
    post_check: Annotated[
        Optional[PostCheck],
        Constraint(
            doc="What decides after an expected reboot whether the job succeeded; needs execution.reboot: Expected.",
            feature=REBOOT_FEATURE,
        ),
    ] = None
    confirm: Annotated[
        Optional[Confirm],
        Constraint(doc="Restore the old version unless the change is confirmed in time; changes stay when unset."),
    ] = None
    restarted_at: Annotated[
        Optional[str],
        Constraint(
            doc="Raise it to restart the process without changing anything else: a time, such as 2026-01-31T12:00:00Z.",
            max_length=35,
            pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRef:
    """The device that a process belongs to."""

    kind: Annotated[DeviceKind, Constraint(doc="Kind of the device.")] = DeviceKind.NETWORK_SWITCH
    name: Annotated[
        str,
        Constraint(
            doc="Name of the device, the one that its agent uses.", min_length=1, max_length=253, pattern=NAME_PATTERN
        ),
    ]
    namespace: Annotated[
        Optional[str],
        Constraint(doc="Namespace of the device; the process's own when unset.", max_length=63, pattern=NAME_PATTERN),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProcessSpec(ProcessSpec):
    """A process spec bound to one device."""

    device_ref: Annotated[
        DeviceRef,
        Constraint(
            doc="The device that runs the process. It cannot be changed.",
            rules=(
                CelRule(expression="self == oldSelf", message="deviceRef cannot be changed; create another process"),
            ),
        ),
    ]


ENV_RULES = (
    CelRule(
        expression="!(has(self.value) && has(self.valueFrom))",
        message="a variable has a value or a valueFrom; leave one of them out",
    ),
)
"""Rules over one variable."""

EXECUTION_RULES = (
    CelRule(
        expression="!has(self.execution.container) || self.execution.backend == 'container'", message=CONTAINER_ONLY
    ),
    CelRule(
        expression="self.execution.backend == 'container' || "
        "(has(self.execution.command) && size(self.execution.command) > 0)",
        message="execution.command is needed by every backend but container",
    ),
    CelRule(
        expression="self.execution.backend != 'container' || (has(self.artifact) && self.artifact.type == 'oci')",
        message="backend container needs an artifact of type oci, which is its image",
    ),
    CelRule(
        expression="!has(self.artifact) || self.artifact.type != 'oci' || "
        "self.artifact.url.matches('@sha256:[0-9a-f]{64}$')",
        message="an oci artifact is named by digest: registry/repository@sha256:…",
    ),
    CelRule(
        expression="!has(self.artifact) || self.artifact.type != 'http' || self.artifact.url.matches('^https?://')",
        message="the url of an http artifact starts with http:// or https://",
    ),
    CelRule(
        expression="!has(self.artifact) || self.artifact.type != 'http' || has(self.artifact.checksumSHA256)",
        message="an http artifact needs checksumSHA256",
    ),
    CelRule(
        expression="!has(self.artifact) || self.artifact.type != 'file' || self.artifact.url.matches('^(file://)?/')",
        message="the url of a file artifact is an absolute path or starts with file:///",
    ),
    CelRule(
        expression="has(self.artifact) || !has(self.execution.command) || size(self.execution.command) == 0 || "
        "self.execution.command[0].startsWith('/') || !self.execution.command[0].contains('/')",
        message="without an artifact execution.command starts with an absolute path, or a name on PATH",
    ),
    CelRule(
        expression="has(self.artifact) || !has(self.healthCheck) || !has(self.healthCheck.exec) || "
        "self.healthCheck.exec.command[0].startsWith('/') || !self.healthCheck.exec.command[0].contains('/')",
        message="without an artifact healthCheck.exec.command starts with an absolute path, or a name on PATH",
    ),
    CelRule(
        expression="!has(self.artifact) || !has(self.execution.workingDir) || "
        "!self.execution.workingDir.matches('^[.][.](/|$)')",
        message="execution.workingDir leads out of the artifact; write an absolute path, or one inside",
    ),
    CelRule(
        expression="(has(self.execution.reboot) && self.execution.reboot == 'Expected') == has(self.postCheck)",
        message="execution.reboot: Expected and postCheck go together; write both or none",
    ),
    CelRule(
        expression="!has(self.postCheck) || (has(self.restartPolicy) && self.restartPolicy != 'Always')",
        message="only a job may reboot the device; write restartPolicy: OnFailure or Never",
    ),
)
"""Rules over a whole process spec, which no single field can state."""

HEALTH_CHECK_RULES = (
    CelRule(
        expression="has(self.exec) ? !has(self.httpGet) && !has(self.tcpSocket) : "
        "has(self.httpGet) != has(self.tcpSocket)",
        message=ONE_CHECK,
    ),
)
"""Rules over a whole health check."""
