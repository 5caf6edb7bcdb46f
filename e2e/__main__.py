"""`python -m e2e [--cluster embedded|envtest|kind|existing] [pytest's arguments]`: run the suite on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "suite"


def main(arguments: list[str]) -> int:
    """Run the whole suite unless the arguments name some of its files; return pytest's exit status."""
    named = [argument for argument in arguments if Path(argument.partition("::")[0]).exists()]
    return int(pytest.main([*arguments, *(() if named else (str(SUITE),))]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
