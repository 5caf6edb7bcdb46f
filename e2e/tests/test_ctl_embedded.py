# SPDX-License-Identifier: Apache-2.0
"""`praetorctl` on a control plane over HTTP, as a person runs it: with a kubeconfig, in another thread than the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kubeplane import ControlPlane
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, NETWORK_SWITCHES, Key
from praetor_controller.ctl.cli import main

CRDS = Path(__file__).parents[2] / "crds"
KEY = Key("default", "tel")
TEMPLATE = {"spec": {"execution": {"backend": "process", "command": ["/bin/true"]}}}


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "azure.com/v1alpha1",
        "kind": "DeviceProcessDeployment",
        "metadata": {"name": "tel"},
        "spec": {"selector": {}, "template": TEMPLATE, **spec},
    }


def kubeconfig(folder: Path, url: str) -> str:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


async def run(config: str, *args: str, text: str | None = None) -> Result:
    """Run the command beside the control plane, in a thread: it has an event loop of its own."""
    command = [*args, "--kubeconfig", config]
    return await asyncio.to_thread(CliRunner().invoke, main, command, input=text)


async def test_a_plan_is_validated_and_defaulted_by_the_api_and_writes_nothing(tmp_path: Path) -> None:
    async with ControlPlane(crds=CRDS) as plane:
        config = kubeconfig(tmp_path, plane.url)
        async with await KubeClient.from_config(config) as kube:
            for name in ("leaf-1", "leaf-2"):
                switch = {"apiVersion": "azure.com/v1alpha1", "kind": "NetworkSwitch", "metadata": {"name": name}}
                await kube.create(NETWORK_SWITCHES, "default", switch)
            result = await run(config, "plan", "-f", "-", "-o", "json", text=yaml.safe_dump(manifest()))
            forecast = json.loads(result.stdout)[0]
            assert [step["create"] for step in forecast["steps"]] == [["leaf-1", "leaf-2"]]
            assert (await kube.list_page(DEVICE_PROCESS_DEPLOYMENTS, "default"))["items"] == []

            made = await kube.create(DEVICE_PROCESS_DEPLOYMENTS, "default", manifest())
            changed = yaml.safe_dump(manifest(paused=True))
            assert "Paused: leaf-1, leaf-2" in (await run(config, "plan", "-f", "-", text=changed)).stdout
            assert await kube.get(DEVICE_PROCESS_DEPLOYMENTS, KEY) == made

            refused = await run(config, "plan", "-f", "-", text=yaml.safe_dump(manifest(minReadySeconds=-1)))
            assert refused.exit_code == 1
            assert "minReadySeconds" in refused.stderr


@pytest.mark.parametrize("reason", ["NewRevisionRolledOut", "RolloutInProgress"])
async def test_a_rollout_is_followed_and_steered(tmp_path: Path, reason: str) -> None:
    async with ControlPlane(crds=CRDS) as plane:
        config = kubeconfig(tmp_path, plane.url)
        async with await KubeClient.from_config(config) as kube:
            await kube.create(DEVICE_PROCESS_DEPLOYMENTS, "default", manifest())
            assert (await run(config, "rollout", "pause", "tel")).stdout == "tel: paused\n"
            assert (await run(config, "rollout", "resume", "tel")).stdout == "tel: resumed\n"
            assert "restarting" in (await run(config, "rollout", "restart", "tel")).stdout
            following = asyncio.ensure_future(run(config, "rollout", "status", "tel", "--timeout", "20s"))
            stored = await kube.get(DEVICE_PROCESS_DEPLOYMENTS, KEY)
            condition = {
                "type": "Progressing",
                "status": "True" if reason == "NewRevisionRolledOut" else "False",
                "reason": reason,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            status = {"observedGeneration": stored["metadata"]["generation"], "conditions": [condition]}
            await kube.patch(DEVICE_PROCESS_DEPLOYMENTS, KEY, {"status": status}, subresource="status")
            result = await following
            assert result.exit_code == (0 if reason == "NewRevisionRolledOut" else 3)
