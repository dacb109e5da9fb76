"""As much of a JSON Schema validator as the config's schema needs; what it does not know is an error."""

import re
from collections.abc import Iterator
from typing import Any

ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "deprecated"}
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def differences(schema: Any, value: Any, root: Any, path: str = "") -> Iterator[str]:
    """Yield where and by which keyword the value does not fit."""
    if schema is True:
        return
    if schema is False:
        yield f"{path}: false"
        return
    for keyword in schema.keys() - ANNOTATIONS:
        yield from _judge(keyword, schema, value, root, path)


def fits(schema: Any, value: Any, root: Any) -> bool:
    """Whether the value fits."""
    return next(differences(schema, value, root), None) is None


def _judge(keyword: str, schema: Any, value: Any, root: Any, path: str) -> Iterator[str]:
    expected, is_fit = schema[keyword], True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match keyword:
        case "$ref":
            yield from differences(root["$defs"][expected.removeprefix("#/$defs/")], value, root, path)
        case "type":
            is_fit = any(_is_of(value, name) for name in ([expected] if isinstance(expected, str) else expected))
        case "enum":
            is_fit = value in expected
        case "const":
            is_fit = value == expected
        case "pattern":
            is_fit = not isinstance(value, str) or re.search(expected, value) is not None
        case "minimum":
            is_fit = not is_number or value >= expected
        case "maximum":
            is_fit = not is_number or value <= expected
        case "exclusiveMaximum":
            is_fit = not is_number or value < expected
        case "minItems":
            is_fit = not isinstance(value, list) or len(value) >= expected
        case "minProperties":
            is_fit = not isinstance(value, dict) or len(value) >= expected
        case "required":
            is_fit = not isinstance(value, dict) or all(key in value for key in expected)
        case "anyOf":
            is_fit = any(fits(part, value, root) for part in expected)
        case "oneOf":
            is_fit = sum(fits(part, value, root) for part in expected) == 1
        case "if":
            if not fits(expected, value, root):
                yield from differences(schema["else"], value, root, path)
        case "else":
            pass
        case "items":
            for index, item in enumerate(value if isinstance(value, list) else ()):
                yield from differences(expected, item, root, f"{path}[{index}]")
        case "properties":
            for key, item in value.items() if isinstance(value, dict) else ():
                yield from differences(expected.get(key, True), item, root, f"{path}.{key}")
        case "additionalProperties":
            known = schema.get("properties", {})
            for key, item in value.items() if isinstance(value, dict) else ():
                yield from differences(True if key in known else expected, item, root, f"{path}.{key}")
        case _:
            raise AssertionError(f"not known here: {keyword}")
    if not is_fit:
        yield f"{path}: {keyword}"


def _is_of(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
