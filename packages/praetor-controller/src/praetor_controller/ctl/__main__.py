# SPDX-License-Identifier: Apache-2.0
"""Starts praetorctl: nothing is imported before Ctrl-C is handled."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit 130 at Ctrl-C, also while the program is being loaded."""
    try:
        from praetor_controller.ctl.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
