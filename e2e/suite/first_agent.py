# SPDX-License-Identifier: Apache-2.0
"""An agent that knows the first description of the protocol alone, written from it: `first_agent.py URL DEVICE`.

It shares no code with praetor-agent, and knows no held polls, boots, sequences, revisions, features or resync. The
device's token is $TOKEN. It polls and reports every $INTERVAL seconds, and prints each status.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import requests

Key = tuple[str, str]


class FirstAgent:
    """Runs what is desired of the device at *base*."""

    def __init__(self, base: str, token: str) -> None:
        self._base = base
        self._http = requests.Session()
        self._http.headers["X-Device-Token"] = token
        self._etag: str | None = None
        self._running: dict[Key, tuple[str, subprocess.Popen[bytes]]] = {}

    def poll(self) -> int:
        """Ask for the desired state, run it if it is new, and return the status of the answer."""
        known = {} if self._etag is None else {"If-None-Match": self._etag}
        answer = self._http.get(f"{self._base}/desired", headers=known, timeout=60)
        if answer.status_code == 200:
            self._run({(item["namespace"], item["name"]): item for item in answer.json()["items"]})
            self._etag = answer.headers["ETag"]
        return answer.status_code

    def report(self) -> int:
        """Report what runs, and return the status of the answer."""
        observations = [
            {
                "namespace": namespace,
                "name": name,
                "observedSpecHash": spec_hash,
                "processStarted": True,
                "healthy": process.poll() is None,
            }
            for (namespace, name), (spec_hash, process) in self._running.items()
        ]
        body = {"agentVersion": "0", "timestamp": _now(), "heartbeat": True, "observations": observations}
        return self._http.post(f"{self._base}/report", json=body, timeout=60).status_code

    def _run(self, wanted: dict[Key, dict[str, Any]]) -> None:
        for key, (spec_hash, process) in list(self._running.items()):
            if key not in wanted or wanted[key]["specHash"] != spec_hash:
                process.terminate()
                process.wait()
                del self._running[key]
        for key in wanted.keys() - self._running.keys():
            execution = wanted[key]["spec"]["execution"]
            argv = [*execution["command"], *execution.get("args", ())]
            env = {each["name"]: each["value"] for each in execution.get("env", ())}
            self._running[key] = wanted[key]["specHash"], subprocess.Popen(argv, env=env)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main(url: str, device: str) -> None:
    """Poll and report until the end of the program."""
    agent = FirstAgent(f"{url}/v1/devices/{device}", os.environ["TOKEN"])
    while True:
        for step in (agent.poll, agent.report):
            try:
                print(step.__name__, step(), flush=True)
            except requests.RequestException as error:
                print(step.__name__, error, flush=True)
        time.sleep(float(os.environ["INTERVAL"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
