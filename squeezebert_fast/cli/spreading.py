"""Groups of options as dataclasses, so that commands can share them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from squeezebert_fast.cli.options import completing


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a dataclass replaced by that class's fields, as options.

    A field is annotated with its option, as a parameter of a command is, or its metadata have `help`, and perhaps
    `at_least`, `names` (those of the option) and `values` (for shells to complete). What the class raises on
    construction is raised by the command.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        parameters += (
            _options(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]
        )

    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**fields)
        command(**values)

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    gathered.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
    del gathered.__wrapped__  # typer would follow it to the command's own signature
    return gathered


def _options(group: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    options = []
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        if typing.get_origin(hint) is not Annotated:
            names = field.metadata.get("names", ())
            values = field.metadata.get("values")
            option = typer.Option(
                *names,
                help=field.metadata["help"],
                min=field.metadata.get("at_least"),
                autocompletion=None if values is None else completing(values),
            )
            hint = Annotated[hint, option]
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        options.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=hint,
            )
        )
    return options
