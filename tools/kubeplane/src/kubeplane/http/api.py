# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of the control plane: every request's way from its path to its response."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kubeplane.access.authentication import Authenticator, User
from kubeplane.access.authorization import Authorizer, refusal
from kubeplane.access.reviews import review
from kubeplane.clock import Clock
from kubeplane.errors import (
    ApiError,
    Obj,
    method_not_allowed,
    no_such_path,
)
from kubeplane.faults import Action, Fault, Faults, error_of
from kubeplane.http import bodies, discovery, openapi
from kubeplane.http.auditing import Audit
from kubeplane.http.counting import Requests
from kubeplane.http.messages import Request, Response, Send
from kubeplane.http.reading import Reader
from kubeplane.http.rendering import Form, asked_form
from kubeplane.http.watching import Watch
from kubeplane.kinds.resources import Resource
from kubeplane.registry.registry import Registry
from kubeplane.registry.selection import selection
from kubeplane.registry.writing import Options
from kubeplane.routes import Route, route
from kubeplane.storage.store import Stored, encode

log = logging.getLogger(__name__)

_HEALTH = ("/healthz", "/livez", "/readyz")
_CONTROL = "/_kubeplane/"


class Api:
    """Answers requests; everything that a write does happens before the next request is looked at."""

    def __init__(
        self,
        *,
        registry: Registry,
        reader: Reader,
        authenticator: Authenticator,
        authorizer: Authorizer,
        requests: Requests,
        faults: Faults,
        compact: Callable[[], None],
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._reader = reader
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._requests = requests
        self._faults = faults
        self._compact = compact
        self._audit = audit
        self._clock = clock
        self._openapi: dict[str, tuple[int, bytes, str]] = {}

    async def handle(self, request: Request) -> Response:
        """Return the response to *request*; errors become Status objects."""
        try:
            user = self._authenticator.user(request.path, request.headers)
        except ApiError as error:
            return _refusal(error)
        try:
            return await self._answer(request, user)
        except Exception as error:  # a bug met by one request must not break the others
            log.exception("request crashed: %s %s", request.method, request.path)
            return _refusal(ApiError(500, "InternalError", f"Internal error occurred: {error!r}"))

    async def _answer(self, request: Request, user: User) -> Response:
        at = route(request.method, request.path, request.query)
        if at is None:
            return self._guarded(lambda: self._other(request))
        response = await self._with_faults(at, request, user)
        self._requests.count(at, user.name, response.status)
        self._audit.note(at, user.name, request, response)
        return response

    def _guarded(self, answer: Callable[[], Response]) -> Response:
        try:
            return answer()
        except ApiError as error:
            return _refusal(error)

    async def _with_faults(self, at: Route, request: Request, user: User) -> Response:
        """Return the answer, or what a fault that was set makes of it."""
        fault = self._faults.take(at, user.name)
        if fault is None:
            return self._guarded(lambda: self._resource(at, request, user))
        if fault.action is Action.GONE and at.verb == "watch":
            return _watch_gone(fault, at)
        if error := error_of(fault, at):
            return _refusal(error)
        if fault.action in (Action.HANG, Action.SLOW):
            await self._clock.sleep(fault.seconds)
        if fault.action is Action.HANG:
            return Response(status=503, stream=_nothing, cut=True)
        return self._guarded(lambda: self._resource(at, request, user, fault))

    # resources

    def _resource(self, at: Route, request: Request, user: User, fault: Fault | None = None) -> Response:
        if at.verb == "create" and not at.name:
            reviewed = review(at, lambda: bodies.any_body(request), user, self._authenticator, self._authorizer)
            if reviewed is not None:
                return Response(201, encode(reviewed))
        if not self._authorizer.allows(user, at):
            raise refusal(user, at)
        resource = self._registry.catalog.find(at.group, at.version, at.plural)
        if resource is None:
            if any(known.group == at.group and not known.custom for known in self._registry.catalog):
                raise no_such_path()
            return Response(404, b"404 page not found\n", "text/plain; charset=utf-8")
        self._check_route(at, resource)
        options = bodies.options(request, at.verb)
        if resource.deprecation:
            options.warnings.append(resource.deprecation)
        form = asked_form(request.headers.get("accept", ""), request.query.get("includeObject", ""))
        match at.verb:
            case "get":
                return self._object(resource, self._registry.read(resource, at.namespace, at.name), form, options)
            case "list":
                chosen = selection(resource, at.namespace, request.query)
                return Response(body=self._reader.listing(chosen, request.query, form), headers=_warned(options))
            case "watch":
                return self._watch(at, resource, request, form, fault)
            case _:
                return self._write(at, resource, request, options, form)

    def _check_route(self, at: Route, resource: Resource) -> None:
        known = {"status"} if resource.status else set()
        if at.subresource and at.subresource not in (known | {"finalize"} if at.plural == "namespaces" else known):
            raise no_such_path()
        allowed = resource.verbs if not at.subresource else ("get", "update", "patch")
        needs_name = at.verb in ("get", "update", "patch", "delete")
        if at.verb not in allowed or (needs_name and not at.name) or (at.verb == "create" and at.name):
            raise method_not_allowed()
        if not resource.namespaced and at.namespace:
            raise no_such_path()
        if resource.namespaced and not at.namespace and at.verb not in ("list", "watch", "deletecollection"):
            if at.verb == "create":
                raise method_not_allowed()
            raise no_such_path()

    def _object(self, resource: Resource, stored: Stored, form: Form, options: Options, status: int = 200) -> Response:
        return Response(status, self._reader.one(resource, stored, form), headers=_warned(options))

    def _watch(self, at: Route, resource: Resource, request: Request, form: Form, fault: Fault | None) -> Response:
        chosen = selection(resource, at.namespace, request.query, at.name)
        watch = self._reader.watch(chosen, request.query, form)
        if fault and fault.action is Action.TRUNCATE:
            return Response(stream=_truncated(watch), cut=True)
        if fault and fault.action is Action.FREEZE:
            watch.frozen = True
        return Response(stream=watch.stream)

    def _write(self, at: Route, resource: Resource, request: Request, options: Options, form: Form) -> Response:
        registry, place = self._registry, (resource, at.namespace)
        match at.verb:
            case "create":
                made = registry.create(*place, bodies.decoded(request, resource), options)
                return self._object(resource, made, form, options, 201)
            case "update":
                sub = "" if at.subresource == "finalize" else at.subresource
                stored, created = registry.update(*place, at.name, bodies.decoded(request, resource), options, sub)
                return self._object(resource, stored, form, options, 201 if created else 200)
            case "patch":
                kind, patch = bodies.patch(request, resource, options)
                stored, created = registry.patch(*place, at.name, kind, patch, options, at.subresource)
                return self._object(resource, stored, form, options, 201 if created else 200)
            case "delete":
                asked = bodies.delete_options(request, options)
                stored, gone = registry.delete(*place, at.name, asked, options)
                if not gone:
                    return self._object(resource, stored, form, options, 200)
                return Response(body=encode(_deleted(resource, stored)), headers=_warned(options))
            case _:
                return self._delete_all(at, resource, request, options)

    def _delete_all(self, at: Route, resource: Resource, request: Request, options: Options) -> Response:
        asked = bodies.delete_options(request, options)
        chosen = selection(resource, at.namespace, request.query)
        items = [s for s in self._registry.store.items(resource.table, at.namespace) if chosen.takes(s)]
        done = [self._registry.delete(resource, *item.key, asked, options)[0] for item in items]
        meta: Obj = {"resourceVersion": str(self._registry.store.rv)}
        return Response(body=self._reader.list_of(resource, done, meta, Form()))

    # everything that is no resource

    def _other(self, request: Request) -> Response:
        path = request.path.rstrip("/") or "/"
        if path.startswith(_HEALTH):
            return Response(body=b"ok", content_type="text/plain; charset=utf-8")
        if path == "/metrics":
            text = self._requests.as_metrics().encode()
            return Response(body=text, content_type="text/plain; version=0.0.4")
        if path == "/-/compact" and request.method == "POST":
            self._compact()
            return Response(body=encode(self._requests.as_json()))
        if path.startswith(_CONTROL):
            return self._control(path.removeprefix(_CONTROL), request)
        if path.startswith("/openapi"):
            return self._openapi_document(path, request)
        return self._discovery(path, request)

    def _control(self, what: str, request: Request) -> Response:
        """Answer the control requests of tests: faults, counts, compaction."""
        match request.method, what:
            case "GET", "requests":
                return Response(body=encode(self._requests.as_json()))
            case "DELETE", "requests":
                self._requests.reset()
                return Response(body=encode(self._requests.as_json()))
            case "GET", "faults":
                return Response(body=encode(self._faults.as_json()))
            case "POST", "faults":
                self._faults.add(bodies.as_json(request.body))
                return Response(201, encode(self._faults.as_json()))
            case "DELETE", "faults":
                self._faults.active.clear()
                return Response(body=encode(self._faults.as_json()))
            case "POST", "compact":
                self._compact()
                return Response(body=b"{}")
        raise no_such_path()

    def _discovery(self, path: str, request: Request) -> Response:
        catalog, accept = self._registry.catalog, request.headers.get("accept", "")
        if path in ("/api", "/apis"):
            whole = discovery.aggregated(catalog, accept, core=path == "/api")
            if whole:
                return Response(body=encode(whole[0]), content_type=whole[1])
        document: Obj | None = None
        match path.strip("/").split("/"):
            case ["version"]:
                document = discovery.VERSION
            case ["api"]:
                document = discovery.core_versions(request.headers.get("host", ""))
            case ["api", version]:
                document = discovery.resource_list(catalog, "", version)
            case ["apis"]:
                document = discovery.group_list(catalog)
            case ["apis", group]:
                document = discovery.group(catalog, group)
            case ["apis", group, version]:
                document = discovery.resource_list(catalog, group, version)
        if document is None:
            return Response(404, b"404 page not found\n", "text/plain; charset=utf-8")
        return Response(body=encode(document))

    def _openapi_document(self, path: str, request: Request) -> Response:
        catalog = self._registry.catalog
        binary = "protobuf" in request.headers.get("accept", "").partition(",")[0]
        key = f"{path} {binary}"
        cached = self._openapi.get(key)
        if cached and cached[0] == catalog.generation:
            return Response(body=cached[1], content_type=cached[2])
        document, kind = self._rendered(path, binary)
        self._openapi[key] = (catalog.generation, document, kind)
        return Response(body=document, content_type=kind)

    def _rendered(self, path: str, binary: bool) -> tuple[bytes, str]:
        catalog = self._registry.catalog
        if path == "/openapi/v2":
            document: Obj | None = openapi.v2(catalog)
            if binary and document is not None:
                from kubeplane.http.openapi_protobuf import encode_document

                return encode_document(document), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        elif path == "/openapi/v3":
            document = openapi.paths(catalog)
        else:
            document = openapi.v3(catalog, path.removeprefix("/openapi/v3/"))
        if document is None:
            raise no_such_path()
        return encode(document), "application/json"


async def _nothing(_: Send) -> None:
    """The stream of a hung request's broken answer."""


def _truncated(watch: Watch) -> Callable[[Send], Any]:
    """Return a watch that breaks in the middle of its first line."""

    class _Broken(Exception):
        """The line was cut."""

    async def stream(send: Send) -> None:
        async def cut(data: bytes) -> None:
            await send(data[: len(data) // 2])
            raise _Broken

        try:
            await watch.stream(cut)
        except _Broken:
            return

    return stream


def _watch_gone(fault: Fault, at: Route) -> Response:
    error = error_of(fault, at)
    assert error is not None

    async def stream(send: Send) -> None:
        await send(encode({"type": "ERROR", "object": error.as_status()}) + b"\n")

    return Response(stream=stream)


def _refusal(error: ApiError) -> Response:
    return Response(error.code, encode(error.as_status()), headers=error.headers)


def _warned(options: Options) -> tuple[tuple[str, str], ...]:
    quoted = (warning.replace("\\", "\\\\").replace('"', '\\"') for warning in options.warnings)
    return tuple(("Warning", f'299 - "{text}"') for text in quoted)


def _deleted(resource: Resource, stored: Stored) -> Obj:
    details: Obj = {"name": stored.key[1], "group": resource.group, "kind": resource.plural}
    details["uid"] = stored.obj["metadata"]["uid"]
    if not resource.group:
        del details["group"]
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
