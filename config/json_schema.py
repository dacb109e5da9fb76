"""The config as JSON Schema (draft 2020-12), which editors complete and check it with.

It describes what people write, not what the models hold: numbers may be in quotes, a single value may stand for a list
of one, `any` and `not` have their own names. What needs more than the shape is left to the checks.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES
from ebpf_userspace_exporter.config.load import KERNEL_PROBES, PLURAL
from ebpf_userspace_exporter.config.model import Config
from ebpf_userspace_exporter.config.scalars import parse_boolean, parse_integer, parse_number
from ebpf_userspace_exporter.config.selector import MAX_PORT, as_list, parse_age, parse_ports

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Any scalar is a text in these files; an editor has made a number or a truth value of some.
_TEXT = ("string", "number", "boolean")
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a probe config, as plain lists and mappings."""
    schema = Config.model_json_schema(schema_generator=_AsWritten)
    models = schema["$defs"]
    models["Decoder"]["properties"]["name"].update(type="string", enum=list(DECODER_SIZES))
    _complete_label(models["Label"])
    _complete_program(models["Program"])
    models["Selector"]["minProperties"] = 1
    schema["properties"]["programs"]["minItems"] = 1
    _bound_numbers(schema)
    return {"$schema": DIALECT, **schema, "title": "Probe config of ebpf-userspace-exporter"}


def _complete_label(label: dict[str, Any]) -> None:
    """Say what may be missing from the label that is the CPU."""
    label["properties"]["size"]["ge"] = 1
    label["if"] = {"properties": {"name": {"const": "cpu"}}}
    label["else"] = {"required": ["size", "decoders"]}


def _complete_program(program: dict[str, Any]) -> None:
    """Add the keys that are respelled or set aside before a program reaches its model."""
    properties = program["properties"]
    properties[PLURAL] = {**properties["attachment"], "description": "the same as attachment"}
    program["required"].remove("attachment")
    program["oneOf"] = [{"required": ["attachment"]}, {"required": [PLURAL]}]
    for kind in KERNEL_PROBES:
        properties[kind] = {"description": "ignored: only probes in user space are attached", "deprecated": True}


def _bound_numbers(schema: Any) -> None:
    """Give the bounds of each number to its form as a number, with the names that JSON Schema has for them."""
    if isinstance(schema, list):
        for part in schema:
            _bound_numbers(part)
    elif isinstance(schema, dict):
        for bound, name in _BOUNDS.items():
            if bound in schema and "anyOf" in schema:
                schema["anyOf"][0][name] = schema.pop(bound)
        for part in schema.values():
            _bound_numbers(part)


class _AsWritten(GenerateJsonSchema):
    """Writes each type as it may stand in the file, by the function that reads it."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        read = schema["function"]["function"]
        if read is as_list:
            listed = super().function_before_schema(schema)
            return {"anyOf": [listed["items"], {**listed, "minItems": 1}]}
        written = _SCALARS.get(read)
        return (
            super().function_before_schema(schema) if written is None else {"anyOf": [dict(form) for form in written]}
        )

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        return {**super().str_schema(schema), "type": list(_TEXT)}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        written = super().dict_schema(schema)
        written.pop("propertyNames", None)  # a key is a text to JSON, whatever it looks like
        return written

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        written = super().default_schema(schema)
        if not written.get("default") or isinstance(schema.get("default"), BaseModel):
            written.pop("default", None)
        return written

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - no field: its key says as much
        return False


_TRUTH = "^([yY](es|ES)?|[nN][oO]?|[oO](n|N|ff|FF)|[tT](rue|RUE)|[fF](alse|ALSE))$"
_DIGITS = {"type": "string", "pattern": "^[-+.0-9][-+.0-9a-zA-Z_]*$"}
_SCALARS: Mapping[Any, tuple[Mapping[str, Any], ...]] = {
    parse_integer: ({"type": "integer"}, _DIGITS),
    parse_number: ({"type": "number"}, _DIGITS),
    parse_boolean: ({"type": "boolean"}, {"type": "string", "pattern": _TRUTH}),
    parse_ports: (
        {"type": "integer", "minimum": 1, "maximum": MAX_PORT},
        {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"},
    ),
    parse_age: ({"type": "number", "minimum": 0}, {"type": "string", "pattern": "^([0-9.]+(ms|s|m|h)?)+$"}),
}
