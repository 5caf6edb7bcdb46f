# SPDX-License-Identifier: Apache-2.0
"""The processor time of whole lives of Python interpreters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from e2e.bench.measure.context import own_environment

RUN = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def processor_ms(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> float:
    """Return the milliseconds of the processor that an interpreter with *arguments* takes from its start to its end.

    *variables* are further ones in its environment. subprocess.CalledProcessError when it fails.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=own_environment() | dict(variables or {}),
    )
    return float(done.stdout) * 1000
