"""The words in which an app's `schema.py` describes its endpoints. `payflow/api/schema.py` makes OpenAPI of
them and adds what holds for every endpoint alike, so that no description repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from payflow import money, signing
from payflow.errors import Refused, Transient

View = TypeVar("View", bound=type[APIView])
Refusal = Refused | Transient
Schema = Mapping[str, Any]
"""A JSON schema. Models and serializers may stand in it where a reference to them is to be."""


@dataclass(frozen=True)
class Model:
    """A JSON schema with a name of its own; in other schemas it stands as itself and becomes a reference."""

    name: str
    schema: Schema


@dataclass(frozen=True)
class Link:
    """What can be asked next: an operation, and where in this answer its parameters are."""

    operation_id: str
    parameters: Mapping[str, str]
    description: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a good request gets. `headers` are names in `payflow.api.schema_headers.HEADERS`."""

    description: str
    body: Model | type[Serializer] | Schema | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    media_type: str = "application/json"
    headers: Sequence[str] = ()
    links: Mapping[str, Link] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One endpoint. Only what is its own: what all have in common is added to each.

    `refusals` are those of its service, each as it is raised: they are examples, too. `sends` are examples of
    its body by name; `path` describes the parameters in its path by name.
    """

    id: str
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    takes: type[Serializer] | None = None
    sends: Mapping[str, Any] = field(default_factory=dict)
    query: type[Serializer] | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    refusals: Sequence[Refusal] = ()
    waits: bool = False
    needs_servers: bool = True
    security: Sequence[Mapping[str, Sequence[str]]] | None = None
    """The credentials it takes, where they are not those that its view asks for."""


def described(operations: Mapping[str, Operation]) -> Callable[[View], View]:
    """Attach the descriptions of a view's actions (of a plain view: its methods, in lower case)."""

    def attach(view: View) -> View:
        view.operations = operations
        return view

    return attach


def record(description: str, /, **properties: Model | Schema) -> dict[str, Any]:
    """Return the schema of an object that always has all of these properties."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
    }


def nullable(schema: Model | Schema) -> dict[str, Any]:
    """Return the schema of the same or null."""
    if isinstance(schema, Model) or "type" not in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    enum = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **enum}


def page_of(model: Model, description: str) -> Model:
    """Return the model of a page, as `payflow.api.pages.page` makes it."""
    following = {"type": "string", "description": "The `cursor` of the next page; null on the last one."}
    rows = {"type": "array", "items": model, "maxItems": 100, "description": "The rows of this page."}
    return Model(f"{model.name}Page", record(description, results=rows, next=nullable(following)))


# --- What appears in many answers -------------------------------------------------------------------------

TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
    "description": "RFC 3339, in UTC, with milliseconds.",
}
MONEY: Schema = {
    "type": "string",
    "pattern": r"^-?\d+(\.\d{2,3})?$",
    "description": "A decimal string with exactly the decimal places of its currency.",
}
CURRENCY = Model(
    "Currency",
    {
        "type": "string",
        "enum": sorted(money.EXPONENTS),
        "description": "An ISO 4217 code.",
        "examples": ["USD"],
    },
)
# Published by RFC 8037 (A.1) for examples: nobody's receipts are signed with it.
EXAMPLE_KEYS = signing.read_keys(["example:nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"])
HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256, in hexadecimal."}


def text(description: str, **more: Any) -> Schema:
    """Return the schema of a string."""
    return {"type": "string", "description": description, **more}


FIELD_ERROR = record(
    "What is wrong with one field.",
    field=text("Its name; nested names are joined by dots. `body` is the whole."),
    code=text("A stable word."),
    detail=text("A sentence for people."),
)
PART_PROBLEM = Model(
    "PartProblem",
    record(
        "Why one part of a request was refused; as a problem document, but for the correlation id.",
        type=text("`urn:payflow:error:` and the code.", format="uri"),
        title=text("The code in a few words; the same for every occurrence."),
        status={"type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status."},
        detail=text("What happened this time, for people."),
        code=text("A stable word: decide by this."),
        errors={
            "type": "array",
            "items": FIELD_ERROR,
            "description": "The fields that are not valid, if any.",
        },
    ),
)
