"""Configurations as TOML files: what the command line can say, under the same names."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from remote_env.errors import ConfigurationError

__all__ = ["NOT_READ", "read_config", "to_toml", "unchecked"]

NOT_READ = "run"  # the table of what a run was, for people


def read_config(path: Path, cls: type[Any]) -> dict[str, Any]:
    """Return what a file says of the fields of a dataclass; keys are left out as they like.

    Args:
        path: A TOML file.
        cls: A dataclass, such as ``TrainConfig``; other dataclasses in it are tables.

    Raises:
        ConfigurationError: If it cannot be read, has a key that does not exist, or a value of
            another type; names the file and the key, and says which keys are near.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    table.pop(NOT_READ, None)
    try:
        return _fields(table, cls, str(path), "")
    except _UnknownKeyError as error:
        about = _about_unknown(error.args[0], list(_names(cls)))
        raise ConfigurationError(f"{path}: {about}") from None


class _UnknownKeyError(Exception):
    """A file says something of which nobody knows: ``args[0]``, with its tables before it."""


def _names(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield all that a file may say, with their tables before them."""
    for name, hint in get_type_hints(cls, include_extras=False).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from _names(cast(type[Any], hint), f"{prefix}{name}.")


def _fields(table: Mapping[str, Any], cls: type[Any], file: str, prefix: str) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=False)
    known = {field.name: hints[field.name] for field in fields(cls)}
    said = {}
    for key, value in table.items():
        if key not in known:
            raise _UnknownKeyError(prefix + key)
        said[key] = _value(value, known[key], file, prefix + key)
    return said


def _about_unknown(key: str, names: Sequence[str]) -> str:
    """Say what may have been meant: something near in the same table, or the like in another."""
    table, _, last = key.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == table}
    if near := difflib.get_close_matches(last, beside, n=3):
        meant = " or ".join([repr(beside[name]) for name in near])
        return f"there is no {key!r}; did you mean {meant}?"
    anywhere = {name.rpartition(".")[2]: name for name in names}
    for found in difflib.get_close_matches(last, anywhere, n=1, cutoff=0.8):
        other = anywhere[found].rpartition(".")[0]
        where = f"in the table [{other}]" if other else "before the first table"
        return f"there is no {key!r}; did you mean {found!r}, {where}?"
    return f"there is no {key!r}; there are {', '.join(beside)}"


def _value(value: Any, hint: Any, file: str, key: str) -> Any:
    """Return a value as a field of this type has it."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = next((kind for kind in kinds if _fits(value, kind)), kinds[0])
    if is_dataclass(hint) and isinstance(value, dict):
        given = _fields(value, cast(type[Any], hint), file, f"{key}.")
        try:
            return hint(**given)  # type: ignore[operator]
        except ConfigurationError as error:
            raise ConfigurationError(f"{file}: {error}") from error
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(part, get_args(hint)[0], file, key) for part in value)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:  # a bool is no integer here
        return value
    raise ConfigurationError(f"{file}: {key} must be {_wanted(hint)}, not {value!r:.60}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of one of several types that a field may have."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return isinstance(kind, type) and type(value) is kind


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list, each of it {_wanted(get_args(hint)[0])}"
    if is_dataclass(hint):
        return "a table"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, "a text, the path of a file")


def unchecked(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a dataclass with these values and defaults for the others, without its checks.

    For a file that the command line will complete: whether all of it makes sense is asked then.
    What has no default is empty.
    """
    made = object.__new__(cls)
    for field in fields(cls):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = values.get(field.name, () if default is MISSING else default)
        object.__setattr__(made, field.name, value)
    return made


def to_toml(table: Mapping[str, Any], name: str = "") -> str:
    """Return a table as TOML; what is None is left out."""
    plain = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    lines = [f"[{name}]"] if name and plain else []
    lines += [f"{_key(key)} = {_text(value)}" for key, value in plain.items()]
    parts = ["\n".join(lines)] if lines else []
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = f"{name}.{_key(key)}" if name else _key(key)
            parts.append(to_toml(value, inner).rstrip("\n"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _key(key: str) -> str:
    is_bare = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
    return key if is_bare else _quoted(key)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_text(part) for part in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Return a basic string of TOML: what may not stand in one is escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
