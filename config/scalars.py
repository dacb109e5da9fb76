"""Numbers and truth values as YAML 1.1 writes them, for the fields that want them.

Scalars reach the models as the text that stands in the file, since only the field knows what it is: 0x1 is a number as
a size and a key of three characters in a static_map. The grammar is that of gopkg.in/yaml.v2, which read these
files before.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]{1,16}|0[bB][01]{1,64}|0[oO]?[0-7]{1,22}|0|[1-9][0-9]{0,19})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_TRUE = frozenset({"y", "yes", "on", "true"})
_FALSE = frozenset({"n", "no", "off", "false"})


def parse_integer(value: object) -> object:
    """Return the whole number that the text is; what is no text is left to the field's type."""
    if not isinstance(value, str):
        return value
    digits = value.replace("_", "")
    if _INTEGER.fullmatch(digits):
        unsigned = digits.lstrip("+-").lower()
        octal = len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1].isdigit()
        number = int(unsigned, 8 if octal else 0)
        return -number if digits[0] == "-" else number
    if len(digits) <= 32 and _FLOAT.fullmatch(digits) and float(digits).is_integer():
        return int(float(digits))
    raise PydanticCustomError("expected", "expected a whole number")


def parse_number(value: object) -> object:
    """Return the number that the text is: whole, with a fraction, or with an exponent; never an infinity."""
    if not isinstance(value, str):
        return value
    digits = value.replace("_", "")
    if _INTEGER.fullmatch(digits):
        return parse_integer(value)
    if len(digits) <= 64 and _FLOAT.fullmatch(digits) and math.isfinite(float(digits)):
        return float(digits)
    raise PydanticCustomError("expected", "expected a number")


def parse_boolean(value: object) -> object:
    """Return the truth value that the text is."""
    if not isinstance(value, str):
        return value
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise PydanticCustomError("expected", "expected true or false")


Integer = Annotated[int, BeforeValidator(parse_integer)]
Number = Annotated[float, BeforeValidator(parse_number)]
Boolean = Annotated[bool, BeforeValidator(parse_boolean)]
