# SPDX-License-Identifier: Apache-2.0
"""The agent as a service of the device: installation, start, checks and status."""
