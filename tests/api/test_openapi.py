"""The OpenAPI document: complete, true to its own examples, committed, shown without help from elsewhere."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs
import pytest
from django.conf import settings

from payflow import openapi, signing
from payflow.api import problems
from tests.api import contract
from tests.api.client import Api
from tests.api.test_access import DOORS
from transfers import receipt_rules

DOCUMENT = json.loads(openapi.document().body)
COMMITTED = settings.BASE_DIR / "docs" / "openapi.json"
# The document does not describe the way to itself, nor what answers people.
UNDESCRIBED = {"GET /openapi.json", "GET /auth/unsubscribe", "POST /auth/unsubscribe"}
PAGES = ("/docs", "/redoc")


def operations() -> dict[str, dict[str, Any]]:
    """Return every operation by its method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


OPERATIONS = operations()


def test_the_committed_document_is_the_one_that_the_code_makes() -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == DOCUMENT, (
        "docs/openapi.json is not what the code says: look at what changed, then run `make openapi`"
    )


def test_many_who_ask_at_first_wait_for_one_document() -> None:
    openapi._document.cache_clear()
    together = threading.Barrier(4)

    def ask(_: int) -> openapi.Document:
        together.wait(60)
        return openapi.document()

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(ask, range(4))
    assert all(other is first for other in others)


def test_every_route_and_method_is_described() -> None:
    described = {re.sub(r"\{(\w+)\}", r"<\1>", name).replace("<id>", "<pk>") for name in OPERATIONS}
    assert described == set(DOORS) - UNDESCRIBED


def test_every_operation_has_its_own_name() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    assert [name for name in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []


def test_every_tag_is_explained_and_used() -> None:
    used = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    assert [tag["name"] for tag in DOCUMENT["tags"] if not tag["description"]] == []
    assert {tag["name"] for tag in DOCUMENT["tags"]} == used


def test_every_link_leads_to_an_operation() -> None:
    ids = {operation["operationId"] for operation in OPERATIONS.values()}
    links = [
        link["operationId"]
        for operation in OPERATIONS.values()
        for answer in operation["responses"].values()
        for link in contract.resolved(answer).get("links", {}).values()
    ]
    assert links
    assert set(links) <= ids


def test_the_documented_codes_are_the_catalogue_s() -> None:
    codes = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    assert codes == set(problems.catalogue())


@pytest.mark.parametrize("name", OPERATIONS)
def test_says_what_every_operation_of_its_kind_can_answer(name: str) -> None:
    """The rules that hold for all endpoints, told once more from the outside."""
    operation, method = OPERATIONS[name], name.split(" ")[0]
    statuses = set(map(int, operation["responses"]))
    headers = {parameter.get("$ref", "").rpartition("/")[2] for parameter in operation["parameters"]}
    assert "CorrelationId" in headers
    is_authenticated = {"accessToken": []} in operation["security"]
    assert is_authenticated <= (statuses >= {401, 403})
    is_guarded = is_authenticated and method in {"POST", "PUT", "PATCH"}
    assert is_guarded == ("IdempotencyKey" in headers) == (422 in statuses)
    assert is_guarded <= (statuses >= {400, 409})
    assert statuses >= {411, 413, 500}
    assert ("requestBody" in operation) <= (statuses >= {400, 415})
    assert ("{" in name) <= (404 in statuses)
    assert operation["summary"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_says_in_words_which_scope_an_api_key_needs(name: str) -> None:
    operation = OPERATIONS[name]
    description = operation.get("description", "")
    scopes = [scope for each in operation["security"] for scope in each.get("apiKey", [])]
    sentence = re.search(r"API keys need the scopes? (`[^`]+`(?: and `[^`]+`)*)\.", description)
    said = re.findall(r"`([^`]+)`", sentence[1]) if sentence else []
    assert said == scopes
    is_closed = {"accessToken": []} in operation["security"] and not scopes
    assert is_closed == ("API keys are not accepted." in description)


def test_credentials_are_of_kinds_that_are_described() -> None:
    taken = {kind for operation in OPERATIONS.values() for each in operation["security"] for kind in each}
    assert taken == set(DOCUMENT["components"]["securitySchemes"])


def test_every_page_links_to_the_one_after_it() -> None:
    pages = {}
    for operation in OPERATIONS.values():
        answer = contract.resolved(operation["responses"].get("200", {}))
        for content in answer.get("content", {}).values():
            if "next" in contract.resolved(content["schema"]).get("properties", {}):
                pages[operation["operationId"]] = answer.get("links", {}).get("next", {})
    assert len(pages) == 6
    assert {name: link.get("operationId") for name, link in pages.items()} == {name: name for name in pages}
    assert all("$response.body#/next" in link["parameters"].values() for link in pages.values())


def test_everything_is_described_for_those_who_do_not_know_the_code() -> None:
    said = dict(descriptions(DOCUMENT, ""))
    assert [where for where, text in said.items() if re.search(r"\.py\b|^Returns? ", text or "")] == []
    assert [name for name, operation in OPERATIONS.items() if not operation.get("description")] == []
    assert [where for where, text in said.items() if not text] == []


def descriptions(node: Any, where: str) -> Iterator[tuple[str, str | None]]:
    """Yield each description by its place, and None for a parameter or a property without one."""
    if isinstance(node, list):
        for number, inner in enumerate(node):
            yield from descriptions(inner, f"{where}/{number}")
    if not isinstance(node, dict):
        return
    if isinstance(node.get("description"), str):
        yield where, node["description"]
    elif {"name", "in"} <= set(node):
        yield where, None
    # What narrows a schema says nothing but that.
    if node.get("type") == "object":
        for name, schema in node.get("properties", {}).items():
            if not {"description", "$ref"} & set(schema):
                yield f"{where}/properties/{name}", None
    for name, inner in node.items():
        if name not in {"example", "examples"}:
            yield from descriptions(inner, f"{where}/{name}")


@pytest.mark.parametrize("name", ["CorrelationId", "IdempotencyKey"])
def test_no_page_fills_in_what_names_one_request(name: str) -> None:
    assert {"example", "examples"} & set(DOCUMENT["components"]["parameters"][name]) == set()


def examples(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield the operation's examples, each with its schema."""
    holders = {"body": operation.get("requestBody", {})}
    holders |= {status: contract.resolved(answer) for status, answer in operation["responses"].items()}
    for where, holder in holders.items():
        for content in holder.get("content", {}).values():
            for name, example in content.get("examples", {}).items():
                yield f"{where} {name}", content["schema"], contract.resolved(example)["value"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_are_what_their_schemas_say(name: str) -> None:
    components = contract.document()["components"]
    for where, schema, value in examples(OPERATIONS[name]):
        closed = {"$schema": contract.DIALECT, "components": components, **schema}
        errors = jsonschema_rs.validator_for(closed, validate_formats=True).iter_errors(value)
        assert [f"{where}: {error}" for error in errors] == []


@pytest.mark.parametrize(
    ("name", "status", "code", "detail", "field"),
    [
        ("POST /auth/register", 409, "already_exists", "Somebody has registered", "email"),
        ("POST /wallets", 409, "already_exists", "You have a EUR wallet", "currency"),
        ("POST /transactions", 409, "already_exists", "You have a transfer with the reference", "reference"),
        ("POST /auth/login", 401, "invalid_credentials", "The email or the password", None),
        ("POST /auth/password", 401, "invalid_credentials", "The current password", "current_password"),
        ("POST /auth/login", 400, "validation_error", "2 fields are not valid", "email"),
        ("POST /wallets/me/deposit", 400, "invalid_amount", "The amount must be", "amount"),
        ("DELETE /auth/sessions/{id}", 404, "not_found", "There is no such session", None),
        ("GET /webhooks/{id}", 404, "not_found", "You have no such webhook", None),
    ],
)
def test_an_operation_shows_its_own_refusals(
    name: str, status: int, code: str, detail: str, field: str | None
) -> None:
    answer = contract.resolved(OPERATIONS[name]["responses"][str(status)])
    shown = answer["content"][problems.MEDIA_TYPE]["examples"]
    values = [contract.resolved(example)["value"] for example in shown.values()]
    (own,) = [value for value in values if value["code"] == code]
    assert own["detail"].startswith(detail)
    assert [error["field"] for error in own["errors"]][:1] == ([field] if field else [])


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_example_speaks_only_of_fields_that_its_operation_takes(name: str) -> None:
    operation = OPERATIONS[name]
    taken = {contract.resolved(parameter)["name"] for parameter in operation["parameters"]}
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        taken |= set(contract.resolved(schema).get("properties", {}))
    for where, _, value in examples(operation):
        if where.startswith("4"):
            known = [error for error in value["errors"] if error["code"] != "unknown_field"]
            assert {error["field"] for error in known} <= taken, where


def test_every_body_has_an_example() -> None:
    without = [
        name
        for name, operation in OPERATIONS.items()
        if "requestBody" in operation
        and not operation["requestBody"]["content"]["application/json"].get("examples")
    ]
    assert without == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_good_answer_in_json_has_an_example(name: str) -> None:
    answers = {status: contract.resolved(answer) for status, answer in OPERATIONS[name]["responses"].items()}
    contents = [
        (status, media_type, content)
        for status, answer in answers.items()
        for media_type, content in answer.get("content", {}).items()
    ]
    assert [c[:2] for c in contents if c[1].endswith("json") and not c[2].get("examples")] == []


def test_the_example_of_a_receipt_is_verified_by_the_example_of_the_keys() -> None:
    def shown(name: str, media_type: str) -> Any:
        (example,) = OPERATIONS[name]["responses"]["200"]["content"][media_type]["examples"].values()
        return example["value"]

    signed = shown("GET /transactions/{id}/receipt", "application/json")
    keys = signing.read_jwks(shown("GET /ledger/keys", "application/jwk-set+json"))
    assert receipt_rules.verify(signed["receipt"], signed["signature"], keys) == []


def test_inputs_take_nothing_that_is_not_described() -> None:
    refs = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for operation in OPERATIONS.values()
        if "requestBody" in operation
    ]
    inputs = [DOCUMENT["components"]["schemas"][ref.rpartition("/")[2]] for ref in refs]
    assert inputs
    assert all(schema["additionalProperties"] is False for schema in inputs)


def test_the_document_is_served_and_may_be_kept_for_a_while(anyone: Api) -> None:
    response = anyone.get("/openapi.json")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "public, max-age=300"
    assert response.json() == DOCUMENT


def test_who_has_the_document_does_not_get_it_again(anyone: Api) -> None:
    etag = anyone.get("/openapi.json")["ETag"]
    again = anyone.get("/openapi.json", headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    assert anyone.get("/openapi.json", headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_served_here(anyone: Api, page: str) -> None:
    response = anyone.get(page)
    assert response.status_code == 200
    text = response.content.decode()
    assert "//" not in text
    assert "<style" not in text
    assert re.search(r"<script(?! src=)", text) is None
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(loaded) >= 3
    for path in loaded:
        assert anyone.get(path).status_code == 200, path


@pytest.mark.parametrize("page", PAGES)
def test_the_policy_of_a_page_names_no_other_origin(anyone: Api, page: str) -> None:
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in anyone.get(page)["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    sources = {source for sources in policy.values() for source in sources.split()}
    assert sources <= {"'none'", "'self'", "data:", "blob:", "'unsafe-inline'"}
    assert "'unsafe-inline'" not in policy["script-src"]
