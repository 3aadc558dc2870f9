"""Paths that a proxy and PayFlow would read in two ways: a proxy's rule on `/admin/` misses `/admin%2F`.

Django sees only the decoded path. The web front puts the request target as it was sent into RAW_URI.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

_ESCAPE = re.compile("%([0-9A-Fa-f]{2})?", re.ASCII)
# What needs no escape (RFC 3986, 2.3), and what no path of ours has: separators, `%`, controls.
_NEVER_ESCAPED = frozenset(map(ord, f"{string.ascii_letters}{string.digits}-._~/\\%")) | {*range(32), 127}
# Empty and dot segments, which some merge or resolve; backslashes; what is no visible ASCII.
_ODD = re.compile(r"//|/\.{1,2}(/|\Z)|\\|[^!-~]")


def has_one_reading(path: str) -> bool:
    """Say whether decoding and normalizing leave the meaning of an undecoded path alone."""
    if _ODD.search(path):
        return False
    return all(code and int(code, 16) not in _NEVER_ESCAPED for code in _ESCAPE.findall(path))


def raw_path_of(meta: Mapping[str, Any]) -> str | None:
    """Return the path of the request target as it was sent, or None where the server does not say."""
    target: str | None = meta.get("RAW_URI")
    return None if target is None else target.partition("?")[0]
