# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e [--cluster embedded|envtest|kind|node|existing] [pytest's arguments]`: run the suite on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SUITE = HERE / "suite"
PODS = HERE / "pods"
NOT_SELECTING = ("--deselect", "--ignore", "--ignore-glob", "--rootdir", "--confcutdir", "--basetemp", "-c")
"""Flags of pytest whose value is a path, but no test to run."""


def with_suite(arguments: Sequence[str]) -> list[str]:
    """Return *arguments*, and a whole suite unless they name tests of this folder: where Pods run, theirs before it."""
    selecting = (word for flag, word in pairwise(("", *arguments)) if flag not in NOT_SELECTING)
    paths = (Path(word.partition("::")[0]).resolve() for word in selecting)
    named = any(path.exists() and path.is_relative_to(HERE) for path in paths)
    return [*arguments, *(() if named else map(str, (PODS, SUITE) if _with_pods(arguments) else (SUITE,)))]


def _with_pods(arguments: Sequence[str]) -> bool:
    return any(
        f"--cluster={name}" in arguments or ("--cluster", name) in pairwise(arguments) for name in ("node", "kind")
    )


if __name__ == "__main__":
    sys.exit(pytest.main(with_suite(sys.argv[1:])))
