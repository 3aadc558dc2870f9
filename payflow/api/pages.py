"""Pages by cursor: a cursor names the last row seen, so pages stay stable while rows are added."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rest_framework import serializers

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
Row = TypeVar("Row")


class CursorField(serializers.CharField):
    """The opaque `next` of an earlier page."""

    default_error_messages = {"invalid_cursor": "Use the value of `next` from an earlier page, unchanged."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, max_length=400, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the key of the last row seen."""
        text = super().to_internal_value(data)
        try:
            return base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii")
        except (binascii.Error, UnicodeError):
            self.fail("invalid_cursor")
        return ""


class PageQuery(serializers.Serializer):
    """`?limit=&cursor=`: at most LIMIT_MAX rows a page."""

    limit = serializers.IntegerField(min_value=1, max_value=LIMIT_MAX, default=LIMIT_DEFAULT)
    cursor = CursorField()


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], str], render: Callable[[Row], Any]
) -> dict[str, Any]:
    """Return {results, next} from up to `limit + 1` rows; the extra row only says that there is more."""
    shown = rows[:limit]
    more = len(rows) > limit
    cursor = base64.urlsafe_b64encode(key(shown[-1]).encode("ascii")).decode("ascii") if more else None
    return {"results": [render(row) for row in shown], "next": cursor}
