# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout`: exit codes for scripts, and writes that change only what was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from ctl_testing import NAMESPACE, NEW, Lab, LabKube, connected, owned_by
from kube_testing import body_of
from praetor_api.annotations import WAVES_ANNOTATION
from praetor_api.kube.client.errors import Forbidden, KubeError, NotFound, api_error
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESS_DEPLOYMENTS, NETWORK_SWITCHES, Key
from praetor_controller.ctl.cluster import Cluster, Target
from praetor_controller.ctl.progress import Progress, Verdict
from praetor_controller.ctl.rollout_watch import Screen, follow
from praetor_controller.model.wave_record import WaveRecord

KEY = Key(NAMESPACE, "tel")


def template(version: str) -> dict[str, Any]:
    artifact = {"type": "file", "url": f"/registry/tel:{version}"}
    execution = {"backend": "process", "command": ["/opt/tel"], "terminationGracePeriodSeconds": 30}
    return {"spec": {"artifact": artifact, "execution": execution, "restartPolicy": "Always"}}


def status(reason: str, value: str = "True", **rest: Any) -> dict[str, Any]:
    condition = {"type": "Progressing", "status": value, "reason": reason, "message": "because"}
    return {"observedGeneration": 1, "conditions": [condition], **rest}


def lab_with(reported: dict[str, Any], **spec: Any) -> Lab:
    lab = Lab()
    lab.deployment("tel", spec={"selector": {}, "template": template("v2"), **spec}, status=reported)
    return lab


def revision(lab: Lab, uid: str, number: int, version: str, **data: Any) -> None:
    lab.put(
        CONTROLLER_REVISIONS,
        f"tel-{number}-{uid}",
        {"labels": {"azure.com/deployment": "tel"}} | owned_by("tel", uid),
        revision=number,
        data=data or {"spec": {"template": template(version)}},
    )


@pytest.fixture
def lab() -> Lab:
    lab = Lab()
    uid = lab.deployment("tel", spec={"selector": {}, "template": template("v2")}, status=status("X"))
    revision(lab, uid, 2, "v2")
    revision(lab, uid, 1, "v1")
    revision(lab, "another", 7, "v7")
    return lab


# status


@pytest.mark.parametrize(
    ("reported", "code", "words"),
    [
        (status("NewRevisionRolledOut"), 0, "tel: rolled out: because"),
        (status("ProgressDeadlineExceeded", "False"), 3, "tel: failed (ProgressDeadlineExceeded): because"),
        (status("WaveMatchesNothing", "False"), 3, "tel: failed (WaveMatchesNothing): because"),
        (status("NoDevices", "False"), 3, "tel: failed (NoDevices): because"),
    ],
)
def test_a_rollout_that_has_ended_is_reported_at_once(reported: dict[str, Any], code: int, words: str) -> None:
    result = lab_with(reported).run("rollout", "status", "tel")
    assert (result.exit_code, result.output) == (code, words + "\n")


@pytest.mark.parametrize(("reason", "code"), [("NoDevices", 0), ("WaveMatchesNothing", 3)])
def test_a_deployment_without_devices_may_be_allowed(reason: str, code: int) -> None:
    assert lab_with(status(reason, "False")).run("rollout", "status", "tel", "--allow-empty").exit_code == code


def test_no_watch_shows_a_rollout_that_is_under_way() -> None:
    result = lab_with(status("RolloutInProgress")).run("rollout", "status", "tel", "--no-watch", "-o", "json")
    assert result.exit_code == 6
    assert json.loads(result.output)["verdict"] == "InProgress"


WAVE = {"waves": [{"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "approval": "Automatic"}]}


def staged_lab() -> Lab:
    """Return a lab with a canary and another device, of which neither has a process yet."""
    lab = Lab()
    strategy = {"updateStrategy": {"rollingUpdate": WAVE}}
    reported = status("RolloutInProgress", desiredNumberScheduled=2)
    lab.deployment("tel", spec={"selector": {}, "template": template("v2"), **strategy}, status=reported)
    for name, ring in (("leaf-1", "canary"), ("leaf-2", "other")):
        lab.switch(name, {"ring": ring}, status={"conditions": [connected()]})
    return lab


def test_each_wave_has_a_bar() -> None:
    result = staged_lab().run("rollout", "status", "tel", "--watch=false")
    assert result.exit_code == 6
    assert result.output.splitlines()[:2] == [f"  canary [{'.' * 30}] 0/1 now", f"  (rest) [{'.' * 30}] 0/1 next"]


def test_programs_read_the_waves() -> None:
    reported = json.loads(staged_lab().run("rollout", "status", "tel", "--watch=false", "-o", "json").output)
    assert [(each["name"], each["devices"], each["needed"], each["open"]) for each in reported["waves"]] == [
        ("canary", 1, 1, True),
        ("(rest)", 1, 1, False),
    ]


def test_without_permission_to_list_devices_no_waves_are_shown() -> None:
    lab = staged_lab()
    lab.kube.fail_next(api_error(403, "Forbidden", "no list"), verb="list")
    result = lab.run("rollout", "status", "tel", "--watch=false")
    assert (result.exit_code, len(result.output.splitlines())) == (6, 1)


async def test_bars_move_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab()
    spec = {"selector": {}, "template": template("v2"), "updateStrategy": {"rollingUpdate": WAVE}}
    await lab.kube.create(DEVICE_PROCESS_DEPLOYMENTS, NAMESPACE, body_of(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=spec))
    body = body_of(NETWORK_SWITCHES, "leaf-1", {"labels": {"ring": "canary"}}, spec={})
    await lab.kube.create(NETWORK_SWITCHES, NAMESPACE, body)
    cluster = Cluster(api=lab.kube, namespace=NAMESPACE, clock=lab.clock)
    screen = Screen(terminal=True, quiet=False)
    following = asyncio.ensure_future(follow(cluster, "tel", screen, watch=True, timeout_s=10))
    await lab.clock.advance(12)
    await asyncio.wait_for(following, 5)
    assert "\n  canary [....." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["dpd", "DPD", "dpd.azure.com", "deviceprocessdeployment.azure.com"])
def test_a_deployment_may_be_named_with_its_type_as_kubectl_does(kind: str) -> None:
    result = staged_lab().run("rollout", "status", f"{kind}/tel", "-w=false", "-o", "json")
    assert json.loads(result.output)["name"] == "tel"


def test_a_name_that_no_deployment_can_have_is_refused() -> None:
    for command in ("status", "pause", "restart"):
        result = Lab().run("rollout", command, "deployment/tel")
        assert result.exit_code == 2
        assert "DPD: 'deployment/tel' is not a name of a deployment" in result.stderr


def test_ctrl_c_has_its_own_exit_code() -> None:
    class Interrupted(Lab):
        def open(self, target: Target) -> Any:
            raise KeyboardInterrupt

    assert Interrupted().run("rollout", "status", "tel").exit_code == 130


def test_a_bad_timeout_is_a_usage_error() -> None:
    result = Lab().run("rollout", "status", "tel", "--timeout", "soon")
    assert result.exit_code == 2
    assert "write 90s, 10m or 1h30m" in result.stderr


class Follower:
    """Follows the deployment of a lab in a task."""

    def __init__(self, lab: Lab, timeout_s: float = 60.0) -> None:
        self.lab = lab
        cluster = Cluster(api=lab.kube, namespace=NAMESPACE, clock=lab.clock)
        screen = Screen(terminal=False, quiet=False)
        self.task = asyncio.ensure_future(follow(cluster, "tel", screen, watch=True, timeout_s=timeout_s))

    async def report(self, reported: dict[str, Any]) -> None:
        await self.lab.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, KEY, {"status": reported}, subresource="status")
        await self.lab.clock.advance(2)

    async def end(self) -> tuple[Progress, bool]:
        return await asyncio.wait_for(self.task, 60)


async def made(reported: dict[str, Any]) -> Lab:
    lab = Lab()
    body = body_of(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"selector": {}, "template": template("v2")})
    await lab.kube.create(DEVICE_PROCESS_DEPLOYMENTS, NAMESPACE, body)
    await lab.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, KEY, {"status": reported}, subresource="status")
    return lab


@pytest.mark.parametrize(
    ("reported", "verdict"),
    [
        (status("NewRevisionRolledOut"), Verdict.DONE),
        (status("ProgressDeadlineExceeded", "False"), Verdict.FAILED),
    ],
)
async def test_a_rollout_is_followed_to_its_end(
    reported: dict[str, Any], verdict: Verdict, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = Follower(await made(status("RolloutInProgress", desiredNumberScheduled=2)))
    await follower.lab.clock.advance(5)
    await follower.report(status("RolloutInProgress", desiredNumberScheduled=2, reasons={"UpToDate": 1}))
    assert not follower.task.done()
    await follower.report(reported)
    state, in_time = await follower.end()
    assert (state.verdict, in_time) == (verdict, True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[1] for line in lines[:2]] == ["0/2 up to date", "1/2 up to date"]


async def test_the_timeout_expires_while_the_rollout_is_under_way() -> None:
    follower = Follower(await made(status("RolloutInProgress")), timeout_s=30)
    await follower.lab.clock.advance(29)
    assert not follower.task.done()
    await follower.lab.clock.advance(3)
    state, in_time = await follower.end()
    assert (state.verdict, in_time) == (Verdict.IN_PROGRESS, False)


async def test_a_timeout_of_0_is_none() -> None:
    follower = Follower(await made(status("RolloutInProgress")), timeout_s=0)
    await follower.lab.clock.advance(2_000)
    assert not follower.task.done()
    await follower.report(status("NewRevisionRolledOut"))
    await follower.lab.clock.advance(600)  # a watch that ended just before is opened again after a random delay
    assert (await follower.end())[1]


async def test_an_outage_of_the_apiserver_is_waited_out() -> None:
    follower = Follower(await made(status("RolloutInProgress")), timeout_s=600)
    await follower.lab.clock.advance(1)
    follower.lab.kube.unreachable = True
    follower.lab.kube.end_watches()
    await follower.lab.clock.advance(60)
    follower.lab.kube.heal()
    await follower.lab.clock.advance(60)
    await follower.report(status("NewRevisionRolledOut"))
    assert (await follower.end())[0].verdict is Verdict.DONE


async def test_a_deployment_that_is_deleted_meanwhile_is_an_error() -> None:
    follower = Follower(await made(status("RolloutInProgress")))
    await follower.lab.clock.advance(1)
    await follower.lab.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, KEY)
    await follower.lab.clock.advance(2)
    with pytest.raises(NotFound, match="was deleted"):
        await follower.end()


async def test_a_watch_that_is_not_allowed_is_an_error() -> None:
    lab = await made(status("RolloutInProgress"))
    lab.kube.fail_next(api_error(403, "Forbidden", "no list"), verb="list")
    follower = Follower(lab)
    await lab.clock.advance(2)
    with pytest.raises(Forbidden):
        await follower.end()


def test_a_terminal_shows_one_line_that_changes(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(terminal=True, quiet=False)
    screen.end()
    state = Progress(name="tel", verdict=Verdict.IN_PROGRESS, reason="", message="", desired=2)
    screen.show(state)
    screen.show(state)
    screen.end()
    assert capsys.readouterr().out.count("0/2 up to date") == 1


def test_the_command_says_when_time_was_up() -> None:
    lab = Impatient()
    lab.deployment("tel", spec={"selector": {}, "template": template("v2")}, status=status("RolloutInProgress"))
    result = lab.run("rollout", "status", "tel", "--timeout", "1s")
    assert result.exit_code == 5
    assert "--timeout: 1s were up; the rollout goes on" in result.stderr
    assert "tel: under way" in result.stdout


class Impatient(Lab):
    """A lab whose clock runs by itself."""

    def open(self, target: Target) -> Any:
        async def run() -> None:
            for _ in range(50):
                await self.clock.advance(1)

        self.running = asyncio.ensure_future(run())
        return super().open(target)


# pause, resume, restart


def test_a_rollout_is_paused_and_resumed() -> None:
    lab = lab_with(status("X"))
    assert lab.run("rollout", "resume", "tel").output == "tel: is not paused already\n"
    assert lab.run("rollout", "pause", "tel").output == "tel: paused\n"
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["paused"] is True
    assert lab.run("rollout", "pause", "tel").output == "tel: is paused already\n"
    assert lab.run("rollout", "resume", "tel").output == "tel: resumed\n"
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["paused"] is False


def test_a_restart_changes_the_template_and_nothing_else() -> None:
    lab = lab_with(status("X"))
    assert lab.run("rollout", "restart", "tel").output == "tel: restarting as of 2026-01-01T01:00:00Z\n"
    stored = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"]
    annotations = {"azure.com/restarted-at": "2026-01-01T01:00:00Z"}
    assert stored == template("v2") | {"metadata": {"annotations": annotations}}


@pytest.mark.parametrize("command", ["status", "pause", "resume", "restart", "history", "undo", "approve"])
def test_a_deployment_that_does_not_exist_is_not_found(command: str) -> None:
    result = Lab().run("rollout", command, "none")
    assert result.exit_code == 1
    assert "check the name and --namespace" in result.stderr


@pytest.mark.parametrize("error", [api_error(403, "Forbidden", "no"), api_error(409, "Conflict", "changed")])
def test_a_refused_write_is_an_error(error: KubeError) -> None:
    lab = lab_with(status("X"))
    lab.kube.fail_next(error, verb="patch")
    assert lab.run("rollout", "pause", "tel").exit_code == 1


# writes of others in between


class Meddled(LabKube):
    """Another client writes to the deployment just before the command does, this many times."""

    def __init__(self, lab: Lab, body: dict[str, Any], subresource: str | None, times: int) -> None:
        super().__init__(lab.clock, plane=lab.kube.plane)
        self._meddling = body, subresource
        self._times = times

    async def patch(self, resource: Any, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        if self._times:
            self._times -= 1
            theirs, subresource = self._meddling
            counted = {"status": theirs["status"] | {"numberReady": self._times}} if subresource else theirs
            await super().patch(resource, key, counted, subresource=subresource)
        return await super().patch(resource, key, body, **options)


@pytest.mark.parametrize("command", ["undo", "approve"])
def test_status_writes_in_between_make_no_conflict(lab: Lab, command: str) -> None:
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=WITH_WAVES)
    lab.kube = Meddled(lab, {"status": status("Y")}, "status", times=3)
    result = lab.run("rollout", command, "tel")
    assert result.exit_code == 0, result.output
    stored = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")
    assert stored["status"]["numberReady"] == 0
    if command == "undo":
        assert stored["spec"]["template"] == template("v1")
    else:
        assert approvals(lab) == ["rack"]


@pytest.mark.parametrize("command", ["undo", "approve"])
def test_a_template_that_another_client_changed_meanwhile_is_left_alone(lab: Lab, command: str) -> None:
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=WITH_WAVES)
    lab.kube = Meddled(lab, {"spec": {"template": template("v3")}}, None, times=1)
    result = lab.run("rollout", command, "tel")
    assert result.exit_code == 1
    assert "409" in result.stderr
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"] == template("v3")


def test_endless_conflicts_are_an_error(lab: Lab) -> None:
    lab.kube = Meddled(lab, {"status": status("Y")}, "status", times=100)
    result = lab.run("rollout", "undo", "tel")
    assert result.exit_code == 1
    assert "409" in result.stderr


# history, undo


def test_history_shows_the_deployments_own_revisions_oldest_first(lab: Lab) -> None:
    lines = lab.run("rollout", "history", "tel").output.splitlines()
    assert [line.split()[0] for line in lines] == ["REVISION", "1", "2"]
    assert "registry/tel:v1" in lines[1]
    assert lines[2].endswith("registry/tel:v2   template")


@pytest.mark.parametrize(
    ("first", "second", "reported"),
    [
        ({"args": ["--log", "info"]}, {"args": ["--log", "debug"]}, ("/opt/tel --log info", "/opt/tel --log debug")),
        ({"env": [{"name": "V", "value": "1"}]}, {"env": [{"name": "V", "value": "2"}]}, ("V=1", "V=2")),
        ({"user": "a"}, {"user": "b"}, ("registry/tel:v1", "registry/tel:v1")),
    ],
    ids=["command", "environment", "something else"],
)
def test_history_shows_how_revisions_of_one_artifact_differ(
    first: dict[str, Any], second: dict[str, Any], reported: tuple[str, str]
) -> None:
    lab = lab_with(status("X"))
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    for number, more in ((1, first), (2, second)):
        spec = {"artifact": {"url": "registry/tel:v1"}, "execution": {"command": ["/opt/tel"]} | more}
        revision(lab, uid, number, "", spec={"template": {"spec": spec}})
    lines = lab.run("rollout", "history", "tel").output.splitlines()
    assert [words in line for words, line in zip(reported, lines[1:], strict=True)] == [True, True]


def test_history_marks_what_was_rolled_out(lab: Lab) -> None:
    first = json.loads(lab.run("rollout", "history", "tel", "-o", "json").output)[0]
    assert (first["revision"], first["template"], first["rolledOut"]) == (1, template("v1"), False)
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", "status", status=status("X", currentRevision=first["hash"]))
    assert lab.run("rollout", "history", "tel").output.splitlines()[1].endswith("rolled out")


def test_history_of_nothing_is_an_empty_table() -> None:
    assert len(lab_with(status("X")).run("rollout", "history", "tel").output.splitlines()) == 1


def test_the_template_of_a_revision_is_shown(lab: Lab) -> None:
    assert yaml.safe_load(lab.run("rollout", "history", "tel", "--revision", "1", "-o", "yaml").output) == template(
        "v1"
    )
    assert json.loads(lab.run("rollout", "history", "tel", "--revision", "1", "-o", "json").output) == template("v1")


def test_a_revision_says_when_and_why_it_was_made_and_what_it_changed(lab: Lab) -> None:
    notes = {
        "kubernetes.io/change-cause": "registry moved\x1b[31m",
        "azure.com/rollout-started-at": "2026-01-01T00:00:00Z",
    }
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    lab.patch(CONTROLLER_REVISIONS, f"tel-2-{uid}", metadata={"annotations": notes})
    lines = lab.run("rollout", "history", "tel", "--revision", "2").output.splitlines()
    assert lines[0] == "tel revision 2"
    assert "started:      2026-01-01T00:00:00Z (" in "\n".join(lines)
    assert "change cause: registry moved\ufffd[31m" in lines
    at = lines.index("changes:")
    assert lines[at + 1 : at + 3] == ["  --- revision 1", "  +++ revision 2"]
    assert [line.strip() for line in lines[at:] if line[2:3] in "+-" and "tel:" in line] == [
        "-    url: /registry/tel:v1",
        "+    url: /registry/tel:v2",
    ]


def test_the_cause_is_a_column_and_a_field(lab: Lab) -> None:
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    notes = {"kubernetes.io/change-cause": "registry moved"}
    lab.patch(CONTROLLER_REVISIONS, f"tel-2-{uid}", metadata={"annotations": notes})
    assert "registry moved" in lab.run("rollout", "history", "tel").output.splitlines()[2]
    first, second = json.loads(lab.run("rollout", "history", "tel", "-o", "json").output)
    assert (first["changeCause"], second["changeCause"]) == ("", "registry moved")
    assert first["created"] == first["started"] == "2026-01-01T01:00:00Z"


def test_the_oldest_revision_has_nothing_to_differ_from(lab: Lab) -> None:
    output = lab.run("rollout", "history", "tel", "--revision", "1").output
    assert output.endswith("it is the oldest revision that is kept\n")
    assert "change cause: -" in output


def test_undo_brings_the_template_before_back(lab: Lab) -> None:
    assert lab.run("rollout", "undo", "tel").output == "tel: back to the template of revision 1\n"
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"] == template("v1")


def test_a_retry_is_asked_for_by_an_annotation(lab: Lab) -> None:
    assert lab.run("rollout", "retry", "tel").output == "tel: refused writes are tried again\n"
    annotations = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["annotations"]
    assert annotations["azure.com/retry"] == "2026-01-01T01:00:00Z"


def undo_lab(marks: Sequence[str], **state: Any) -> Lab:
    """Return a lab of revisions v1, v2, … with *marks* of having been rolled out; the newest is the template."""
    lab = lab_with(status("X"))
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    for number, mark in enumerate(marks, 1):
        revision(lab, uid, number, "", spec={"template": template(f"v{number}")})
        annotations = {"azure.com/rolled-out": mark} if mark else {}
        lab.patch(CONTROLLER_REVISIONS, f"tel-{number}-{uid}", metadata={"annotations": annotations})
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"template": template(f"v{len(marks)}")})
    return lab


@pytest.mark.parametrize(
    ("marks", "restored"),
    [
        pytest.param(["1", "2", ""], 2, id="a-new-version-failed"),
        pytest.param(["1", "", ""], 1, id="two-new-versions-failed"),
        pytest.param(["1", "", "3"], 1, id="one-failed-between"),
        pytest.param(["", "2"], 1, id="from-before-it-was-recorded"),
        pytest.param(["", ""], 1, id="nothing-was-ever-recorded"),
        pytest.param(["x", "٣"], 1, id="marks-of-another-client"),
    ],
)
def test_undo_prefers_the_newest_revision_that_was_rolled_out(marks: list[str], restored: int) -> None:
    assert undo_lab(marks).run("rollout", "undo", "tel").output == f"tel: back to the template of revision {restored}\n"


def test_undoing_twice_does_not_bring_the_failed_version_back() -> None:
    lab = undo_lab(["", "2"])
    revision_of_v2 = json.loads(lab.run("rollout", "history", "tel", "-o", "json").output)[1]
    assert revision_of_v2["everRolledOut"] is True
    lab = undo_lab(["1", ""])
    lab.run("rollout", "undo", "tel")
    again = lab.run("rollout", "undo", "tel")
    assert again.exit_code == 1
    assert "no other revision of tel was rolled out; choose one with --to-revision: 2" in again.stderr
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"] == template("v1")
    chosen = lab.run("rollout", "undo", "tel", "--to-revision", "2")
    assert chosen.output == "tel: back to the template of revision 2\n"


CAUSE = "kubernetes.io/change-cause"


@pytest.mark.parametrize("theirs", ["registry moved", ""])
@pytest.mark.parametrize("ours", [None, {}, {"team": "x"}, {"team": "x", CAUSE: "v2 is out"}])
def test_undo_brings_the_cause_of_the_template_back_too(lab: Lab, ours: dict[str, str] | None, theirs: str) -> None:
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    lab.patch(CONTROLLER_REVISIONS, f"tel-1-{uid}", metadata={"annotations": {CAUSE: theirs} if theirs else {}})
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", metadata={"annotations": ours})
    assert lab.run("rollout", "undo", "tel").exit_code == 0
    stored = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"].get("annotations") or {}
    assert stored == {key: value for key, value in (ours or {}).items() if key != CAUSE} | (
        {CAUSE: theirs} if theirs else {}
    )


def test_undo_goes_to_any_revision(lab: Lab) -> None:
    again = "tel: has the template of revision 2 already\n"
    assert lab.run("rollout", "undo", "tel", "--to-revision", "2").output == again
    lab.run("rollout", "undo", "tel", "--to-revision", "1")
    assert lab.run("rollout", "undo", "tel", "--to-revision", "2").output != again
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"] == template("v2")


def test_undo_of_a_paused_rollout_says_so(lab: Lab) -> None:
    lab.run("rollout", "pause", "tel")
    assert lab.run("rollout", "undo", "tel").output.endswith("; it is paused, resume it to roll it out\n")


def test_a_revision_that_is_not_there_names_those_that_are(lab: Lab) -> None:
    result = lab.run("rollout", "undo", "tel", "--to-revision", "9")
    assert result.exit_code == 1
    assert "tel has no revision 9; there are: 1, 2" in result.stderr


def test_without_an_earlier_revision_there_is_nothing_to_undo() -> None:
    result = lab_with(status("X")).run("rollout", "undo", "tel")
    assert result.exit_code == 1
    assert "tel has no earlier revision" in result.stderr


def test_a_broken_revision_is_not_restored(lab: Lab) -> None:
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    revision(lab, uid, 3, "", spec={"template": "?"})
    result = lab.run("rollout", "history", "tel", "--revision", "3")
    assert result.exit_code == 1
    assert "revision 3 of tel holds no template" in result.stderr


# approve

WAVES = [
    {"name": "canary", "approval": "Automatic"},
    {"name": "rack", "approval": "Manual"},
    {"name": "row", "approval": "Manual"},
]
WITH_WAVES = {"updateStrategy": {"rollingUpdate": {"waves": WAVES}}}


def waves_lab() -> Lab:
    return lab_with(status("X"), **WITH_WAVES)


def approvals(lab: Lab) -> list[str]:
    note = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["annotations"]["azure.com/approved-waves"]
    return [each.partition("/")[2] for each in note.split(",")]


def test_waves_are_approved_one_after_the_other() -> None:
    lab = waves_lab()
    assert lab.run("rollout", "approve", "tel").output == "tel: wave rack is approved\n"
    assert lab.run("rollout", "approve", "tel").output == "tel: wave row is approved\n"
    assert approvals(lab) == ["rack", "row"]
    result = lab.run("rollout", "approve", "tel")
    assert result.exit_code == 1
    assert "no wave that waits for approval" in result.stderr


def test_a_wave_is_approved_by_name_and_once() -> None:
    lab = waves_lab()
    lab.run("rollout", "approve", "tel", "--wave", "row")
    lab.run("rollout", "approve", "tel", "--wave", "row")
    assert approvals(lab) == ["row"]


CANARY = [
    {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}},
    {"name": "half", "limit": "50%", "approval": "Manual"},
]


def lab_with_waves(*devices: str, record: WaveRecord | None = None) -> Lab:
    """Return a lab whose devices run an old template, and that has begun to roll out another one in waves."""
    lab = Lab()
    spec = {"selector": {}, "template": {"spec": NEW}, "updateStrategy": {"rollingUpdate": {"waves": CANARY}}}
    uid = lab.deployment("tel", spec=spec, status={"currentRevision": "old"})
    for name in devices:
        lab.switch(name, {"ring": name.partition("-")[0]}, status={"conditions": [connected()]})
        lab.process("tel", uid, name)
    notes = {"annotations": {WAVES_ANNOTATION: record.text()}} if record else {}
    notes |= {"labels": {"azure.com/deployment": "tel"}} | owned_by("tel", uid)
    stored = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"]["template"]
    lab.put(CONTROLLER_REVISIONS, "tel-3", notes, revision=3, data={"spec": {"template": stored}})
    return lab


def test_an_approval_says_what_the_wave_still_waits_for() -> None:
    lab = lab_with_waves("canary-1", "leaf-1", "leaf-2")
    result = lab.run("rollout", "approve", "tel")
    assert result.output == "tel: wave half is approved\nit waits: WaitingForWave(canary 0/1)\n"


def test_a_wave_that_lost_its_devices_is_approved_for_this_rollout_alone() -> None:
    record = WaveRecord(number=3, matched=frozenset({"canary"}))
    lab = lab_with_waves("leaf-1", "leaf-2", record=record)
    assert "WaveLostItsDevices: 2 devices: waits" in lab.run("explain", "tel").output
    assert lab.run("rollout", "approve", "tel").output == "tel: wave canary is approved\n"
    assert approvals(lab) == ["canary/3"]
    assert "AwaitingApproval: 2 devices" in lab.run("explain", "tel").output
    assert lab.run("rollout", "approve", "tel").output == "tel: wave half is approved\n"
    assert approvals(lab) == ["canary/3", "half"]


@pytest.mark.parametrize(
    ("matched", "devices", "reason", "count", "words"),
    [
        ({"canary"}, ["leaf-1"], "WaveLostItsDevices", "0/0", "holds: it lost its devices"),
        (set(), ["leaf-1"], "WaveMatchesNothing", "0/0", "holds: it matches nothing"),
        (set(), ["leaf-1"], "", "0/0", "holds: it matches nothing"),
        ({"canary"}, ["canary-1", "leaf-1"], "WaveFailed", "0/1", "holds: devices failed"),
        (set(), ["canary-1", "leaf-1"], "WaveHasNoEligibleDevice", "0/1", "holds: no device can show it now"),
        (set(), ["canary-1", "leaf-1"], "WaitingForWave", "0/1", "now"),
    ],
)
def test_a_wave_that_holds_says_why(matched: set[str], devices: list[str], reason: str, count: str, words: str) -> None:
    lab = lab_with_waves(*devices, record=WaveRecord(number=3, matched=frozenset(matched)))
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", "status", status={"reasons": {reason: 1} if reason else {}})
    first = lab.run("rollout", "status", "tel", "--no-watch").output.splitlines()[0]
    assert first == f"  canary [{'.' * 30}] {count} {words}"


def lab_of_unmatched(count: int) -> Lab:
    """Return a lab of a deployment for leaves, with as many processes on devices that are spines by now."""
    lab = lab_with_waves()
    selector = {"matchLabels": {"role": "leaf"}}
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"selector": selector, "updateStrategy": None})
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    for number in range(3 + count):
        lab.switch(f"d{number}", {"role": "leaf" if number < 3 else "spine"}, status={"conditions": [connected()]})
        lab.process("tel", uid, f"d{number}")
    return lab


def test_a_removal_that_is_held_is_explained_and_approved() -> None:
    lab = lab_of_unmatched(2)
    said = lab.run("explain", "tel").output
    assert "tel: RemovalHeld=True DevicesNoLongerMatch: 2 devices no longer match, at most 1 may leave at once" in said
    assert "RemovalHeld: 2 devices: no longer matches" in said
    assert "RemovalHeld" in lab.run("explain", "d3").output
    result = lab.run("rollout", "approve", "tel", "--removal")
    assert result.output == "tel: the removal of 2 processes is approved: d3, d4\n"
    assert "the controller's next writes: delete 1" in lab.run("explain", "tel").output
    lab.patch(NETWORK_SWITCHES, "d3", metadata={"labels": {"role": "border"}})
    assert "RemovalHeld" not in lab.run("explain", "d4").output


def test_there_must_be_a_removal_to_approve() -> None:
    result = lab_of_unmatched(1).run("rollout", "approve", "tel", "--removal")
    assert (result.exit_code, "tel holds no removal" in result.stderr) == (1, True)
    assert lab_of_unmatched(0).run("rollout", "approve", "none", "--removal").exit_code == 1
    assert waves_lab().run("rollout", "approve", "tel", "--removal", "--wave", "rack").exit_code == 2


def test_a_rollout_that_is_over_is_paused_while_removals_are_held() -> None:
    reported = status("NewRevisionRolledOut")
    held = {"type": "RemovalHeld", "status": "True", "reason": "DevicesNoLongerMatch", "message": "2 devices"}
    reported["conditions"].append(held)
    result = lab_with(reported).run("rollout", "status", "tel")
    assert (result.exit_code, result.output) == (4, "tel: paused (RemovalHeld): 2 devices\n")


@pytest.mark.parametrize(("available", "code", "words"), [("False", 3, "failed (Failing)"), ("True", 0, "rolled out")])
def test_a_rollout_whose_devices_fail_afterwards_has_failed_when_too_few_are_left(
    available: str, code: int, words: str
) -> None:
    reported = status("NewRevisionRolledOut", reasons={"Failing": 1})
    reported["conditions"].append({"type": "Available", "status": available, "reason": "X", "message": ""})
    result = lab_with(reported).run("rollout", "status", "tel")
    assert (result.exit_code, result.output) == (code, f"tel: {words}: because\n")


def test_waves_are_approved_where_listing_is_not_allowed() -> None:
    lab = lab_with_waves("canary-1", "leaf-1")
    lab.kube.fail_next(api_error(403, "Forbidden", "no"), verb="list")
    assert lab.run("rollout", "approve", "tel").output == "tel: wave half is approved\n"


def test_an_approval_does_not_carry_over_to_another_template() -> None:
    lab = waves_lab()
    lab.run("rollout", "approve", "tel")
    lab.run("rollout", "restart", "tel")
    lab.run("rollout", "approve", "tel", "--wave", "row")
    assert approvals(lab) == ["row"]


@pytest.mark.parametrize("wave", ["canary", "none"])
def test_only_a_wave_that_asks_for_it_is_approved(wave: str) -> None:
    result = waves_lab().run("rollout", "approve", "tel", "--wave", wave)
    assert result.exit_code == 1
    assert f"has no wave {wave!r} with approval: Manual; there are: rack, row" in result.stderr
