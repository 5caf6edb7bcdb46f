# SPDX-License-Identifier: Apache-2.0
"""What a revision gives a device, by rules that share no code with the controller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from praetor_controller.model.rows import Template


def command_for(template: Template, labels: Mapping[str, str]) -> str:
    """Return the program that a device with *labels* is to run: that of the first override that matches and names one.

    Overrides of the search ask for labels alone, and name a command alone.
    """
    for override in template.overrides:
        wanted: Mapping[str, Any] = override["selector"]["matchLabels"]
        if all(labels.get(key) == value for key, value in wanted.items()):
            return str(override["execution"]["command"][0])
    return str(template.spec["execution"]["command"][0])


def is_changed(template: Template, before: Template | None, labels: Mapping[str, str]) -> bool:
    """Return whether a rollout of *template* changes what a device with *labels* was given *before*.

    None: nothing is known to have been rolled out. Templates without overrides change all devices, or none.
    """
    if before is None or before.revision == template.revision or not (template.overrides or before.overrides):
        return True
    again = template.spec.get("restartedAt") != before.spec.get("restartedAt")
    again = again or template.spec["execution"].get("files") != before.spec["execution"].get("files")
    return again or command_for(template, labels) != command_for(before, labels)
