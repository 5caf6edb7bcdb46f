# SPDX-License-Identifier: Apache-2.0
"""The launcher as the init system starts it, with versions that come up, crash, hang, and the power going off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, until
from praetor_agent.backends.procfs import boot_id
from praetor_agent.service import bootstrap
from praetor_agent.service.installation import promote, rejected

SAYS = "import os, sys; open(sys.argv[0] + '/ran', 'a').write(os.environ.get('PRAETOR_AGENT_ON_TRIAL', '-') + chr(10))"
WAITS = f"{SAYS}; import time; time.sleep(1000)"
CRASHES = f"{SAYS}; raise SystemExit('broken')"


class Installation:
    """Versions under *root*, and the launcher beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "launcher.py").write_text(Path(bootstrap.__file__).read_text())

    def version(self, name: str, program: str, link: str) -> Path:
        place = self.root / "versions" / name
        place.mkdir(parents=True)
        (place / "__main__.py").write_text(program)
        (self.root / link).symlink_to(f"versions/{name}")
        return place

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-I", "-S", str(self.root / "launcher.py"), *arguments)
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def current(self) -> str:
        return os.path.basename(os.path.realpath(self.root / "current"))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def runs(place: Path) -> list[str]:
    return (place / "ran").read_text().split() if (place / "ran").exists() else []


def test_the_current_version_runs_with_the_settings_of_the_file(installation: Installation) -> None:
    says = "import os, sys; open(sys.argv[0] + '/ran', 'w').write(os.environ['PRAETOR_AGENT_GATEWAY'] + sys.argv[1])"
    place = installation.version("1", says, "current")
    (installation.root / "agent.env").write_text("# a comment\nPRAETOR_AGENT_GATEWAY=http://x?a=b\n")
    assert installation.start().wait(WITHIN_SECONDS) == 0
    assert runs(place) == ["http://x?a=brun"]


def test_a_version_that_crashes_on_trial_is_rejected_after_a_few_starts(installation: Installation) -> None:
    old = installation.version("1", SAYS, "current")
    new = installation.version("2", CRASHES, "trial")
    for _ in range(bootstrap.ATTEMPTS):
        assert installation.start().wait(WITHIN_SECONDS) == 1
    assert runs(new) == [str(installation.root)] * bootstrap.ATTEMPTS
    assert runs(old) == []
    assert installation.start().wait(WITHIN_SECONDS) == 0
    assert runs(old) == ["-"]
    assert rejected(installation.root) == f"2: it ended {bootstrap.ATTEMPTS} times before the gateway had answered it"
    assert installation.current() == "1"
    assert not (installation.root / "trial").is_symlink()


def test_a_version_that_hangs_is_ended_by_the_kernel_when_its_time_is_over(installation: Installation) -> None:
    old = installation.version("1", SAYS, "current")
    new = installation.version("2", WAITS, "trial")
    began = time.clock_gettime(time.CLOCK_BOOTTIME) - bootstrap.TRIAL_SECONDS + 2
    (installation.root / "attempts").write_text(f"1 {boot_id()} {began}\n")
    assert installation.start().wait(WITHIN_SECONDS) == -signal.SIGALRM
    assert len(runs(new)) == 1
    until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > began + bootstrap.TRIAL_SECONDS, "the end of its time")
    assert installation.start().wait(WITHIN_SECONDS) == 0
    assert len(runs(old)) == 1
    assert "did not answer it within" in rejected(installation.root)


@pytest.mark.parametrize("text", ["", "x", "1 2", "1 another-boot 0.5\n"])
def test_a_torn_write_or_a_power_cut_restarts_the_time_of_a_version_on_trial(
    installation: Installation, text: str
) -> None:
    installation.version("1", SAYS, "current")
    new = installation.version("2", SAYS, "trial")
    (installation.root / "attempts").write_text(text)
    assert installation.start().wait(WITHIN_SECONDS) == 0
    assert len(runs(new)) == 1


def test_an_answered_version_becomes_the_current_one_and_outlives_its_alarm(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.version("1", SAYS, "current")
    installation.version("2", SAYS, "trial")
    (installation.root / "attempts").write_text("1 x 0\n")
    monkeypatch.setenv("PRAETOR_AGENT_ON_TRIAL", str(installation.root))
    signal.alarm(1000)
    promote()
    assert signal.alarm(0) == 0
    assert installation.current() == "2"
    assert not (installation.root / "attempts").exists()
    promote()  # later answers change nothing


def test_without_an_init_system_that_respawns_the_bootstrap_restarts_the_agent(installation: Installation) -> None:
    says = "import os, sys; open(sys.argv[0] + '/ran', 'a').write(f'{os.getpid()}\\n'); import time; time.sleep(1000)"
    place = installation.version("1", says, "current")
    parent = installation.start("respawn", str(installation.root / "log"))
    try:
        until(lambda: len(runs(place)) == 1, "the first start")
        os.kill(int(runs(place)[0]), signal.SIGKILL)
        until(lambda: len(runs(place)) == 2, "the second start")
    finally:
        parent.terminate()
        assert parent.wait(WITHIN_SECONDS) == 0
    child = int(runs(place)[1])
    until(lambda: not Path(f"/proc/{child}").exists(), "the end of the agent")


def test_the_log_of_an_agent_that_runs_for_long_is_shortened_while_it_runs(installation: Installation) -> None:
    log, launcher = installation.root / "log", installation.root / "launcher.py"
    program = launcher.read_text().replace("MAX_LOG_BYTES = 10 * 1024 * 1024", "MAX_LOG_BYTES = 10000")
    launcher.write_text(program.replace("LOG_CHECK_SECONDS = 20", "LOG_CHECK_SECONDS = 0.1"))
    installation.version(
        "1.0-a", "import sys, time\nwhile True: print('x' * 99, flush=True); time.sleep(0.001)", "current"
    )
    parent = installation.start("respawn", str(log))
    try:
        until(lambda: (installation.root / "log.1").exists(), "the older half")
        until(lambda: 0 < (installation.root / "log.1").stat().st_size <= 5000, "its size")
    finally:
        parent.terminate()
        parent.wait(WITHIN_SECONDS)
