# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a cluster as a whole."""

from __future__ import annotations


class ClusterError(Exception):
    """A cluster cannot be started or used; the message says what is missing and what to do."""


class NotSupported(ClusterError):
    """This kind of cluster cannot do that; see `Cluster.capabilities`."""
