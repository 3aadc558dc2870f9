"""Makes the OpenAPI document (3.1) from the views, their serializers and each app's `schema.py`.

What must stay true: what holds for every endpoint (refusals, headers, security, idempotency keys, rate
limits) is worked out here from the view itself, so that a new endpoint is documented with it and cannot say
otherwise. An endpoint without a description is a warning, and `make lint` fails on warnings.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from drf_spectacular.drainage import warn
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent, append_meta
from drf_spectacular.utils import OpenApiExample
from rest_framework.serializers import Serializer

from payflow.api import idempotent, limits, parsers, problems, schema_headers, schema_refusals, storage
from payflow.api.describing import Answer, Link, Model, Operation, Refusal
from payflow.api.fields import StrictSerializer
from payflow.api.queries import ReadsQuery
from payflow.api.schema_refusals import Traits
from payflow.api.scopes import Scope, needed_scopes

# Refusals with the same code, each said in its own words.
NAMESAKES_MAX = 50
METHODS_IN_ORDER = ("get", "post", "put", "patch", "delete")


class PayflowSchema(AutoSchema):
    """Describes one endpoint by its view and its `Operation`."""

    # --- What the app says of it --------------------------------------------------------------------------

    @property
    def action(self) -> str:
        """Return the name that the view's tables use."""
        return getattr(self.view, "action", None) or self.method.lower()

    @property
    def said(self) -> Operation:
        """Return the endpoint's description."""
        return self.view.operations[self.action]

    def is_excluded(self) -> bool:
        """Leave out, with a warning, what nobody has described."""
        if self.action in getattr(self.view, "operations", {}):
            return False
        warn(f"{self.method} {self.path} is not described in its app's schema.py.")
        return True

    def get_operation_id(self) -> str:
        """Return the name that generated clients use."""
        return self.said.id

    def get_summary(self) -> str:
        """Return the headline."""
        return self.said.summary

    def get_description(self) -> str:
        """Return what else there is to know."""
        return " ".join(filter(None, (self.said.description, self._keys_accepted())))

    def get_tags(self) -> list[str]:
        """Return the one group it is in."""
        return [self.said.tag]

    def get_request_serializer(self) -> type[Serializer] | None:
        """Return what reads the body."""
        return self.said.takes

    def _is_list_view(self, serializer: Any = None) -> bool:
        """A list is a model like any other: nothing is guessed."""
        return False

    def get_override_parameters(self) -> list[Any]:
        """Return what reads the query."""
        return [self.said.query] if self.said.query else []

    def get_examples(self) -> list[OpenApiExample]:
        """Return the examples of the body."""
        return [
            OpenApiExample(name, value=value, request_only=True) for name, value in self.said.sends.items()
        ]

    # --- What the view says itself ------------------------------------------------------------------------

    @property
    def traits(self) -> Traits:
        """Return what decides how the endpoint can refuse."""
        is_authenticated = bool(self.view.get_authenticators())
        takes = self.said.takes
        return Traits(
            is_authenticated=is_authenticated,
            is_guarded=is_authenticated and self.method in idempotent.METHODS,
            is_limited=not limits.UNCOUNTED.fullmatch(self.path),
            reads_query=isinstance(self.view, ReadsQuery),
            takes_body=takes is not None,
            takes_amount=takes is not None and "amount" in takes().fields,
            body_bytes_max=parsers.body_bytes_max(self.path),
            writes=storage.may_write(self.method, self.path),
        )

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Return the scopes that an API key needs, none when it is closed to every key."""
        return needed_scopes(getattr(self.view, "scopes", {}), self.action)

    def _keys_accepted(self) -> str:
        # Pages show no scopes of credentials that come as bearer tokens.
        if not self.traits.is_authenticated:
            return ""
        if not self.scopes:
            return "API keys are not accepted."
        names = " and ".join(f"`{scope}`" for scope in self.scopes)
        return f"API keys need the scope{'s' * (len(self.scopes) > 1)} {names}."

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return the operation; one that is open to all says so."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is not None:
            operation.setdefault("security", [])
        return operation

    def get_auth(self) -> list[dict[str, list[str]]]:
        """Return the credentials it takes, one of them: a user's token or, where keys may, a key's scope."""
        if self.said.security is not None:
            return [{name: list(scopes) for name, scopes in each.items()} for each in self.said.security]
        if not self.traits.is_authenticated:
            return []
        return [{"accessToken": []}, *([{"apiKey": [*map(str, self.scopes)]}] if self.scopes else [])]

    def _get_parameters(self) -> list[dict[str, Any]]:
        wanted = ["CorrelationId"]
        wanted += ["IdempotencyKey"] if self.traits.is_guarded else []
        wanted += ["Prefer"] if self.said.waits else []
        return super()._get_parameters() + [self._reference("parameters", name) for name in wanted]

    def _resolve_path_parameters(self, variables: list[str]) -> list[dict[str, Any]]:
        found = super()._resolve_path_parameters(variables)
        return [{**p, "description": self.said.path.get(p["name"], "")} for p in found]

    # --- Answers ------------------------------------------------------------------------------------------

    def _get_response_bodies(self, direction: str = "response") -> dict[str, Any]:
        answers = {str(status): self._answer(answer) for status, answer in self.said.answers.items()}
        refusals = schema_refusals.refusals_of(self.said, self.traits)
        for status, group in groupby(refusals, key=lambda refusal: refusal.status):
            answers[str(status)] = self._refusal(status, list(group))
        return answers

    def _answer(self, answer: Answer) -> dict[str, Any]:
        names = [*answer.headers, *(["Idempotent-Replayed"] if self.traits.is_guarded else [])]
        names += ["Preference-Applied"] if self.said.waits else []
        made: dict[str, Any] = {"description": answer.description, "headers": self._headers(names)}
        if answer.body is not None:
            content: dict[str, Any] = {"schema": self._schema(answer.body)}
            if answer.examples:
                content["examples"] = {name: {"value": value} for name, value in answer.examples.items()}
            made["content"] = {answer.media_type: content}
        links = {**self._following(answer), **answer.links}
        if links:
            made["links"] = {
                name: {
                    "operationId": link.operation_id,
                    "parameters": dict(link.parameters),
                    "description": link.description,
                }
                for name, link in links.items()
            }
        return made

    def _following(self, answer: Answer) -> dict[str, Link]:
        """Return the link from a page to the one after it."""
        query = self.said.query().fields if self.said.query else {}
        asked_with = next((name for name in ("cursor", "after") if name in query), None)
        if asked_with is None or answer.body is None:
            return {}
        place = {name: f"$request.path.{name}" for name in self.said.path}
        where = {**place, asked_with: "$response.body#/next"}
        return {"next": Link(self.said.id, where, "The page after this one, with the same filters.")}

    def _refusal(self, status: int, refusals: list[Refusal]) -> dict[str, Any]:
        names = {
            401: ["WWW-Authenticate"],
            409: ["Retry-After-Perhaps"],
            415: ["Accept-Encoding"],
            429: ["Retry-After"],
            503: ["Retry-After"],
        }.get(status, [])
        replayed = self.traits.is_guarded and status not in idempotent.STATUSES_NOT_KEPT and status < 500
        names = [*names, *(["Idempotent-Replayed"] if replayed else [])]
        examples: dict[str, dict[str, str]] = {}
        for refusal in refusals:
            example = {"value": schema_refusals.example(refusal)}
            reference = self._component(ResolvedComponent.EXAMPLE, f"{status}_{refusal.code}", example)
            alike = sum(name.startswith(refusal.code) for name in examples)
            examples[f"{refusal.code} {alike + 1}" if alike else refusal.code] = reference
        made = {**schema_refusals.answer(status, refusals, examples), "headers": self._headers(names)}
        codes = ".".join(sorted({refusal.code for refusal in refusals}))
        kind = ("" if self.traits.is_limited else ".unlimited") + (".replayed" if replayed else "")
        return self._component(ResolvedComponent.RESPONSE, f"{status}.{codes}{kind}", made)

    def _headers(self, names: list[str]) -> dict[str, Any]:
        everywhere = ["X-Correlation-Id", *(schema_headers.RATE_LIMIT if self.traits.is_limited else ())]
        return {
            schema_headers.NAMES.get(name, name): self._reference("headers", name)
            for name in (*everywhere, *names)
        }

    # --- Components ---------------------------------------------------------------------------------------

    def _schema(self, body: Model | type[Serializer] | Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(body, type):
            return self.resolve_serializer(body, "response").ref
        return self._with_references(body)

    def _with_references(self, value: Any) -> Any:
        """Replace each model by a reference to it, and register what it is."""
        if isinstance(value, Model):
            component = ResolvedComponent(value.name, ResolvedComponent.SCHEMA, object=Model)
            if component not in self.registry:
                self.registry.register(component)
                component.schema = self._with_references(value.schema)
            return component.ref
        if isinstance(value, type) and issubclass(value, Serializer):
            return self.resolve_serializer(value, "request").ref
        if isinstance(value, Mapping):
            return {name: self._with_references(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._with_references(inner) for inner in value]
        return value

    def _reference(self, kind: str, name: str) -> dict[str, str]:
        definition = {"parameters": schema_headers.PARAMETERS, "headers": schema_headers.HEADERS}[kind][name]
        return self._component(kind, name, definition)

    def _component(self, kind: str, name: str, definition: dict[str, Any]) -> dict[str, str]:
        """Register it under its name, with a number where the name stands for something else already."""
        for tried in (name, *(f"{name}_{number}" for number in range(2, NAMESAKES_MAX + 1))):
            component = ResolvedComponent(tried, kind, schema=definition, object=PayflowSchema)
            self.registry.register_on_missing(component)
            if self.registry[component].schema == definition:
                return component.ref
        raise AssertionError(f"there are more than {NAMESAKES_MAX} components of the name {name}")

    # --- Serializers --------------------------------------------------------------------------------------

    def get_serializer_name(self, serializer: Serializer, direction: str) -> str:
        """Return the name of a component."""
        return type(serializer).__name__.removesuffix("Output").removesuffix("Input")

    def _map_basic_serializer(self, serializer: Any, direction: str) -> dict[str, Any]:
        schema = super()._map_basic_serializer(serializer, direction)
        if isinstance(serializer, StrictSerializer):
            # Its docstring names the address it belongs to, which the reader sees above.
            del schema["description"]
            schema["additionalProperties"] = False
        return schema

    def _map_serializer_field(self, field: Any, direction: str, bypass_extensions: bool = False) -> Any:
        """Describe a field by its own schema, where its class has one, and by its `help_text`."""
        own = getattr(field, "json_schema", None)
        if own is not None:
            meta = self._get_serializer_field_meta(field, direction)
            return append_meta(self._with_references(own), meta)
        schema = super()._map_serializer_field(field, direction, bypass_extensions)
        schema.pop("x-spec-enum-id", None)
        return schema


def in_order(endpoints: list[tuple[str, str, str, Any]], **_: Any) -> list[tuple[str, str, str, Any]]:
    """Order the methods of each address, which come in any: what is described first names components."""
    places = {path: place for place, path in enumerate(dict.fromkeys(path for path, *_ in endpoints))}
    return sorted(endpoints, key=lambda each: (places[each[0]], METHODS_IN_ORDER.index(each[2].lower())))


def finish(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add what only the whole document can tell: the problem with all of its codes, and the tags in use."""
    operations = [operation for methods in result["paths"].values() for operation in methods.values()]
    used = {tag for operation in operations for tag in operation["tags"]}
    result["tags"] = [tag for tag in result["tags"] if tag["name"] in used]
    schema = schema_refusals.problem_schema(problems.catalogue())
    result["components"]["schemas"][schema_refusals.PROBLEM] = schema
    return result
