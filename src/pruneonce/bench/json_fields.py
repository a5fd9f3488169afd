"""Parsed JSON to dataclasses, every field checked: a benchmark's file may be anyone's."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

from pruneonce.errors import UsageError

Kind = TypeVar("Kind")


def from_json(kind: type[Kind], value: Any, where: str) -> Kind:
    """The dataclass `kind` from a JSON object; keys that it does not have are left out.

    UsageError, which begins with `where`, for a field that is missing or of another type.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be an object, got {ascii(value)[:40]}")
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # mypy has no bound that says "a dataclass"
        if field.name in value:
            found[field.name] = _checked(value[field.name], hints[field.name], f"{where}: {field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}: '{field.name}' is missing")
    try:
        return kind(**found)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as a field of type `hint` holds it; whole numbers are floats too."""
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be an object, got {ascii(value)[:40]}")
        return {key: _checked(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise UsageError(f"{where} must be a list, got {ascii(value)[:40]}")
        return origin(_checked(item, inner[0], where) for item in value)
    if type(value) is int and hint is float:
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{where} must be of type {hint.__name__}, got {ascii(value)[:40]}")
    return value
