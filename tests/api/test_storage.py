"""The storage margin: what is refused and what pauses while too little is free, and that all resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import LazySettings

from accounts import services
from payflow import storage
from payflow.api.storage import SESSIONS
from payflow.celery import app
from payflow.errors import StorageFull
from payflow.mongodb import collection, insert_missing
from tests.accounts.factories import PASSWORD
from tests.api import auth_client
from tests.api.client import Api, Party, assert_problem, join, nothing_changes
from tests.api.contract import document
from tests.api.test_metrics import sample
from transfers import recovery, tasks
from transfers.documents import Transaction


class Disk:
    """The file system of the data folder; it has as much room as a test says."""

    free_mb = 10_000

    def statvfs(self, _folder: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=self.free_mb, f_frsize=storage.MB)


@pytest.fixture
def disk(settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    settings.STORAGE_FOLDERS, settings.STORAGE_FREE_MIN_MB = (tmp_path,), 256
    disk = Disk()
    monkeypatch.setattr("payflow.storage.os.statvfs", disk.statvfs)
    storage.forget()
    yield disk
    storage.forget()


def transfer(sender: Party, receiver: Party) -> dict[str, str]:
    return {"receiver_id": receiver.id, "amount": "1.00"}


def test_refuses_to_write_while_too_little_is_free_and_resumes_by_itself(
    anna: Party, bob: Party, disk: Disk
) -> None:
    disk.free_mb = 255
    with nothing_changes():
        refused = anna.api.post_json("/transactions", transfer(anna, bob), Idempotency_Key="k")
        assert_problem(refused, 503, "storage_full")
        assert int(refused["Retry-After"]) == StorageFull.retry_after_seconds
    disk.free_mb = 300
    again = anna.api.post_json("/transactions", transfer(anna, bob), Idempotency_Key="k")
    assert (again.status_code, "Idempotent-Replayed" in again) == (201, False)


def test_refuses_every_operation_of_the_api_that_writes(anna: Party, disk: Disk) -> None:
    disk.free_mb = 10
    every = [(method.upper(), path) for path, methods in document()["paths"].items() for method in methods]
    written = [(method, path) for method, path in every if method in {"POST", "PUT", "PATCH", "DELETE"}]
    assert len(written) > 15
    for method, path in written:
        answer = anna.api.send(method, path.replace("{", "").replace("}", ""), b"{}")
        if path not in SESSIONS:
            assert_problem(answer, 503, "storage_full")
        else:
            assert answer.status_code in (400, 401), path


def test_goes_on_reading_and_signing_in(anna: Party, disk: Disk) -> None:
    disk.free_mb = 10
    for path in ("/wallets/me", "/transactions", "/health/live", "/health/ready", "/metrics", "/docs"):
        assert anna.api.get(path).status_code == 200, path
    login = {"email": anna.user.email, "password": PASSWORD}
    signed_in = auth_client.post("/auth/login", login)
    assert signed_in.status_code == 200
    assert auth_client.post("/auth/refresh", {"refresh": signed_in.json()["refresh"]}).status_code == 200


def test_the_admin_says_so_on_a_page(disk: Disk) -> None:
    services.ensure_staff(email="root@example.com", password=PASSWORD)
    api = Api()
    api.handler.enforce_csrf_checks = False
    try:
        sign_in = {"username": "root@example.com", "password": PASSWORD}
        disk.free_mb = 10
        assert api.post("/admin/login/?next=/admin/", sign_in).status_code == 302
        assert api.get("/admin/accounts/user/").status_code == 200
        refused = api.post("/admin/accounts/user/add/", {})
    finally:
        api.handler.enforce_csrf_checks = True
    assert (refused.status_code, refused["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert b"The storage is nearly full" in refused.content


def test_an_api_keys_use_is_not_written_down_meanwhile(anna: Party, disk: Disk) -> None:
    minted = anna.api.post_json("/auth/api-keys", {"name": "n", "scopes": ["wallets:read"]}).json()
    disk.free_mb = 10
    with nothing_changes():
        assert Api(minted["key"]).get("/wallets/me").status_code == 200


@pytest.mark.parametrize("name", sorted(name for name in app.tasks if not name.startswith("celery.")))
def test_every_task_pauses(name: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(app.tasks[name], "run", run)
    disk.free_mb = 10
    assert app.tasks[name].apply().state == "IGNORED"
    disk.free_mb = 10_000
    assert app.tasks[name].apply().state in ("FAILURE", "RETRY")


def test_a_chain_that_was_dropped_is_driven_by_recovery(
    anna: Party, bob: Party, disk: Disk, settings: LazySettings
) -> None:
    settings.SAGA_STALLED_AFTER_SECONDS = 0
    [transaction] = [anna.api.post_json("/transactions", transfer(anna, bob)).json()["id"]]
    disk.free_mb = 10
    assert tasks.debit.apply().state == "IGNORED"
    assert (anna.cents, bob.cents) == (100_00, 0)
    disk.free_mb = 10_000
    assert recovery.recover_stalled().driven == 1
    row = collection(Transaction).find_one({"_id": transaction}) or {}
    assert (row["status"], anna.cents, bob.cents) == ("COMPLETED", 99_00, 1_00)


def test_what_inserts_much_looks_again(disk: Disk) -> None:
    disk.free_mb = 10
    with pytest.raises(StorageFull):
        insert_missing(collection(Transaction), [{"_id": "t"}])


def test_says_once_that_it_begins_and_once_that_it_ends(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "payflow.storage")
    for free_mb in (255, 200, 257, 281, 282, 300):
        disk.free_mb = free_mb
        for _process in range(2):  # another process that notices the same
            is_full = storage.is_full()
        assert is_full == (free_mb < 282), "it ends with a tenth more than the margin"
    assert [record.message for record in caplog.records] == [
        "storage is nearly full: writes are refused",
        "storage has room again",
    ]


def test_another_process_that_notices_the_same_says_nothing(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "payflow.storage")
    disk.free_mb = 10
    assert storage.is_full()
    storage.forget()
    assert storage.is_full()
    assert len(caplog.records) == 1


def test_is_told_by_health_and_metrics(anna: Party, bob: Party, disk: Disk) -> None:
    seen = Api().get("/health").json()
    assert (seen["status"], seen["storage"]) == ("ok", {"status": "up", "free_mb": 10_000})
    disk.free_mb = 100
    before = sample("payflow_storage_refused_total")
    answer = Api().get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["storage"] == {"status": "full", "free_mb": 100}
    anna.api.post_json("/transactions", transfer(anna, bob))
    assert sample("payflow_storage_full") == 1
    assert sample("payflow_storage_free_bytes") == 100 * storage.MB
    assert sample("payflow_storage_refused_total") == before + 1


# --- Servers of others ------------------------------------------------------------------------------------


def test_asks_another_server_for_its_own_figures(settings: LazySettings) -> None:
    assert settings.STORAGE_FOLDERS == (), "the tests' server is not the one of the data folder"
    join("Anna")
    storage.forget()
    assert not storage.is_full(), "a process that does not know yet goes on"
    seen = storage._seen
    eventually(lambda: seen.free_bytes is not None)
    assert storage.free_bytes() == seen.free_bytes > 0
    settings.STORAGE_FREE_MIN_MB = seen.free_bytes // storage.MB + 1
    assert storage.is_full()
    storage.forget()


@pytest.mark.parametrize(
    ("stats", "free"),
    [
        ({"fsTotalSize": 100.0, "fsUsedSize": 40.0}, 60),
        ({"fsTotalSize": 0.0, "fsUsedSize": 0.0}, None),
        ({}, None),
        (
            {
                "raw": {
                    "a": {"fsTotalSize": 9.0, "fsUsedSize": 8.0},
                    "b": {"fsTotalSize": 9.0, "fsUsedSize": 2.0},
                }
            },
            1,
        ),
    ],
)
def test_reads_what_a_server_or_its_shards_say(stats: dict, free: int | None) -> None:
    assert storage.read_figures(stats) == free


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        storage.time.sleep(0.05)
    raise AssertionError("not in time")
