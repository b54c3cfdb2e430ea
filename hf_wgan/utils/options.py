"""Dataclasses whose fields are a command's options: each option is named, defaulted and explained once."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from .errors import InputError


def option(default: Any, help: str, *, secret: bool = False, matters: bool = True) -> Any:
    """A dataclass field with the sentence that `--help` prints for it. A secret is left out of `repr`. What does not
    matter leaves the outcome of a run what it is, and may change when the run is resumed."""
    return dataclasses.field(default=default, repr=not secret, metadata={"help": help, "matters": matters})


class OptionParser(argparse.ArgumentParser):
    """An argument parser over dataclasses of options. A mistake is answered with one line, not with every option."""

    def __init__(self, *option_classes: type, **kwargs: Any):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **kwargs)
        self.option_classes = option_classes
        for option_class in option_classes:
            group = self.add_argument_group((option_class.__doc__ or "").splitlines()[0].rstrip(":."))
            hints = typing.get_type_hints(option_class)
            for field in dataclasses.fields(option_class):
                group.add_argument(
                    f"--{field.name}",
                    default=field.default,
                    help=field.metadata["help"].replace("%", "%%"),
                    **_argument_type(hints[field.name]),
                )

    def parse_options(self, args: Sequence[str] | None = None) -> list[Any]:
        """One instance of each dataclass, in the order given.

        Raises:
            InputError: a value is out of its range.
        """
        values = vars(self.parse_args(args))
        return [
            option_class(**{field.name: values[field.name] for field in dataclasses.fields(option_class)})
            for option_class in self.option_classes
        ]

    def given(self, args: Sequence[str] | None = None) -> set[str]:
        """The names of the options that the arguments set, be it to their defaults."""
        unset = object()
        names = [action.dest for action in self._actions]
        values = vars(self.parse_args(args, argparse.Namespace(**dict.fromkeys(names, unset))))
        return {name for name in names if values[name] is not unset}

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


def _argument_type(hint: Any) -> dict[str, Any]:
    """The `add_argument` keywords for a field's type: bool, int, float, str, a Literal, or one of them or None."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [member for member in typing.get_args(hint) if member is not type(None)]
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    return {"type": hint, "metavar": hint.__name__.upper()}
