"""A whole stack whose database is replaced by an older copy, while Redis runs on and remembers."""

from __future__ import annotations

import shutil
from pathlib import Path

import requests

from payflow.stack.stack import Stack
from tests.chaos.people import Person, eventually

REPLAYED = "Idempotent-Replayed"


def test_a_payment_that_a_restore_has_undone_is_not_replayed_as_done(tmp_path: Path) -> None:
    with Stack.on_free_ports(tmp_path / "data") as stack:
        assert stack.mongo is not None
        folder, copy = stack.data_dir / "mongo", tmp_path / "copy"
        alice = Person(stack.base_url, "alice", deposit="100.00")
        bob = Person(stack.base_url, "bob")
        body = {"receiver_id": bob.id, "amount": "10.00"}
        stack.mongo.stop()
        shutil.copytree(folder, copy)
        stack.mongo.start()
        first = eventually(lambda: alice.post("/transactions", body, key="k"), lambda a: a.status_code == 201)
        alice.wait_for_end(first.json()["id"])
        again = alice.post("/transactions", body, key="k")
        assert (again.json()["id"], again.headers[REPLAYED]) == (first.json()["id"], "true")
        assert bob.balance() == "10.00"

        stack.mongo.stop()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        stack.mongo.start()
        anew = eventually(lambda: alice.post("/transactions", body, key="k"), lambda a: a.status_code == 201)
        assert anew.json()["id"] != first.json()["id"]
        assert REPLAYED not in anew.headers
        assert alice.wait_for_end(anew.json()["id"])["status"] == "COMPLETED"
        assert (alice.balance(), bob.balance()) == ("90.00", "10.00")
        told = eventually(
            lambda: requests.get(f"{stack.base_url}/health", timeout=30).json(),
            lambda health: health.get("database", {}).get("status") == "restored",
        )
        assert told["status"] == "degraded"
