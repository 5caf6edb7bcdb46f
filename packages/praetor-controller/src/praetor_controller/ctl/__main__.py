# SPDX-License-Identifier: Apache-2.0
"""`python -m praetor_controller.ctl`."""

from __future__ import annotations

from praetor_controller.ctl.cli import main

if __name__ == "__main__":
    main()
