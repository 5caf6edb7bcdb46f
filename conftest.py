# SPDX-License-Identifier: Apache-2.0
"""What all tests of the workspace share: none depends on the machine's speed, or on the width of its terminal."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")

os.environ.pop("COLUMNS", None)  # pytest-xdist exports it
