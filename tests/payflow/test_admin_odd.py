"""The admin's pages over documents that hold anything: each list and detail renders, the odd value marked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import mongoengine
import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from django.conf import LazySettings
from django.contrib.admin import site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pymongo.errors import DuplicateKeyError, NetworkTimeout

from accounts.models import ApiKey
from payflow import admin
from payflow.admin import StoredRowsAdmin
from tests.accounts.factories import UserFactory
from tests.accounts.keys import mint
from tests.payflow.test_admin import join, start
from transfers import notices, saga
from webhooks import fanout
from webhooks import services as webhooks

ROWS = [model for model, model_admin in site._registry.items() if isinstance(model_admin, StoredRowsAdmin)]
NAMES = [model.__name__ for model in ROWS]
MISSING = object()
# Everything that MongoDB stores and that PayFlow would not have written there.
ODD = st.one_of(
    st.just(MISSING),
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(),
    st.sampled_from(
        ["", "XXX", "PONDERING", "\u202eUSD", "\ud7ff\ufdd0\U0010ffff", "<b>bold</b>", "a\0b", "\u3164"]
    ),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30),
    st.binary(max_size=8),
    st.sampled_from([datetime(1, 1, 1, tzinfo=UTC), DatetimeMS(2**60), DatetimeMS(-(2**60)), ObjectId()]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner)
        ),
        max_leaves=6,
    ),
)


@pytest.fixture
def staff() -> Client:
    """A superuser's browser."""
    client = Client(raise_request_exception=False)
    client.force_login(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def world() -> None:
    """One document of each kind that staff see."""
    alice, bob = join("Alice"), join("Bob")
    for amount_minor in (12_50, 900_00):
        transaction = start(alice, bob, amount_minor=amount_minor)
        saga.debit([transaction["_id"]])
        saga.credit([transaction["_id"]])
        saga.complete([transaction["_id"]])
    hook, _ = webhooks.create_subscription(user_id=alice, url="http://127.0.0.1:9/", events=["DEBIT_FAILED"])
    fanout.send_test(subscription_id=hook.id)
    notices.write_down(transactions_max=5)
    mint(UserFactory())


def pages_of(model: Any) -> Iterator[str]:
    """The addresses of a model's list, and of the page of every stored document."""
    name = model._meta.label_lower.replace(".", "_")
    yield reverse(f"admin:{name}_changelist")
    for document in admin.stored(model._meta.db_table).find({}, {"_id": 1}):
        yield reverse(f"admin:{name}_change", args=[quote(str(document["_id"]))])


def assert_pages_render(client: Client, model: Any) -> list[str]:
    texts = []
    for path in pages_of(model):
        response = client.get(path)
        assert response.status_code == 200, (path, response.status_code)
        texts.append(response.content.decode())
    return texts


def mutate(model: Any, field: str, value: Any) -> dict[str, Any]:
    """Change a field of the newest document; return the document as it was."""
    collection = mongoengine.get_db()[model._meta.db_table]
    document: Any = collection.find_one(sort=[("_id", -1)])
    change = {"$unset": {field: ""}} if value is MISSING else {"$set": {field: value}}
    collection.update_one({"_id": document["_id"]}, change, bypass_document_validation=True)
    return dict(document)


@pytest.mark.parametrize("model", ROWS, ids=NAMES)
@pytest.mark.usefixtures("world")
def test_every_page_renders_what_is_good_without_a_mark(staff: Client, model: Any) -> None:
    texts = assert_pages_render(staff, model)
    assert len(texts) > 1
    assert not any("odd: " in text for text in texts)


@pytest.mark.parametrize("model", ROWS, ids=NAMES)
@pytest.mark.usefixtures("world")
def test_every_page_renders_whatever_one_field_holds(staff: Client, model: Any) -> None:
    collection = mongoengine.get_db()[model._meta.db_table]
    sample: Any = collection.find_one(sort=[("_id", -1)])
    columns = {field.column for field in model._meta.concrete_fields}
    fields = sorted((columns | set(sample)) - {"_id"})

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(fields), ODD)
    def check(field: str, value: Any) -> None:
        try:
            before = mutate(model, field, value)
        except DuplicateKeyError:
            reject()
        try:
            assert_pages_render(staff, model)
        finally:
            collection.replace_one({"_id": before["_id"]}, before)

    check()


def test_a_transaction_in_a_currency_that_nobody_knows_is_marked(staff: Client) -> None:
    transaction = start(join("Alice"), join("Bob"), amount_minor=12_50)
    row = next(model for model in ROWS if model.__name__ == "TransactionRow")
    mutate(row, "currency", "XXX")
    texts = assert_pages_render(staff, row)
    assert all("odd: 1250 XXX" in text for text in texts)
    for query in ("?status=INITIATED", f"?q={transaction['sender_id']}", "?status=needs+attention"):
        assert staff.get(next(pages_of(row)) + query).status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("status", "PONDERING", "odd: PONDERING"),
        ("initiated_at", "yesterday", "odd: yesterday"),
        ("due_at", DatetimeMS(2**60), "odd: DatetimeMS"),
        ("attempts", "many", "odd: many"),
        ("history", "<b>none</b>", "odd: &lt;b&gt;none&lt;/b&gt;"),
        ("history", [{"at": "now", "status": "X", "reason": None}], "odd: now"),
        ("sender_id", 5, "odd: 5"),
        ("failure", {"code": 1}, "odd: {&#x27;code&#x27;: 1}"),
    ],
)
def test_an_odd_value_is_shown_as_it_is_stored(staff: Client, field: str, value: Any, shown: str) -> None:
    start(join("Alice"), join("Bob"), amount_minor=12_50)
    row = next(model for model in ROWS if model.__name__ == "TransactionRow")
    mutate(row, field, value)
    assert shown in assert_pages_render(staff, row)[1]


@pytest.mark.parametrize("key", [7, {"a": 1}, "", "\u202e/../x", "a\0b"])
def test_a_document_with_an_odd_id_is_listed(staff: Client, key: Any) -> None:
    row = next(model for model in ROWS if model.__name__ == "WalletRow")
    join("Alice")
    document: Any = mongoengine.get_db().wallets.find_one()
    mongoengine.get_db().wallets.insert_one({**document, "_id": key, "user_id": "other"})
    response = staff.get(next(pages_of(row)))
    assert (response.status_code, response.context["cl"].result_count) == (200, 2)


# --- When MongoDB takes too long --------------------------------------------------------------------------


def test_a_client_s_time_out_says_what_to_do_as_mongodb_s_own_does(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(self: admin.NewestFirst) -> None:
        raise NetworkTimeout("timed out")

    monkeypatch.setattr(admin.NewestFirst, "_find_page", too_long)
    row = next(model for model in ROWS if model.__name__ == "TransactionRow")
    response = staff.get(reverse(f"admin:{row._meta.label_lower.replace('.', '_')}_changelist"))
    assert response.status_code == 200
    assert admin.TOO_MANY_ROWS in response.content.decode()


def test_mongodb_gives_up_before_its_client_does(settings: LazySettings) -> None:
    assert 2 * settings.QUERY_MS_MAX <= settings.MONGODB_TIMEOUT_MS


def test_an_api_key_is_among_what_is_tried() -> None:
    assert ApiKey in ROWS
    assert len(ROWS) >= 6


# --- Users, whose pages are Django's own ------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["created_at", "is_active", "email", "name", "last_login", "locale", "password"]
)
@pytest.mark.parametrize(
    "value",
    [MISSING, "yesterday", 7, {"a": [1]}, DatetimeMS(2**60)],
    ids=["missing", "text", "number", "nested", "far future"],
)
def test_a_user_s_pages_render_whatever_is_stored(staff: Client, field: str, value: Any) -> None:
    user = UserFactory(email="odd@example.com")
    change = {"$unset": {field: ""}} if value is MISSING else {"$set": {field: value}}
    mongoengine.get_db()[user._meta.db_table].update_one({"_id": user.pk}, change)
    for path in (
        reverse("admin:accounts_user_changelist"),
        reverse("admin:accounts_user_change", args=[str(user.pk)]),
    ):
        response = staff.get(path)
        assert response.status_code == 200, path
        text = response.content.decode()
        assert "odd@example.com" in text or field == "email"
        assert user.password not in text


@pytest.mark.parametrize("value", [MISSING, 7, {"a": [1]}], ids=["missing", "number", "nested"])
def test_a_groups_pages_render_whatever_is_stored(staff: Client, value: Any) -> None:
    group = Group.objects.create(name="Support")
    change = {"$unset": {"name": ""}} if value is MISSING else {"$set": {"name": value}}
    mongoengine.get_db()[group._meta.db_table].update_one({"_id": group.pk}, change)
    for path in (
        reverse("admin:auth_group_changelist"),
        reverse("admin:auth_group_change", args=[str(group.pk)]),
    ):
        assert staff.get(path).status_code == 200, path
