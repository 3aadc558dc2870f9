"""Log lines: the id of the row that a line is about, not of whatever request had the task run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from payflow import correlation
from payflow.logs import CorrelationFilter, JsonFormatter
from payflow.mongodb import collection
from tests.api.client import Party
from tests.transfers import world
from transfers import inbox, operations, postman, recovery, tasks
from transfers.documents import Transaction
from transfers.postman import Facts, NoticeStatus, Outcome


class Lines(logging.Handler):
    """Keeps every line as the log has it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(CorrelationFilter())
        self.setFormatter(JsonFormatter())
        self.found: list[dict] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record)))

    def ids(self, message: str) -> list[str]:
        return [line.get("correlation_id", "") for line in self.found if line["message"] == message]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def started(sender: Party, receiver: Party, count: int) -> dict[str, str]:
    """Ask for transfers, each with a correlation id of its own; return that by transaction."""
    found: dict[str, str] = {}
    for number in range(count):
        body = {"receiver_id": receiver.id, "amount": "1.00"}
        sent = sender.api.post_json("/transactions", body, X_Correlation_Id=f"request-{number}").json()
        found[sent["id"]] = f"request-{number}"
    return found


def by_transaction(lines: Lines, message: str) -> dict[str, str]:
    found = [line for line in lines.found if line["message"] == message]
    return {line["transaction_id"]: line.get("correlation_id", "") for line in found}


def test_of_a_batch_every_transaction_ends_under_its_own_id(anna: Party, bob: Party, lines: Lines) -> None:
    wanted = started(anna, bob, 3)
    correlation.enter("request-0")  # as the message of the chain does
    world.play(*wanted)
    assert by_transaction(lines, "transaction ended") == wanted


def test_a_batch_speaks_for_no_single_request(anna: Party, bob: Party) -> None:
    wanted = started(anna, bob, 2)
    inbox.pop(100)
    for ids, speaks_for in ((list(wanted), False), (list(wanted)[:1], True)):
        inbox.push(ids)
        correlation.enter("request-0")
        tasks.debit()
        assert (correlation.current() == "request-0") is speaks_for


def test_recovery_names_the_request_of_what_it_cannot_drive(
    anna: Party, bob: Party, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = started(anna, bob, 2)
    collection(Transaction).update_many({}, {"$set": {"history": None}})
    for id_ in wanted:
        world.make_due(id_)
    correlation.enter("beat")
    recovery.recover_stalled()
    assert by_transaction(lines, "transaction cannot be driven") == wanted
    flagged = [line for line in lines.found if line["message"] == "transactions need attention"]
    assert {line["transaction_id"]: line["correlation_id"] for line in flagged} == wanted


def test_an_operator_s_act_names_the_request_of_the_transaction(
    anna: Party, bob: Party, lines: Lines
) -> None:
    (id_,) = wanted = started(anna, bob, 1)
    correlation.enter("of the command")
    operations.retry(transaction_id=id_, who="carol")
    assert by_transaction(lines, "operator acted") == wanted


def test_a_notice_names_the_request_of_its_transaction(anna: Party, bob: Party, lines: Lines) -> None:
    wanted = started(anna, bob, 2)
    rows = {id_: world.row_of(id_) for id_ in wanted}
    facts = Facts({}, rows)
    notices = [{"_id": f"ntc_{n}", "transaction_id": id_} for n, id_ in enumerate(wanted)]
    correlation.enter("beat")
    postman._write_outcome(
        [*notices, {"_id": "ntc_none"}], "c", Outcome(NoticeStatus.FAILED, "refused"), facts
    )
    sent = [line for line in lines.found if line["message"] == "notification not sent"]
    assert [line.get("correlation_id", "") for line in sent] == [*wanted.values(), ""]
    assert [line.get("transaction_id") for line in sent] == [*wanted, None]


def test_what_has_no_id_of_its_own_has_that_of_its_request(lines: Lines) -> None:
    correlation.enter("mine")
    logging.getLogger("x").error("plain")
    logging.getLogger("x").error("of a row", extra={"correlation_id": "the row's"})
    logging.getLogger("x").error("of a row without one", extra={"correlation_id": ""})
    assert [lines.ids(m) for m in ("plain", "of a row", "of a row without one")] == [
        ["mine"],
        ["the row's"],
        [""],
    ]
