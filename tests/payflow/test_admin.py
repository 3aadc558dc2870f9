"""The admin over stored documents: complete, bounded, and unable to change anything."""

from __future__ import annotations

import re
from typing import Any

import mongoengine
import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse
from pymongo.errors import ExecutionTimeout

from payflow import admin
from tests.accounts.factories import UserFactory
from tests.accounts.keys import mint
from transfers import notices, saga
from transfers.batches import start_batch
from transfers.services import TransferRequest, start_transaction
from wallets import services as wallets
from webhooks import fanout
from webhooks import services as webhooks

LISTS = {
    "transactions": "/admin/transfers/transactionrow/",
    "wallets": "/admin/wallets/walletrow/",
    "ledger_entries": "/admin/ledger/entryrow/",
}


@pytest.fixture
def staff() -> Client:
    """A superuser's browser."""
    client = Client()
    client.force_login(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def paid() -> dict[str, Any]:
    """A payment of 12.50 from Alice, who had 100.00, to Bob."""
    transaction = start(*(join(name) for name in ("Alice", "Bob")), amount_minor=12_50)
    saga.debit([transaction["_id"]])
    saga.credit([transaction["_id"]])
    saga.complete([transaction["_id"]])
    return transaction


def join(name: str) -> str:
    user_id = str(UserFactory(name=name).pk)
    wallets.ensure_wallet(user_id=user_id, currency="USD")
    if name == "Alice":
        wallets.deposit(user_id=user_id, currency="USD", amount_minor=100_00, key="start")
    return user_id


def start(sender_id: str, receiver_id: str, *, amount_minor: int) -> dict[str, Any]:
    request = TransferRequest(
        sender_id=sender_id, receiver_id=receiver_id, receiver_email=None,
        amount_minor=amount_minor, currency="USD", description="<b>Lunch</b>",
    )  # fmt: skip
    return start_transaction(request=request, key=None).row


def shown(client: Client, name: str, query: str = "") -> list[str]:
    """The keys of the rows on a page."""
    response = client.get(LISTS[name] + query)
    assert response.status_code == 200, response
    return [row.pk for row in response.context["cl"].result_list]


def page_of(client: Client, name: str, key: str) -> str:
    response = client.get(f"{LISTS[name]}{admin_quote(key)}/change/")
    assert response.status_code == 200
    return response.content.decode()


def admin_quote(key: str) -> str:
    return key.replace("_", "_5F").replace(":", "_3A")


def test_a_transactions_page_tells_its_whole_story(staff: Client, paid: dict[str, Any]) -> None:
    text = page_of(staff, "transactions", paid["_id"])
    for word in (
        "INITIATED",
        "DEBITED",
        "CREDITED",
        "COMPLETED",
        "12.50",
        "-12.50",
        "87.50",
        "&lt;b&gt;Lunch",
    ):
        assert word in text, word
    for operation in ("debit", "credit"):
        assert admin_quote(f"{paid['_id']}:{operation}") in text


def test_a_failed_transactions_page_says_why(staff: Client) -> None:
    transaction = start(join("Bob"), join("Carol"), amount_minor=1)
    saga.debit([transaction["_id"]])
    text = page_of(staff, "transactions", transaction["_id"])
    assert "insufficient_balance" in text
    assert "DECLINED" in text


def test_pages_of_wallets_and_entries_show_formatted_amounts(staff: Client, paid: dict[str, Any]) -> None:
    wallet = page_of(staff, "wallets", paid["sender_wallet_id"])
    assert "87.50\N{NO-BREAK SPACE}USD" in wallet
    entry = page_of(staff, "ledger_entries", f"{paid['_id']}:debit")
    assert "-12.50" in entry
    assert paid["sender_wallet_id"] in entry


BROKEN = [
    ({"mac": "0" * 64}, "broken: the MAC does not fit (key &#x27;development&#x27;)"),
    ({"key_id": "another"}, "broken: the MAC names the key &#x27;another&#x27;, which is not known here"),
    ({"key_id": None}, "broken: there is no MAC"),
    ({"balance_minor": 5}, "broken: its hash does not cover it"),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_an_entry_that_payflow_has_not_written_is_marked(
    staff: Client, paid: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    debit = f"{paid['_id']}:debit"
    assert "broken" not in staff.get(LISTS["ledger_entries"]).content.decode()
    mongoengine.get_db().ledger_entries.update_one({"_id": debit}, {"$set": change})
    assert staff.get(LISTS["ledger_entries"]).content.decode().count(reason) == 1
    assert reason in page_of(staff, "ledger_entries", debit)
    assert reason in page_of(staff, "transactions", paid["_id"])
    assert "good" in page_of(staff, "ledger_entries", f"{paid['_id']}:credit")
    assert "unreadable" in page_of(staff, "wallets", paid["sender_wallet_id"])


def test_lists_are_newest_first(staff: Client, paid: dict[str, Any]) -> None:
    later = start(paid["receiver_id"], paid["sender_id"], amount_minor=1)
    assert shown(staff, "transactions") == [later["_id"], paid["_id"]]
    assert shown(staff, "wallets") == [paid["receiver_wallet_id"], paid["sender_wallet_id"]]
    entries = shown(staff, "ledger_entries")
    assert entries[:2] == [f"{paid['_id']}:credit", f"{paid['_id']}:debit"]
    assert entries[2].endswith(":deposit")


def test_searches_by_exact_ids_only(staff: Client, paid: dict[str, Any]) -> None:
    for term in (paid["_id"], paid["sender_id"], paid["receiver_id"]):
        assert shown(staff, "transactions", f"?q={term}") == [paid["_id"]]
    assert shown(staff, "wallets", f"?q={paid['sender_id']}") == [paid["sender_wallet_id"]]
    assert shown(staff, "wallets", f"?q={paid['sender_wallet_id']}") == [paid["sender_wallet_id"]]
    assert len(shown(staff, "ledger_entries", f"?q={paid['_id']}")) == 2
    assert len(shown(staff, "ledger_entries", f"?q={paid['sender_wallet_id']}")) == 2
    assert len(shown(staff, "ledger_entries", f"?q={paid['_id']}:debit")) == 1
    for name in LISTS:
        for term in ("txn_", ".*", "%00", "(", "%24ne", "x" * 5_000):
            assert shown(staff, name, f"?q={term}") in ([], shown(staff, name)), term
        assert shown(staff, name, "?q=.*") == []


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("transactions", "_id"),
        ("transactions", "sender_id"),
        ("wallets", "sender_wallet_id"),
        ("wallets", "sender_id"),
        ("ledger_entries", "_id"),
        ("ledger_entries", "sender_wallet_id"),
    ],
)
def test_a_search_reads_only_what_it_finds(
    staff: Client, paid: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, term: str
) -> None:
    plans = explained(monkeypatch, name)
    assert shown(staff, name, f"?q={paid[term]}")
    (plan,) = plans
    assert "EXPRESS" in plan or f'["{paid[term]}' in plan.partition("indexBounds")[2]


@pytest.mark.parametrize("name", ["transactions", "wallets"])
def test_a_list_is_read_from_its_newest_end(
    staff: Client, paid: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plans = explained(monkeypatch, name)
    assert shown(staff, name)
    assert "'backward'" in plans[0]
    assert "SORT" not in plans[0]
    assert "COLLSCAN" not in plans[0]


def explained(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Collect the plans of the lists that are shown."""
    plans: list[str] = []
    find_page = admin.NewestFirst._find_page

    def explain(self: admin.NewestFirst) -> tuple[int, list[str]]:
        wanted = self._mongo_filter()
        rows = mongoengine.get_db()[name].find(wanted).sort(self.model_admin.order_of(wanted)).limit(50)
        plans.append(str(rows.explain()["queryPlanner"]["winningPlan"]))
        return find_page(self)

    monkeypatch.setattr(admin.NewestFirst, "_find_page", explain)
    return plans


def test_filters_by_status(staff: Client, paid: dict[str, Any]) -> None:
    waiting = start(paid["receiver_id"], paid["sender_id"], amount_minor=1)
    assert shown(staff, "transactions", "?status=COMPLETED") == [paid["_id"]]
    assert shown(staff, "transactions", "?status=INITIATED") == [waiting["_id"]]
    assert shown(staff, "transactions", "?status=needs+attention") == []
    mongoengine.get_db()["transactions"].update_one(
        {"_id": waiting["_id"]}, {"$set": {"needs_attention": True}}
    )
    assert shown(staff, "transactions", "?status=needs+attention") == [waiting["_id"]]
    page = staff.get(LISTS["transactions"]).content.decode()
    assert re.findall(r'class="field-attention">([^<]*)<', page) == ["yes", "-"]
    assert len(shown(staff, "wallets", "?status__exact=ACTIVE")) == 2
    assert shown(staff, "wallets", "?status__exact=FROZEN") == []


def test_pages_are_bounded_and_do_not_overlap(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [str(UserFactory(email=f"u{n}@example.com").pk) for n in range(12)]
    keys = sorted((wallets.open_wallet(user_id=id_, currency="USD").id for id_ in users), reverse=True)
    monkeypatch.setattr(admin.StoredRowsAdmin, "list_per_page", 5)
    assert [shown(staff, "wallets", f"?p={n}") for n in (1, 2, 3)] == [keys[:5], keys[5:10], keys[10:]]
    monkeypatch.setattr(admin, "LISTED_MAX", 10)
    assert staff.get(LISTS["wallets"] + "?p=3").status_code == 302
    assert staff.get(LISTS["wallets"]).context["cl"].result_count == 10
    assert staff.get(LISTS["wallets"] + "?status__exact=ACTIVE").context["cl"].result_count == 10


def test_a_list_that_takes_too_long_says_so(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(self: admin.NewestFirst) -> None:
        raise ExecutionTimeout("operation exceeded time limit")

    monkeypatch.setattr(admin.NewestFirst, "_find_page", too_long)
    response = staff.get(LISTS["transactions"])
    assert response.status_code == 200
    assert "Search for an exact id instead" in response.content.decode()


@pytest.mark.parametrize("name", LISTS)
def test_nobody_changes_anything(staff: Client, paid: dict[str, Any], name: str) -> None:
    database = mongoengine.get_db()
    before = list(database[name].find().sort("_id", 1))
    key = admin_quote(before[0]["_id"])
    for path in (f"{key}/change/", f"{key}/delete/", "add/"):
        assert staff.post(LISTS[name] + path, {"post": "yes", "status": "CLOSED"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [before[0]["_id"]], "post": "yes"}
    staff.post(LISTS[name], chosen)
    assert list(database[name].find().sort("_id", 1)) == before


def test_a_helper_sees_what_their_permissions_name(paid: dict[str, Any]) -> None:
    helper = UserFactory(email="helper@example.com", is_staff=True)
    helper.user_permissions.set(Permission.objects.filter(codename="view_transactionrow"))
    client = Client()
    client.force_login(helper)
    assert shown(client, "transactions") == [paid["_id"]]
    assert client.get(LISTS["wallets"]).status_code == 403


def test_the_transactions_of_a_batch_are_found_by_its_id_and_by_their_references(
    staff: Client, paid: dict[str, Any]
) -> None:
    sender_id, receiver_id = paid["sender_id"], paid["receiver_id"]
    wishes = [
        TransferRequest(sender_id, receiver_id, None, 1, "USD", "", reference) for reference in ("a/1", None)
    ]
    batch = start_batch(sender_id=sender_id, wishes=wishes, key=None)
    found = shown(staff, "transactions", f"?q={batch.row['_id']}")
    made = [transaction["_id"] for transaction in batch.transactions]
    assert sorted(found) == made
    assert "a/1" in page_of(staff, "transactions", made[0])
    assert shown(staff, "transactions", "?q=bat_unknown") == []
    assert shown(staff, "transactions", f"?q={sender_id}+a/1") == made[:1]
    for term in (f"{sender_id}+a/2", f"{receiver_id}+a/1", "a/1"):
        assert shown(staff, "transactions", f"?q={term}") == []


def test_every_page_names_an_icon_which_browsers_would_ask_for_else(staff: Client) -> None:
    for path in ("/admin/", *LISTS.values()):
        assert '<link rel="icon" href="data:,">' in staff.get(path).content.decode()
    assert '<link rel="icon" href="data:,">' in Client().get("/admin/login/").content.decode()


def test_a_list_with_actions_counts_what_is_chosen_and_offers_no_more_than_the_page(
    staff: Client, paid: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        user = UserFactory()
        mint(user)
        Group.objects.create(name=user.email)
        hook, _ = webhooks.create_subscription(
            user_id=str(user.pk), url="http://127.0.0.1:9/", events=["DEBIT_FAILED"]
        )
        fanout.send_test(subscription_id=hook.id)
    notices.write_down(transactions_max=1)
    with_actions = set()
    for model, model_admin in site._registry.items():
        monkeypatch.setattr(model_admin, "list_per_page", 1)
        text = staff.get(reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")).content
        if b'class="action-select"' in text:
            with_actions.add(model.__name__)
            assert text.count(b'<span class="action-counter" data-actions-icnt="1">0 of 1 selected<') == 1
            assert b'class="question' not in text
    assert with_actions == {"User", "ApiKey", "Group", "SubscriptionRow", "DeliveryRow", "NoticeRow"}
