# SPDX-License-Identifier: Apache-2.0
"""Both agents pass the conformance kit, and one that is broken on purpose fails with the line that it broke."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conformance.kit import AGENT_SH, kit, others

PYTHON_AGENT = f"{sys.executable} -m praetor_agent run"
AT_ONCE = "28"
WITHIN_S = "240"
"""For one step of an agent, on an overloaded machine. What breaks on purpose waits for nothing."""


def checked(agent: str, *args: str) -> tuple[int, list[str]]:
    """Run every check on *agent*, with enough time."""
    return kit("--agent", agent, "--at-once", AT_ONCE, "--timeout", WITHIN_S, *args)


@pytest.fixture
def busybox(tmp_path: Path) -> str:
    """Return a command prefix: nothing is on the PATH but busybox."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("busybox is not installed; try the package busybox-static")
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in {*applets, "busybox"}:
        (tmp_path / name).symlink_to(program)
    return f"env PATH={tmp_path} {program} sh"


def test_our_agent_conforms() -> None:
    code, lines = checked(PYTHON_AGENT)
    assert (code, others(lines)) == (0, [])


@pytest.mark.parametrize("backend", ["process", "initd"])
def test_the_agent_in_sh_conforms_on_busybox(busybox: str, backend: str) -> None:
    code, lines = checked(f"{busybox} {AGENT_SH}", "--backend", backend)
    assert (code, others(lines)) == (0, [])


@pytest.mark.skipif(not (shutil.which("dash") and shutil.which("curl")), reason="dash or curl is not installed")
def test_the_agent_in_sh_conforms_with_dash_and_curl() -> None:
    names = ["speak", "token", "token-again", "etag", "vectors", "seq", "restart", "away", "refused", "wait", "items"]
    code, lines = checked(f"dash {AGENT_SH}", *(f"--check={name}" for name in names))
    assert (code, others(lines)) == (0, [])


BREAKAGES = [
    pytest.param(r"if \[ -n \"\$etag\" \]; then echo \"header = .*", "", "etag", id="no-etag"),
    pytest.param(r"X-Device-Token: ", "X-Token: ", "token", id="no-token"),
    pytest.param(r'put\("json_hash", quoted\(.*\)\)', 'put("json_hash", "\\"none\\"")', "hash", id="own-hash"),
    pytest.param(r" \|\| leaf\[\"\", \"deviceName\"\] != device\)", ")", "other", id="any-device"),
    pytest.param(r"echo \"\$\(\(retry \+ 1\)\)\"", "echo 0", "wait", id="impatient"),
    pytest.param(r"if alive \"\$1\"; then\n        if \[ ! -e.*", 'if alive "$1"; then :', "gone", id="never-stops"),
    pytest.param(r"setsid sh \"\$1/job\"", 'sh "$1/job"', "restart", id="takes-its-processes-along"),
    pytest.param(r"if \[ \"\$status\" = 200 \] &&", "if", "refused", id="believes-errors"),
    pytest.param(r"report_at=\$\(\(reported_at \+ interval\)\)", "report_at=999999999", "heard", id="goes-silent"),
    pytest.param(r"mv \"\$dir/sent\" \"\$dir/acked\"", 'rm "$dir/sent"', "changes", id="repeats-itself"),
]


@pytest.mark.parametrize(("line", "instead", "name"), BREAKAGES)
def test_a_broken_agent_fails_with_the_line_that_it_breaks(tmp_path: Path, line: str, instead: str, name: str) -> None:
    text, count = re.subn(line, lambda _: instead, AGENT_SH.read_text(encoding="utf-8"))
    assert count >= 1
    (tmp_path / "agent.sh").write_text(text)
    code, lines = kit("--agent", f"sh {tmp_path}/agent.sh", "--timeout", "20", "--check", name)
    assert code == 3
    assert lines[0].startswith(f"FAIL {name}: ")
    assert lines[-1] == "1 check: 0 ok, 1 failed, 0 skipped"
