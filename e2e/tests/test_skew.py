# SPDX-License-Identifier: Apache-2.0
"""`hatch run skew`: what it tries, what it notices, what it builds, and its exit status."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from copy import deepcopy
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

from e2e.release.build import PACKAGES, ROOT, build_package
from e2e.skew.__main__ import main
from e2e.skew.pairs import EVERY_STATE, FULL, SHORT, toggled
from e2e.skew.parts import NEW, OLD, Part, Step
from e2e.skew.releases import API, PINNED, NoHistory, SkewError, export, install, previous_ref
from e2e.skew.report import Row, table
from e2e.skew.stored import Checkpoint, Findings, compare
from praetor_api.__about__ import __version__ as api_version

INSTALL_S = 600
PROCESS, SWITCH, REVISION = "deviceprocesses/a", "networkswitches/a", "controllerrevisions/a"


def states(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    """Return the versions of all parts at the beginning and after each of *steps*."""
    running = dict.fromkeys(Part, OLD)
    found = [tuple(running.values())]
    for part, version in steps:
        running[part] = version
        found.append(tuple(running.values()))
    return found


def test_every_state_of_old_and_new_parts_is_tried_and_each_part_goes_both_ways_beside_others() -> None:
    tried = states(toggled(*EVERY_STATE))
    assert (len(set(tried)), tried[0], tried[-1]) == (16, (OLD,) * 4, (OLD,) * 4)
    assert all(EVERY_STATE.count(part) == 4 for part in Part)
    assert FULL[0].steps == toggled(*EVERY_STATE)


def test_the_short_form_has_old_agents_with_a_new_gateway_and_the_other_way_round() -> None:
    agents = [state[2:] for state in states(SHORT[0].steps)]
    assert {(OLD, NEW), (NEW, OLD)} <= set(agents)


def stored() -> Checkpoint:
    """Return a device with one process, and a revision."""
    metadata: dict[str, Any] = {"name": "a", "uid": "u", "generation": 1, "labels": {"a": "b"}}
    entry = {"manager": "m", "operation": "Update", "time": "1", "fieldsV1": {"f:spec": {}, "f:status": {}}}
    since = {"type": "AgentConnected", "status": "True", "lastTransitionTime": "1"}
    process = {"metadata": {**metadata, "managedFields": [entry]}, "spec": {"x": 1}, "status": {"phase": "Running"}}
    switch = {"metadata": metadata, "spec": {}, "status": {"conditions": [since], "lastHeartbeatTime": "1"}}
    revision = {"metadata": {**metadata, "annotations": {"old": "1"}}, "data": {"spec": {}}, "revision": 1}
    objects = {key: deepcopy(item) for key, item in ((PROCESS, process), (SWITCH, switch), (REVISION, revision))}
    return Checkpoint(objects=objects, pids={"a": frozenset({1, 2})})


def test_progress_is_no_finding() -> None:
    after = stored()
    after.objects[PROCESS]["status"] = {"phase": "Failed", "new": 1}
    after.objects[PROCESS]["metadata"]["managedFields"][0] |= {
        "time": "2",
        "fieldsV1": {"f:spec": {}, "f:status": {1: 1}},
    }
    after.objects[SWITCH]["status"]["lastHeartbeatTime"] = "2"
    after.objects[REVISION]["metadata"]["annotations"]["new"] = "2"
    assert compare(stored(), after, new_schema=False) == Findings()


def _drop_label(item: dict[str, Any]) -> None:
    del item["metadata"]["labels"]["a"]


def _write_again(item: dict[str, Any]) -> None:
    item["metadata"]["generation"] += 2


def _own_a_field(item: dict[str, Any]) -> None:
    item["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"] = {"f:x": {}}


def _forget(item: dict[str, Any]) -> None:
    del item["metadata"]["annotations"]["old"]


def _flap(item: dict[str, Any]) -> None:
    item["status"]["conditions"][0]["lastTransitionTime"] = "2"


def _lose(item: dict[str, Any]) -> None:
    item["status"]["conditions"][0]["status"] = "False"


@pytest.mark.parametrize(
    ("key", "change", "kind"),
    [
        (PROCESS, _drop_label, "writes"),
        (PROCESS, _write_again, "writes"),
        (PROCESS, _own_a_field, "writes"),
        (PROCESS, lambda item: item["spec"].update(x=2), "writes"),
        (REVISION, lambda item: item.update(data={}), "writes"),
        (REVISION, _forget, "writes"),
        (SWITCH, _flap, "disconnections"),
        (SWITCH, _lose, "disconnections"),
    ],
)
def test_what_was_written_or_lost_is_found(key: str, change: Callable[[dict[str, Any]], object], kind: str) -> None:
    after = stored()
    change(after.objects[key])
    found = compare(stored(), after, new_schema=False)
    assert [len(getattr(found, each)) for each in ("restarts", "writes", "disconnections")] == [
        0,
        kind == "writes",
        kind == "disconnections",
    ]


def test_objects_that_come_and_go_and_processes_that_restart_are_found() -> None:
    before, after = stored(), stored()
    fewer = {key: item for key, item in after.objects.items() if key != PROCESS}
    assert len(compare(before, Checkpoint(objects=fewer, pids=after.pids), new_schema=False).writes) == 1
    assert len(compare(Checkpoint(objects=fewer, pids=after.pids), after, new_schema=False).writes) == 1
    restarted = Checkpoint(objects=after.objects, pids={"a": frozenset({1, 3})})
    assert compare(before, restarted, new_schema=False).restarts == ("a: processes [1, 2] became [1, 3]",)


def test_another_schema_may_show_other_defaults_of_a_spec_that_was_not_written() -> None:
    after = stored()
    after.objects[PROCESS]["spec"]["allowEmpty"] = False
    assert compare(stored(), after, new_schema=True) == Findings()
    after.objects[PROCESS]["metadata"]["generation"] = 2
    assert len(compare(stored(), after, new_schema=True).writes) == 1


@pytest.mark.parametrize(
    ("findings", "checked", "passed"),
    [
        (Findings(), "1 of 6", True),
        (Findings(), "2 of 6", False),
        (Findings(restarts=("a: restarted",)), "1 of 6", False),
    ],
)
def test_the_table_fits_a_terminal_and_says_what_failed(findings: Findings, checked: str, passed: bool) -> None:
    running = dict.fromkeys(Part, NEW)
    row = Row(rehearsal="1000/1000 updated", running=running, findings=findings, checked=checked, expected="1 of 6")
    text = table([row])
    assert all(len(line) <= 80 for line in text.splitlines())
    assert ("FAILED" in text, f"{int(passed)} of 1 states passed" in text) == (not passed, True)
    assert all(sentence in text for sentence in findings.sentences)


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """A function that runs git in a repository of its own, and returns its folder."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words: str) -> Path:
        names = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True)
        return folder

    git("init", "--quiet")
    return git


def test_the_newest_release_before_this_commit_is_compared_with_and_else_the_pinned_one(
    repository: Callable[..., Path],
) -> None:
    repository("commit", "--allow-empty", "-m", "one")
    assert previous_ref(repository("tag", "before")) == PINNED.read_text().strip()
    repository("tag", "praetor-agent-1.2.3")
    repository("commit", "--allow-empty", "-m", "two")
    assert previous_ref(repository("tag", "v2.0.0")) == "praetor-agent-1.2.3", "what is being released is not old"


def test_a_checkout_without_the_old_version_says_how_to_get_it(repository: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(NoHistory, match="git fetch --unshallow"):
        export("v9.9.9", tmp_path / "old", repository("commit", "--allow-empty", "-m", "one"))


def test_only_the_short_form_is_left_out_without_the_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2e.skew.__main__.previous_ref", lambda: "v9.9.9")
    short, full, named = (
        CliRunner().invoke(main, words) for words in (["--short"], [], ["--short", "--from", "v9.9.9"])
    )
    assert (short.exit_code, full.exit_code, named.exit_code) == (0, 2, 2)
    assert "skipped: this checkout does not hold v9.9.9" in short.output
    assert all("does not hold v9.9.9" in each.stderr for each in (full, named))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our wheels."""
    out = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        build_package(package, out)
    return {package: next(out.glob(f"{package.replace('-', '_')}-*.whl")) for package in PACKAGES}


@pytest.mark.timeout(INSTALL_S)
@pytest.mark.parametrize("package", [package for package in PACKAGES if package != API])
def test_a_wheel_asks_for_the_api_that_it_was_built_with_or_a_later_one_without_breaks(
    wheels: dict[str, Path], package: str
) -> None:
    with zipfile.ZipFile(wheels[package]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        required = message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    [api] = {each.specifier for each in map(Requirement, required) if each.name == API}  # extras ask for the same
    built = Version(api_version)
    older = Version(f"{built.major}.{built.minor}.{built.micro}.dev0")
    assert built in api
    assert Version(f"{built.major}.{built.minor}.{built.micro + 1}") in api
    assert older not in api.__class__(str(api), prereleases=True), "it may lack what is imported"
    assert Version(f"{built.major}.{built.minor + 1}.0") not in api


@pytest.mark.timeout(INSTALL_S)
def test_wheels_whose_ranges_do_not_fit_are_not_installed(wheels: dict[str, Path], tmp_path: Path) -> None:
    later = tmp_path / "praetor_api-9.0.0-py3-none-any.whl"
    with zipfile.ZipFile(later, "w") as archive:
        info = "praetor_api-9.0.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: praetor-api\nVersion: 9.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    with pytest.raises(SkewError, match="praetor-api"):
        install([wheels["praetor-agent"], later], ROOT, tmp_path / "env")
