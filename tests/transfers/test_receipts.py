"""Receipts: what they say to whom, and that nothing in them can be changed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ledger.documents import LedgerEntry
from payflow import clock, signing
from payflow.mongodb import collection
from payflow.signing import BadSignature
from tests.transfers import world
from tests.transfers.issued import (
    ALICE_HOLDS,
    BOB_HOLDS,
    OUTCOMES,
    PAID,
    RECEIVER,
    RING,
    SENDER,
    STAFF,
    A,
    B,
    Document,
    changed,
    completed,
    hash_by_hand,
    issue,
    refunded,
    resigned,
    verdict,
)  # fmt: skip
from transfers import issuing, receipts
from transfers.receipts import TYP, Reader
from wallets import services as wallet_services


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=ALICE_HOLDS)


@pytest.fixture
def bob() -> str:
    return world.person("bob", balance_minor=BOB_HOLDS)


@pytest.fixture(params=OUTCOMES)
def ended(request: pytest.FixtureRequest, alice: str, bob: str) -> str:
    """A transaction of each outcome."""
    return OUTCOMES[request.param](alice, bob)


# --- What it says -----------------------------------------------------------------------------------------


def test_a_receipt_of_every_outcome_is_valid_for_everyone(ended: str) -> None:
    for reader in Reader:
        assert verdict(issue(ended, reader)) == []


def test_shows_the_transaction_as_it_ended(alice: str, bob: str) -> None:
    receipt = issue(refunded(alice, bob))["receipt"]
    row = world.row_of(receipt["transaction"]["id"])
    assert receipt["transaction"] == {
        "id": row["_id"],
        "sender_id": alice,
        "receiver_id": bob,
        "sender_wallet_id": world.wallet_id_of(alice),
        "receiver_wallet_id": world.wallet_id_of(bob),
        "amount": "25.00",
        "amount_minor": "2500",
        "currency": "USD",
        "status": "FAILED",
        "settlement": "REFUND",
        "failure": {
            "code": "wallet_closed",
            "detail": "The receiver's wallet is frozen or closed.",
            "refunded": True,
        },
        "initiated_at": clock.rfc3339(row["initiated_at"]),
        "completed_at": clock.rfc3339(row["completed_at"]),
    }
    assert (receipt["schema"], receipt["issuer"]) == ("payflow.receipt/1", "payflow-tests")
    assert receipt["issued_to"] == "sender"


@pytest.mark.parametrize(
    ("outcome", "kinds"),
    [("completed", ["DEBIT", "CREDIT"]), ("declined", ["DECLINED"]), ("refunded", ["DEBIT", "REFUND"])],
)
def test_holds_the_entries_of_its_outcome(outcome: str, kinds: list[str], alice: str, bob: str) -> None:
    transaction = OUTCOMES[outcome](alice, bob)
    for reader in Reader:
        assert [part["kind"] for part in issue(transaction, reader)["receipt"]["entries"]] == kinds


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)
    else:
        yield str(value)


@pytest.mark.parametrize(("reader", "other"), [(SENDER, RECEIVER), (RECEIVER, SENDER)])
def test_nobody_learns_anything_of_the_others_wallet(
    ended: str, reader: Reader, other: Reader, alice: str, bob: str
) -> None:
    whose = world.wallet_id_of({SENDER: alice, RECEIVER: bob}[other])
    told = list(strings_of(issue(ended, reader)))
    chain = list(collection(LedgerEntry).find({"wallet_id": whose}))
    assert len(chain) > 0
    for entry in chain:
        balance = entry["balance_minor"]
        for form in (str(balance), f"{balance / 100:.2f}"):
            assert not any(form in text for text in told)
        assert not any(entry["hash"] in text for text in told)
    parts = [part for part in issue(ended, reader)["receipt"]["entries"] if part["wallet_id"] == whose]
    public = {"id", "wallet_id", "kind", "amount_minor", "currency", "commitment"}
    assert all(set(part) == public for part in parts)
    heads = issue(ended, reader)["receipt"]["heads"]
    assert whose not in [head["wallet_id"] for head in heads]


def test_the_others_receipt_does_not_change_when_their_wallet_moves(alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    before = issue(transaction, RECEIVER)["receipt"]
    wallet_services.deposit(user_id=alice, currency="USD", amount_minor=1, key=None)
    assert {**issue(transaction, RECEIVER)["receipt"], "issued_at": ""} == {**before, "issued_at": ""}


def test_a_commitment_cannot_be_guessed_from_a_known_balance(alice: str, bob: str) -> None:
    """The receiver of a wallet's whole history knows all of the entry's content, and still learns nothing."""
    transaction = completed(alice, bob)
    sealed = issue(transaction, RECEIVER)["receipt"]["entries"][0]
    stored = collection(LedgerEntry).find_one({"_id": f"{transaction}:debit"})
    guesses = [hashlib.sha256(stored["hash"].encode()), hashlib.sha256(bytes.fromhex(stored["hash"]))]
    assert sealed["commitment"] not in [stored["hash"], *(guess.hexdigest() for guess in guesses)]


def test_both_receipts_speak_of_the_same_entries(ended: str) -> None:
    """The owner's salt and hash open the commitment that the other one holds."""
    shown = {reader: issue(ended, reader)["receipt"]["entries"] for reader in (SENDER, RECEIVER)}
    for mine, theirs in zip(shown[SENDER], shown[RECEIVER], strict=True):
        open_, sealed = (mine, theirs) if receipts.is_disclosed(mine) else (theirs, mine)
        raw = signing.from_base64url(open_["salt"]) + bytes.fromhex(open_["hash"])
        assert hashlib.sha256(raw).hexdigest() == sealed["commitment"]


def test_remembers_the_head_at_its_issue(alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    assert [head["sequence"] for head in issue(transaction, SENDER)["receipt"]["heads"]] == [2]
    wallet_services.deposit(user_id=alice, currency="USD", amount_minor=1, key=None)
    assert [head["sequence"] for head in issue(transaction, SENDER)["receipt"]["heads"]] == [3]
    assert [head["sequence"] for head in issue(transaction, STAFF)["receipt"]["heads"]] == [3, 2]


def test_an_empty_wallet_has_the_head_of_none() -> None:
    transaction = world.start(world.person("carol"), world.person("dan"), 1)
    world.play(transaction)
    document = issue(transaction, RECEIVER)
    assert [(head["sequence"], head["hash"]) for head in document["receipt"]["heads"]] == [(0, "0" * 64)]
    assert verdict(document) == []


def test_carries_balances_beyond_what_json_numbers_hold(alice: str) -> None:
    rich = world.person("rich", balance_minor=10**15)
    for _ in range(9):
        wallet_services.deposit(user_id=rich, currency="USD", amount_minor=10**15, key=None)
    document = issue(completed(alice, rich), RECEIVER)
    assert document["receipt"]["entries"][1]["balance_minor"] == str(10**16 + PAID)
    assert verdict(document) == []


def test_signs_nothing_that_the_ledger_does_not_bear_out(ended: str) -> None:
    entries = collection(LedgerEntry)
    entries.update_one({"_id": f"{ended}:debit"}, {"$inc": {"balance_minor": 1}})
    with pytest.raises(issuing.LedgerDisagrees):
        issue(ended)
    entries.delete_one({"_id": f"{ended}:debit"})
    with pytest.raises(issuing.LedgerDisagrees):
        issue(ended)


# --- An independent verifier ------------------------------------------------------------------------------


def b64(raw: bytes) -> str:
    return signing.to_base64url(raw)


def test_verifies_with_nothing_but_primitives(ended: str) -> None:
    """Not a line of PayFlow's verifier: RFC 7515 for the signature, SHA-256 over a JSON array for entries."""
    for reader in Reader:
        document = json.loads(json.dumps(issue(ended, reader)))
        header, _, signature = document["signature"].split(".")
        payload = json.dumps(document["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        key = Ed25519PublicKey.from_public_bytes(signing.from_base64url(RING.as_jwks()["keys"][0]["x"]))
        raw = signing.from_base64url(signature)
        key.verify(raw, f"{header}.{b64(payload.encode())}".encode())
        with pytest.raises(InvalidSignature):
            key.verify(raw, f"{header}.{b64(payload.encode() + b' ')}".encode())
        for part in document["receipt"]["entries"]:
            if "commitment" not in part:
                assert hash_by_hand(part) == part["hash"]
        moved = [int(part["amount_minor"]) for part in document["receipt"]["entries"]]
        assert sum(moved) == 0


# --- Tampering --------------------------------------------------------------------------------------------


def paths_of(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to everything in a document, containers included."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths_of(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, (*path, index))


def others_for(value: Any) -> list[Any]:
    """Return values that could stand where `value` does, and must not."""
    if isinstance(value, str):
        return [value + "0", value[:-1], value.swapcase(), "", None, 0, [value], "\ud800"]
    if isinstance(value, bool) or value is None:
        return [not value, "x", {}]
    if isinstance(value, int):
        return [value + 1, -value - 1, float(value), str(value), 2**60, True]
    return [None, [], {}, [value], "x"]


def without(document: Document, path: tuple) -> Document:
    copied = copy.deepcopy(document)
    holder = copied
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return copied


@pytest.mark.parametrize("reader", list(Reader))
def test_finds_any_change_to_any_field(ended: str, reader: Reader) -> None:
    document = issue(ended, reader)
    tried = 0
    for path in [path for path in paths_of(document) if len(path) > 1]:
        present = document
        for step in path:
            present = present[step]
        for value in others_for(present):
            # True equals 1 in Python and is another thing in JSON.
            if json.dumps(value) == json.dumps(present):
                continue
            assert verdict(changed(document, path, value)), (path, value)
            tried += 1
        assert verdict(without(document, path)), path
        if isinstance(present, dict):
            assert verdict(changed(document, (*path, "more"), 1)), path
        if isinstance(present, list) and len(present) > 1:
            assert verdict(changed(document, path, present[::-1])), path
            assert verdict(changed(document, path, [*present, present[0]])), path
    assert tried > 100
    signature = document["signature"]
    for position in range(0, len(signature), 7):
        other = "A" if signature[position] != "A" else "B"
        spoiled = signature[:position] + other + signature[position + 1 :]
        assert verdict({**document, "signature": spoiled}), position


def test_refuses_a_forger_who_uses_the_same_name(ended: str) -> None:
    forger = signing.read_keys(["a:" + signing.to_base64url(bytes([9]) * 32)])
    forged = issue(ended, keys=forger)
    assert verdict(forged, forger) == []
    assert verdict(forged)[0].startswith("The signature of key 'a' does not fit")


# What PayFlow itself, or a thief of its key, could sign and would still be a lie: who, path, value.
LIES: list[tuple[str, Reader, tuple, Any]] = [
    ("completed", SENDER, ("schema",), "payflow.receipt/2"),
    ("completed", SENDER, ("issued_to",), "receiver"),
    ("completed", SENDER, ("issued_to",), "staff"),
    ("completed", SENDER, ("issued_at",), "2026-01-31T09:30:00Z"),
    ("completed", SENDER, ("issued_at",), "2026-13-31T09:30:00.000Z"),
    ("completed", SENDER, ("issuer",), 1),
    ("completed", SENDER, ("heads",), []),
    ("completed", SENDER, ("heads", 0, "sequence"), 1),
    ("completed", SENDER, ("heads", 0, "sequence"), 0),
    ("completed", SENDER, ("heads", 0, "hash"), "1" * 64),
    ("completed", SENDER, ("heads", 0, "hash"), "0" * 64),
    ("completed", SENDER, ("heads", 0, "wallet_id"), "wal_1"),
    ("completed", SENDER, ("transaction", "id"), "txn_1"),
    ("completed", SENDER, ("transaction", "sender_wallet_id"), "wal_1"),
    ("completed", SENDER, ("transaction", "receiver_wallet_id"), "wal_1"),
    ("completed", SENDER, ("transaction", "amount"), "25.01"),
    ("completed", SENDER, ("transaction", "amount"), "25.0"),
    ("completed", SENDER, ("transaction", "amount_minor"), "2501"),
    ("completed", SENDER, ("transaction", "amount_minor"), "02500"),
    ("completed", SENDER, ("transaction", "amount_minor"), "0"),
    ("completed", SENDER, ("transaction", "amount_minor"), "-2500"),
    ("completed", SENDER, ("transaction", "currency"), "EUR"),
    ("completed", SENDER, ("transaction", "currency"), "XXX"),
    ("completed", SENDER, ("transaction", "status"), "FAILED"),
    ("completed", SENDER, ("transaction", "status"), "CREDITED"),
    ("completed", SENDER, ("transaction", "settlement"), "REFUND"),
    ("completed", SENDER, ("transaction", "settlement"), None),
    ("completed", SENDER, ("transaction", "failure"), {"code": "x", "detail": "x", "refunded": True}),
    ("completed", SENDER, ("transaction", "failure"), {}),
    ("completed", SENDER, ("entries",), []),
    ("completed", SENDER, ("entries", 0, "amount_minor"), "-2499"),
    ("completed", SENDER, ("entries", 0, "balance_minor"), "1"),
    ("completed", SENDER, ("entries", 0, "requested_minor"), "2501"),
    ("completed", SENDER, ("entries", 0, "sequence"), 1),
    ("completed", SENDER, ("entries", 0, "kind"), "CREDIT"),
    ("completed", SENDER, ("entries", 0, "contra"), "external"),
    ("completed", SENDER, ("entries", 0, "reason"), "because"),
    ("completed", SENDER, ("entries", 0, "created_at"), "2020-01-01T00:00:00.000Z"),
    ("completed", SENDER, ("entries", 0, "previous_hash"), "1" * 64),
    ("completed", SENDER, ("entries", 0, "hash"), "1" * 64),
    ("completed", SENDER, ("entries", 0, "salt"), "AA"),
    ("completed", SENDER, ("entries", 0, "transaction_id"), "txn_1"),
    ("completed", SENDER, ("entries", 1, "amount_minor"), "2499"),
    ("completed", SENDER, ("entries", 1, "kind"), "REFUND"),
    ("completed", SENDER, ("entries", 1, "id"), "txn_1:credit"),
    ("completed", SENDER, ("entries", 1, "wallet_id"), "wal_1"),
    ("completed", SENDER, ("entries", 1, "currency"), "EUR"),
    ("completed", SENDER, ("entries", 1, "commitment"), "1"),
    ("declined", SENDER, ("transaction", "failure", "code"), "expired"),
    ("declined", SENDER, ("transaction", "failure", "refunded"), True),
    ("declined", SENDER, ("transaction", "status"), "COMPLETED"),
    ("refunded", SENDER, ("transaction", "failure", "refunded"), False),
    ("refunded", SENDER, ("transaction", "settlement"), "CREDIT"),
    ("refunded", SENDER, ("entries", 1, "sequence"), 2),
    ("refunded", RECEIVER, ("entries", 1, "amount_minor"), "2499"),
]


@pytest.mark.parametrize(("outcome", "reader", "path", "value"), LIES)
def test_finds_a_lie_even_under_the_right_signature(
    outcome: str, reader: Reader, path: tuple, value: Any, alice: str, bob: str
) -> None:
    receipt = issue(OUTCOMES[outcome](alice, bob), reader)["receipt"]
    lie = resigned(changed(receipt, path, value))
    RING.verify(lie["receipt"], lie["signature"], typ=TYP)
    assert verdict(lie), (path, value)


def test_finds_an_entry_rewritten_with_a_fitting_hash(alice: str, bob: str) -> None:
    """Whoever changes a balance and computes the hash again breaks the link between debit and refund."""
    receipt = issue(refunded(alice, bob), SENDER)["receipt"]
    debit = receipt["entries"][0]
    debit["balance_minor"] = str(int(debit["balance_minor"]) + 100)
    debit["hash"] = hash_by_hand(debit)
    reasons = verdict(resigned(receipt))
    assert any("the refund does not follow the debit" in reason for reason in reasons)


def test_swapped_debit_and_refund_are_found(alice: str, bob: str) -> None:
    receipt = issue(refunded(alice, bob), SENDER)["receipt"]
    assert verdict(resigned({**receipt, "entries": receipt["entries"][::-1]}))


def test_a_receipt_for_somebody_else_is_not_the_senders(alice: str, bob: str) -> None:
    """A receiver's sealed entries cannot be passed off as what a sender was given."""
    receipt = issue(completed(alice, bob), RECEIVER)["receipt"]
    assert verdict(resigned({**receipt, "issued_to": "sender"}))


# --- Rotation ---------------------------------------------------------------------------------------------


def test_old_receipts_outlive_a_rotation_until_their_key_is_dropped(ended: str) -> None:
    old = issue(ended, keys=signing.read_keys([A]))
    rotated = signing.read_keys([B, A])
    assert verdict(old, rotated) == []
    new = issue(ended, keys=rotated)
    assert rotated.verify(new["receipt"], new["signature"], typ=TYP).kid == "b"
    assert verdict(new, rotated) == []
    # What is published is enough for both.
    assert verdict(old, signing.read_jwks(rotated.as_jwks())) == []
    dropped = signing.read_keys([B])
    assert verdict(new, dropped) == []
    sentence = "It is signed with the key 'a', which is not among the keys given."
    assert verdict(old, dropped) == [sentence]
    with pytest.raises(BadSignature, match="'a'"):
        dropped.verify(old["receipt"], old["signature"], typ=TYP)
