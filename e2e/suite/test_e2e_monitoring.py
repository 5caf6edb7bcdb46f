# SPDX-License-Identifier: Apache-2.0
"""Alerts and dashboards ask for metrics and labels that the running programs have."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from e2e.clusters.cluster import Capability
from e2e.release.build import ROOT
from e2e.stack.kube import Kube
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.workloads import prompt

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

MONITORING = ROOT / "deploy" / "components" / "monitoring"
OF_PROMETHEUS = {"pod", "namespace"}  # labels of the scrape, not of the program
WITH_TLS_ONLY = "praetor_gateway_certificate_expiry_timestamp_seconds"
METRIC = re.compile(r"\b((?:praetor|process)_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def queries() -> Iterator[str]:
    """Yield what every alert and every panel asks Prometheus."""
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for file in (MONITORING / "dashboards").glob("*.json"):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            yield from (target["expr"] for target in panel["targets"])


def scraped(stack: Stack) -> dict[str, set[str]]:
    """Return the labels of every series that the programs show, by the series' name."""
    labels: dict[str, set[str]] = defaultdict(set)
    for server in stack.servers():
        for family in text_string_to_metric_families(server.metrics()):
            for sample in family.samples:
                labels[sample.name] |= sample.labels.keys()
    return labels


def test_every_metric_and_label_that_a_query_names_is_scraped(stack: Stack, fleet: AgentFleet, kube: Kube) -> None:
    devices = fleet.add(2)
    kube.apply(deployment("sleeper", prompt()))
    await_ready(kube, devices)
    there = scraped(stack)
    unknown = set()
    for query in queries():
        named = METRIC.findall(query)
        assert named, query
        unknown |= {name for name, _ in named} - there.keys() - {WITH_TLS_ONLY}
        grouped = {label.strip() for labels in GROUPING.findall(query) for label in labels.split(",")}
        of_query = set().union(*(there[name] for name, _ in named), OF_PROMETHEUS)
        unknown |= {f"{label} in {query}" for label in grouped - of_query}
        for name, selector in named:
            unknown |= {f"{name}.{label}" for label in {*LABEL.findall(selector)} - there[name] - OF_PROMETHEUS}
    assert unknown == set()
