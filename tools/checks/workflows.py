# SPDX-License-Identifier: Apache-2.0
"""Check the workflows of .github with zizmor and actionlint: `hatch run workflows`.

zizmor is of the locked requirements. actionlint is built by Go from the modules that tools/actionlint/go.sum pins by
digest. A machine that has no Go, or cannot reach the modules, leaves actionlint out and says why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"
BUILD_S = 300  # modules are downloaded and compiled; twenty seconds on two cores
ZIZMOR = ("zizmor", "--offline", "--pedantic", "--quiet", "--no-progress")


def build_actionlint(target: Path, module: Path = ROOT / "tools" / "actionlint") -> str | None:
    """Build the actionlint that *module* pins as *target*; return why that is impossible here, None if it worked.

    SystemExit for a module whose digest is not the pinned one: that is no matter of the machine.
    """
    if not shutil.which("go"):
        return "Go is not installed"
    words = ["go", "-C", str(module), "build", "-mod=readonly", "-o", str(target), PACKAGE]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        return f"Go did not build it within {BUILD_S} s"
    if "checksum mismatch" in done.stderr or "SECURITY ERROR" in done.stderr:
        sys.exit(f"actionlint is not what go.sum pins:\n{done.stderr.rstrip()}")
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def main() -> int:
    """Return how many of the two checks found something."""
    failed = subprocess.run([*ZIZMOR, ".github"], cwd=ROOT, check=False).returncode != 0
    with tempfile.TemporaryDirectory(prefix="praetor-actionlint-") as folder:
        tool = Path(folder, "actionlint")
        if reason := build_actionlint(tool):
            print(f"skipped: actionlint: {reason}")
            return int(failed)
        files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        return failed + (subprocess.run([tool, *files], cwd=ROOT, check=False).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
