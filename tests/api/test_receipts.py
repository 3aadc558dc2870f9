"""Receipts and public keys over HTTP: who gets which, when, and that anyone can check them."""

from __future__ import annotations

import json
import re

import jwt
import pytest
from django.conf import LazySettings

from ledger.documents import LedgerEntry
from payflow import signing
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem, nothing_changes
from transfers import receipt_rules, saga

PAID = 25_00


def begin(sender: Party, receiver: Party, amount: str = "25.00") -> str:
    answer = sender.api.post_json("/transactions", {"receiver_id": receiver.id, "amount": amount})
    assert answer.status_code == 201, answer.content
    return answer.json()["id"]


def end(transaction: str) -> None:
    saga.complete(saga.credit(saga.debit([transaction])).credited)


@pytest.fixture
def paid(anna: Party, bob: Party) -> str:
    """A completed transaction from Anna to Bob."""
    transaction = begin(anna, bob)
    end(transaction)
    return transaction


def test_sender_receiver_and_staff_get_a_receipt_each_of_their_own(
    paid: str, anna: Party, bob: Party, staff: Party, settings: LazySettings
) -> None:
    for party, reader in ((anna, "sender"), (bob, "receiver"), (staff, "staff")):
        with nothing_changes():
            answer = party.api.get(f"/transactions/{paid}/receipt")
        assert answer.status_code == 200, answer.content
        assert answer["Cache-Control"] == "no-store"
        body = answer.json()
        assert set(body) == {"receipt", "signature"}
        assert body["receipt"]["issued_to"] == reader
        assert body["receipt"]["transaction"]["id"] == paid
        keys = settings.RECEIPT_SIGNING_KEYS
        assert receipt_rules.verify(body["receipt"], body["signature"], keys) == []


def test_the_parties_do_not_see_each_others_balance(paid: str, anna: Party, bob: Party) -> None:
    # 100.00 - 25.00 = 75.00, which stands in no other place. As a word: ids and hashes have any digits.
    assert '"balance_minor":"7500"' in anna.api.get(f"/transactions/{paid}/receipt").content.decode()
    assert not re.search(r"\b7500\b", bob.api.get(f"/transactions/{paid}/receipt").content.decode())
    bob.receive(11_11)
    back = begin(bob, anna, "1.00")
    end(back)
    assert '"balance_minor":"3511"' in bob.api.get(f"/transactions/{back}/receipt").content.decode()
    assert not re.search(r"\b3511\b", anna.api.get(f"/transactions/{back}/receipt").content.decode())


def test_staff_who_are_a_party_get_what_a_party_gets(staff: Party, bob: Party) -> None:
    staff.receive(PAID)
    transaction = begin(staff, bob)
    end(transaction)
    receipt = staff.api.get(f"/transactions/{transaction}/receipt").json()["receipt"]
    assert receipt["issued_to"] == "sender"


def test_a_declined_transaction_has_a_receipt_too(anna: Party, bob: Party) -> None:
    transaction = begin(anna, bob, "100.01")
    end(transaction)
    receipt = bob.api.get(f"/transactions/{transaction}/receipt").json()["receipt"]
    assert receipt["transaction"]["failure"]["code"] == "insufficient_balance"
    assert [part["kind"] for part in receipt["entries"]] == ["DECLINED"]


def test_for_everyone_else_there_is_none(paid: str, stranger: Party, anyone: Api, anna: Party) -> None:
    assert_problem(stranger.api.get(f"/transactions/{paid}/receipt"), 404, "not_found")
    assert_problem(anna.api.get("/transactions/txn_none/receipt"), 404, "not_found")
    assert_problem(anyone.get(f"/transactions/{paid}/receipt"), 401, "not_authenticated")
    assert_problem(anna.api.post_json(f"/transactions/{paid}/receipt", {}), 405, "method_not_allowed")


def test_a_running_transaction_has_none_yet(anna: Party, bob: Party, stranger: Party) -> None:
    transaction = begin(anna, bob)
    path = f"/transactions/{transaction}/receipt"
    steps = (lambda: None, lambda: saga.debit([transaction]), lambda: saga.credit([transaction]))
    for step in steps:
        step()
        answer = anna.api.get(path)
        assert_problem(answer, 409, "not_settled")
        assert answer["Retry-After"] == "1"
        # A stranger learns nothing from the difference.
        assert_problem(stranger.api.get(path), 404, "not_found")
    saga.complete([transaction])
    assert anna.api.get(path).status_code == 200


def test_waits_for_the_end_when_asked(anna: Party, bob: Party, saga_worker: None) -> None:
    transaction = begin(anna, bob)
    answer = Api(anna.api.defaults["HTTP_AUTHORIZATION"].split()[1]).get(
        f"/transactions/{transaction}/receipt", headers={"Prefer": "wait=20"}
    )
    assert answer.status_code == 200
    assert answer["Preference-Applied"] == "wait=20"


def test_signs_nothing_false_and_says_nothing_of_it(paid: str, anna: Party) -> None:
    collection(LedgerEntry).update_one({"_id": f"{paid}:debit"}, {"$inc": {"balance_minor": 1}})
    problem = assert_problem(anna.api.get(f"/transactions/{paid}/receipt"), 500, "internal_error")
    assert "hash" not in problem["detail"]


def test_publishes_the_public_keys_to_everyone(anyone: Api, settings: LazySettings) -> None:
    old, new = (f"{name}:{signing.to_base64url(bytes([n]) * 32)}" for n, name in enumerate(("old", "new")))
    settings.RECEIPT_SIGNING_KEYS = signing.read_keys([new, old])
    answer = anyone.get("/ledger/keys")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/jwk-set+json"
    assert answer["Cache-Control"] == "public, max-age=300"
    members = json.loads(answer.content)["keys"]
    assert [member["kid"] for member in members] == ["new", "old"]
    for member in members:
        assert set(member) == {"kty", "crv", "x", "kid", "use", "alg"}
        assert (member["kty"], member["crv"]) == ("OKP", "Ed25519")
        assert (member["use"], member["alg"]) == ("sig", "EdDSA")


def test_bad_credentials_do_not_hide_the_keys(settings: LazySettings) -> None:
    assert Api("not-a-token").get("/ledger/keys").status_code == 200


def test_what_is_published_verifies_what_is_issued(paid: str, anna: Party, anyone: Api) -> None:
    """As docs/receipts.md tells, with a library that has nothing to do with PayFlow."""
    document = json.loads(anna.api.get(f"/transactions/{paid}/receipt").content)
    header, _, signature = document["signature"].split(".")
    text = json.dumps(document["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    payload = jwt.utils.base64url_encode(text.encode()).decode()
    keys = jwt.PyJWKSet.from_dict(json.loads(anyone.get("/ledger/keys").content))
    key = keys[jwt.get_unverified_header(document["signature"])["kid"]]
    signed = jwt.PyJWS().decode(f"{header}.{payload}.{signature}", key, algorithms=["EdDSA"])
    assert json.loads(signed) == document["receipt"]
