# SPDX-License-Identifier: Apache-2.0
"""Refuse words that Kubernetes and Python engineers do not use: `python tools/checks/vocabulary.py`.

Each entry of WORDS says what to write instead. Every file that git tracks is read; lines that quote one of the words
on purpose belong in ALLOWED.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    r"mend(?:s|ed|ing)?": "fix, remedy",
    r"somebody": "a user, the client that ...",
    r"nobody": "no user, no one declared it",
    r"whoever": "a user who, the client that ...",
    r"(?:tells?|told|telling) whether": "return whether, report whether",
    r"taken down": "recorded",
    r"looked at again": "checked again (requeue after)",
    r"foretold": "planned, predicted",
    r"sightings?": "first_seen, observations",
    r"strays?": "orphans",
}
ALLOWED = {
    "tools/checks/vocabulary.py": r".*",
    "*": (
        r"nobody(?:'|\"|`|:|,|4|\]|/|\.nogroup)|(?:'|\"|`|=|:)nobody"
        r"|User=nobody|user:? nobody|su nobody|account nobody"
    ),
}
"""By path, what a line may hold all the same; `*` is every file: nobody is also a Unix account."""

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".in", ".svg", ".cfg", ""}


def findings(path: Path) -> Iterator[str]:
    """Yield `path:line: word: what to write` for each refused word in *path*."""
    allowed = re.compile("|".join(filter(None, (ALLOWED.get(path.as_posix()), ALLOWED["*"]))))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = allowed.sub("", line)
        for word, instead in WORDS.items():
            # identifiers count, too: an underscore ends a word
            if found := re.search(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", text.replace("_", " "), re.IGNORECASE):
                yield f"{path}:{number}: {found[0]!r}: write {instead}"


def tracked() -> Iterator[Path]:
    """Yield the text files that git tracks, or is about to."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        path = Path(name)
        if path.suffix in TEXT and path.is_file() and path.name != "LICENSE":
            yield path


def main() -> int:
    """Print every finding to standard error; return 1 if there is one."""
    found = [line for path in tracked() for line in findings(path)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
