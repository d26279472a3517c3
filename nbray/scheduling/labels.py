"""Labels of nodes: their syntax, which is that of Kubernetes, and conditions on them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from nbray.common.text import plain
from nbray.wire.strategies import LabelOperator, LabelTerm

NODE_ID = "ray.io/node-id"
_RESERVED = "ray.io/"
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")
_PREFIX = re.compile(
    r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
)
_IN = re.compile(r"in\((.*)\)")
_SHAPE = (
    "must be 63 chars or less beginning and ending with an alphanumeric character ([a-z0-9A-Z]) "
    "with dashes (-), underscores (_),dots (.), and alphanumerics between."
)


def check_key(key: str) -> None:
    """Raises:
    ValueError: ``key`` is no label key.
    """
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)):
        raise ValueError(
            f"Invalid label key prefix `{prefix}`. Prefix must be a series of DNS labels "
            "separated by dots (.), not longer than 253 characters in total."
        )
    if not _NAME.fullmatch(name):
        raise ValueError(f"Invalid label key name `{name}`. Name {_SHAPE}")


def check_node_labels(labels: object) -> dict[str, str]:
    """The labels that a user gives a node.

    Raises:
        ValueError: they are not text by text, or a key is malformed or starts with ``ray.io/``.
    """
    if not isinstance(labels, dict):
        raise ValueError("The format after deserialization is not a key-value pair map.")
    for key, value in labels.items():
        if not isinstance(key, str):
            raise ValueError("The key is not string type.")
        if not isinstance(value, str):
            raise ValueError(f'The value of the "{key}" is not string type.')
        if key.startswith(_RESERVED):
            raise ValueError(
                f"Custom label keys `{key}` cannot start with the prefix `{_RESERVED}`. "
                "This is reserved for labels that nodes give themselves."
            )
        check_key(key)
        if value and not _NAME.fullmatch(value):
            raise ValueError(f"Invalid label key value `{value}`. Value {_SHAPE}")
    return dict(labels)


def parse_node_labels(text: str) -> dict[str, str]:
    """Labels from a command line: JSON, or ``key=value,key=value``.

    Raises:
        ValueError: it is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            return check_node_labels(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"The labels are not JSON: {error}.") from error
    labels: dict[str, str] = {}
    for pair in filter(None, text.strip('"').split(",")):
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise ValueError("Label string is not a key-value pair.")
        labels[key.strip()] = value.strip()
    return check_node_labels(labels)


def parse_selector(selector: Mapping[str, str]) -> tuple[LabelTerm, ...]:
    """The conditions of a ``label_selector``: ``value``, ``!value``, ``in(a,b)``, ``!in(a,b)``.

    Raises:
        ValueError: a key or a condition is malformed.
    """
    if not isinstance(selector, Mapping):
        raise ValueError(f"A label selector is a mapping of str by str, not {type(selector)}.")
    terms = []
    for key, condition in selector.items():
        if not isinstance(key, str):
            raise ValueError(f"Invalid label key name `{key}`. Name {_SHAPE}")
        check_key(key)
        terms.append(_parse_condition(key, condition))
    return tuple(sorted(terms, key=lambda term: (term.key, term.operator, term.values)))


def _parse_condition(key: str, condition: str) -> LabelTerm:
    text = condition.removeprefix("!") if isinstance(condition, str) else ""
    listed = _IN.fullmatch(text)
    values = [part.strip() for part in listed.group(1).split(",")] if listed else [text]
    if condition != "" and not all(_NAME.fullmatch(value) for value in values):
        raise ValueError(
            f"Invalid label selector value `{condition}`. The label selector value should contain "
            "optional operators and a label value. Supported operators are: ! and {'in'}. "
            f"Value {_SHAPE}"
        )
    operator: LabelOperator = "!in" if condition.startswith("!") else "in"
    return LabelTerm(plain(key), operator, tuple(map(plain, values)))


def matches(terms: Iterable[LabelTerm], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels meets all conditions.

    A label that is missing meets ``!in`` and fails ``in``.
    """
    return all(_holds(term, labels.get(term.key)) for term in terms)


def _holds(term: LabelTerm, value: str | None) -> bool:
    match term.operator:
        case "in":
            return value in term.values
        case "!in":
            return value not in term.values
        case "exists":
            return value is not None
        case "!exists":
            return value is None


def term_text(term: LabelTerm) -> str:
    """A condition as people read it."""
    if term.operator in ("exists", "!exists"):
        return f"{term.operator.removesuffix('exists')}{term.key}"
    sign = "!=" if term.operator == "!in" else "="
    values = term.values[0] if len(term.values) == 1 else "(" + "|".join(term.values) + ")"
    return f"{term.key}{sign}{values}"
