import threading
import unicodedata

import pytest
from django.contrib.auth.hashers import check_password, identify_hasher, make_password

from accounts import hashers
from payflow.errors import Transient


def test_hashes_with_argon2id_at_the_owasp_minimum() -> None:
    assert make_password("correct horse").startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


def test_knows_its_own_hashes_and_finds_them_up_to_date() -> None:
    encoded = make_password("correct horse")
    assert check_password("correct horse", encoded)
    assert not check_password("correct  horse", encoded)
    assert not identify_hasher(encoded).must_update(encoded)


@pytest.mark.parametrize(
    "password", ["pässwörd-ñ", "각각각각각", "\N{GRINNING FACE}" * 10, "سلام سلام سلام", "a\0b"]
)
def test_composed_and_decomposed_spellings_are_one_password(password: str) -> None:
    encoded = make_password(unicodedata.normalize("NFD", password))
    assert check_password(unicodedata.normalize("NFC", password), encoded)


def test_computes_a_bounded_number_of_hashes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashers, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(hashers, "WAIT_SECONDS_MAX", 0.01)
    with hashers._slot(), pytest.raises(Transient):
        make_password("one more")
    assert make_password("the slot is free again")


def test_a_failed_hash_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashers, "_slots", threading.BoundedSemaphore(1))
    with pytest.raises(UnicodeEncodeError):
        make_password("\ud800")
    assert make_password("the slot is free again")
