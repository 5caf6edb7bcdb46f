# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.bench.agent.traced URL DEVICE TOKEN FOLDER`: an agent that counts its own moves between files.

The line `start` on standard input begins the trace; each line is answered with what was counted so far, in JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Thread

from attrs import asdict

from e2e.bench.measure.trace import Trace, tracing
from praetor_agent.app import run
from praetor_agent.settings import RunSettings


def answer(trace: Trace) -> None:
    """Answer the lines of standard input until it closes."""
    for line in sys.stdin:
        trace.active |= line == "start\n"
        print(json.dumps(asdict(trace.counts)), flush=True)


def main(gateway: str, device: str, token: str, folder: Path) -> None:
    """Run the agent until a signal ends it."""
    trace = Trace()
    Thread(target=answer, args=(trace,), name="answer", daemon=True).start()  # before the block, so it is not traced
    with tracing(trace):
        state, freeze = folder / "state", folder / "hold"
        run(RunSettings(gateway=gateway, device=device, token=token, state_dir=state, freeze_file=freeze))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
