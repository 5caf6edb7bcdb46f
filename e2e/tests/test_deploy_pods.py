"""When a Pod is ready, and when a rollout of a Deployment is done."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.pods.system import is_ready, is_rolled_out

DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "done"),
    [
        pytest.param(DONE, True, id="done"),
        pytest.param({}, False, id="not-seen-yet"),
        pytest.param(DONE | {"observedGeneration": 1}, False, id="status-of-an-older-spec"),
        pytest.param(DONE | {"availableReplicas": 1}, False, id="one-not-available"),
        pytest.param(DONE | {"updatedReplicas": 1}, False, id="one-of-the-old-version"),
        pytest.param(DONE | {"replicas": 3}, False, id="an-old-one-still-there"),
    ],
)
def test_a_rollout_is_done_when_every_replica_is_new_and_available(status: dict[str, Any], done: bool) -> None:
    deployment = {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}
    assert is_rolled_out(deployment) is done


@pytest.mark.parametrize(("status", "ready"), [(None, False), ("False", False), ("True", True)])
def test_a_pod_is_ready_when_the_kubelet_says_so(status: str | None, ready: bool) -> None:
    own = [] if status is None else [{"type": "Ready", "status": status}]
    assert is_ready({"status": {"conditions": [{"type": "Initialized", "status": "True"}, *own]}}) is ready
