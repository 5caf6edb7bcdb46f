"""What goes wrong with a cluster as a whole, told to the person who asked for it."""

from __future__ import annotations


class ClusterError(Exception):
    """A cluster cannot be started or used; the message says what is missing and how to mend it."""


class NotSupported(ClusterError):
    """This kind of cluster cannot do that; `Cluster.capabilities` tells beforehand."""
