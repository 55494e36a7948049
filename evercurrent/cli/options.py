"""Command line options made from settings, so that a setting is named, explained and given its default in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A TOML file with settings; or EVERCURRENT_CONFIG.", show_default=False
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]

Flags = dict[str, object]


def with_settings(values: type[BaseModel]) -> Callable[[Callable[..., None]], Any]:
    """Gives a command an option for each setting of `values`.

    The command takes them as one argument `flags`, by key, None where not given. They are text: the settings check them
    together with those of the other sources.
    """
    fields = dict(sorted(values.model_fields.items(), key=lambda item: item[0] not in values.__annotations__))

    options = [_option(key, field) for key, field in fields.items()]
    return lambda command: with_options(command, "flags", options, dict, come_first=True)


def with_options(
    command: Callable[..., None],
    parameter: str,
    options: Sequence[inspect.Parameter],
    make: Callable[..., object],
    *,
    come_first: bool = False,
) -> Callable[..., None]:
    """A command that has these options instead of one parameter, which it is given as `make` makes it of them."""
    signature = inspect.signature(command, eval_str=True)
    own = [
        found.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, found in signature.parameters.items()
        if name != parameter
    ]

    def called(**arguments: Any) -> None:
        given = {option.name: arguments.pop(option.name) for option in options}
        command(**arguments, **{parameter: make(**given)})

    all_options = [*options, *own] if come_first else [*own, *options]
    called.__signature__ = inspect.Signature(all_options)  # type: ignore[attr-defined]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


def _option(key: str, field: FieldInfo) -> inspect.Parameter:
    metavar, default = _shown(key, field)
    option = typer.Option(
        f"--{key.replace('_', '-')}", metavar=metavar, help=field.description, show_default=default or False
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _shown(key: str, field: FieldInfo) -> tuple[str, str]:
    """How --help calls a setting's values, and its default."""
    if key.endswith("bytes_max") and field.default is not None:
        return "BYTES", ByteSize(field.default).human_readable(separator="")
    if isinstance(field.default, bool):
        return "BOOL", str(field.default).lower()
    if key.endswith("_ms"):
        return "MS", ""
    if key.endswith("_max") and field.default is None:
        return "N", ""
    if isinstance(field.default, int | float):
        return "N", str(field.default)
    return "FILE" if Path in get_args(field.annotation) else "TEXT", str(field.default or "")
