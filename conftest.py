# SPDX-License-Identifier: Apache-2.0
"""What all tests of the workspace share: Hypothesis settings under which no test depends on the machine's speed."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")
