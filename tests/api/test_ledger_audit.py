"""GET /ledger/audit: what staff learn of the continuous audit, and what they can do about it."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts import services as accounts
from ledger import audit_record
from ledger.documents import AuditState, Checkpoint, Finding, LedgerEntry
from payflow import clock
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem
from tests.ledger.books import rewrite
from transfers import tasks
from wallets import services as wallets
from wallets.documents import Wallet

PATH = "/ledger/audit"
INVARIANTS = ["L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8"]


def unfreeze(wallet_id: str, *options: str) -> str:
    out = StringIO()
    call_command("wallet", "unfreeze", wallet_id, "--who", "sam", *options, stdout=out)
    return out.getvalue()


def break_wallet(party: Party) -> str:
    """Return the id of the entry that was changed; its amount was 10000."""
    entry = collection(LedgerEntry).find_one({"wallet_id": party.wallet.id})
    rewrite(entry["_id"], amount_minor=1)
    return str(entry["_id"])


def test_before_the_first_audit_nothing_is_known(staff: Party) -> None:
    body = staff.api.get(PATH).json()
    assert (body["status"], body["checked_at"], body["wallets_checked"]) == ("UNKNOWN", None, 0)
    assert body["lag"] == {"entries": 0, "seconds": None}


def test_a_clean_verdict(staff: Party, anna: Party, bob: Party) -> None:
    tasks.audit()
    body = staff.api.get(PATH).json()
    assert body["status"] == "CLEAN"
    assert body["invariants"] == {name: {"holds": True, "violations": 0} for name in INVARIANTS}
    assert (body["wallets_checked"], body["entries_verified"]) == (1, 1)
    assert body["lag"]["entries"] == 0
    assert 0 <= body["lag"]["seconds"] < 60
    assert (body["broken_wallets"], body["violations"]) == ([], [])
    assert body["checked_at"].endswith("Z")
    assert body["history"]["last_ended_at"].endswith("Z")


def test_a_broken_wallet_is_named_and_frozen(staff: Party, anna: Party, bob: Party, stranger: Party) -> None:
    tasks.audit()
    break_wallet(anna)
    tasks.audit()
    body = staff.api.get(PATH).json()
    assert body["status"] == "VIOLATED"
    assert body["broken_wallets"] == [anna.wallet.id]
    assert body["invariants"]["L1"] == {"holds": False, "violations": 1}
    (violation,) = body["violations"]
    assert set(violation) == {
        "invariant", "detail", "wallet_id", "sequence", "transaction_id", "found_at",
    }  # fmt: skip
    assert (violation["invariant"], violation["wallet_id"], violation["sequence"]) == (
        "L1",
        anna.wallet.id,
        1,
    )
    refused = anna.api.post_json("/wallets/me/withdraw", {"amount": "1.00"})
    assert_problem(refused, 409, "wallet_closed")
    assert stranger.api.post_json("/wallets/me/withdraw", {"amount": "1.00"}).status_code == 201


def test_an_audit_that_stopped_is_no_verdict(staff: Party, anna: Party) -> None:
    tasks.audit()
    record = audit_record.load()
    record.commit(verdict={**record.state["verdict"], "at": clock.now() - timedelta(hours=1)})
    assert staff.api.get(PATH).json()["status"] == "UNKNOWN"
    assert Api().get("/health").json()["status"] == "degraded"


@pytest.mark.parametrize("who", ["anyone", "anna"])
def test_only_staff_may_know(request: pytest.FixtureRequest, who: str, anna: Party) -> None:
    api = Api() if who == "anyone" else anna.api
    code = {"anyone": (401, "not_authenticated"), "anna": (403, "permission_denied")}[who]
    assert_problem(api.get(PATH), *code)


def test_without_mongodb_it_is_unavailable(staff: Party, mongodb_down: None) -> None:
    assert_problem(staff.api.get(PATH), 503, "service_unavailable")


# --- Unfreezing ---------------------------------------------------------------------------------------------


def test_a_repaired_wallet_is_unfrozen_by_somebody_with_a_name(staff: Party, anna: Party) -> None:
    entry_id = break_wallet(anna)
    tasks.audit()
    with pytest.raises(CommandError, match="cannot move 1"):
        unfreeze(anna.wallet.id)
    assert anna.wallet.status == "FROZEN"
    rewrite(entry_id, amount_minor=10_000)
    assert unfreeze(anna.wallet.id) == f"{anna.wallet.id} is now ACTIVE; findings cleared: 1.\n"
    tasks.audit()
    assert staff.api.get(PATH).json()["status"] == "CLEAN"
    assert anna.api.post_json("/wallets/me/withdraw", {"amount": "1.00"}).status_code == 201


def test_reactivating_a_user_does_not_thaw_what_the_audit_froze(anna: Party) -> None:
    break_wallet(anna)
    tasks.audit()
    accounts.deactivate_user(user_id=anna.id)
    accounts.reactivate_user(user_id=anna.id)
    assert (anna.wallet.status, anna.wallet.frozen_because) == ("FROZEN", ["broken_chain"])


def test_unfreezing_does_not_thaw_a_deactivated_users_wallet(anna: Party) -> None:
    entry_id = break_wallet(anna)
    tasks.audit()
    accounts.deactivate_user(user_id=anna.id)
    rewrite(entry_id, amount_minor=10_000)
    assert "is now FROZEN" in unfreeze(anna.wallet.id)
    accounts.reactivate_user(user_id=anna.id)
    assert anna.wallet.status == "ACTIVE"


def test_a_cut_tail_must_be_accepted(anna: Party) -> None:
    anna.receive(5)
    tasks.audit()
    collection(LedgerEntry).delete_one({"wallet_id": anna.wallet.id, "sequence": 2})
    tasks.audit()
    with pytest.raises(CommandError, match="--accept"):
        unfreeze(anna.wallet.id)
    assert "is now ACTIVE" in unfreeze(anna.wallet.id, "--accept")
    tasks.audit()
    assert anna.wallet.status == "ACTIVE"


def test_an_unknown_wallet_and_a_nameless_operator_are_refused(anna: Party) -> None:
    with pytest.raises(CommandError, match="There is no wallet"):
        unfreeze("wal_x")
    with pytest.raises(CommandError, match="--who"):
        call_command("wallet", "unfreeze", anna.wallet.id, "--who", " ")


# --- The full audit -----------------------------------------------------------------------------------------


def full_audit(*options: str) -> tuple[dict, int]:
    out = StringIO()
    try:
        call_command("audit", "--json", *options, stdout=out)
    except SystemExit as end:
        return json.loads(out.getvalue()), int(str(end.code))
    return json.loads(out.getvalue()), 0


def test_the_full_audit_sees_a_cut_tail(anna: Party) -> None:
    anna.receive(5)
    assert full_audit("--full")[1] == 0
    tasks.audit()
    collection(LedgerEntry).delete_one({"wallet_id": anna.wallet.id, "sequence": 2})
    for options in ((), ("--full",), ("--wallet", anna.wallet.id)):
        verdict, status = full_audit(*options)
        assert status == 1
        places = [(v["wallet_id"], v["sequence"]) for v in verdict["violations"]]
        assert places == [(anna.wallet.id, 2)]


def test_an_audit_whose_record_was_dropped_is_unverified_until_somebody_accepts(
    staff: Party, anna: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_record, "DOUBT_SECONDS", 0.0)
    entry_id = break_wallet(anna)
    tasks.audit()
    for document in (AuditState, Checkpoint, Finding):
        collection(document).delete_many({})
    wallets.unfreeze_broken_wallet(anna.wallet.id)
    rewrite(entry_id, amount_minor=10_000)
    for _ in range(3):
        tasks.audit()
        body = staff.api.get(PATH).json()
        assert (body["status"], body["unverified"]) == ("UNVERIFIED", "the audit's record is gone")
    health = Api().get("/health").json()
    assert (health["status"], health["ledger_audit"]["status"]) == ("degraded", "UNVERIFIED")
    verdict, status = full_audit("--full")
    assert (status, verdict["status"], verdict["clean"]) == (3, "UNVERIFIED", False)
    with pytest.raises(CommandError, match="--reason"):
        full_audit("--accept-new-beginning")
    assert full_audit("--accept-new-beginning", "--reason", "restored", "--who", "sam")[1] == 0
    tasks.audit()
    body = staff.api.get(PATH).json()
    assert body["status"] == "CLEAN"
    assert body["beginning"]["at"].endswith("Z")
    assert (body["beginning"]["by"], body["beginning"]["reason"]) == ("sam", "restored")
    assert full_audit("--full")[1] == 0


def test_what_is_broken_stays_so_after_a_new_beginning(staff: Party, anna: Party) -> None:
    tasks.audit()
    break_wallet(anna)
    verdict, status = full_audit("--accept-new-beginning", "--reason", "restored")
    assert (status, verdict["status"]) == (1, "VIOLATED")
    assert anna.wallet.status == "FROZEN"
    assert staff.api.get(PATH).json()["status"] == "VIOLATED"


@pytest.mark.parametrize("how", [{"status": "ACTIVE"}, {"status": "ACTIVE", "frozen_because": []}])
def test_a_wallet_thawed_in_the_database_is_frozen_again(anna: Party, how: dict) -> None:
    break_wallet(anna)
    tasks.audit()
    collection(Wallet).update_one({"_id": anna.wallet.id}, {"$set": how})
    tasks.audit()
    assert (anna.wallet.status, anna.wallet.frozen_because) == ("FROZEN", ["broken_chain"])
