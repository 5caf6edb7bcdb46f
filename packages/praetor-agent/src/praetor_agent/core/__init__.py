# SPDX-License-Identifier: Apache-2.0
"""Decisions: functions from values and `now` to values."""
