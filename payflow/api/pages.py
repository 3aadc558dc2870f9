"""Pages by cursor: a cursor names the last row seen, so pages stay stable while rows are added."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from payflow.api.fields import NumberField, StrictCharField, StrictSerializer
from payflow.stored_data import represent_all

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
Row = TypeVar("Row")


class CursorField(StrictCharField):
    """The opaque `next` of an earlier page; `key_form` is what the key of a row looks like."""

    json_schema = {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]+=*$",
        "description": "The `next` of an earlier page, unchanged.",
    }
    default_error_messages = {"invalid_cursor": "Use the value of `next` from an earlier page, unchanged."}

    def __init__(self, key_form: str, **kwargs: Any) -> None:
        self.key_form = re.compile(key_form, re.ASCII)
        super().__init__(required=False, max_length=400, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the key of the last row seen."""
        text = super().to_internal_value(data)
        try:
            key = base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii")
        except (binascii.Error, UnicodeError):
            self.fail("invalid_cursor")
        # Decoding skips what is not in its alphabet: only what `page` gave out is a cursor.
        if _encode(key) != text or not self.key_form.fullmatch(key):
            self.fail("invalid_cursor")
        return key


class LimitField(NumberField):
    """How many rows a page holds."""

    def __init__(self) -> None:
        super().__init__(
            minimum=1, maximum=LIMIT_MAX, default=LIMIT_DEFAULT, help_text="How many rows a page holds."
        )


class PageQuery(StrictSerializer):
    """`?limit=&cursor=`: at most LIMIT_MAX rows a page. A subclass says what its cursor looks like."""

    limit = LimitField()


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode("ascii")).decode("ascii")


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], str], render: Callable[[Row], Any]
) -> dict[str, Any]:
    """Return {results, next} from up to `limit + 1` rows; the extra row only says that there is more.

    Rows that cannot be shown are left out, so a page may hold fewer than `limit`.
    """
    shown = rows[:limit]
    more = len(rows) > limit
    return {"results": represent_all(shown, render), "next": _encode(key(shown[-1])) if more else None}
