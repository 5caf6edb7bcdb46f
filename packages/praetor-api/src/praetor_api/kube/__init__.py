# SPDX-License-Identifier: Apache-2.0
"""Machinery for the Kubernetes API: client, informer, workqueue, elector, events. Needs the extra ``kube``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the wheel is installed on older ones, too
    raise ImportError("praetor_api.kube needs Python 3.11 or later; the rest of praetor_api works from 3.9 on")
