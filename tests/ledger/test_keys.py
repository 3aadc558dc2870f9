"""The ledger's MACs: entries and the audit's state cannot vouch for each other."""

from __future__ import annotations

from ledger import keys

RING = keys.ledger_keys()


def test_an_entry_is_proved_by_its_hash() -> None:
    entry = {"hash": "ab" * 32, **keys.entry_mac("ab" * 32, RING)._asdict()}
    assert keys.entry_mac_fault(entry, RING) == ""
    assert "does not fit" in keys.entry_mac_fault({**entry, "hash": "cd" * 32}, RING)
    assert keys.entry_mac_fault({"hash": "ab" * 32}, RING) == "there is no MAC"


def test_the_audits_state_is_proved_by_its_values() -> None:
    stored = keys.audit_mac(["checkpoint", "wal_1", 3, None])
    assert keys.audit_mac_fault(stored, ["checkpoint", "wal_1", 3, None]) == ""
    for other in (
        ["checkpoint", "wal_1", 3],
        ["state", "wal_1", 3, None],
        ["checkpoint", "wal_1", "3", None],
    ):
        assert "does not fit" in keys.audit_mac_fault(stored, other)
    assert keys.is_current(stored)
    assert keys.is_known(stored)
    assert not keys.is_known({"key_id": "another"})


def test_a_mac_for_one_purpose_is_none_for_another() -> None:
    text = '["x"]'
    assert "does not fit" in keys.audit_mac_fault(keys.entry_mac(text, RING)._asdict(), ["x"])
    assert "does not fit" in keys.entry_mac_fault({"hash": text, **keys.audit_mac(["x"])}, RING)
