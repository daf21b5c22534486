"""Numbers of a method's own settings, as the option `base_options` changes them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, TypeVar

from casejax.errors import OptionError
from casejax.run.config import Config

S = TypeVar("S")


def with_numbers(settings: S, config: Config, shared: tuple[str, ...] = ()) -> S:
    """Settings with the numbers that `base_options` names, and those that are options of every method.

    Args:
      settings: the published ones, a dataclass.
      config: the options.
      shared: names of settings that are taken from the options of the method.

    Raises:
      OptionError: a name that the settings have no number for, or a value that is none.
    """
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}  # type: ignore[arg-type]
    values: dict[str, Any] = {name: getattr(config.method, name) for name in shared if name in known}
    numbers = {name: value for name, value in known.items() if type(value) in (int, float) and name not in shared}
    for part in filter(None, config.network.base_options.split(",")):
        name, _, text = part.strip().partition("=")
        if name not in numbers:
            has = ", ".join(numbers) or "none"
            raise OptionError(f"base_options: {config.network.base} has no number {name!r}; it has {has}")
        try:
            values[name] = type(numbers[name])(text)
            if not math.isfinite(values[name]):
                raise ValueError(text)
        except ValueError as error:
            raise OptionError(f"base_options: {name} must be like {numbers[name]}, got {text!r}") from error
    return replace(settings, **values)  # type: ignore[type-var]
