# SPDX-License-Identifier: Apache-2.0
"""Requirements on facts: compared as versions, and a device that does not meet them keeps what it has, at no cost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from controller_testing import START, deployment, device, process, snapshot, stored, template
from ctl_testing import NEW, OLD, Lab, connected
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import FactRequirement, FailureAction, FailurePolicy, StrategyType, Wave
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.projection import project_deployment, project_device
from praetor_controller.model.requirements import NO_FACTS, unmet, version_key
from praetor_controller.model.rows import DeviceRow, ProcessRow, StoredStatus
from praetor_controller.reconcile.controller import Impact, device_impact
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.incremental import IncrementalAggregate
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Moment, Plan, Snapshot

AT = START.timestamp()
RISING = [
    ["", ".", " - "],
    ["12~rc1"],
    ["12~rc2", "12.0~rc2"],
    ["12", "v12", "V12", "12.0", "12.0.0", "012"],
    ["12-a"],
    ["12-b"],
    ["12.0.1"],
    ["12.1", "12-1", "12 1", "12.01"],
    ["12.1.0-3", "12.1-0-3"],
    ["12.1-18-amd64"],
    ["12.10"],
    ["1" + 300 * "0"],
]
"""Texts in their order as versions; those of one list are equal."""
_NASTY = st.text(alphabet="019vV.~-_ aZ²٣é\0", max_size=12)


def test_versions_are_compared_by_their_numbers() -> None:
    keys = [[version_key(text) for text in texts] for texts in RISING]
    assert all(len(set(equal)) == 1 for equal in keys), keys
    firsts = [equal[0] for equal in keys]
    assert firsts == sorted(firsts)
    assert len(set(firsts)) == len(firsts)
    assert version_key("latest") < version_key("1") < version_key("10") > version_key("9")


@given(_NASTY, _NASTY, _NASTY)
def test_every_text_has_its_place_in_one_order(one: str, two: str, three: str) -> None:
    a, b, c = map(version_key, (one, two, three))
    assert (a < b) + (a == b) + (a > b) == 1
    assert not a <= b <= c or a <= c
    assert version_key(one) == a


_NUMBERS = st.lists(st.integers(0, 10**30), min_size=1, max_size=5)


@given(_NUMBERS, _NUMBERS)
def test_numbers_with_dots_are_ordered_as_the_lists_of_their_numbers(one: list[int], two: list[int]) -> None:
    size = max(len(one), len(two))
    padded = [each + [0] * (size - len(each)) for each in (one, two)]
    keys = [version_key(".".join(map(str, each))) for each in (one, two)]
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (padded[0] < padded[1], padded[0] == padded[1])


def need(fact: str, operator: str, *values: str) -> dict[str, Any]:
    return {"fact": fact, "operator": operator} | ({"values": list(values)} if values else {})


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (need("os.version", "Ge", "12"), "os.version 11.7 < 12"),
        (need("os.version", "Ge", "11.7.0"), ""),
        (need("os.version", "Gt", "11.7"), "os.version 11.7 <= 11.7"),
        (need("os.version", "Gt", "11.6"), ""),
        (need("os.version", "Le", "11.7"), ""),
        (need("os.version", "Le", "11.6"), "os.version 11.7 > 11.6"),
        (need("os.version", "Lt", "11.7"), "os.version 11.7 >= 11.7"),
        (need("os.version", "Lt", "11.10"), ""),
        (need("os.version", "In", "9", "11.07"), ""),
        (need("os.version", "In", "9", "10"), "os.version 11.7 is not in 9, 10"),
        (need("os.version", "NotIn", "9", "11.7"), "os.version 11.7 is in 9, 11.7"),
        (need("os.version", "NotIn", "9"), ""),
        (need("os.version", "Exists"), ""),
        (need("os.version", "DoesNotExist"), "os.version is reported"),
        (need("gpu", "Exists"), "gpu is not reported"),
        (need("gpu", "DoesNotExist"), ""),
        (need("gpu", "NotIn", "a"), ""),
        (need("gpu", "In", "a"), "gpu is not reported"),
        (need("gpu", "Ge", "1"), "gpu is not reported"),
        (need("os", "Ge", "1"), "os Debian is no version"),
    ],
)
def test_a_requirement_says_what_does_not_meet_it(wanted: dict[str, Any], why: str) -> None:
    requirements = row_of(wanted).policy.requirements
    facts = {"os.version": "11.7", "os": "Debian"}
    assert unmet(requirements, facts) == why
    assert unmet(requirements, None) == NO_FACTS
    assert unmet((), None) == ""


def test_all_requirements_must_be_met_and_nothing_that_a_device_says_breaks_the_text() -> None:
    row = row_of(need("os", "Exists"), need("os", "In", "x"))
    assert unmet(row.policy.requirements, {"os": "a\n\x1b[31m" + 200 * "b"}).startswith("os a")
    assert "\n" not in (why := unmet(row.policy.requirements, {"os": "a\n\x1b[31m" + 200 * "b"}))
    assert "\x1b" not in why
    assert len(why) < 100


def row_of(*requirements: dict[str, Any], **metadata: Any) -> Any:
    spec = {"selector": {}, "template": {"spec": OLD}, "requirements": list(requirements)}
    return project_deployment({"metadata": {"name": "tel", "namespace": "lab"} | metadata, "spec": spec})


BAD = [
    (need("os.version", "Gt", "11", "12"), "compare with one version: write exactly one value", "write one value"),
    (need("os.version", "Le"), "compare with one version: write exactly one value", "write one value"),
    (need("os.version", "Ge", "new"), "write one that begins with a digit, such as 12", "'new' is no version"),
    (need("os.version", "Exists", "1"), "take no values: remove them", "takes no values; remove them"),
    (need("os.version", "DoesNotExist", "1"), "take no values: remove them", "takes no values; remove them"),
    (need("os.version", "In"), "need values: write at least one", "needs values; write at least one"),
    (need("os.version", "NotIn"), "need values: write at least one", "needs values; write at least one"),
    (need("-", "Exists"), "spec.requirements", "'-' names no fact; write one such as os.version"),
    (need("os.version", "Near", "1"), "supported values", "spec.requirements[0].operator"),
]


@pytest.mark.parametrize(("wanted", "by_the_api", "by_the_controller"), BAD)
def test_what_cannot_be_meant_is_refused_with_what_to_write(
    wanted: dict[str, Any], by_the_api: str, by_the_controller: str
) -> None:
    """By the API, and by the controller, for an API that knows no CEL."""
    assert by_the_controller in row_of(wanted).fault
    spec = {"selector": {}, "template": {"spec": OLD}, "requirements": [wanted]}
    with pytest.raises(Exception, match="requirements") as refused:
        Lab().deployment("tel", spec=spec)
    assert by_the_api in str(refused.value)


REQUIREMENTS = (FactRequirement(fact="os.version", operator="Ge", values=("12",)),)  # type: ignore[arg-type]
WHY = "os.version 11 < 12"
UNMET = Reason(ReasonCode.REQUIREMENT_NOT_MET, WHY)
UNREADY: dict[str, Any] = {"ready_since": None, "settled_since": None, "observed": True}


def old(name: str, **fields: Any) -> DeviceRow:
    return device(name, **{"unmet": WHY} | fields)


def given_fleet(devices: list[DeviceRow], processes: list[ProcessRow], **fields: Any) -> Snapshot:
    more = {name: fields.pop(name) for name in ("current", "in_flight") if name in fields}
    row = deployment("v2", requirements=REQUIREMENTS, **{"max_unavailable": 1} | fields)
    return snapshot(row, devices, processes, **more)


def given_plan(devices: list[DeviceRow], processes: list[ProcessRow], after_s: float = 0, **fields: Any) -> Plan:
    return plan(given_fleet(devices, processes, **fields), START + timedelta(seconds=after_s))


def written(made: Plan) -> list[str]:
    return [
        each.device if isinstance(each, Create) else each.process.device
        for each in made.actions
        if isinstance(each, Create | Update)
    ]


def said(made: Plan, kind: str) -> tuple[str, str]:
    assert made.status is not None
    found = get_condition(made.status.conditions, kind)
    assert found is not None
    return str(found.reason), found.message


@pytest.mark.parametrize("strategy", StrategyType)
def test_a_device_that_does_not_meet_them_keeps_what_it_has_at_no_cost(strategy: StrategyType) -> None:
    devices = [old("a"), old("b"), device("c"), device("d")]
    made = given_plan(devices, [process("a"), process("c")], strategy=strategy)
    assert str(made.reasons["b"]) == "RequirementNotMet(os.version 11 < 12)"
    on_delete = strategy is StrategyType.ON_DELETE
    assert made.reasons["a"] == (Reason(ReasonCode.WAITING_FOR_DELETION) if on_delete else UNMET)
    assert sorted(written(made)) == (["d"] if on_delete else ["c", "d"])


def test_the_reason_says_that_no_facts_are_reported() -> None:
    made = given_plan([old("a", unmet=NO_FACTS), old("b", unmet=NO_FACTS)], [process("a")])
    assert set(made.reasons.values()) == {Reason(ReasonCode.FACTS_NOT_REPORTED)}
    assert made.actions == ()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"paused": True}, ReasonCode.PAUSED),
        ({"waves": (Wave(name="none", limit=1),)}, ReasonCode.REQUIREMENT_NOT_MET),
        ({"current": template("v1")}, ReasonCode.REQUIREMENT_NOT_MET),
    ],
)
def test_what_keeps_every_device_from_changes_is_named_first(fields: dict[str, Any], code: ReasonCode) -> None:
    made = given_plan([old("a"), old("b"), device("c")], [process("a"), process("c", "v2")], **fields)
    assert {made.reasons["a"].code, made.reasons["b"].code} == {code}
    assert made.actions == ()


def test_a_device_that_has_the_target_keeps_it_and_counts() -> None:
    made = given_plan([old("a"), device("b")], [process("a", "v2"), process("b", "v2")])
    assert {each.code for each in made.reasons.values()} == {ReasonCode.UP_TO_DATE}
    assert said(made, "Progressing")[0] == "NewRevisionRolledOut"
    failing = given_plan([old("a")], [process("a", "v2", failure="exit 1", **UNREADY)])
    assert failing.reasons["a"].code is ReasonCode.FAILING


def test_a_device_that_a_write_took_down_holds_its_place_until_the_deadline() -> None:
    rows = [process("a", offered_at=AT, **UNREADY), process("b")]
    made = given_plan([old("a"), device("b")], rows, after_s=1)
    assert (made.reasons["a"], written(made)) == (UNMET, [])
    later = given_plan([old("a"), device("b")], rows, after_s=601)
    assert (later.reasons["a"], written(later)) == (UNMET, ["b"])


def test_devices_without_a_process_that_are_left_out_are_not_desired() -> None:
    devices = [*(old(f"o{number}") for number in range(90)), *(device(f"d{number}") for number in range(10))]
    processes = [process("o0"), *(process(f"d{number}", "v2") for number in range(10))]
    made = given_plan(devices, processes)
    assert made.status is not None
    counts = made.status.counts
    assert (counts.desired, counts.current, counts.updated, counts.available, counts.unavailable) == (11, 11, 10, 11, 0)
    assert made.status.reasons == {ReasonCode.UP_TO_DATE: 10, ReasonCode.REQUIREMENT_NOT_MET: 90}
    assert said(made, "Available")[0] == "MinimumDevicesAvailable"
    assert said(made, "Progressing")[0] == "NewRevisionRolledOut"


def test_percentages_are_of_the_devices_that_are_to_have_a_process() -> None:
    devices = [*(old(f"o{number}") for number in range(90)), *(device(f"d{number}") for number in range(10))]
    processes = [process(f"d{number}") for number in range(10)]
    made = given_plan(devices, processes, max_unavailable="10%")
    assert written(made) == ["d0"]
    canary = (Wave(name="canary", limit="10%"),)
    made = given_plan(devices, processes, max_unavailable=50, waves=canary, current=template("v1"))
    assert written(made) == ["d0"]
    failed = process("d0", "v2", failure="exit 1", **UNREADY)
    policy = FailurePolicy(max_failures="5%", action=FailureAction.PAUSE)
    more = process("d1", "v2", failure="exit 1", **UNREADY)
    made = given_plan(devices, [failed, more, *processes[2:]], failure_policy=policy, current=template("v1"))
    assert said(made, "Progressing")[0] == "FailurePolicy"


def test_a_fleet_that_is_left_out_whole_says_so() -> None:
    made = given_plan([old("a"), old("b")], [])
    assert made.status is not None
    assert made.status.current_revision is None
    assert said(made, "Available") == ("NoDevices", "no device that matches meets spec.requirements")
    reason, message = said(made, "Progressing")
    assert reason == "NoDevices"
    assert "correct them, or see: praetorctl explain" in message
    kept = given_plan([old("a")], [process("a")], after_s=601)
    assert said(kept, "Progressing")[0] == "ProgressDeadlineExceeded"
    assert said(kept, "Available")[0] == "MinimumDevicesAvailable"


def test_a_wave_waits_for_those_alone_that_can_have_it() -> None:
    waves = (Wave(name="canary", limit=2),)
    devices = [old("a"), device("b"), device("c"), device("d")]
    processes = [process(each.name) for each in devices]
    made = given_plan(devices, processes, waves=waves, current=template("v1"), max_unavailable=4)
    assert written(made) == ["b", "c"]
    done = [process(name, "v2", wave="canary", offered_at=AT, ready_since=AT) for name in ("b", "c")]
    made = given_plan(devices, [processes[0], *done, processes[3]], waves=waves, current=template("v1"))
    assert (written(made), made.reasons["a"]) == (["d"], UNMET)


@pytest.mark.parametrize("limit", [None, 1, "50%"])
def test_a_wave_in_which_no_device_meets_them_is_not_passed(limit: int | str | None) -> None:
    ring = (Wave(name="canary", selector=selector("canary"), limit=limit),)
    devices = [old("a", labels={"ring": "canary"}), device("b")]
    made = given_plan(devices, [process("a"), process("b")], waves=ring, current=template("v1"))
    assert made.reasons["b"] == Reason(ReasonCode.WAVE_HAS_NO_ELIGIBLE_DEVICE, "canary")
    assert made.actions == ()


def selector(ring: str) -> Any:
    return project_deployment(
        {"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"ring": ring}}, "template": {"spec": OLD}}}
    ).policy.selector


def test_a_silent_device_that_is_left_out_holds_no_wave() -> None:
    waves = (Wave(name="canary", limit=2),)
    gone = process("a", connected=False, silent_since=AT - 60, fetched=True, offered_at=AT - 60, **UNREADY)
    done = process("b", "v2", wave="canary", offered_at=AT, ready_since=AT)
    devices = [old("a"), device("b"), device("c")]
    made = given_plan(devices, [gone, done, process("c")], waves=waves, current=template("v1"), max_unavailable=3)
    assert written(made) == ["c"]


def test_a_first_rollout_waits_for_devices_whose_facts_may_be_on_their_way() -> None:
    devices, processes = [device("a"), old("b", unmet=NO_FACTS)], [process("a", "v2", ready_since=AT)]
    assert said(given_plan(devices, processes, after_s=1), "Progressing")[0] == "RolloutInProgress"
    assert said(given_plan(devices, processes, after_s=61), "Progressing")[0] == "NewRevisionRolledOut"


def test_a_failing_device_is_left_as_it_is_by_a_rollback_when_it_is_left_out() -> None:
    policy = FailurePolicy(max_failures=0, action=FailureAction.ROLLBACK)
    failed = process("a", "v2", failure="exit 1", **UNREADY)
    fields: dict[str, Any] = {"failure_policy": policy, "current": template("v1"), "max_unavailable": 2}
    first = given_plan([old("a"), device("b")], [failed, process("b", "v2", failure="exit 1", **UNREADY)], **fields)
    assert first.status is not None
    again = given_plan(
        [old("a"), device("b")],
        [failed, process("b", "v2", failure="exit 1", **UNREADY)],
        status=stored(first.status),
        **fields,
    )
    assert (written(again), again.reasons["a"]) == (["b"], UNMET)


def test_what_is_left_out_is_counted_incrementally() -> None:
    done = StoredStatus()
    whole = given_fleet([old("a"), *map(device, "bcdefghijk")], [process(name, "v2") for name in "bcdefghijk"])
    for _ in range(2):
        made = plan(evolve(whole, deployment=evolve(whole.deployment, status=done)), START)
        assert made.status is not None
        done = stored(made.status)
    whole = evolve(whole, deployment=evolve(whole.deployment, status=done))
    assert made.aggregate is not None
    account = IncrementalAggregate(whole, made.aggregate, START)
    assert account.processes_of(["a", "b"]) == ["tel-b"]
    changed = evolve(whole, devices=[old("a", connected=False)], processes=[])
    planned = account.plan(changed, START)
    assert planned is not None
    assert planned.status == made.status
    assert account.plan(evolve(whole, devices=[device("a")], processes=[]), START) is None  # it is to have one now


def built(requirements: dict[str, Any], **facts: Any) -> Snapshot:
    switches = [
        project_device({"metadata": {"name": name}, "status": {} if each is None else {"facts": each}})
        for name, each in facts.items()
    ]
    sources = Sources(devices=switches, processes=(), revisions=(), find=lambda key: None)
    return build_snapshot(row_of(requirements), sources, ReconcilerState(), now=Moment(START))


def test_the_snapshot_says_who_does_not_meet_them() -> None:
    found = built(need("os.version", "Ge", "12"), a={"os.version": "11"}, b={"os.version": "12"}, c={}, d=None)
    assert {each.name: each.unmet for each in found.devices} == {
        "a": WHY, "b": "", "c": "os.version is not reported", "d": NO_FACTS,
    }  # fmt: skip


def test_a_change_of_facts_concerns_only_deployments_that_ask_for_them() -> None:
    before = device("a", facts={"diskFree": "8GiB"})
    after = evolve(before, facts={"diskFree": "16GiB"})
    gone = evolve(after, connected=False)

    def impact(row: DeviceRow, *, reads_facts: bool) -> Impact:
        return device_impact(before, row, matched=True, matches=True, reads_facts=reads_facts)

    assert impact(after, reads_facts=False) is Impact.NONE
    assert impact(after, reads_facts=True) is Impact.SPEC
    assert impact(gone, reads_facts=False) is Impact.STATUS


def lab_of(**versions: str | None) -> Lab:
    lab = Lab()
    uid = lab.deployment("tel", spec=manifest(OLD)["spec"])
    for name, version in versions.items():
        facts = {} if version is None else {"facts": {"os.version": version}}
        lab.switch(name, status={"conditions": [connected()]} | facts)
        lab.process("tel", uid, name)
    return lab


def manifest(spec: dict[str, Any], *requirements: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "azure.com/v1alpha1",
        "kind": "DeviceProcessDeployment",
        "metadata": {"name": "tel"},
        "spec": {"selector": {}, "template": {"spec": spec}, "requirements": list(requirements)},
    }


def test_plan_and_explain_show_them() -> None:
    lab = lab_of(a="11", b="12", c=None)
    body = json.dumps(manifest(NEW, need("os.version", "Ge", "12")))
    lines = lab.run("plan", "-f", "-", input=body).output.splitlines()
    assert "at the end: 1 of 3 devices are up to date" in lines
    assert any(line.startswith("    RequirementNotMet: a (os.version 11 < 12): keeps what it has") for line in lines)
    assert any(line.startswith("    FactsNotReported: c: keeps what it has") for line in lines)
    assert not any("warning: RequirementNotMet" in line for line in lines)
    mistyped = json.dumps(manifest(NEW, need("os.verison", "Ge", "12")))
    warned = lab.run("plan", "-f", "-", input=mistyped).output
    assert "no device reports 'os.verison'; what they report: os.version" in warned
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=manifest(NEW, need("os.version", "Ge", "12"))["spec"])
    assert "(os.version 11 < 12)" in lab.run("explain", "a").output
