"""A document becomes a Config; where it does not fit, stand-ins let the checks go on with the rest.

The stand-ins' paths are returned as broken, so that all problems of a file are found at once and none is a mere
consequence of another. A Config with stand-ins is never used for anything else.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ebpf_userspace_exporter.config.errors import KeyPath, did_you_mean, quote, suggestion, suggestion_or_list
from ebpf_userspace_exporter.config.model import Config
from ebpf_userspace_exporter.config.nodes import Value

_DECODER: Value = {"name": "string"}
_LABEL: Value = {"name": "stand_in", "size": "8", "decoders": [_DECODER]}
_COUNTER: Value = {"name": "stand_in", "table": "stand_in"}
_HISTOGRAM: Value = {"name": "stand_in", "table": "stand_in", "labels": [_LABEL], "bucket_type": "linear"}
_ATTACHMENT: Value = {"binary_name": "stand_in"}
_PROGRAM: Value = {"name": "stand_in", "attachment": _ATTACHMENT, "code": "stand_in"}

# What stands in for a value, by the key above it, or by the list that it is an item of.
_FIELDS: Mapping[str, Value] = {
    "programs": [_PROGRAM],
    "name": "stand_in",
    "attachment": _ATTACHMENT,
    "binary_name": "stand_in",
    "code": "stand_in",
    "table": "stand_in",
    "labels": [_LABEL],
    "size": "8",
    "decoders": [_DECODER],
    "bucket_type": "linear",
}
_ITEMS: Mapping[str, Value] = {
    "programs": _PROGRAM,
    "counters": _COUNTER,
    "histograms": _HISTOGRAM,
    "labels": _LABEL,
    "decoders": _DECODER,
    "bucket_keys": "0",
    "regexps": "stand_in",
    "cflags": "",
}
_MAPPINGS = frozenset({"usdt", "uprobes", "uretprobes", "static_map"})


@dataclass(frozen=True, slots=True)
class Draft:
    """`config` is None where nothing could be saved; `broken` are the paths of stand-ins in it."""

    config: Config | None
    problems: tuple[tuple[KeyPath, str], ...]
    broken: frozenset[KeyPath]


def read_config(value: dict[str, Value]) -> Draft:
    """Return the Config in a document's top-level mapping, or what is wrong with it and what is left."""
    value = _without_nulls(value)
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


def _without_nulls(value: dict[str, Value]) -> dict[str, Value]:
    """Drop keys without a value: an empty `labels:` is no labels. In a map of texts it is an empty text."""
    return {key: _filled(key, item) for key, item in value.items() if item is not None}


def _filled(key: str, item: Value) -> Value:
    if isinstance(item, dict):
        if key in _MAPPINGS:
            return {name: "" if text is None else text for name, text in item.items()}
        return _without_nulls(item)
    if isinstance(item, list):
        return [_filled("", each) for each in item]
    return item


def _translate(value: Value, details: list[ErrorDetails]) -> tuple[list[tuple[KeyPath, str]], list[KeyPath]]:
    problems: list[tuple[KeyPath, str]] = []
    broken: list[KeyPath] = []
    meant: set[KeyPath] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            path = detail["loc"]
            fields = _fields_of(path[:-1])
            word = did_you_mean(str(path[-1]), fields)
            if word is not None:
                meant.add((*path[:-1], word))
            problems.append((path, f"unknown key{suggestion_or_list(str(path[-1]), fields)}"))
            broken.append(path)
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
        case "int_type" | "float_type" | "bool_type":
            return f"expected a {detail['type'].removesuffix('_type')}, got {got}".replace("a int", "a whole number")
        case "greater_than_equal":
            return f"expected at least {context['ge']}, got {got}"
        case "less_than_equal":
            return f"expected at most {context['le']}, got {got}"
        case "less_than":
            return f"expected less than {context['lt']}, got {got}"
        case "enum":
            choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            return f"expected one of {', '.join(choices)}, got {got}{suggestion(str(detail['input']), choices)}"
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
            if model is None or part not in model.model_fields:
                return None
            model = _model_in(model.model_fields[part].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _fields_of(path: KeyPath) -> list[str]:
    model = _model_at(path)
    return [] if model is None else list(model.model_fields)


def _expectation(path: KeyPath) -> str:
    model = _model_at(path[:-1])
    description = None if model is None else model.model_fields[str(path[-1])].description
    return description or "a value"


def _stand_in(value: Value, path: KeyPath) -> None:
    """Put something valid at `path`, or nothing where nothing is needed."""
    *above, last = path
    holder = _at(value, tuple(above))
    if isinstance(holder, list) and isinstance(last, int):
        holder[last] = copy.deepcopy(_ITEMS.get(str(above[-1])))
    elif isinstance(holder, dict) and isinstance(last, str):
        known = _fields_of(tuple(above))
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
