# SPDX-License-Identifier: Apache-2.0
"""Write docs/crds.md, the reference of all fields, from crds/: `hatch run manifests`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KINDS = ("networkswitches", "deviceprocesses", "deviceprocessdeployments")
LIKE_SWITCHES = ("bmcs", "dpus", "servers", "socs")
SHARED = "spec.template.spec"  # of a deployment; its fields are those of a DeviceProcess
QUOTE = '"'

HEAD = """# Fields of the API

[All pages](README.md)

Every field of `azure.com/v1alpha1`, from the CRDs; `kubectl explain dpd --recursive` prints them,
too. A field in bold must be given. `[]` stands for an item of a list. [Reasons](reasons.md) has the
conditions and their reasons.
"""


def main() -> None:
    """Write the page."""
    versions = {}
    for plural in KINDS:
        crd = yaml.safe_load((ROOT / "crds" / f"azure.com_{plural}.yaml").read_text(encoding="utf-8"))
        versions[crd["spec"]["names"]["kind"]] = (crd["spec"]["names"], crd["spec"]["versions"][0])
    shared = versions["DeviceProcess"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    sections = [section(kind, *found, shared) for kind, found in versions.items()]
    text = "".join([sections[0], like_switches(), *sections[1:]])
    (ROOT / "docs" / "crds.md").write_text(HEAD + text, encoding="utf-8")


def like_switches() -> str:
    """Return what the page says of the kinds that have the fields of a NetworkSwitch."""
    text = "\n## BMC, DPU, Server, SOC\n\nTheir fields and columns are those of NetworkSwitch. "
    text += "[Kinds of devices](devices.md) says more.\n\n| kind | `kubectl get` |\n| -- | -- |\n"
    for plural in LIKE_SWITCHES:
        names = yaml.safe_load((ROOT / "crds" / f"azure.com_{plural}.yaml").read_text(encoding="utf-8"))["spec"][
            "names"
        ]
        words = [plural, names["singular"], *names.get("shortNames", ())]
        text += f"| {names['kind']} | {', '.join(f'`{each}`' for each in words)} |\n"
    return text


def section(kind: str, names: dict[str, Any], version: dict[str, Any], shared: dict[str, Any]) -> str:
    """Return what the page says of *kind*."""
    schema = version["schema"]["openAPIV3Schema"]
    columns = version["additionalPrinterColumns"]
    shown, wide = ([each["name"] for each in columns if bool(each.get("priority")) == later] for later in (False, True))
    text = f"\n## {kind}\n\n{schema['description']}\n\n"
    text += f"`kubectl get {names['shortNames'][0]}` shows {', '.join(shown)}; with `-o wide` also {', '.join(wide)}.\n"
    for part in ("spec", "status"):
        found = schema["properties"][part]
        text += f"\n### {kind} {part}\n\n{found['description']}\n\n"
        text += "| field | type | default | meaning |\n| -- | -- | -- | -- |\n"
        fields = Fields(shared)
        text += "".join(f"| {' | '.join(row)} |\n" for row in fields.rows(found, part))
        if fields.rules:
            text += "\nRules:\n\n" + "".join(f"- {rule}\n" for rule in dict.fromkeys(fields.rules))
    return text


class Fields:
    """The fields of a part of a kind.

    Attributes:
        rules: What the API server checks beyond single fields.
    """

    def __init__(self, shared: dict[str, Any]) -> None:
        self.rules: list[str] = []
        self._shared = shared
        self._selector: dict[str, Any] | None = None

    def rows(self, schema: dict[str, Any], path: str) -> Iterator[tuple[str, ...]]:
        """Yield a row for each field below *path*."""
        prefix = "".join(f"{word}." for word in path.split(".")[1:])
        properties = schema.get("properties", {})
        if path == SHARED:
            same = [name for name, found in properties.items() if self._shared.get(name) == found]
            listed = ", ".join(f"`{name}`" for name in same)
            yield f"`{prefix}*`", "", "", f"{listed}: the fields of [a DeviceProcess](#deviceprocess-spec)"
            properties = {name: found for name, found in properties.items() if name not in same}
        if path.endswith(".selector"):
            self._selector = self._selector or properties
            if path != "spec.selector" and properties == self._selector:
                yield f"`{prefix}*`", "", "", "as in `selector`"
                return
        self.rules += [f"`{path}`: {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())]
        if "items" in schema:
            yield from self.rows(schema["items"], f"{path}[]")
        for name, found in properties.items():
            field, default = f"`{prefix}{name}`", found.get("default")
            yield (
                f"**{field}**" if name in schema.get("required", ()) else field,
                kind_of(found),
                "" if default in (None, {}, []) else f"`{json.dumps(default).strip(QUOTE)}`",
                cell(found.get("description", "")),
            )
            yield from self.rows(found, f"{path}.{name}")


def kind_of(schema: dict[str, Any]) -> str:
    """Return the type of a field with its bounds."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "items" in schema:
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {kind_of(schema['items'])}s{most}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {schema['additionalProperties']['type']}s"
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None:
        return f"{schema['type']}, {low} to {high}"
    if low is not None:
        return f"{schema['type']}, from {low}"
    return {"date-time": "time"}.get(schema.get("format", ""), schema["type"])


def cell(text: str) -> str:
    """Return *text* as it may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


if __name__ == "__main__":
    main()
