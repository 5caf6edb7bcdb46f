# SPDX-License-Identifier: Apache-2.0
"""Request counts out of an apiserver's Prometheus metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from e2e.clusters.cluster import Request

SAMPLE = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def parse_counts(metrics: str) -> Mapping[Request, int]:
    """Return the requests in *metrics* by verb and resource, whatever came of them."""
    counts: Counter[Request] = Counter()
    for sample in SAMPLE.finditer(metrics):
        labels = dict(LABEL.findall(sample["labels"]))
        resource = "/".join(filter(None, (labels.get("resource"), labels.get("subresource"))))
        counts[Request(labels.get("verb", ""), resource)] += int(float(sample["value"]))
    return counts
