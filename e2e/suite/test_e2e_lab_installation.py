# SPDX-License-Identifier: Apache-2.0
"""The agent is installed, upgraded and uninstalled on devices with real init systems; the gateway is on the host."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_testing import FakeGateway, item, process_spec
from e2e.lab import device as systemd
from e2e.lab import sysv
from e2e.lab.device import LabDevice
from e2e.lab.errors import LabError
from e2e.lab.payload import install
from e2e.lab.requirements import required
from e2e.release.zipapp import write_zip
from e2e.stack.waiting import eventually

pytestmark = pytest.mark.lab

PLACE, ROOT, STATE = "/opt/files", "/opt/praetor-agent", "/var/lib/praetor-agent"
INITS = {"systemd": systemd, "sysv": sysv}
CRASHES = "raise SystemExit('this version is broken')\n"
MUTE = "import time\ntime.sleep(3600)\n"


class Switch(LabDevice):
    """A device of either init system."""

    def command(self, *words: str) -> str:
        """Run the installed agent's command, as an operator on the device does."""
        script = 'PATH=/usr/local/bin:/usr/bin:/bin; exec praetor-agent "$@"'
        return self.run("/bin/sh", "-c", script, "sh", *words)

    def agent(self, *words: str) -> str:
        """Run the single-file agent on the device."""
        return self.run("/usr/bin/python3", f"{PLACE}/praetor-agent.pyz", *words)

    def native(self) -> str:
        """Return the backend of the init system."""
        return self.run("/bin/sh", "-c", "test -d /run/systemd/system && echo systemd || echo initd").strip()

    def agent_pid(self) -> int:
        """Return the process id of the agent that runs."""
        printed = self._run(("pgrep", "-o", "-f", "--", f"-I {ROOT}/versions"), None).stdout
        return int(printed or 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zipapps: this agent, one that is newer, and newer ones that crash or never reach the gateway."""
    folder = tmp_path_factory.mktemp("files")
    for name, main in {"praetor-agent": None, "newer": "", "crashes": CRASHES, "mute": MUTE}.items():
        tree = install(folder / name)
        about, app = tree / "praetor_agent" / "__about__.py", tree / "praetor_agent" / "app.py"
        if main is not None:
            about.write_text('__version__ = "9.9.9"\n')
            app.write_text(main or app.read_text())
        (tree / "__main__.py").write_bytes((tree / "praetor_agent" / "__main__.py").read_bytes())
        write_zip(tree, folder / f"{name}.pyz")
    return folder


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t0ken", heartbeat_seconds=1) as gateway:
        backend = process_spec("/bin/sleep", "1000")
        gateway.desire(item("a", backend))
        yield gateway


@pytest.fixture(params=sorted(INITS))
def switch(request: pytest.FixtureRequest, tmp_path: Path, files: Path) -> Iterator[Switch]:
    init = INITS[request.param]
    root = required(request, init.rootfs(), init.why_unavailable(init.rootfs()))
    name = f"installed-{secrets.token_hex(2)}"
    with Switch(name, root, workdir=tmp_path, shared={PLACE: files}) as booted:
        booted.write("/etc/token", "t0ken")
        booted.run("chmod", "600", "/etc/token")
        yield booted


def _installed(switch: Switch, gateway: FakeGateway) -> int:
    """Install the agent and return the process that it runs."""
    flags = (f"--gateway={gateway.url}", "--device=leaf-1", "--token-file=/etc/token", "--start-splay=0")
    assert "is installed in /opt/praetor-agent" in switch.agent("install", *flags)
    gateway.wait_for(lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "it runs", 60)
    return gateway.observations["a"].pid or 0


def _version(gateway: FakeGateway) -> str:
    return gateway.reports[-1].agent_version


def test_a_killed_agent_is_started_again_and_its_processes_keep_running(switch: Switch, gateway: FakeGateway) -> None:
    pid = _installed(switch, gateway)
    first = switch.agent_pid()
    switch.run("kill", "-KILL", str(first))
    eventually(switch.agent_pid, lambda found: found not in (0, first), what="another agent")
    count = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) > count, "its report", 60)
    assert switch.run("cat", f"/proc/{pid}/cmdline") == "/bin/sleep\x001000\x00"

    assert "9.9.9-" in switch.agent("upgrade", f"{PLACE}/newer.pyz")
    gateway.wait_for(lambda: _version(gateway) == "9.9.9", "the report of the new version", 60)
    assert switch.run("cat", f"/proc/{pid}/cmdline") == "/bin/sleep\x001000\x00"
    assert "9.9.9" in switch.run("readlink", f"{ROOT}/current")

    assert "run on" in switch.agent("uninstall")
    assert switch.agent_pid() == 0
    assert switch.run("cat", f"/proc/{pid}/cmdline") == "/bin/sleep\x001000\x00"
    assert switch.run("ls", ROOT).split() == ["agent.env", "token"]

    assert _installed(switch, gateway) == pid
    assert "are removed" in switch.agent("uninstall", "--remove-processes")
    with pytest.raises(LabError):
        switch.run("test", "-e", f"/proc/{pid}")
    with pytest.raises(LabError):
        switch.run("ls", "-d", STATE)


def test_a_broken_new_version_is_replaced_by_the_old_one_which_reports_it(switch: Switch, gateway: FakeGateway) -> None:
    pid = _installed(switch, gateway)
    with pytest.raises(LabError, match=r"is back: 9.9.9-"):
        switch.agent("upgrade", f"{PLACE}/crashes.pyz")
    gateway.wait_for(
        lambda: any("9.9.9-" in (report.facts or {}).get("agentRejected", "") for report in gateway.reports),
        "the old version's report",
        60,
    )
    assert _version(gateway) != "9.9.9"
    assert switch.run("cat", f"/proc/{pid}/cmdline") == "/bin/sleep\x001000\x00"


def test_a_new_version_that_never_reaches_the_gateway_is_replaced_in_time(switch: Switch, gateway: FakeGateway) -> None:
    pid = _installed(switch, gateway)
    # most of its time is over already, as if it had been started a while ago
    launcher = f"{ROOT}/launcher.py"
    switch.run("sed", "-i", "s/^TRIAL_SECONDS = .*/TRIAL_SECONDS = 8/", launcher)
    with pytest.raises(LabError, match=r"is back: 9.9.9-[0-9a-f]*: the gateway did not answer it within 8 s"):
        switch.agent("upgrade", f"{PLACE}/mute.pyz")
    count = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) > count, "the old version's reports", 60)
    assert _version(gateway) != "9.9.9"
    assert switch.run("cat", f"/proc/{pid}/cmdline") == "/bin/sleep\x001000\x00"


def test_an_installation_needs_neither_the_uploaded_token_nor_a_network_and_shows_output(
    switch: Switch, gateway: FakeGateway
) -> None:
    native = switch.native()
    script = ["/bin/sh", "-c", "echo hello; exec sleep 1000"]
    gateway.desire(item("a", process_spec(*script)), item("n", process_spec(*script, execution={"backend": native})))
    _installed(switch, gateway)
    gateway.wait_for(lambda: "n" in gateway.observations and bool(gateway.observations["n"].pid), "it runs", 60)
    switch.run("rm", "/etc/token")
    first = switch.agent_pid()
    switch.run("kill", "-KILL", str(first))
    eventually(switch.agent_pid, lambda found: found not in (0, first), what="another agent")
    count = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) > count, "its report", 60)
    assert "Device leaf-1: 2 processes" in switch.command("status")
    for name in ("a", "n"):
        # an init system may warn into the file before the program starts
        logs = ("logs", name, "-n", "1")
        eventually(lambda: switch.command(*logs), lambda shown: shown == "hello\n", what="the output")  # noqa: B023
        assert switch.command("logs", name, "-n", "0") == ""
    if native == "systemd":
        shown = switch.run("systemctl", "show", "--property=After,Wants", "praetor-agent.service")
        assert "network.target" in shown
        assert "network-online" not in shown


def test_what_a_renamed_device_ran_goes_on_until_the_new_name_has_a_process_and_then_ends_whole(
    switch: Switch, gateway: FakeGateway
) -> None:
    native = switch.native()
    script = ["/bin/sh", "-c", "env -i setsid sleep 70001 & exec sleep 70002"]
    specs = {backend: process_spec(*script, execution={"backend": backend}) for backend in (native, "process")}
    gateway.desire(*(item(backend, spec) for backend, spec in specs.items()))
    flags = (f"--gateway={gateway.url}", "--token-file=/etc/token", "--start-splay=0")
    switch.agent("install", "--device=leaf-1", *flags)

    def ran(seconds: int) -> int:
        return len(switch._run(("pgrep", "-x", "-f", f"sleep {seconds}"), None).stdout.split())

    eventually(lambda: (ran(70001), ran(70002)), lambda found: found == (2, 2), what="both backends run it")
    switch.agent("uninstall")
    gateway.desire()
    count = len(gateway.reports)
    switch.agent("install", "--device=leaf-2", *flags)
    gateway.wait_for(lambda: len(gateway.reports) > count + 5, "reports of the new name", 60)
    assert (ran(70001), ran(70002)) == (2, 2)
    doctor = switch._run(("/bin/sh", "-c", "/usr/local/bin/praetor-agent doctor"), None).stdout
    assert doctor.count("is of another name of this device") == 2

    gateway.desire(item("b", process_spec("/bin/sleep", "1000")))
    gateway.wait_for(lambda: "b" in gateway.observations and bool(gateway.observations["b"].pid), "it runs", 60)
    eventually(lambda: (ran(70001), ran(70002)), lambda found: found == (0, 0), what="the old ones end")
    definitions = "/etc/systemd/system" if native == "systemd" else "/etc/init.d"
    eventually(
        lambda: switch.run("/bin/sh", "-c", f"ls -d {definitions}/praetor-{native}* 2>/dev/null || true"),
        lambda listed: listed == "",
        what="no definition is left",
    )
