"""What the OpenAPI document says of deliveries is what receivers get."""

from __future__ import annotations

import jsonschema_rs
import pytest
from pytest_httpserver import HTTPServer

from payflow import clock
from payflow.events import Event, EventType
from tests.api import contract
from tests.transfers.world import person, row_of, start
from tests.webhooks.hooks import one_event, subscribe, work
from transfers.body import transaction_body
from webhooks import fanout
from webhooks.event_schema import EVENT_TYPES

HEADERS = {"webhook-id", "webhook-timestamp", "webhook-signature", "PayFlow-Sequence", "PayFlow-Delivery"}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_delivery_is_what_the_document_says(httpserver: HTTPServer, event_type: str) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    alice, bob = person("alice", balance_minor=1_00), person("bob")
    subscription_id = subscribe(alice, url=httpserver.url_for("/hook"))
    if event_type in set(EventType):
        transaction_id = start(alice, bob, 1_00)
        data = transaction_body(row_of(transaction_id))
        fanout.fan_out([Event(transaction_id, EventType(event_type), clock.now(), data)])
    else:
        one_event(subscription_id)
    work(subscription_id)
    ((request, _),) = httpserver.log
    said = contract.document()["webhooks"][event_type]["post"]
    place = ("webhooks", event_type, "post", "requestBody", "content", "application/json", "schema")
    assert [str(error) for error in contract.validator(*place).iter_errors(request.get_json())] == []
    headers = [contract.resolved(parameter) for parameter in said["parameters"]]
    assert {header["name"] for header in headers} == HEADERS
    for header in headers:
        assert jsonschema_rs.is_valid(header["schema"], request.headers[header["name"]]), header["name"]


def test_the_document_describes_every_event_and_its_examples_are_true() -> None:
    described = contract.document()["webhooks"]
    assert set(described) == {*EventType, fanout.TEST_EVENT}
    for event_type, path_item in described.items():
        operation = path_item["post"]
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["responses"]) == {"2XX", "410", "429", "503", "default"}
        content = operation["requestBody"]["content"]["application/json"]
        place = ("webhooks", event_type, "post", "requestBody", "content", "application/json", "schema")
        for example in content.get("examples", {}).values():
            assert [str(error) for error in contract.validator(*place).iter_errors(example["value"])] == []
