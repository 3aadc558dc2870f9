"""A newer C library for one program, on a machine whose own is too old for it.

The MongoDB engine needs glibc 2.38; Debian 12 has 2.36. Debian 13's `libc6` is unpacked into a private folder
and the engine runs through its loader; nothing of the machine is changed. The package comes from where the
machine's own packages come from (its apt configuration, with the suite's name replaced), and apt checks
Debian's signature on it as on any other.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from payflow.stack.commands import run_logged
from payflow.stack.errors import StackError

GLIBC_MIN = (2, 38)
SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BESIDE = ("libstdc++.so.6", "libgcc_s.so.1")  # this machine's own, which the engine also needs
APT_SECONDS_MAX = 300.0
INSTEAD = "set MONGODB_URI to a MongoDB server of your own, or use a newer system (Debian 13, Ubuntu 24.04)"
# A mirror of Debian's main archive, or a moment of it at a snapshot service; not security, not a third party.
_ARCHIVE = re.compile(r"/debian(/\d{8}T\d{6}Z)?/?$")


@dataclass(frozen=True)
class Source:
    """Where one machine gets Debian's main archive from."""

    uri: str
    signed_by: str = ""

    def render(self, suite: str, keyring: str = "") -> str:
        """As an entry of a .sources file."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {suite}", "Components: main"]
        signed_by = keyring or self.signed_by
        if signed_by:
            lines.append(f"Signed-By: {signed_by}")
        return "\n".join(lines) + "\n"


def is_new_enough(version: str) -> bool:
    """Whether a version as in "glibc 2.36" suffices."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= GLIBC_MIN


def installed_version() -> str:
    """As in "glibc 2.36"; empty where the C library is another one (musl)."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def find_sources(texts: dict[str, str], codename: str) -> list[Source]:
    """The machine's entries of Debian's main archive, from the text of its apt files, by file name."""
    found: list[Source] = []
    for name, text in sorted(texts.items()):
        found += _from_stanzas(text, codename) if name.endswith(".sources") else _from_lines(text, codename)
    return list(dict.fromkeys(found))


def _from_stanzas(text: str, codename: str) -> list[Source]:
    """The deb822 format: fields, continued by indented lines; stanzas apart by blank lines."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, flags=re.MULTILINE))
        fields = {key.lower(): value.strip() for key, value in fields.items()}
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        wanted = {"types": "deb", "suites": codename, "components": "main"}
        if all(value in fields.get(key, "").split() for key, value in wanted.items()):
            found += [
                Source(uri, fields.get("signed-by", ""))
                for uri in fields.get("uris", "").split()
                if _ARCHIVE.search(uri)
            ]
    return found


def _from_lines(text: str, codename: str) -> list[Source]:
    """The one-line format: deb [options] URI suite component ..."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if (
            not match
            or match[3] != codename
            or "main" not in match[4].split()
            or not _ARCHIVE.search(match[2])
        ):
            continue
        signed_by = re.search(r"signed-by=(\S+)", match[1] or "", flags=re.IGNORECASE)
        found.append(Source(match[2], signed_by[1] if signed_by else ""))
    return found


def codename(os_release: str) -> str:
    """The name of the Debian release this is; empty for anything else."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, flags=re.MULTILINE))
    return fields.get("VERSION_CODENAME", "") if fields.get("ID") == "debian" else ""


def fetch(folder: Path) -> None:
    """Puts Debian 13's C library, and this machine's C++ library, into `folder`."""
    version = installed_version()
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise StackError(
            f"The embedded MongoDB needs glibc 2.38, this machine has {version}, and without apt a newer one "
            f"cannot be fetched: {INSTEAD}."
        )
    name = codename(_read(Path("/etc/os-release")))
    sources = find_sources(_apt_files(), name) if name else []
    if not sources:
        raise StackError(
            f"The embedded MongoDB needs glibc 2.38, this machine has {version}, and its apt configuration "
            f"names no Debian archive to fetch a newer one from: {INSTEAD}."
        )
    work = folder.with_name(f"{folder.name}-work")
    shutil.rmtree(work, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "library"):
        (work / part).mkdir(parents=True)
    _download(work, sources[0], name)
    _assemble(work)
    shutil.rmtree(folder, ignore_errors=True)
    (work / "library").rename(folder)
    shutil.rmtree(work, ignore_errors=True)


def _download(work: Path, source: Source, name: str) -> None:
    """Fetches and unpacks libc6, with a newer keyring where this machine's predates Debian 13's keys."""
    keyring = "" if source.signed_by else str(KEYRING) if KEYRING.exists() else ""
    try:
        _apt_download(work, source.render(SUITE, keyring), "libc6")
    except StackError:
        if "NO_PUBKEY" not in _read(_log(work)):
            raise
        # The keys of the release this machine runs vouch for the package that holds the next one's.
        _apt_download(work, source.render(name, keyring), "debian-archive-keyring")
        newer = work / "debian-archive-keyring" / KEYRING.relative_to("/")
        _apt_download(work, source.render(SUITE, str(newer)), "libc6")


def _apt_download(work: Path, source: str, package: str) -> None:
    """Downloads one package with apt, which keeps all its state in `work`, and unpacks it there."""
    (work / "payflow.sources").write_text(source)
    options = {
        "Dir::Etc::SourceList": work / "payflow.sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
    failure = f"Debian's package {package}, which the embedded MongoDB needs here, cannot be fetched"
    for command in ([*apt, "update"], [*apt, "download", package]):
        run_logged(
            command,
            log=_log(work),
            failure=failure,
            seconds_max=APT_SECONDS_MAX,
            cwd=work,
            env=_plain_language(),
        )
    archives = sorted(work.glob(f"{package}_*.deb"))
    if not archives:
        raise StackError(f"{failure}: apt found no such package. {INSTEAD.capitalize()}.")
    run_logged(
        ["dpkg-deb", "-x", str(archives[-1]), str(work / package)],
        log=_log(work),
        failure=f"Debian's package {package} cannot be unpacked",
        seconds_max=APT_SECONDS_MAX,
    )


def _assemble(work: Path) -> None:
    """Gathers the libraries in one folder, which the loader then searches instead of the system's."""
    libc = next((work / "libc6").glob("**/libc.so.6"))
    for file in libc.parent.glob("*.so*"):
        shutil.copy2(file, work / "library")
    folders = [Path(base) / libc.parent.name for base in ("/usr/lib", "/lib")]
    for name in BESIDE:
        found = [folder / name for folder in folders if (folder / name).exists()]
        if not found:
            raise StackError(
                f"The embedded MongoDB needs {name}, which this machine lacks: install it "
                "(`apt-get install libstdc++6 libgcc-s1`), then run it again."
            )
        shutil.copy2(found[0], work / "library")


def loader(folder: Path) -> Path:
    """The program that starts another one with the libraries of `folder`."""
    found = sorted(folder.glob("ld-linux*.so.*"))
    if not found:
        raise StackError(f"{folder} holds no loader: remove it and run it again.")
    return found[0]


def _apt_files() -> dict[str, str]:
    parts = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *parts.glob("*.list"), *parts.glob("*.sources")]
    return {str(file): _read(file) for file in files}


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _log(work: Path) -> Path:
    return work / "apt.log"


def _plain_language() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
