# SPDX-License-Identifier: Apache-2.0
"""The real controller on a cluster and devices in memory, and the invariants of a rollout."""
