# SPDX-License-Identifier: Apache-2.0
"""References to one key of a ConfigMap or a Secret, in a process spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

from praetor_api.constraints import CelRule, Constraint, matching

__all__ = [
    "FILE_REFERENCES_FEATURE",
    "REFERENCES_FEATURE",
    "SECRETS_FEATURE",
    "VALUE_FROM_RULES",
    "ConfigMapKeyRef",
    "SecretKeyRef",
]

REFERENCES_FEATURE = "references.v1"
"""What an agent must know to get a spec that refers to ConfigMaps: another cannot read it."""

SECRETS_FEATURE = "secrets.v1"
"""What an agent must know to get values of Secrets: it keeps them in files that its own user alone may read."""

FILE_REFERENCES_FEATURE = "file-references.v1"
"""What an agent must know to write files from ConfigMaps and Secrets: another has no content for them. It keeps those
of Secrets where its own user and the owner of the file alone may read them."""

_OBJECT_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_KEY = r"^[-._a-zA-Z0-9]+$"
_NO_KEY = "is no key of a ConfigMap or a Secret; write letters, digits, -, _ and ., such as tls.key"

_Optional = Annotated[
    Optional[bool],
    Constraint(
        doc="Whether the variable or file is left out where there is no such object or key. false when unset: then "
        "devices keep what they run until there is one."
    ),
]


_Key = Annotated[
    str,
    Constraint(
        doc="Key in its data.",
        min_length=1,
        max_length=253,
        pattern=_KEY,
        rules=(matching(_KEY, _NO_KEY),),
    ),
]


def _name_of(kind: str) -> Constraint:
    return Constraint(
        doc=f'Name of the {kind}, which has the label azure.com/deliver: "true".',
        min_length=1,
        max_length=253,
        pattern=_OBJECT_NAME,
        rules=(
            matching(
                _OBJECT_NAME,
                f"is no name of a {kind}; write small letters, digits, - and ., such as telemetry-login",
            ),
        ),
    )


@dataclass(frozen=True)
class ConfigMapKeyRef:
    """A key of a ConfigMap in the process's own namespace."""

    name: Annotated[str, _name_of("ConfigMap")]
    key: _Key
    optional: _Optional = None


@dataclass(frozen=True)
class SecretKeyRef:
    """A key of a Secret in the process's own namespace."""

    name: Annotated[str, _name_of("Secret")]
    key: _Key
    optional: _Optional = None


VALUE_FROM_RULES = (
    CelRule(
        expression="(has(self.deviceFieldRef) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + "
        "(has(self.secretKeyRef) ? 1 : 0) == 1",
        message="a valueFrom names one source; write one of deviceFieldRef, configMapKeyRef and secretKeyRef",
    ),
)
"""Rules over the source of one variable."""
