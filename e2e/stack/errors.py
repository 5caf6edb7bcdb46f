# SPDX-License-Identifier: Apache-2.0
"""Errors of the programs under test, with messages for the user who runs them."""

from __future__ import annotations


class StackError(Exception):
    """A program cannot be started or ended by itself; the message holds the end of its log."""


class Refused(AssertionError):
    """The apiserver refused a request that was meant to succeed."""
