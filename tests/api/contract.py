"""Holds every answer of the API tests against the OpenAPI document.

An answer must have a documented status, media type and headers, and a body that its schema allows, down to
the last field: what the document does not name may not be in an answer. Of what no operation is to blame for
(unknown addresses and methods, a foreign host) only the body is looked at: where it is a problem, it has the
form that every problem has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema_rs
from django.core.exceptions import DisallowedHost

from payflow import openapi
from payflow.api import problems

DIALECT = "https://json-schema.org/draft/2020-12/schema"
METHOD_NOT_ALLOWED = 405
# Of every answer, whatever it is; the document names what clients have a use for.
HEADERS_OF_ALL = frozenset(
    name.lower()
    for name in (
        "Access-Control-Allow-Credentials",
        "Access-Control-Allow-Origin",
        "Access-Control-Expose-Headers",
        "Allow",
        "Cache-Control",
        "Content-Disposition",
        "Content-Length",
        "Content-Security-Policy",
        "Content-Type",
        "Cross-Origin-Opener-Policy",
        "Cross-Origin-Resource-Policy",
        "Permissions-Policy",
        "Referrer-Policy",
        "Server",
        "Strict-Transport-Security",
        "Vary",
        "X-Content-Type-Options",
        "X-Frame-Options",
    )
)


@cache
def document() -> dict[str, Any]:
    """Return the document with each object closed: nothing may be in it that is not described."""
    whole = json.loads(openapi.document().body)
    for schema in _schemas(whole):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return whole


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from _schemas(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _schemas(inner)


def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference into the components."""
    if "$ref" not in node:
        return node
    found: Any = document()
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


@cache
def validator(*pointer: str) -> Any:
    """Return the validator of the schema at a place in the document."""
    schema: Any = document()
    for part in pointer:
        schema = schema[part]
    root = {"$schema": DIALECT, **schema, "components": document()["components"]}
    return jsonschema_rs.validator_for(root, validate_formats=True)


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    # What is spelled out comes before what takes any id.
    paths = sorted(document()["paths"], key=lambda path: path.count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in paths]


def operation_at(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return the documented path and the operation that this request is for, if any."""
    for pattern, template in _patterns():
        if pattern.fullmatch(path):
            operation = document()["paths"][template].get(method.lower())
            return (template, operation) if operation else None
    return None


def check(response: Any) -> None:
    """Fail unless the document allows this answer."""
    request = response.wsgi_request
    status = response.status_code
    found = operation_at(request.method, request.path) if _is_for_us(request) else None
    if found is None or status == METHOD_NOT_ALLOWED:
        _check_problem(f"{request.method} {request.path} {status}", response)
        return
    template, operation = found
    where = f"{request.method} {template} {status}"
    assert str(status) in operation["responses"], f"{where} is not documented: {response.content[:300]!r}"
    said = operation["responses"][str(status)]
    pointer = said["$ref"].removeprefix("#/").split("/") if "$ref" in said else None
    pointer = pointer or ["paths", template, request.method.lower(), "responses", str(status)]
    _check_headers(where, resolved(said).get("headers", {}), response)
    content = resolved(said).get("content")
    if content is None:
        assert response.content == b"", where
        return
    media_type = response["Content-Type"].partition(";")[0]
    assert media_type in content, f"{where}: {media_type}"
    if media_type.endswith("json"):
        errors = validator(*pointer, "content", media_type, "schema").iter_errors(response.json())
        assert [f"{where}: {error}" for error in errors] == []
    if media_type == problems.MEDIA_TYPE:
        _check_examples(where, content[media_type]["examples"], response.json())


def _is_for_us(request: Any) -> bool:
    try:
        return bool(request.get_host())
    except DisallowedHost:
        return False


def _check_problem(where: str, response: Any) -> None:
    # What answers a HEAD has no body.
    if response.get("Content-Type") == problems.MEDIA_TYPE and response.content:
        errors = validator("components", "schemas", "Problem").iter_errors(response.json())
        assert [f"{where}: {error}" for error in errors] == []


def _check_examples(where: str, said: Mapping[str, Any], problem: Mapping[str, Any]) -> None:
    """Fail if this problem names a field and the operation's examples of its code name none."""
    examples = [resolved(example)["value"] for example in said.values()]
    named = [example["errors"] for example in examples if example["code"] == problem["code"]]
    assert any(named) or not problem["errors"], f"{where}: no example of {problem['code']} names a field"


def _check_headers(where: str, said: Mapping[str, Any], response: Any) -> None:
    sent = {name.lower(): value for name, value in response.headers.items()}
    for name, reference in said.items():
        header = resolved(reference)
        value = sent.pop(name.lower(), None)
        assert value is not None or not header.get("required"), f"{where} lacks {name}"
        if value is not None:
            typed = int(value) if header["schema"]["type"] == "integer" else value
            assert jsonschema_rs.is_valid(header["schema"], typed), f"{where}: {name}: {value}"
    assert set(sent) - HEADERS_OF_ALL == set(), f"{where} has headers that are not documented"
