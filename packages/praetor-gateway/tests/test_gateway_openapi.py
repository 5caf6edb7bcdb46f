# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: what it allows is accepted, what it does not is refused, and answers are as it says."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
import schemathesis
from attrs import evolve
from hypothesis import HealthCheck, given, seed, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET

from gateway_testing import SETTINGS, SHARED_TOKEN, running_lab
from praetor_gateway.http.openapi import openapi_document
from test_gateway_server import served

DOCUMENT = openapi_document()
REPORT = "/v1/devices/{device}/report"
OPERATIONS = [(path, method) for path, found in DOCUMENT["paths"].items() for method in found if method != "parameters"]
EXAMPLES = 30
"""Of each operation and kind. The seed is fixed: the gate finds the same every time."""

bounded = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def is_allowed(body: bytes, name: str) -> bool:
    """Return whether the document allows *body* as an instance of the schema *name*."""
    try:
        data = json.loads(body)
    except ValueError:
        return False
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    valid: bool = Draft202012Validator(schema).is_valid(data)
    return valid


def test_the_document_names_each_endpoint_of_the_application() -> None:
    async def methods() -> dict[str, set[str]]:
        async with running_lab() as lab:
            allowed = {}
            for path in DOCUMENT["paths"]:
                answer = await lab.client.request("OPTIONS", path.replace("{device}", "leaf-1"))
                allowed[path] = {*answer.headers["allow"].lower().split(", ")} - {"options"}
            return allowed

    documented = {path: {*found} - {"parameters"} for path, found in DOCUMENT["paths"].items()}
    assert asyncio.run(methods()) == documented


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_a_report_is_accepted_exactly_when_the_document_allows_it(mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[REPORT]["POST"]
    seen: set[bool] = set()

    @seed(1)
    @bounded
    @given(case=operation.as_strategy(generation_mode=mode, path_parameters={"device": "leaf-1"}))
    def agree(case: schemathesis.Case[Any]) -> None:
        body = b"" if case.body is NOT_SET else case.body
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = runner.run(answered(body))
        taken = answer.status == 200 and not answer.json().get("rejected")
        seen.add(taken)
        assert taken == is_allowed(body, "Report")

    async def answered(body: bytes) -> Any:
        await lab.clock.advance(0.2)  # refusals of one address are slowed down
        return await lab.client.request("POST", "/v1/devices/unknown/report", chunks=(body,))

    with asyncio.Runner() as runner:
        context = running_lab(device_rate_per_s=1e5)
        lab = runner.run(context.__aenter__())
        try:
            agree()
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert (mode is GenerationMode.POSITIVE) in seen


async def test_a_running_gateway_is_as_its_document_says() -> None:
    async with served(evolve(SETTINGS, device_rate_per_s=1e5)) as (_, port, probes, *_rest):
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{probes}/openapi.json") as found:
            assert found.content_type == "application/json"
            assert await found.json() == DOCUMENT
        await asyncio.to_thread(conforms, f"http://127.0.0.1:{port}")


def conforms(url: str) -> None:
    """Raise an error of schemathesis unless the gateway at *url* answers each operation as the document says."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    accepted = set()
    for path, method in OPERATIONS:

        @seed(2)
        @bounded
        @given(case=schema[path][method].as_strategy())
        def check(case: schemathesis.Case[Any]) -> None:
            answer = case.call_and_validate(base_url=url, headers={"X-Device-Token": SHARED_TOKEN}, timeout=120)
            if answer.status_code == HTTPStatus.OK:
                accepted.add((case.path, case.method.lower()))

        check()
    assert accepted == set(OPERATIONS)
