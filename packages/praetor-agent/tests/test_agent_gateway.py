# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_testing import FakeGateway, Fault, http_server, item, process_spec, respond, until
from praetor_agent.clock import SystemClock, Waker
from praetor_agent.core.model import ObservedDevice
from praetor_agent.errors import GatewayError
from praetor_agent.link.client import MAX_RETRY_AFTER_SECONDS, Address, GatewayClient, PollAnswer, token_file
from praetor_agent.link.poller import Heartbeats, Inbox, Poller
from praetor_agent.link.reporter import Reporter
from praetor_agent.state import Received
from praetor_api.protocol import Observation, Report, ReportAck

ITEM = item("a", process_spec("sleep", "1"))


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t") as gateway:
        gateway.desire(ITEM)
        yield gateway


def client(url: str, token: str | None = "t") -> GatewayClient:  # noqa: S107
    return GatewayClient(Address(url=url, device="leaf-1", token=lambda: token))


class Loud:
    """Reports as if polls were no heartbeats."""

    def heartbeats(self) -> Heartbeats:
        return Heartbeats()

    def polled(self, answer: PollAnswer) -> None:
        pass


def test_the_desired_state_comes_with_its_etag_and_is_not_sent_twice(gateway: FakeGateway) -> None:
    asking = client(gateway.url)
    received = asking.desired(None)
    assert received is not None
    assert (received.etag, received.desired.items[0].name) == (gateway.etag, "a")
    assert asking.desired(received.etag) is None


def test_a_report_is_answered(gateway: FakeGateway) -> None:
    ack = client(gateway.url).report(Report(agent_version="1", observations=(Observation(name="a", pid=7),)))
    assert ack == ReportAck(ack=True, desired_etag=gateway.etag)
    assert gateway.observations["a"].pid == 7


def test_an_answer_that_was_cut_off_is_an_error_even_if_what_came_can_be_read() -> None:
    cut = respond(200, b'{"deviceName": "leaf-1", "items": []}', {"Content-Length": "1000"})
    with http_server(cut) as host, pytest.raises(GatewayError, match="cannot reach the gateway"):
        client(f"http://{host}").desired(None)


def test_a_wrong_token_is_distinguished(gateway: FakeGateway) -> None:
    with pytest.raises(GatewayError, match="401") as caught:
        client(gateway.url, "wrong").desired(None)
    assert caught.value.unauthorized


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [(429, "7", 7), (503, "0", 0), (503, "999999", MAX_RETRY_AFTER_SECONDS), (500, "7", None),
     (503, "Wed, 21 Oct 2026 07:28:00 GMT", None), (503, "-1", None)],
)  # fmt: skip
def test_patience_is_as_long_as_the_gateway_asks(
    gateway: FakeGateway, status: int, header: str, seconds: float | None
) -> None:
    gateway.fail(Fault(path="/connect", status=status, headers={"Retry-After": header}))
    with pytest.raises(GatewayError, match=str(status)) as caught:
        client(gateway.url).connect()
    assert caught.value.retry_after == seconds


OTHER = json.dumps({"deviceName": "leaf-2", "items": [ITEM]}).encode()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Fault(path="/desired", status=200, body=b"<html>"), "the gateway's answer is", id="no JSON"),
        pytest.param(Fault(path="/desired", status=200, body=b'{"items": 3}'), "cannot be read", id="no list"),
        pytest.param(Fault(path="/desired", status=200, body=OTHER), "'leaf-2'", id="another device"),
        pytest.param(Fault(path="/desired", status=302, headers={"Location": "http://x/"}), "302", id="redirect"),
        pytest.param(Fault(path="/desired", status=404), "404", id="missing"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_and_no_desired_state(
    gateway: FakeGateway, fault: Fault, words: str
) -> None:
    gateway.fail(fault)
    with pytest.raises(GatewayError, match=words):
        client(gateway.url).desired(None)


@pytest.mark.parametrize(("body", "words"), [(b'{"ack": "maybe"}', "ack"), (b'{"ack": false}', "did not accept")])
def test_an_ack_that_makes_no_sense_or_rejects_the_report_is_an_error(
    gateway: FakeGateway, body: bytes, words: str
) -> None:
    gateway.fail(Fault(path="/report", status=200, body=body))
    with pytest.raises(GatewayError, match=words):
        client(gateway.url).report(Report())


def test_an_unreachable_gateway_is_reported_in_a_few_words() -> None:
    with pytest.raises(GatewayError) as caught:
        client("http://127.0.0.1:1").connect()
    assert str(caught.value) == "cannot reach the gateway at http://127.0.0.1:1: Connection refused"


@pytest.mark.parametrize("url", ["https://a..b", f"https://{'a' * 64}.b", "http://[x"])
def test_an_invalid_gateway_name_is_an_error_like_an_unreachable_gateway(url: str) -> None:
    with pytest.raises(GatewayError, match="cannot reach the gateway at http") as caught:
        client(url).connect()
    assert "\n" not in str(caught.value)


def test_the_token_file_is_read_afresh(gateway: FakeGateway, tmp_path: Path) -> None:
    token = token_file(tmp_path / "token")
    with pytest.raises(GatewayError, match="token file"):
        token()
    (tmp_path / "token").write_text("t\n")
    assert token() == "t"
    (tmp_path / "token").write_text("u\n")
    assert token() == "u"


def client_body() -> Received:
    with FakeGateway() as gateway:
        gateway.desire(ITEM)
        found = client(gateway.url, None).desired(None)
    assert found is not None
    return found


def test_the_inbox_wakes_for_what_is_new_only() -> None:
    woken: list[int] = []
    inbox = Inbox(lambda: woken.append(1))
    one = client_body()
    assert inbox.etag() is None
    assert inbox.put(one)
    assert not inbox.put(one)
    assert inbox.put(Received(etag='"other"', body=one.body, desired=one.desired))
    assert len(woken) == 2
    assert inbox.etag() == '"other"'


def test_the_poller_brings_a_change_at_once_and_after_an_outage(gateway: FakeGateway) -> None:
    inbox = Inbox(lambda: None)
    gateway.fail(Fault(path="/connect", status=500), Fault(path="/desired", status=500))
    poller = Poller(client(gateway.url), inbox, SystemClock(), Loud())
    poller.start()
    until(lambda: inbox.etag() == gateway.etag, "the first state")
    gateway.desire(item("b", process_spec("sleep", "2")))
    until(lambda: inbox.etag() == gateway.etag, "the second state")
    poller.stop()


def test_a_nudge_ends_the_pause_of_the_poller(gateway: FakeGateway) -> None:
    inbox = Inbox(lambda: None)
    gateway.fail(Fault(path="/desired", status=503, headers={"Retry-After": "300"}))
    poller = Poller(client(gateway.url), inbox, SystemClock(), Loud())
    poller.start()
    gateway.wait_for(lambda: any(path.endswith("/desired") for _, path, _ in gateway.requests), "the refused poll")

    def nudged() -> bool:
        poller.nudge()
        return inbox.etag() == gateway.etag

    until(nudged, "the state")
    poller.stop()


def test_a_gateway_that_does_not_hold_polls_is_not_asked_in_a_loop(gateway: FakeGateway) -> None:
    inbox = Inbox(lambda: None)
    gateway.fail(*[Fault(path="/desired", status=304) for _ in range(50)])
    poller = Poller(client(gateway.url), inbox, SystemClock(), Loud())
    poller.start()
    gateway.wait_for(lambda: any(method == "GET" for method, _, _ in gateway.requests), "the first poll")
    client(gateway.url).connect()
    client(gateway.url).connect()
    assert len([1 for method, _, _ in gateway.requests if method == "GET"]) == 1
    poller.stop()


def test_the_waker_wakes_for_a_wake_up_and_for_the_end_of_a_process() -> None:
    import subprocess

    waker, clock = Waker(), SystemClock()
    waker.wake()
    waker.wait(30)
    began = clock.now()
    process = subprocess.Popen(["/bin/sleep", "1000"])
    waker.wait(0, [process.pid])
    process.kill()
    waker.wait(30, [process.pid])
    assert clock.now() - began < 25
    process.wait()
    waker.wait(0, [process.pid])  # it is gone: no descriptor can be had
    waker.close()


def test_a_note_ends_a_wait_and_is_no_wake_up() -> None:
    waker = Waker()
    waker.note()
    waker.note()
    assert not waker.wait(30)
    waker.note()
    waker.wake()
    assert waker.wait(30)
    assert waker.wait(0)
    waker.close()


def test_a_report_causes_a_pass_only_if_a_change_waits_for_an_exchange(gateway: FakeGateway) -> None:
    causes: list[str] = []
    wake, note = lambda: causes.append("wake"), lambda: causes.append("note")
    identity = Report(agent_version="1", boot_id="b")
    sender, inbox = client(gateway.url), Inbox(lambda: None)
    reporter = Reporter(sender, inbox, SystemClock(), identity, lambda: None, dict, wake, note=note)
    device = ObservedDevice(boot_id="b")
    reporter.offer(None, {}, device, {}, 0.0)
    reporter.step()
    reporter.offer(None, {}, device, {}, 0.0, ask_at=0.0)
    reporter.step()
    assert causes == ["note", "wake"]
    sender.close()
