"""Query strings: one parser for every endpoint of the API, by the serializer that its description names.

Invariants:
- A parameter that an endpoint does not know, or that is sent twice, is refused and named. Another program
  on the way may take the first of two values where this one takes the last.
- The root, the probes, /metrics, the documents and the admin do not come through here. They ignore what they
  do not know: a probe with a cache buster must not fail.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.http import QueryDict
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from payflow.api.fields import UNKNOWN_LENGTH_MAX, NoInput, StrictSerializer, no_such_fields

_READ_AS = {"head": "get"}


class ReadsQuery(APIView):
    """A view that validates its query before its handler runs; the handler finds it in `query`."""

    query: dict[str, Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse the caller first, then the query."""
        super().initial(request, *args, **kwargs)
        name = getattr(self, "action", None) or request.method.lower()
        operation = getattr(self, "operations", {}).get(_READ_AS.get(name, name))
        if operation is not None:
            self.query = read_query(request.query_params, operation.query)


def read_query(sent: QueryDict, serializer: type[StrictSerializer] | None) -> dict[str, Any]:
    """Return the validated parameters. Raises ValidationError; without a serializer, for any parameter."""
    refuse_repeated(sent)
    query = (serializer or NoInput)(data=sent.dict())
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


def refuse_repeated(sent: QueryDict) -> None:
    """Raise ValidationError that names each parameter that is sent more than once."""
    repeated = [name for name, values in sent.lists() if len(values) > 1]
    if repeated:
        error = serializers.ErrorDetail("Send this parameter once.", "repeated")
        raise serializers.ValidationError({name[:UNKNOWN_LENGTH_MAX]: [error] for name in repeated})


def refuse_unknown(sent: QueryDict, known: Collection[str]) -> None:
    """Raise ValidationError that names parameters that are not known."""
    if unknown := sorted(set(sent) - set(known)):
        raise serializers.ValidationError(no_such_fields(unknown))
