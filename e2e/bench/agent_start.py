"""Time from a changed desired state to the report that its process runs; and the agent's processor time when idle."""

from __future__ import annotations

import subprocess
import sys
import time

from e2e.bench.context import Context, own_environment, until
from e2e.bench.figures import Figure, median_figure
from e2e.bench.proc import cpu_seconds
from praetor_agent import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.testing import FakeGateway, item, process_spec

DAY_S = 86400.0
SETTLE_S = 5.0


def measure(context: Context) -> tuple[Figure, ...]:
    """Let an agent start one process after the other on the backend `process`, then leave it alone for a while."""
    state = context.folder("agent") / "state"
    command = (
        sys.executable, "-m", "praetor_agent", "run", "--device", "leaf-1", "--state-dir", str(state),
        "--token", "t", "--start-splay", "0", "--log-level", "error",
    )  # fmt: skip
    with FakeGateway(token="t") as gateway:
        agent = subprocess.Popen([*command, "--gateway", gateway.url], env=own_environment())
        try:
            until(lambda: len(gateway.requests) > 2, "the agent waits")
            took = [_start(gateway, number) for number in range(context.size(20, 5))]
            time.sleep(SETTLE_S)
            used, began = cpu_seconds(agent.pid), time.monotonic()
            time.sleep(context.size(60.0, 15.0))
            share = (cpu_seconds(agent.pid) - used) / (time.monotonic() - began)
        finally:
            agent.kill()
            agent.wait()
            backend = ProcessBackend(state / "processes", procfs.boot_id() or "")
            for uid in backend.observe():
                backend.stop(uid, grace_seconds=0, force=True)
    return (
        median_figure("desired state to ProcessStarted, backend process", took, unit="ms"),
        Figure(what="processor time a day, idle, heartbeat of 15 s", value=share * DAY_S, unit="s"),
    )


def _start(gateway: FakeGateway, number: int) -> float:
    began = time.monotonic()
    name = f"p{number}"
    gateway.desire(*(item(f"p{n}", process_spec("sleep", "1000")) for n in range(number + 1)))
    gateway.wait_for(lambda: name in gateway.observations and gateway.observations[name].process_started is True, name)
    return (time.monotonic() - began) * 1000
