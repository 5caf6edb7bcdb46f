# SPDX-License-Identifier: Apache-2.0
"""`praetorctl` with an administrator's kubeconfig: as a user runs it, or in this process to read its output."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from e2e.stack.stack import WORKING_TREE, Release, environment, script
from praetor_controller.ctl.cli import main

TIMEOUT_S = 600


class Ctl:
    """Runs `praetorctl` in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, release: Release = WORKING_TREE) -> None:
        self._program = script("praetorctl", release)
        self._settings = {"PRAETOR_CTL_KUBECONFIG": str(kubeconfig), "PRAETOR_CTL_NAMESPACE": namespace}

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it with *text* as standard input, and return how it ended, successful or not."""
        return subprocess.run(
            [self._program, *words],
            input=text,
            env={**environment(), **self._settings},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def __call__(self, *words: str, text: str | None = None) -> str:
        """Run it and return what it printed; AssertionError with its message when it fails."""
        ended = self.run(*words, text=text)
        assert ended.returncode == 0, f"praetorctl {' '.join(words)} ended with {ended.returncode}: {ended.stderr}"
        return ended.stdout

    def read(self, *words: str, text: str | None = None) -> Any:
        """Run it with `-o json` and return what it printed, decoded; in this process, since outputs are many."""
        ended = CliRunner().invoke(main, [*words, "-o", "json"], input=text, env=self._settings)
        assert ended.exit_code == 0, f"praetorctl {' '.join(words)} ended with {ended.exit_code}: {ended.stderr}"
        return json.loads(ended.stdout)
