# SPDX-License-Identifier: Apache-2.0
"""What is checked of an agent, by playing its gateway. Each check has an agent, a gateway and a device of its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from itertools import pairwise
from typing import Any

from praetor_api.protocol import Observation
from praetor_api.wire import write
from praetor_controller.ctl.conformance.agent_lab import DEVICE, ENDS, STUBBORN, AgentLab, is_alive
from praetor_controller.ctl.conformance.checks import Check, expect
from praetor_controller.ctl.conformance.scripted import HEARTBEAT_S, Scripted
from praetor_controller.ctl.conformance.vectors import vectors

AgentCheck = Check[AgentLab]

RETRY_AFTER_S = 12
"""Long enough for a slow agent that does not wait to be seen earlier."""
REQUESTS_PER_S, BURST = 2, 20
WORDS = ("two words", "$HOME", "*", "'\"\\", "a\nb", "", "ü 😀", "-n")
"""Arguments that a shell would change."""
TOO_LATE = 8
"""Times the interval of heartbeats: an agent that keeps to its own default is later than that."""
NOTHING = json.dumps({"deviceName": DEVICE, "heartbeatIntervalSeconds": HEARTBEAT_S, "items": []}).encode()
"""A state that asks for no process."""
ROUNDING_S = 0.2
"""How much earlier than asked a request may be: of the clocks that an agent counts whole seconds by."""


def _running(lab: AgentLab, **item: Any) -> int:
    lab.gateway.desire(lab.item(**item))
    lab.start()
    pid = lab.started()
    lab.settled()
    return pid


def _latest(lab: AgentLab, holds: Callable[[Observation], object], what: str, name: str = "web") -> Observation:
    lab.until(lambda: any(map(holds, lab.gateway.observations(name))), what)
    return next(seen for seen in reversed(lab.gateway.observations(name)) if holds(seen))


def speaks(lab: AgentLab) -> None:
    _running(lab)
    expect(not lab.gateway.faults, "; ".join(lab.gateway.faults[:3]))


def sends_token(lab: AgentLab) -> None:
    lab.gateway.desire(lab.item())
    lab.start()
    for action in ("desired", "report"):
        lab.until(partial(_answered, lab, action), f"a {action}")
        refused = lab.gateway.of(action, HTTPStatus.UNAUTHORIZED)
        expect(not refused, f"a request ({action}) had no token, or another one")


def _answered(lab: AgentLab, action: str) -> bool:
    return any(each.status for each in lab.gateway.of(action))


def reads_token_again(lab: AgentLab) -> None:
    _running(lab)
    lab.gateway.token = "the-next-token"  # noqa: S105
    lab.until(lambda: lab.gateway.of("report", 401), "a report with the old token")
    lab.write_token(lab.gateway.token)
    lab.reported()


def sends_etag(lab: AgentLab) -> None:
    _running(lab)
    lab.until(lambda: len(lab.gateway.of("desired")) > 2, "a third poll")
    known = [each.headers.get("if-none-match") for each in lab.gateway.of("desired")]
    expect(known[0] is None, f"the first poll of an agent without a state has the ETag {known[0]}")
    expect(lab.gateway.etag in known, "If-None-Match never had the ETag of the answer")
    expect(len(lab.gateway.of("desired", 200)) == 1, "a state that did not change was fetched again")


def is_no_flood(lab: AgentLab) -> None:
    _running(lab)
    lab.reported(3)
    for action in ("desired", "report", "connect"):
        times = [each.at for each in lab.gateway.of(action)]
        for first, at in enumerate(times):
            sent = len(times) - first
            allowed = BURST + REQUESTS_PER_S * (times[-1] - at)
            expect(sent <= allowed, f"{sent} requests to {action} within {times[-1] - at:.1f} s")


def runs_as_it_is(lab: AgentLab) -> None:
    pid = _running(lab, args=WORDS)
    given = lab.words("args", pid)
    expect(given == list(WORDS), f"the arguments are {given}")


def gives_its_world(lab: AgentLab) -> None:
    env = [{"name": "WORD", "value": "it's $HOME"}]
    pid = _running(lab, execution={"env": env, "workingDir": "/usr"})
    given = lab.words("world", pid)
    expect(given == ["it's $HOME", "/usr"], f"the variable and the directory are {given}")


def reports_what_runs(lab: AgentLab) -> None:
    item = lab.item()
    pid = _running(lab)
    seen = _latest(lab, lambda seen: seen.process_started and seen.healthy, "a healthy observation")
    expect(seen.pid == pid, f"pid is {seen.pid}, and the process is {pid}")
    expect((seen.namespace, seen.uid) in (("net", item["uid"]), ("", item["uid"]), ("net", "")), "it has another uid")


def echoes_the_hash(lab: AgentLab) -> None:
    item = {**lab.item(), "specHash": "any text, even one that is no hash"}
    lab.gateway.desire(item)
    lab.start()
    seen = _latest(lab, lambda seen: seen.process_started, "an observation of the process")
    expect(seen.observed_spec_hash == item["specHash"], f"observedSpecHash is {seen.observed_spec_hash!r}")


def reports_in_time(lab: AgentLab) -> None:
    _running(lab)
    lab.reported(4)
    times = [each.at for each in lab.gateway.of("report")][-4:]
    shortest = min(later - earlier for earlier, later in pairwise(times))
    expect(
        shortest < TOO_LATE * HEARTBEAT_S, f"a heartbeat is due each second, and the next came after {shortest:.1f} s"
    )


def is_heard_in_time(lab: AgentLab) -> None:
    lab.gateway.quiet = True
    lab.gateway.desire(lab.item())
    lab.start()
    lab.started()
    _latest(lab, lambda seen: seen.healthy, "a healthy observation")
    before = len(_heard(lab))
    lab.until(lambda: len(_heard(lab)) >= before + 4, "4 more reports, or polls with a new Praetor-Poll")
    shortest = min(later - earlier for earlier, later in pairwise(_heard(lab)[-4:]))
    expect(shortest < TOO_LATE * HEARTBEAT_S, f"it is heard each {shortest:.1f} s, and the interval is {HEARTBEAT_S} s")
    seen = len(lab.gateway.observations("web"))
    lab.gateway.resync = True
    lab.until(lambda: len(lab.gateway.observations("web")) > seen, "a report of everything after a resync")


def _heard(lab: AgentLab) -> list[float]:
    """Return when the device was heard: by reports, and by polls whose number is new."""
    polls = {each.headers.get("praetor-poll"): each.at for each in reversed(lab.gateway.of("desired"))}
    polls.pop(None, None)
    return sorted([*polls.values(), *(each.at for each in lab.gateway.of("report"))])


def reports_changes_only(lab: AgentLab) -> None:
    _running(lab)
    _latest(lab, lambda seen: seen.healthy, "a healthy observation")
    lab.reported(2)
    before = len(lab.gateway.reports)
    lab.reported(3)
    # a process that has run for a while may be proven meanwhile, which is a change
    reports = list(lab.gateway.reports)
    told = [replace(seen, revision=None) for _, found in reports for seen in found]
    pairs, late = list(pairwise(told)), sum(len(found) for _, found in reports[before:])
    again = [now for last, now in pairs[len(pairs) - late :] if now == last]
    expect(not again, "an observation that did not change was reported again")
    lab.gateway.resync = True
    before = len(lab.gateway.reports)
    lab.until(lambda: any(found for _, found in lab.gateway.reports[before:]), "a whole report after resync")


def sends_lost_again(lab: AgentLab) -> None:
    lab.gateway.script("report", *[Scripted(status=200, body=b'{"ack": false}')] * 3)
    _running(lab)
    _latest(lab, lambda seen: seen.process_started, "an observation after three reports with ack: false")


def counts_reports(lab: AgentLab) -> None:
    _running(lab)
    lab.restart()
    lab.reported(2)
    reports = [report for report, _ in lab.gateway.reports]
    numbers = [report.seq for report in reports if report.seq is not None]
    expect(numbers == sorted(set(numbers)), f"seq is not higher each time: {numbers[-4:]}")
    expect(len({report.boot_id for report in reports}) == 1, "bootID changed without a boot")


def follows_a_change(lab: AgentLab) -> None:
    old = _running(lab)
    item = lab.item(version=2)
    lab.gateway.desire(item)
    lab.started(2)
    expect(not is_alive(old), "the old process was still there when the new one started")
    _latest(lab, lambda seen: seen.observed_spec_hash == item["specHash"], "an observation with the new hash")


def keeps_the_same(lab: AgentLab) -> None:
    pid = _running(lab)
    lab.gateway.desire({**lab.item(), "generation": 7}, lab.item("other"))
    lab.started(name="other")
    lab.settled()
    lab.keeps(pid, "as another process came")


def stops_what_is_gone(lab: AgentLab) -> None:
    pid = _running(lab)
    lab.gateway.desire()
    lab.until(lambda: not is_alive(pid), "the end of a process that is not in the list")
    lab.settled()
    expect(lab.pids() == [pid], "a process that is not in the list was started again")


def outlives_restarts(lab: AgentLab) -> None:
    pid = _running(lab)
    for number in (signal.SIGTERM, signal.SIGKILL):
        lab.restart(number)
        lab.settled()
        lab.keeps(pid, f"as the agent was restarted by {number.name}")


def starts_without_gateway(lab: AgentLab) -> None:
    pid = _running(lab)
    lab.gateway.leave(away=True)
    lab.restart(signal.SIGKILL)
    lab.stop(signal.SIGTERM)
    lab.start()
    lab.gateway.leave(away=False)
    lab.settled()
    lab.keeps(pid, "as the agent started without a gateway")


def outlives_the_gateway(lab: AgentLab) -> None:
    pid = _running(lab)
    lab.gateway.leave(away=True)
    lab.gateway.wait(lambda: False, 3 * HEARTBEAT_S)
    lab.keeps(pid, "while the gateway was away")
    lab.gateway.leave(away=False)
    lab.reported(2)
    lab.gateway.desire(lab.item(), lab.item("other"))
    lab.started(name="other")
    lab.keeps(pid, "after the gateway was away")


def keeps_when_refused(lab: AgentLab) -> None:
    pid = _running(lab)
    for status in (401, 409, 500):
        for action in ("desired", "report"):
            lab.gateway.script(action, Scripted(status=status, body=NOTHING, headers={"ETag": '"none"'}))
    lab.until(
        lambda: not (lab.gateway.scripted("desired") or lab.gateway.scripted("report")), "an answer to each request"
    )
    lab.settled()
    lab.keeps(pid, "as requests were refused")


def waits(lab: AgentLab) -> None:
    _running(lab)
    for action, status in (("report", 429), ("desired", 503)):
        lab.gateway.script(action, Scripted(status=status, headers={"Retry-After": str(RETRY_AFTER_S)}))
        lab.until(partial(lab.gateway.of, action, status), f"a {action}")
    for action, status in (("report", 429), ("desired", 503)):
        refused = lab.gateway.of(action, status)[0]

        def later(action: str = action, at: float = refused.at) -> list[float]:
            return [each.at - at for each in lab.gateway.of(action) if each.at > at]

        lab.until(later, f"a {action} after the {status}")
        expect(
            later()[0] >= RETRY_AFTER_S - ROUNDING_S,
            f"Retry-After was {RETRY_AFTER_S} s after a {status}, and the next {action} came after {later()[0]:.1f} s",
        )


def _unusable(lab: AgentLab, *names: str) -> None:
    """Send the desired states of the vectors that are not usable, those with *names*."""
    pid = _running(lab)
    for each in vectors("desired"):
        if each["name"] in names:
            unusable = Scripted(status=200, body=each["body"].encode(), headers={"ETag": '"0f"'})
            lab.gateway.script("desired", unusable, Scripted(status=304, body=b"", headers={"ETag": lab.gateway.etag}))
            lab.until(lambda: not lab.gateway.scripted("desired"), f"a poll after {each['name']}")
            lab.keeps(pid, f"after {each['name']} instead of a desired state")
    lab.gateway.desire(lab.item(), lab.item("other"))
    lab.started(name="other")
    lab.settled()
    lab.keeps(pid, "after such an answer")


def runs_vectors(lab: AgentLab) -> None:
    lab.start()
    for each in vectors("desired"):
        if each["usable"]:
            text = each["body"].replace('"backend": "process"', f'"backend": "{lab.under_test.backend}"')
            lab.gateway.serve(text.replace('"backend":"process"', f'"backend":"{lab.under_test.backend}"').encode())
            for wanted in each["observations"]:
                lab.until(partial(_observed, lab, wanted), f"of {each['name']}: an observation with {wanted}")
            lab.settled()
    expect(not lab.gateway.faults, "; ".join(lab.gateway.faults[:3]))


def _observed(lab: AgentLab, wanted: Mapping[str, Any]) -> bool:
    return any(wanted.items() <= write(seen).items() for seen in lab.gateway.observations(wanted["name"])[-1:])


def refuses_others(lab: AgentLab) -> None:
    _unusable(lab, "another device")


def refuses_garbage(lab: AgentLab) -> None:
    _unusable(lab, "cut off", "followed by something", "a line break in a text", "a page of a proxy")


def refuses_no_items(lab: AgentLab) -> None:
    _unusable(lab, "no items", "items that are no list")


def keeps_what_needs_more(lab: AgentLab) -> None:
    pid = _running(lab)
    lacking = {"generation": 3, "features": ["conformance.v9"], "namespace": "net"}
    lab.gateway.desire({"uid": "uid-web", "name": "web", **lacking}, {"uid": "uid-x", "name": "x", **lacking})
    lab.settled()
    lab.keeps(pid, "as its item came without a spec")


def starts_again(lab: AgentLab) -> None:
    first = _running(lab, then=ENDS)
    (lab.place / "web" / "end").touch()
    lab.started(2)
    (lab.place / "web" / "end").unlink()
    _latest(lab, lambda seen: seen.restart_count > 0, "a restartCount above 0")
    expect(not is_alive(first), "the first process still runs")


def runs_once(lab: AgentLab) -> None:
    lab.gateway.desire(lab.item(then=ENDS, restartPolicy="Never"))
    lab.start()
    lab.started()
    (lab.place / "web" / "end").touch()
    seen = _latest(lab, lambda seen: seen.exit_code is not None, "an exitCode")
    expect(seen.exit_code == 7, f"exitCode is {seen.exit_code} instead of 7")
    expect(seen.pid is None, "it has ended and has a pid")
    lab.restart()
    lab.settled()
    expect(len(lab.pids()) == 1, "a job that ended ran again after the agent was restarted")


def ends_by_force(lab: AgentLab) -> None:
    pid = _running(lab, then=STUBBORN, execution={"terminationGracePeriodSeconds": 1})
    lab.gateway.desire()
    lab.until(lambda: not is_alive(pid), "the end of a process that ignores SIGTERM")


_TABLE: Sequence[tuple[str, str, Callable[[AgentLab], None]]] = (
    ("speak", "JSON over HTTP/1.1 between an agent and a gateway.", speaks),
    ("token", "Every request carries the device's token in X-Device-Token", sends_token),
    ("token-again", "read the token again, with a backoff", reads_token_again),
    ("etag", "A poll has the ETag of the state that the agent has.", sends_etag),
    ("flood", "to one endpoint 2 a second (--device-rate), 20 at once", is_no_flood),
    ("start", "What is in the list runs; no shell reads its arguments.", runs_as_it_is),
    ("world", "It gets env and starts in workingDir.", gives_its_world),
    ("vectors", "A desired state of the vectors is reported as they say.", runs_vectors),
    ("observe", "An observation says processStarted, healthy and pid.", reports_what_runs),
    ("hash", "computed by the gateway, and an agent only ever echoes it", echoes_the_hash),
    ("heartbeat", "heartbeatIntervalSeconds says when the next heartbeat is due", reports_in_time),
    ("heard", "a device is heard at least once in an interval", is_heard_in_time),
    ("changes", "carries observations and facts only when they changed", reports_changes_only),
    ("ack", "With ack: false it counts as lost", sends_lost_again),
    ("seq", "Both seq and revision grow over restarts of the agent.", counts_reports),
    ("change", "With another specHash the old process ends, then one starts.", follows_a_change),
    ("same", "With the same specHash nothing is restarted.", keeps_the_same),
    ("gone", "A process that is not in the list must not run.", stops_what_is_gone),
    ("restart", "A restart of the agent does not touch what runs", outlives_restarts),
    ("alone", "not touch what runs, also without a gateway.", starts_without_gateway),
    ("away", "While the gateway is away, everything goes on.", outlives_the_gateway),
    ("refused", "Only a 200 changes what runs.", keeps_when_refused),
    ("wait", "After a 429 or 503 the next request waits for Retry-After.", waits),
    ("other", "an answer that names another device as an error", refuses_others),
    ("garbage", "An answer that cannot be read whole is one, too.", refuses_garbage),
    ("items", "An answer that cannot be read whole is one, too.", refuses_no_items),
    ("features", "the device keeps what it has of that process", keeps_what_needs_more),
    ("again", "What ended starts again, by restartPolicy; restartCount grows.", starts_again),
    ("once", "A process that ran to completion has exitCode and no pid.", runs_once),
    ("force", "SIGTERM comes first, SIGKILL when the grace period is over.", ends_by_force),
)
AGENT_CHECKS: Sequence[AgentCheck] = tuple(Check(*row) for row in _TABLE)
