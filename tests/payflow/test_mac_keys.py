"""MAC keys: what they prove, what they refuse, and that they keep their secret."""

from __future__ import annotations

import pytest

from payflow.crypto.mac_keys import MacKeyring, read_mac_keys
from payflow.signing import UnusableKeys, to_base64url

A, B = (to_base64url(bytes(range(start, start + 32))) for start in (0, 100))
OLD, NEW = read_mac_keys([f"old:{A}"]), read_mac_keys([f"new:{B}", f"old:{A}"])


def fault(ring: MacKeyring, content: bytes = b"x", purpose: str = "p", **changes: object) -> str:
    mac = OLD.make(b"x", purpose="p")
    return ring.find_fault(content, purpose=purpose, **{**mac._asdict(), **changes})


def test_proves_what_it_was_made_over_and_nothing_else() -> None:
    assert fault(OLD) == ""
    assert fault(OLD, content=b"y") == "the MAC does not fit (key 'old')"
    assert fault(OLD, purpose="q") == "the MAC does not fit (key 'old')"
    assert fault(NEW, key_id="new") == "the MAC does not fit (key 'new')"


@pytest.mark.parametrize("nothing", [None, "", 5, b"raw", ["a"], {"$ne": None}])
@pytest.mark.parametrize("name", ["key_id", "mac"])
def test_what_is_no_text_is_no_mac(name: str, nothing: object) -> None:
    assert fault(OLD, **{name: nothing}) == "there is no MAC"


@pytest.mark.parametrize("mac", ["0" * 64, "é" * 64, "\udc80", "A"])
def test_any_text_is_judged(mac: str) -> None:
    assert fault(OLD, mac=mac) == "the MAC does not fit (key 'old')"


def test_the_first_key_makes_macs_and_all_verify() -> None:
    assert NEW.make(b"x", purpose="p").key_id == "new"
    assert fault(NEW) == ""
    only_new = read_mac_keys([f"new:{B}"])
    assert fault(only_new) == "the MAC names the key 'old', which is not known here"
    assert (NEW.is_known("old"), NEW.is_first("old"), NEW.is_first("new")) == (True, False, True)
    assert not only_new.is_known("old")


UNUSABLE = [
    ([], "from 1 to 100"),
    ([f"k{n}:{A}" for n in range(101)], "from 1 to 100"),
    ([A], "key 1 does not have the form"),
    ([f"a:{A}", f"b b:{B}"], "key 2 does not have the form"),
    ([f":{A}"], "key 1 does not have the form"),
    (["a:"], "key 1 does not have the form"),
    (["a:sesame-open"], "key 1 is not 32 bytes"),
    ([f"a:{A}="], "key 1 is not 32 bytes"),
    ([f"a:{A}", f"a:{B}"], "two keys have the same name"),
    ([f"a:{A}", f"b:{A}"], "one key has two names"),
]


@pytest.mark.parametrize(("entries", "reason"), UNUSABLE, ids=[reason for _, reason in UNUSABLE])
def test_refuses_keys_that_cannot_be_used(entries: list[str], reason: str) -> None:
    with pytest.raises(UnusableKeys, match=reason) as refusal:
        read_mac_keys(entries)
    assert A not in str(refusal.value)
    assert "sesame" not in str(refusal.value)


def test_a_repr_shows_no_secret() -> None:
    assert "secret" not in repr(NEW)
    assert repr(bytes(range(32)))[2:-1] not in repr(NEW)
