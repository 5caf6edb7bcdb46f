# SPDX-License-Identifier: Apache-2.0
"""Artifacts: fetched, verified and stored under the digest of their content."""
