"""Notices in the admin: what went wrong is listed by an index, and what failed can be tried anew."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from payflow import clock
from payflow.mongodb import collection
from tests.accounts.factories import UserFactory
from tests.transfers import world
from transfers import notices
from transfers.documents import Notice

LIST = reverse("admin:transfers_noticerow_changelist")


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def rows(alice: str, bob: str) -> dict[str, str]:
    """Return the ids of notices by status."""
    world.play(*[world.start(alice, bob, 900_000 + n) for n in range(4)])
    notices.write_down(transactions_max=4)
    ids = [row["_id"] for row in collection(Notice).find()]
    found = dict(zip(("FAILED", "UNKNOWN", "SENT", "PENDING"), ids, strict=True))
    for status, id_ in found.items():
        attempt = {"at": clock.now(), "result": status, "reason": "recipient refused, 550"}
        collection(Notice).update_one({"_id": id_}, {"$set": {"status": status, "attempts": [attempt]}})
    return found


def listed(client: Client, rows: dict[str, str], query: str = "") -> set[str]:
    page = client.get(LIST + query).content.decode()
    return {status for status, id_ in rows.items() if id_ in page}


def test_lists_and_finds_notices(staff: Client, rows: dict[str, str], alice: str, bob: str) -> None:
    assert listed(staff, rows) == {*rows}
    assert listed(staff, rows, "?status=FAILED") == {"FAILED"}
    assert listed(staff, rows, "?status=UNKNOWN") == {"UNKNOWN"}
    assert listed(staff, rows, f"?q={alice}") == {*rows}
    assert listed(staff, rows, f"?q={bob}") == set()
    assert listed(staff, rows, f"?q={rows['SENT']}") == {"SENT"}
    page = staff.get(reverse("admin:transfers_noticerow_change", args=[rows["FAILED"]])).content.decode()
    assert "recipient refused, 550" in page


def test_what_went_wrong_is_found_by_an_index(rows: dict[str, str]) -> None:
    plan = collection(Notice).find({"status": "FAILED"}).sort("_id", -1).explain()["queryPlanner"]
    assert "COLLSCAN" not in str(plan["winningPlan"])
    assert "'SORT'" not in str(plan["winningPlan"])
    assert "status_1__id_-1" in str(plan["winningPlan"])


def test_only_what_failed_is_tried_anew(staff: Client, rows: dict[str, str]) -> None:
    choice = {"action": "retry", "_selected_action": list(rows.values())}
    answer = staff.post(LIST, choice, follow=True).content.decode()
    assert "1 of 4 notices will be tried anew." in answer
    after = {row["_id"]: row["status"] for row in collection(Notice).find()}
    assert after == {id_: "PENDING" if status == "FAILED" else status for status, id_ in rows.items()}


def test_who_may_only_look_retries_nothing(rows: dict[str, str]) -> None:
    viewer = UserFactory(is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_noticerow"))
    client = Client()
    client.force_login(viewer)
    assert listed(client, rows) == {*rows}
    client.post(LIST, {"action": "retry", "_selected_action": [rows["FAILED"]]})
    assert collection(Notice).find_one({"_id": rows["FAILED"]})["status"] == "FAILED"
