"""A document becomes a Config; where it does not fit, stand-ins let the checks go on with the rest.

The stand-ins' paths are returned as broken, so that all problems of a file are found at once and none is a mere
consequence of another. A Config with stand-ins is never used for anything else.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ebpf_userspace_exporter.config.errors import KeyPath, did_you_mean, quote, suggestion, suggestion_or_list
from ebpf_userspace_exporter.config.foreign_keys import FOREIGN_KEYS, MEANT
from ebpf_userspace_exporter.config.model import Config
from ebpf_userspace_exporter.config.nodes import Value
from ebpf_userspace_exporter.config.selector import ONE_OR_LIST

_DECODER: Value = {"name": "string"}
_LABEL: Value = {"name": "stand_in", "size": "8", "decoders": [_DECODER]}
_METRIC: Value = {"name": "stand_in", "table": "stand_in"}
_SELECTOR: Value = {"binary_name": "stand_in"}
_HISTOGRAM: Value = {"name": "stand_in", "table": "stand_in", "labels": [_LABEL], "bucket_type": "linear"}
_PROGRAM: Value = {"name": "stand_in", "attachment": _SELECTOR, "code": "stand_in"}

# What stands in for a value that is needed, by the key above it, or by the list that it is an item of.
_FIELDS: Mapping[str, Value] = {
    "programs": [_PROGRAM],
    "name": "stand_in",
    "attachment": _SELECTOR,
    "code": "stand_in",
    "table": "stand_in",
    "labels": [_LABEL],
    "size": "8",
    "decoders": [_DECODER],
    "bucket_type": "linear",
}
_ITEMS: Mapping[str, Value] = {
    "programs": _PROGRAM,
    "counters": _METRIC,
    "gauges": _METRIC,
    "histograms": _HISTOGRAM,
    "labels": _LABEL,
    "decoders": _DECODER,
    "bucket_keys": "0",
    "exclude": _SELECTOR,
    "any": _SELECTOR,
    "not": _SELECTOR,
    "uid": "0",
    "listens_on": "1",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """`config` is None where nothing could be saved; `broken` are the paths of stand-ins in it."""

    config: Config | None
    problems: tuple[tuple[KeyPath, str], ...]
    broken: frozenset[KeyPath]


def read_config(value: dict[str, Value]) -> Draft:
    """Return the Config in a document's top-level mapping, or what is wrong with it and what is left."""
    value = _in_full(value, Config)
    try:
        return Draft(Config.model_validate(value), (), frozenset())
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems, broken = _translate(value, details)
    for path in broken:
        _stand_in(value, path)
    try:
        config = Config.model_validate(value)
    except ValidationError:
        config = None
    return Draft(config, tuple(problems), frozenset(broken))


def _in_full(value: dict[str, Value], model: type[BaseModel] | None) -> dict[str, Value]:
    """Return the mapping as if written in full: without keys that have no value, and single values as lists of one.

    An empty `labels:` is no labels; in a mapping of texts it is an empty text.
    """
    fields = _fields_in(model)
    return {key: _filled(item, fields.get(key)) for key, item in value.items() if item is not None}


def _filled(item: Value, field: FieldInfo | None) -> Value:
    if field is not None and ONE_OR_LIST in field.metadata and not isinstance(item, list):
        item = [item]
    model = None if field is None else _model_in(field.annotation)
    if isinstance(item, list):
        return [_in_full(each, model) if isinstance(each, dict) else each for each in item]
    if isinstance(item, dict):
        if field is not None and model is None:
            return {name: "" if text is None else text for name, text in item.items()}
        return _in_full(item, model)
    return item


def _translate(value: Value, details: list[ErrorDetails]) -> tuple[list[tuple[KeyPath, str]], list[KeyPath]]:
    problems: list[tuple[KeyPath, str]] = []
    broken: list[KeyPath] = []
    meant: set[KeyPath] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            path = detail["loc"]
            message, word = _unknown(str(path[-1]), list(_fields_in(_model_at(path[:-1]))))
            problems.append((path, message))
            broken.append(path)
            if word is not None:
                meant.add((*path[:-1], word))
    for detail in details:
        path = detail["loc"]
        if detail["type"] != "extra_forbidden":
            broken.append(path)
            if detail["type"] != "missing":
                problems.append((path, _message(detail)))
            elif path not in meant:
                problems.append((path, f"missing; expected {_expectation(path)}"))
    # What a misspelt key would have said is unknown, also where the key may be left out.
    return problems, [*broken, *(path for path in meant if path not in broken and _at(value, path) is None)]


def _unknown(key: str, fields: list[str]) -> tuple[str, str | None]:
    """Return what to say of a key that is none of the fields, and which of them was meant."""
    if key in FOREIGN_KEYS:
        return FOREIGN_KEYS[key], MEANT.get(key)
    return f"unknown key{suggestion_or_list(key, fields)}", did_you_mean(key, fields)


def _message(detail: ErrorDetails) -> str:
    got = _got(detail["input"])
    context = detail.get("ctx", {})
    match detail["type"]:
        case "expected":
            return f"{detail['msg']}, got {got}"
        case "string_type":
            return f"expected text, got {got}"
        case "tuple_type":
            return f"expected a list, got {got}"
        case "model_type" | "dict_type" | "mapping_type":
            return f"expected a mapping, got {got}"
        case "int_type":
            return f"expected a whole number, got {got}"
        case "float_type":
            return f"expected a number, got {got}"
        case "bool_type":
            return f"expected true or false, got {got}"
        case "greater_than_equal":
            return f"expected at least {context['ge']}, got {got}"
        case "less_than_equal":
            return f"expected at most {context['le']}, got {got}"
        case "less_than":
            return f"expected less than {context['lt']}, got {got}"
        case "enum":
            choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            meant = suggestion(detail["input"], choices) if isinstance(detail["input"], str) else ""
            return f"expected one of {', '.join(choices)}, got {got}{meant}"
        case _:
            return f"{detail['msg']}, got {got}"


def _got(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return quote(value)
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return str(value)


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    """Return the model whose fields are the keys below `path`."""
    model: type[BaseModel] | None = Config
    for part in path:
        if isinstance(part, str):
            field = _fields_in(model).get(part)
            model = None if field is None else _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _fields_in(model: type[BaseModel] | None) -> dict[str, FieldInfo]:
    """Return a model's fields by the keys that people write."""
    return {} if model is None else {field.alias or name: field for name, field in model.model_fields.items()}


def _expectation(path: KeyPath) -> str:
    field = _fields_in(_model_at(path[:-1])).get(str(path[-1]))
    return (None if field is None else field.description) or "a value"


def _stand_in(value: Value, path: KeyPath) -> None:
    """Put something valid at `path`, or nothing where nothing is needed."""
    *above, last = path
    holder = _at(value, tuple(above))
    if isinstance(holder, list) and isinstance(last, int):
        holder[last] = copy.deepcopy(_ITEMS.get(str(above[-1]), "stand_in"))
    elif isinstance(holder, dict) and isinstance(last, str):
        known = _fields_in(_model_at(tuple(above)))
        if last in _FIELDS and last in known:
            holder[last] = copy.deepcopy(_FIELDS[last])
        elif not known:
            holder[last] = "stand_in"
        else:
            holder.pop(last, None)


def _at(value: Value, path: KeyPath) -> Value:
    """Return what is at `path`, or None."""
    found: Any = value
    try:
        for part in path:
            found = found[part]
    except (LookupError, TypeError):
        return None
    return cast(Value, found)
