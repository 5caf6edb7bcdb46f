"""Decisions: functions from values and `now` to values."""
