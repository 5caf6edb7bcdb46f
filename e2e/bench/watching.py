"""`python -m e2e.bench.watching KUBECONFIG PATH OUTPUT`: note when a watch tells of each generation of each object.

A line `{name, generation, at}` for each event, *at* in monotonic seconds of this machine; `{}` once it is watching.
It shares nothing with the gateway, so that the gateway's own delay is not taken for the apiserver's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from e2e.clusters.rawapi import RawApi

TIMEOUT_S = 300


def watch(kubeconfig: Path, path: str, output: Path) -> None:
    """Write lines until the watch ends or a signal ends us."""
    with RawApi.from_kubeconfig(kubeconfig) as api, output.open("w", buffering=1, encoding="utf-8") as file:
        version = api.get(path).body["metadata"]["resourceVersion"]
        with api.watch(path, timeout_s=TIMEOUT_S, resourceVersion=version) as frames:
            file.write("{}\n")
            for frame in frames:
                at, metadata = time.monotonic(), frame.object["metadata"]
                file.write(
                    json.dumps({"name": metadata["name"], "generation": metadata["generation"], "at": at}) + "\n"
                )


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
