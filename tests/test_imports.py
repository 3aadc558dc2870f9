"""The rules of the house that a program can check: which way imports run, what stays private, names, sizes.

Each rule is a table or a constant here; the tests walk the syntax trees and name the line that breaks it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# One way: transfers -> accounts -> wallets -> ledger -> payflow, and transfers -> webhooks -> payflow.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "payflow": frozenset(),
    "ledger": frozenset({"payflow"}),
    "wallets": frozenset({"payflow", "ledger"}),
    "accounts": frozenset({"payflow", "ledger", "wallets"}),
    "webhooks": frozenset({"payflow"}),
    "transfers": frozenset({"payflow", "ledger", "wallets", "accounts", "webhooks"}),
}
# What an app keeps to itself. Its services, selectors, errors and subject modules are for everyone above it.
PRIVATE_ROOMS = frozenset(
    {
        "documents",
        "models",
        "schema",
        "serializers",
        "tasks",
        "views",
        "urls",
        "admin",
        "apps",
        "management",
        "migrations",
    }
)
# The kernel's own doors: apps get settings from django.conf, and nobody but the stack starts processes.
PRIVATE_KERNEL = frozenset({"settings", "urls", "views", "wsgi", "stack", "contrib_migrations"})
# Inside an app a later room may import an earlier one, never the reverse. Modules with a subject of their own
# stand where services stand; they may know each other, as long as there is no circle.
RANK = {
    "documents": 0, "models": 0, "errors": 0, "selectors": 1, "services": 2,
    "serializers": 3, "tasks": 3, "schema": 4, "views": 5, "urls": 6, "admin": 6, "management": 6,
}  # fmt: skip
SUBJECT_RANK = 2
SUBJECTS_BELOW_SELECTORS = {
    "ledger": frozenset({"chain", "keys", "reading", "verification"}),
    "transfers": frozenset({"states", "inbox"}),
}
BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc"})
REFERENCE_FIELDS = frozenset(
    {"ReferenceField", "LazyReferenceField", "GenericReferenceField", "GenericLazyReferenceField"}
)
LINES_MAX = 400
# Tables of cases are read by the row.
TEST_LINES_MAX = 500
# The bootstrap must run, and complain, under a Python too old for what it then imports.
MAY_IMPORT_LATE = frozenset({"payflow/stack/bootstrap.py"})


@dataclass(frozen=True)
class Module:
    """A source file; `parts` is its dotted name, split."""

    path: Path
    parts: tuple[str, ...]

    @property
    def app(self) -> str:
        return self.parts[0]

    @property
    def room(self) -> str:
        return self.parts[1] if len(self.parts) > 1 else ""

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path)

    def at(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    """One module of ours that a module imports."""

    importer: Module
    target: tuple[str, ...]
    node: ast.AST

    @property
    def room(self) -> str:
        return self.target[1] if len(self.target) > 1 else ""

    def __str__(self) -> str:
        return f"{self.importer.at(self.node)} imports {'.'.join(self.target)}"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for app in MAY_IMPORT:
        for path in sorted((ROOT / app).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(Module(path, parts[:-1] if parts[-1] == "__init__" else parts))
    return tuple(found)


@cache
def names() -> frozenset[tuple[str, ...]]:
    return frozenset(module.parts for module in modules())


def imports_of(module: Module) -> Iterator[Import]:
    """Yield our own modules that `module` imports, `from package import module` included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.at(node)}: relative imports hide which app is meant"
            base = tuple((node.module or "").split("."))
            targets = [base]
            targets = [
                (*base, alias.name) if (*base, alias.name) in names() else base for alias in node.names
            ]
        else:
            continue
        yield from (Import(module, target, node) for target in targets if target[0] in MAY_IMPORT)


def all_imports() -> Iterator[Import]:
    for module in modules():
        yield from imports_of(module)


def test_the_walk_sees_the_code() -> None:
    """A rule that looks at nothing passes: make sure there is something to look at."""
    assert {module.app for module in modules()} == set(MAY_IMPORT)
    assert sum(1 for _ in all_imports()) > 100
    posting = next(module for module in modules() if module.parts == ("ledger", "posting"))
    assert {".".join(found.target) for found in imports_of(posting)} >= {
        "ledger.selectors",
        "ledger.chain",
        "payflow.clock",
    }


def test_apps_import_one_way() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.target[0] not in MAY_IMPORT[found.importer.app] | {found.importer.app}
    ]
    assert wrong == []


def test_apps_touch_only_each_others_open_rooms() -> None:
    def is_private(found: Import) -> bool:
        private = PRIVATE_KERNEL if found.target[0] == "payflow" else PRIVATE_ROOMS
        return found.target[0] != found.importer.app and found.room in private

    assert [str(found) for found in all_imports() if is_private(found)] == []


def rank_of(app: str, room: str) -> int:
    if room in SUBJECTS_BELOW_SELECTORS.get(app, ()):
        return 0
    return RANK.get(room, SUBJECT_RANK)


def test_rooms_import_only_earlier_rooms() -> None:
    def is_wrong(found: Import) -> bool:
        importer = found.importer
        if importer.app == "payflow" or found.target[0] != importer.app or found.room == importer.room:
            return False
        own, other = rank_of(importer.app, importer.room), rank_of(importer.app, found.room)
        return other > own or (other == own and own > SUBJECT_RANK)

    assert [str(found) for found in all_imports() if is_wrong(found)] == []


def test_there_is_no_circle() -> None:
    graph = {
        module.parts: {found.target for found in imports_of(module)} & names() - {module.parts}
        for module in modules()
    }
    done: set[tuple[str, ...]] = set()

    def visit(node: tuple[str, ...], trail: tuple[tuple[str, ...], ...]) -> None:
        assert node not in trail, " -> ".join(".".join(step) for step in (*trail, node))
        if node not in done:
            for target in sorted(graph[node]):
                visit(target, (*trail, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())


def test_nothing_is_imported_inside_a_function() -> None:
    late = [
        module.at(inner)
        for module in modules()
        if str(module.path.relative_to(ROOT)) not in MAY_IMPORT_LATE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert late == []


def test_documents_refer_to_each_other_by_id() -> None:
    references = [
        module.at(node)
        for module in modules()
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Name) and node.id in REFERENCE_FIELDS)
        or (isinstance(node, ast.Attribute) and node.attr in REFERENCE_FIELDS)
    ]
    assert references == []


def source_files() -> list[Path]:
    tests = list((ROOT / "tests").rglob("*.py"))
    return [module.path for module in modules() if "migrations" not in str(module.path)] + tests


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [str(path) for path in source_files() if path.stem in BANNED_NAMES] == []
    folders = [path for app in MAY_IMPORT for path in (ROOT / app).rglob("*") if path.is_dir()]
    assert [str(path) for path in folders if path.name in BANNED_NAMES] == []


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests"])
def test_files_fit_a_sitting(folder: str) -> None:
    limit = TEST_LINES_MAX if folder == "tests" else LINES_MAX
    mine = [path for path in source_files() if path.is_relative_to(ROOT / folder)]
    sizes = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in mine}
    assert {name: size for name, size in sizes.items() if size > limit} == {}
