# SPDX-License-Identifier: Apache-2.0
"""The agent's guide names the flags that there are, and no others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_guide_lists_each_flag_of_run_with_its_default_and_no_other() -> None:
    command = (sys.executable, "-m", "praetor_agent", "run", "--help")
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"(?m)^  (?:-h, )?(--[a-z-]+)", printed)) - {"--help"}
    settings = (DOCS / "agent.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in settings.splitlines() if line.startswith("| `--")]
    assert {flag for row in rows for flag in re.findall(r"`(--[a-z-]+)`", row[0])} == flags
    defaults = dict(re.findall(r"\[PRAETOR_AGENT_([A-Z_]+),\s+default\s+([^\]]+)\]", printed))
    assert len(defaults) > 4
    for name, default in defaults.items():
        (row,) = (row for row in rows if f"`--{name.lower().replace('_', '-')}`" in row[0])
        assert re.sub(r"-\s+", "-", default) in row[1].replace("`", "")


def test_what_the_guide_links_to_is_there() -> None:
    for page in ("agent.md", "agent-decisions.md", "artifacts.md", "backends.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / page).read_text()):
            assert (DOCS / link).exists(), f"{page}: {link}"
