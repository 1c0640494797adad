"""From frozen dataclasses to flags and YAML, and back.

A configuration is a dataclass of parts, each part a frozen dataclass with a docstring under every
field. Field names are unique over the parts, so a flag, a YAML key and a field share one name:
``--pretrain-lr 1e-4``, ``pretrain_lr: 1e-4`` and ``config.adaptation.pretrain_lr``.
Precedence: defaults < preset < ``--config`` file < flags. Nothing here knows what is configured.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import os
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

C = TypeVar("C")
PRESETS = Path(__file__).with_name("configs")
"""Folder of the presets; the same files as ``configs/`` at the root of the repository."""


class ConfigError(ValueError):
    """A configuration value that cannot be used."""


@dataclass(frozen=True)
class Leaf:
    """One setting: where it sits, what it may be, and what it means."""

    part: str
    name: str
    type: Any
    default: Any
    doc: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@cache
def leaves(cls: type) -> dict[str, Leaf]:
    """Every setting of a configuration class by name, in the order of its parts."""
    found: dict[str, Leaf] = {}
    parts = typing.get_type_hints(cls)
    for part in dataclasses.fields(cls):
        part_cls = parts[part.name]
        docs, hints = field_docs(part_cls), typing.get_type_hints(part_cls)
        for field in dataclasses.fields(part_cls):
            if field.name in found:
                raise TypeError(f"{cls.__name__} has two settings called {field.name}")
            default = getattr(part_cls(), field.name)
            found[field.name] = Leaf(
                part.name, field.name, hints[field.name], default, docs.get(field.name, "")
            )
    return found


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and its bases, on one line."""
    docs: dict[str, str] = {}
    for base in cls.__bases__:
        if dataclasses.is_dataclass(base):
            docs |= field_docs(base)
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[before.target.id] = " ".join(after.value.value.replace("``", "").split())
    return docs


def user_path(given: str) -> Path:
    """What a flag means by a path: shells leave the ``~`` of ``--output=~/x`` as it is."""
    return Path(os.path.expanduser(given))


def add_flags(parser: argparse.ArgumentParser, cls: type, *, sources: bool = True) -> None:
    """Give ``parser`` a flag for every setting, grouped by part.

    Args:
        parser: gets them.
        cls: the configuration class.
        sources: add --preset and --config too.
    """
    if sources:
        source = parser.add_argument_group("where settings come from (later ones win)")
        source.add_argument(
            "--preset",
            metavar="NAME",
            help=f"a file of configs/, by name, or `paper` or `default` for the task's own "
            f"({', '.join(preset_names())})",
        )
        source.add_argument(
            "--config", type=user_path, metavar="FILE", help="YAML with names as below"
        )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for leaf in leaves(cls).values():
        group = groups.setdefault(leaf.part, parser.add_argument_group(f"{leaf.part} settings"))
        group.add_argument(leaf.flag, dest=leaf.name, default=argparse.SUPPRESS, **_flag(leaf))


def _flag(leaf: Leaf) -> dict[str, Any]:
    shown = " ".join(map(str, leaf.default)) if isinstance(leaf.default, tuple) else leaf.default
    text = f"{leaf.doc} (default: {shown})".replace("%", "%%").strip()
    if leaf.type is bool:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    item = _item_type(leaf.type)
    many = item is not leaf.type and typing.get_origin(leaf.type) is tuple

    def convert(given: str) -> Any:
        try:
            return coerce(leaf.name, item, given)
        except ConfigError as error:
            # The parser's own sentence goes on after it.
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None

    choices = _choices(item)
    kinds = (item, *typing.get_args(item))
    word = "N" if int in kinds else "X" if float in kinds else leaf.name.split("_")[-1].upper()
    metavar = "{" + ",".join(choices) + "}" if choices else word
    return {"type": convert, "help": text, "metavar": metavar} | ({"nargs": "*"} if many else {})


def _item_type(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind


def _choices(kind: Any) -> tuple[str, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def coerce(name: str, kind: Any, given: Any) -> Any:
    """Turn a flag's text or a YAML value into the type of the setting, or say why not.

    Raises:
        ConfigError: if the value is not of the type.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if given is None or given in ("", "none", "null"):
            return None
        (kind,) = [option for option in typing.get_args(kind) if option is not type(None)]
        return coerce(name, kind, given)
    if origin is tuple:
        values = [given] if isinstance(given, str) else given
        if not isinstance(values, Sequence):
            raise ConfigError(f"{name} is {given!r}; a list was expected.")
        return tuple(coerce(name, _item_type(kind), value) for value in values)
    if origin is Literal:
        if given not in typing.get_args(kind):
            raise ConfigError(
                f"{name} is {given!r}; it must be one of {', '.join(_choices(kind))}."
            )
        return given
    return _coerce_plain(name, kind, given)


def _coerce_plain(name: str, kind: type, given: Any) -> Any:
    if kind is bool or isinstance(given, bool):
        if kind is bool and isinstance(given, bool):
            return given
        raise ConfigError(f"{name} is {given!r}; expected {_words(kind)}.")
    try:
        value = kind(given)
    except (TypeError, ValueError, OverflowError):  # the last: infinitely many
        raise ConfigError(f"{name} is {given!r}; expected {_words(kind)}.") from None
    if kind is int and isinstance(given, float) and value != given:
        raise ConfigError(f"{name} is {given!r}; expected {_words(kind)}.")
    # No text begins with ~ but a path, and the shell does not see that of --model=~/x or of a file.
    return os.path.expanduser(value) if kind is str else value


def _words(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def build(cls: type[C], values: Mapping[str, Any], *, where: str = "") -> C:
    """Make a configuration from flat values, defaults filling the rest.

    Raises:
        ConfigError: on a key that is no setting, or a value of the wrong type.
    """
    parts: dict[str, dict[str, Any]] = {field.name: {} for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, value in checked(cls, values, where=where).items():
        parts[leaves(cls)[name].part][name] = value  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    return cls(**{name: hints[name](**given) for name, given in parts.items()})


def checked(cls: type, values: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Flat values, each of its setting's type, or a ConfigError that says ``where`` they stand."""
    known, begin = leaves(cls), f"{where}: " if where else ""
    found = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{begin}there is no setting {name!r}{nearest(str(name), known)}.")
        try:
            found[name] = coerce(name, known[name].type, value)
        except ConfigError as error:
            raise ConfigError(f"{begin}{error}") from None
    return found


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """``; did you mean 'budget'?``, or nothing if no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}" if close else ""


def flatten(config: Any) -> dict[str, Any]:
    """Every setting by name, as YAML can hold it."""
    return {
        leaf.name: _plain(getattr(getattr(config, leaf.part), leaf.name))
        for leaf in leaves(config.__class__).values()
    }


def differences(config: Any) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    known = leaves(config.__class__)
    return {k: v for k, v in flatten(config).items() if v != _plain(known[k].default)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_settings(path: Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file of settings; ``base: other.yaml`` is read first and overridden: a file beside it,
    else a preset. ``above`` are the files that it is a base of.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it is not a YAML mapping of names, or its bases go round in a circle.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no settings file {path}; give a YAML file of settings.")
    if path.resolve() in above:
        raise ConfigError(f"{path}: its `base` leads back to itself; remove one of the bases.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError(
            f"{path} is not valid YAML{line}; expected `name: value` lines."
        ) from None
    values = {} if values is None else values  # an empty file says nothing
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected `name: value` lines.")
    for name in values:
        if not isinstance(name, str):
            raise ConfigError(f"{path}: the key {name!r} is no text; expected `name: value` lines.")
    base = values.pop("base", None)
    if base is None:
        return values
    under = read_settings(_base(path, str(base)), above=(*above, path.resolve()))
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(under.get(name), dict)
        under[name] = under[name] | value if both else value
    return under


def _base(path: Path, name: str) -> Path:
    """The file that ``base: name`` in ``path`` means; presets may be named without ending."""
    beside, preset = path.parent / name, PRESETS / name
    found = (place for place in (beside, preset, preset.with_suffix(".yaml")) if place.is_file())
    return next(found, beside)


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a preset of ``configs/``.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in preset_names():
        hint = nearest(name, preset_names())
        raise ConfigError(
            f"There is no preset {name!r}{hint}; presets are paper, default, "
            f"{', '.join(preset_names())}."
        )
    return read_settings(PRESETS / f"{name}.yaml")


def given_flags(cls: type, args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags."""
    return {name: getattr(args, name) for name in leaves(cls) if hasattr(args, name)}
