# SPDX-License-Identifier: Apache-2.0
"""Backends supervise processes on a device, behind one small protocol; one module each."""
