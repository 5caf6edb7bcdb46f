# SPDX-License-Identifier: Apache-2.0
"""Machinery for the Kubernetes API: client, informer, workqueue, elector, events. Needs the extra ``kube``."""
