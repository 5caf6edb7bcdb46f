# SPDX-License-Identifier: Apache-2.0
"""What is upgraded by itself, and the versions that run now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from e2e.stack.program import Program
from e2e.stack.stack import Release, Stack

OLD, NEW, MIXED = "old", "new", "mixed"
"""The versions; mixed are the old programs with the new praetor-api."""


class Part(StrEnum):
    """One part of an installation. The CRDs come with the roles of controller and gateway."""

    CRDS = "CRDs"
    CONTROLLER = "controller"
    GATEWAY = "gateway"
    AGENTS = "agents"


class Step(NamedTuple):
    """Replace *part* by its version *version*."""

    part: Part
    version: str


class Parts:
    """The parts of *stack*, all old at first, and *releases* by their versions."""

    def __init__(self, stack: Stack, releases: Mapping[str, Release]) -> None:
        self.running: dict[Part, str] = dict.fromkeys(Part, OLD)
        self._stack = stack
        self._releases = releases

    def replace(self, step: Step, agents: Iterable[Program]) -> None:
        """Make *step*, where *agents* are the programs of devices; returns when the new programs run."""
        self.running[step.part] = step.version
        release = self._releases[step.version]
        match step.part:
            case Part.CRDS:
                self._stack.install(release)
            case Part.CONTROLLER:
                self._restart(self._stack.controller.program, release)
                self._stack.controller.wait_ready()
            case Part.GATEWAY:
                self._restart(self._stack.gateway.program, release)
                self._stack.gateway.wait_ready()
            case Part.AGENTS:
                for program in agents:
                    self._restart(program, release)

    @staticmethod
    def _restart(program: Program, release: Release) -> None:
        program.use(release.scripts)
        program.restart()
