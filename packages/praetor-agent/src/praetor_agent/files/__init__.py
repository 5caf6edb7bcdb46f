# SPDX-License-Identifier: Apache-2.0
"""The files that the agent writes for processes, and only those."""
