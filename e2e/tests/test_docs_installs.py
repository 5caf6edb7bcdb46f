# SPDX-License-Identifier: Apache-2.0
"""No line that a user copies lets pip ask whatever index it finds for our names: each pins an index or digests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = re.compile(r"\bpip[x0-9.]*\b(?:\s+-[^`\n]*?)?\s+install\b([^`\n]*)")
PINNED = re.compile(r"\s--(?:require-hashes|no-index|index-url)\b")


def sources() -> list[Path]:
    """Return the pages, Dockerfiles, scripts and workflows that git tracks."""
    names = ("*.md", "*Dockerfile*", "Makefile", "*.sh", ".ci/run", "*.yml", "*.yaml", "*.toml")
    listed = subprocess.run(["git", "ls-files", "--", *names], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def unpinned(text: str) -> list[str]:
    """Return what each `pip install` of *text* installs that pins neither an index nor digests."""
    lines = re.sub(r"\\\n\s*", " ", text)
    return [found[1].strip() for found in INSTALL.finditer(lines) if found[1].strip() and not PINNED.search(found[1])]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("run `pip install praetor-agent`, then", ["praetor-agent"]),
        ("pip3.11 install -U hatch", ["-U hatch"]),
        ("/opt/pip/bin/pip --python /a/b install \\\n   -r a.txt \\\n   x", ["-r a.txt  x"]),
        ("pipx install praetor-agent", ["praetor-agent"]),
        (
            "pip install --extra-index-url https://a.example praetor-api",
            ["--extra-index-url https://a.example praetor-api"],
        ),
        ("pip install --index-url https://a.example praetor-api", []),
        ("pip install --no-index dist/*.whl", []),
        ("RUN pip --python /a install --no-cache-dir \\\n  --require-hashes -r a.txt", []),
        ("every `pip install` of the docs", []),
    ],
)
def test_an_install_that_pins_nothing_is_found(text: str, found: list[str]) -> None:
    assert unpinned(text) == found


def test_every_install_of_docs_images_and_scripts_pins_an_index_or_digests() -> None:
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sources()}
    assert sum(len(INSTALL.findall(text)) for text in texts.values()) >= 10
    assert {str(path): found for path, text in texts.items() if (found := unpinned(text))} == {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("missing", ["go", "modules"])
def test_workflows_are_checked_without_actionlint_where_it_cannot_be_built(missing: str, tmp_path: Path) -> None:
    path = str(Path(sys.executable).parent) if missing == "go" else os.environ["PATH"]
    environ = {**os.environ, "PATH": path, "GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modules"), "GOFLAGS": ""}
    environ |= {"GOCACHE": str(tmp_path / "cache"), "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [sys.executable, "tools/checks/workflows.py"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "skipped: actionlint: " in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
