# SPDX-License-Identifier: Apache-2.0
"""Praetor: see the README."""
