# SPDX-License-Identifier: Apache-2.0
"""Several replicas: one leads, the others report to it which devices they heard."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner

from gateway_testing import AsgiClient, GatewayLab, conditions, listening, running_lab
from kube_testing import FakeClock, InProcessKube
from praetor_api.annotations import PEER_ADDRESS_ANNOTATION
from praetor_api.kube.client.resource import DEVICE_PROCESSES, LEASES, Key
from praetor_api.kube.options import BindAddress
from praetor_gateway import cli
from praetor_gateway.http.auth import RELOAD_S
from praetor_gateway.liveness.peers import PATH, HttpPeerTransport, PeerPush, PeerSecrets, PushResult
from praetor_gateway.settings import PeerSettings

PEERS = PeerSettings(addr=BindAddress("a", 1), advertise="a:1", tokens=("secret", "older"))


class PeerNetwork:
    """Runs replicas on one API and one clock, and carries pushes between them until it is cut."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.labs: dict[str, GatewayLab] = {}
        self.cut = False
        self.token = "secret"
        self.load = 0.0
        self.outdated = False  # replicas push as before they knew what devices fetch

    async def start(self, name: str, until: AsyncExitStack) -> GatewayLab:
        """Run a gateway until *until* ends."""
        peers = evolve(PEERS, advertise=name)
        client, load = self.kube.another_client(), lambda: self.load
        lab = running_lab(client, self.clock, transport=self, load=load, identity=name, peers=peers)
        self.labs[name] = await until.enter_async_context(lab)
        return self.labs[name]

    async def push(self, address: str, heard: PeerPush) -> PushResult:
        if address not in self.labs or self.cut:
            return PushResult.UNREACHABLE
        body = heard.body()
        if self.outdated:
            for name in ("fetched", "intervals", "wants"):
                del body[name]
        status = await push(self.labs[address], body, self.token)
        return PushResult.TAKEN if status == 204 else PushResult.REFUSED


async def push(lab: GatewayLab, body: object, token: str) -> int:
    """Push to the gateway; return the status of its answer."""
    assert lab.gateway.peer_app is not None
    client = AsgiClient(lab.gateway.peer_app, None)
    return (await client.post(PATH, body, authorization=f"Bearer {token}")).status


async def beat(lab: GatewayLab, seconds: int, *devices: str) -> None:
    for _ in range(0, seconds, 5):
        for device in devices:
            await lab.client.post(f"/v1/devices/{device}/connect")
        await lab.clock.advance(5)


def lost(lab: GatewayLab, *devices: str) -> list[str]:
    return [device for device in devices if conditions(lab.switch(device)).get("AgentConnected") == "False"]


async def test_a_device_that_another_replica_hears_is_connected() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        for device in ("leaf-1", "leaf-2"):
            await first.declare(device)
        await beat(first, 10, "leaf-1")
        for _ in range(36):
            await first.client.post("/v1/devices/leaf-1/connect")
            await beat(second, 5, "leaf-2")
        assert conditions(first.switch("leaf-1"))["AgentConnected"] == "True"
        assert conditions(first.switch("leaf-2"))["AgentConnected"] == "True"
        assert (first.value("arbiter"), second.value("arbiter")) == (1, 0)
        await beat(first, 90, "leaf-1")
        assert lost(first, "leaf-1", "leaf-2") == ["leaf-2"]


async def test_devices_of_a_replica_that_is_cut_off_are_frozen_for_a_while() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        await first.declare("leaf-2")
        await beat(second, 90, "leaf-2")
        network.cut = True
        await beat(second, 55, "leaf-2")
        assert lost(first, "leaf-2") == []
        network.cut = False
        await beat(second, 60, "leaf-2")
        assert lost(first, "leaf-2") == []


async def test_the_next_arbiter_knows_every_device_that_the_others_heard() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as short:
            await network.start("first", short)
            second, third = await network.start("second", stack), await network.start("third", stack)
            await second.declare("leaf-2")
            await second.declare("leaf-3")
            for _ in range(12):
                await second.client.post("/v1/devices/leaf-2/connect")
                await beat(third, 5, "leaf-3")
        assert second.kube.objects(LEASES)[Key("lab", "praetor-gateway-arbiter")]["metadata"]["annotations"]
        for _ in range(40):
            await second.client.post("/v1/devices/leaf-2/connect")
            await beat(third, 5, "leaf-3")
        assert second.value("arbiter") + third.value("arbiter") == 1
        assert lost(second, "leaf-2", "leaf-3") == []


@pytest.mark.parametrize(
    ("token", "body", "status"),
    [
        ("secret", {"observer": "x", "ages": {"leaf-1": 1.0, "ghost": 2}}, 204),
        ("secret", {"observer": "x", "ages": {}}, 204),
        ("secret", {"observer": "x", "ages": {}, "fetched": {"leaf-1": [1, {"uid-1": 3}], "ghost": [0.5, {}]}}, 204),
        ("secret", {"observer": "x", "ages": {}, "fetched": {"leaf-1": [-1, {"uid-1": 3}]}}, 400),
        ("secret", {"observer": "x", "ages": {}, "fetched": {"leaf-1": [1, {"uid-1": -3}]}}, 400),
        ("secret", {"observer": "x", "ages": {}, "fetched": {"leaf-1": [1, {"uid-1": True}]}}, 400),
        ("secret", {"observer": "x", "ages": {}, "fetched": {"leaf-1": [1, 2, 3]}}, 400),
        ("secret", {"observer": "x", "ages": {}, "fetched": ["leaf-1"]}, 400),
        ("secret", {"observer": "", "ages": {}}, 400),
        ("secret", {"observer": "x", "ages": {"leaf-1": -1}}, 400),
        ("secret", {"observer": "x", "ages": {"leaf-1": True}}, 400),
        ("secret", {"observer": "x"}, 400),
        ("secret", [], 400),
        ("secret", b"{", 400),
        ("wrong", {"observer": "x", "ages": {}}, 401),
        ("", {"observer": "x", "ages": {}}, 401),
        ("older", {"observer": "x", "ages": {}}, 204),
    ],
)
async def test_pushes_are_checked(token: str, body: object, status: int) -> None:
    async with running_lab(peers=PEERS) as lab:
        await lab.declare("leaf-1")
        assert await push(lab, body, token) == status


async def test_a_replica_that_does_not_lead_refuses_pushes() -> None:
    async with (
        running_lab() as first,
        running_lab(first.kube.another_client(), first.clock, identity="second", peers=PEERS) as second,
    ):
        assert await push(second, {"observer": "x", "ages": {}}, "secret") == 503


@pytest.mark.parametrize(
    ("secrets", "result"),
    [
        (("secret",), PushResult.TAKEN),
        (("older",), PushResult.TAKEN),
        (("newer", "secret"), PushResult.TAKEN),
        (("wrong", "worse"), PushResult.REFUSED),
    ],
)
async def test_pushes_are_sent_over_http_with_a_secret_that_is_taken(
    secrets: tuple[str, ...], result: PushResult
) -> None:
    async with running_lab(peers=PEERS) as lab:
        heard = PeerPush(observer="x", ages={"leaf-1": 0.5})
        assert lab.gateway.peer_app is not None
        transport = HttpPeerTransport(PeerSecrets(secrets))
        async with listening(lab.gateway.peer_app) as listener:
            assert await transport.push(f"127.0.0.1:{listener.port}", heard) is result
            assert await transport.push("127.0.0.1:1", heard) is PushResult.UNREACHABLE
            await transport.close()
        await HttpPeerTransport(PeerSecrets(("x",))).close()


async def test_the_file_of_peer_secrets_is_followed(tmp_path: Path) -> None:
    file, empty = tmp_path / "token", {"observer": "x", "ages": {}}
    file.write_text("secret\nolder\n")
    async with running_lab(peers=evolve(PEERS, token_file=file)) as lab:
        file.write_text("newer\nsecret\n")
        await lab.clock.advance(RELOAD_S)
        assert [await push(lab, empty, token) for token in ("newer", "secret", "older")] == [204, 204, 401]
        assert lab.value("peer_pushes_received_total", result="refused") == 1
        file.unlink()
        await lab.clock.advance(RELOAD_S)
        assert [await push(lab, empty, token) for token in ("newer", "secret", "older")] == [204, 204, 401]
        assert lab.value("reload_failures_total", what="peer secrets") == 1
        assert "--peer-token-file" in lab.gateway.credential_problem()


@pytest.mark.parametrize("trouble", ["cut", "refused", "no-port"])
async def test_devices_of_a_replica_that_the_leader_does_not_hear_stay_connected(trouble: str) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first = await network.start("first", stack)
        for device in ("leaf-1", "leaf-2", "leaf-3"):
            await first.declare(device)
        async with AsyncExitStack() as short:
            second = await network.start("second", short)
            await beat(second, 90, "leaf-2", "leaf-3")
            network.cut, network.token = trouble == "cut", "wrong" if trouble == "refused" else "secret"
            if trouble == "no-port":
                del network.labs["first"]
            for _ in range(60):
                await first.client.post("/v1/devices/leaf-1/connect")
                await beat(second, 5, "leaf-2")
            assert lost(first, "leaf-1", "leaf-2", "leaf-3") == []
            assert first.value("devices_frozen") == 1
            assert first.value("arbiter") == 1
            assert sum(second.value("peer_pushes_total", result=result) for result in ("refused", "unreachable")) > 250
        await beat(first, 150, "leaf-1")
        assert first.value("devices_frozen") == 0
        assert lost(first, "leaf-1", "leaf-2", "leaf-3") == ["leaf-2", "leaf-3"]


async def test_devices_are_judged_again_once_the_leader_hears_all_replicas() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        for device in ("leaf-2", "leaf-3"):
            await first.declare(device)
        await beat(second, 90, "leaf-2", "leaf-3")
        network.token = "wrong"
        await beat(second, 120, "leaf-2")
        network.token = "secret"
        await beat(second, 60, "leaf-2")
        assert lost(first, "leaf-2", "leaf-3") == ["leaf-3"]


async def test_a_judge_that_lost_the_lease_tells_the_next_one_what_it_heard_while_it_judged() -> None:
    pushed: list[PeerPush] = []

    class Recording(PeerNetwork):
        async def push(self, address: str, heard: PeerPush) -> PushResult:
            pushed.append(heard)
            return await super().push(address, heard)

    network = Recording()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        for device in ("leaf-1", "leaf-2"):
            await first.declare(device)

        async def give(holder: str) -> None:
            taken = {"metadata": {"annotations": {PEER_ADDRESS_ANNOTATION: holder}}, "spec": {"holderIdentity": holder}}
            await network.kube.patch(LEASES, Key("lab", "praetor-gateway-arbiter"), taken)

        def deciding() -> set[str]:
            return {name for name, lab in network.labs.items() if lab.gateway._liveness.decides}

        await give("second")
        await beat(first, 60, "leaf-2")
        await give("first")
        await beat(first, 60, "leaf-1")
        assert deciding() == {"first"}
        pushed.clear()
        await give("second")
        await beat(first, 30)
        assert deciding() == {"second"}
        assert [each.ages.keys() for each in pushed if each.observer == "first" and each.ages] == [{"leaf-1"}]
        assert lost(second, "leaf-1") == []


async def test_a_replica_that_hears_no_device_keeps_no_silence_from_counting() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first = await network.start("first", stack)
        await network.start("second", stack)
        await first.declare("leaf-1")
        await beat(first, 90, "leaf-1")
        network.cut = True
        await beat(first, 120)
        assert lost(first, "leaf-1") == ["leaf-1"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--peer-bind-address", ":9"], "--peer-token-file"),
        (["--peer-token-file", "/dev/null"], "--peer-bind-address"),
        (["--peer-bind-address", ":9", "--peer-token-file", "/dev/null"], "is empty"),
    ],
)
def test_peers_need_a_secret(args: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.main, ["--insecure", *args])
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("address", [":9", "0.0.0.0:9"])
def test_peers_are_found_under_the_host_name(tmp_path: Path, address: str) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    args = ["--insecure", "--peer-bind-address", address, "--peer-token-file", str(path)]
    peers = cli.read_settings(cli.main.make_context("gateway", args).params).peers
    assert peers is not None
    assert peers.tokens == peers.read() == ("secret",)
    assert peers.advertise == f"{socket.gethostname()}:9"


async def test_nothing_is_kept_of_a_device_that_was_deleted_while_it_could_not_be_told() -> None:
    class DeletingNetwork(PeerNetwork):
        """Takes so long to fail that a device is deleted meanwhile."""

        async def push(self, address: str, heard: PeerPush) -> PushResult:
            if "leaf-1" in heard.ages:
                await self.kube.delete(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"))
                while other.gateway._fleet.device("leaf-1") is not None:  # noqa: ASYNC110  # nothing else says so
                    await asyncio.sleep(0)
                return PushResult.UNREACHABLE
            return await super().push(address, heard)

    network = DeletingNetwork()
    async with AsyncExitStack() as stack:
        first, other = await network.start("first", stack), await network.start("other", stack)
        await first.declare("leaf-1", switch=False)
        await first.declare("leaf-2", switch=False)
        for device in ("leaf-1", "leaf-2"):
            await other.client.post(f"/v1/devices/{device}/connect")
        network.cut = True
        await network.clock.advance(5)
        assert other.gateway._fleet.device("leaf-1") is None
        assert other.gateway._liveness.untold == {"leaf-2"}
