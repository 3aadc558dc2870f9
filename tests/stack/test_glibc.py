"""Where a newer C library comes from: the machine's own Debian archive, and nothing else."""

import pytest

from payflow.stack import glibc
from payflow.stack.errors import StackError
from payflow.stack.glibc import Source, codename, find_sources, is_new_enough

DEB822 = """\
# The archive
Types: deb
# a comment within a stanza
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.example/debian-security
Suites: bookworm-security
Components: main
"""
TWO_MIRRORS = """\
Types: deb deb-src
URIs: http://a.example/debian/ http://b.example/debian
Suites: bookworm
Components: main
"""
INLINE_KEY = """\
Types: deb
URIs: http://a.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN
 .
 abc
 -----END
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("debian.sources", DEB822, [Source("http://deb.example/debian", KEYRING)]),
        ("debian.sources", DEB822.replace("Types: deb\n", "Enabled: no\nTypes: deb\n"), []),
        ("debian.sources", DEB822.replace("Types: deb\n", "Types: deb-src\n"), []),
        ("debian.sources", DEB822.replace("main", "contrib"), []),
        ("docker.sources", DEB822.replace("/debian\n", "/linux/docker\n"), []),
        (
            "two.sources",
            TWO_MIRRORS,
            [Source("http://a.example/debian/"), Source("http://b.example/debian")],
        ),
        (
            "inline.sources",
            INLINE_KEY,
            [Source("http://a.example/debian", "-----BEGIN\n .\n abc\n -----END")],
        ),
        (
            "snapshot.list",
            "deb http://s.example/archive/debian/20250520T000000Z bookworm main",
            [Source("http://s.example/archive/debian/20250520T000000Z")],
        ),
        (
            "sources.list",
            "deb http://deb.example/debian/ bookworm main\n",
            [Source("http://deb.example/debian/")],
        ),
        (
            "sources.list",
            f"deb [ arch=amd64 signed-by={KEYRING} ] http://deb.example/debian bookworm contrib main # us\n",
            [Source("http://deb.example/debian", KEYRING)],
        ),
        ("sources.list", "# deb http://deb.example/debian bookworm main\n", []),
        ("sources.list", "deb-src http://deb.example/debian bookworm main\n", []),
        ("sources.list", "deb http://deb.example/debian-security bookworm-security main\n", []),
        ("sources.list", "deb http://deb.example/debian bookworm-backports main\n", []),
        ("postgresql.list", "deb http://apt.example/pub/repos/apt bookworm-pgdg main\n", []),
        ("sources.list", "", []),
    ],
)
def test_finds_the_machines_main_archive(name: str, text: str, expected: list[Source]) -> None:
    assert find_sources({name: text}, "bookworm") == expected


def test_an_archive_named_twice_is_found_once() -> None:
    line = "deb http://deb.example/debian bookworm main\n"
    assert len(find_sources({"sources.list": line, "again.list": line}, "bookworm")) == 1


def test_a_source_is_rendered_with_another_suite_and_keeps_its_keyring() -> None:
    assert Source("http://deb.example/debian", KEYRING).render("trixie") == (
        "Types: deb\nURIs: http://deb.example/debian\nSuites: trixie\nComponents: main\n"
        f"Signed-By: {KEYRING}\n"
    )
    assert "Signed-By: /other.gpg\n" in Source("http://deb.example/debian", KEYRING).render(
        "trixie", "/other.gpg"
    )
    assert "Signed-By" not in Source("http://deb.example/debian").render("trixie")


@pytest.mark.parametrize(
    ("version", "enough"),
    [("glibc 2.36", False), ("glibc 2.38", True), ("glibc 2.41", True), ("glibc 3.0", True), ("", False)],
)
def test_knows_which_c_library_suffices(version: str, enough: bool) -> None:
    assert is_new_enough(version) is enough


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12"\n', "bookworm"),
        ('ID="ubuntu"\nVERSION_CODENAME=jammy\n', ""),
        ("ID=alpine\n", ""),
        ("", ""),
    ],
)
def test_reads_the_release_of_a_debian_only(os_release: str, expected: str) -> None:
    assert codename(os_release) == expected


def test_without_apt_the_sentence_names_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(glibc.shutil, "which", lambda _name: None)
    with pytest.raises(StackError, match=r"without apt .*MONGODB_URI.*newer system"):
        glibc.fetch(tmp_path / "glibc")


def test_without_a_debian_archive_the_sentence_names_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(glibc.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(glibc, "_apt_files", dict)
    with pytest.raises(StackError, match=r"names no Debian archive .*MONGODB_URI"):
        glibc.fetch(tmp_path / "glibc")
