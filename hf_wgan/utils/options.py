"""Dataclasses whose fields are options: each is named, checked and explained once, for Python, files and command lines.

A field declares its type, its default, its range or choices and its help text. Every value goes through the same
conversion and the same checks, whichever way it comes.
"""

import argparse
import dataclasses
import difflib
import json
import math
import numbers
import os
import re
import sys
import types
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypeVar

import yaml

from .console import say_once
from .errors import InputError, one_line
from .hints import POSITIONAL, called_here
from .launcher import number_of

T = TypeVar("T", bound="Options")

Needs = Mapping[str, Literal[True] | Collection[Any] | Callable[[], Collection[Any]]]
"""Options, and the values of theirs that another option needs."""

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Texts for true and false."""
YAML_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
YAML_BOOLEAN = "tag:yaml.org,2002:bool"

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy, PyTorch and Python all accept."""


def option(
    default: Any,
    help: str,
    *,
    group: str | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Collection[str] | None = None,
    common: bool = False,
    secret: bool = False,
    matters: bool = True,
    needs: "Needs | None" = None,
    unless: Collection[str] = (),
    late: bool = False,
    several_lines: bool = False,
) -> Any:
    """Declare a dataclass field that is an option.

    Args:
        default: The default value; None is allowed only where the field's type says so.
        help: The text that `--help` prints.
        group: Heading in `--help-all` for this field and those after it.
        minimum: Smallest value, inclusive.
        above: Lower bound, exclusive.
        maximum: Largest value, inclusive.
        below: Upper bound, exclusive.
        choices: Allowed words, for a field of type `str`. A registry is read at the time of the check, so that names
            registered later count.
        common: Whether plain `--help` lists the option.
        secret: Whether the value is kept out of `repr` and records.
        matters: Whether the option changes the outcome of a run. The others may change when a run is resumed.
        needs: Conditions on other options, by their names; the option has an effect if at least one of them holds. A
            condition is a list of values, or a function that returns one, or True: the other option is set.
        unless: Names of other options; the option has no effect where one of them is set.
        late: Whether `needs` and `unless` are checked by `check_effects` only, because an object that is passed in
            Python may replace the other options.
        several_lines: Whether a text may have line breaks.
    """
    metadata = {
        "help": help,
        "group": group,
        "bounds": {"minimum": minimum, "above": above, "maximum": maximum, "below": below},
        "choices": choices,
        "common": common,
        "secret": secret,
        "matters": matters,
        "needs": needs or {},
        "unless": unless,
        "late": late,
        "several_lines": several_lines,
    }
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


class Options:
    """Base class for dataclasses of options, which check every field when an instance is created.

    Raises:
        InputError: There is no such option, or a value has the wrong type, is out of its range, is none of its choices
            or has no effect beside the others.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        cls.check_names(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        fields = option_fields(type(self))
        for field in fields:
            value = checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        self._check_effects(field for field in fields if not field.metadata["late"])
        self.check()

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Check that all names are options of this class.

        Raises:
            InputError: Some are not.
        """
        known = _names(cls)
        if unknown := [name for name in names if name not in known]:
            raise InputError(unknown_options(unknown, cls.__name__, known, cls.hints()))

    def check_effects(self) -> None:
        """Check that every option that differs from its default has an effect beside the others.

        Raises:
            InputError: One has none.
        """
        self._check_effects(option_fields(type(self)))

    def changed(self, **changes: Any) -> Self:
        """Return the options with changes, and with the defaults of those that then have no effect."""
        values = {**vars(self), **changes}
        defaults = {field.name: field.default for field in option_fields(type(self)) if not has_effect(field, values)}
        return dataclasses.replace(self, **{**changes, **defaults})  # type: ignore[type-var]

    def _check_effects(self, fields: Iterable[Field[Any]]) -> None:
        values = vars(self)
        check_effects((field for field in fields if values[field.name] != field.default), values)

    @classmethod
    def hints(cls) -> Mapping[str, str]:
        """Return what to answer to options of other names."""
        return called_here(_names(cls))

    def check(self) -> None:
        """Check combinations of options; for subclasses."""


def _names(option_class: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(option_class)}


def option_fields(option_class: type) -> tuple[Field[Any], ...]:
    """Return the fields of an options dataclass, with their types resolved."""
    hints = typing.get_type_hints(option_class)
    fields = dataclasses.fields(option_class)
    for field in fields:
        field.type = hints[field.name]
    return fields


def has_effect(field: Field[Any], values: Mapping[str, Any]) -> bool:
    """Return whether an option has an effect beside the values of all options of its class, by name."""
    needs: Needs = field.metadata["needs"]
    is_needed = not needs or any(_is_met(need, values[name]) for name, need in needs.items())
    return is_needed and not any(values[name] for name in field.metadata["unless"])


def check_effects(fields: Iterable[Field[Any]], values: Mapping[str, Any]) -> None:
    """Check that options have an effect beside the values of all options of their class, by name.

    Raises:
        InputError: One has none.
    """
    for field in fields:
        if not has_effect(field, values):
            shown = field.name if field.metadata["secret"] else f"{field.name}={values[field.name]!r}"
            raise InputError(f"{shown}: has no effect {_without_effect(field, values)}")


def check_typed(fields: Iterable[Field[Any]], names: Collection[str], values: Mapping[str, Any]) -> None:
    """Check that options which somebody typed have an effect, also where the value is the default.

    Args:
        fields: The options.
        names: Which of them were typed.
        values: The values of all options of their class, by name.

    Raises:
        InputError: One has none.
    """
    expected = (field for field in fields if field.name in names and values[field.name] not in (None, False))
    check_effects(expected, values)


def depends_on(field: Field[Any]) -> set[str]:
    """Return the names of the options that decide whether an option has an effect."""
    return {*field.metadata["needs"], *field.metadata["unless"]}


def _is_met(need: Any, value: Any) -> bool:
    return bool(value) if need is True else value in (need() if callable(need) else need)


def _without_effect(field: Field[Any], values: Mapping[str, Any]) -> str:
    """Return beside which option another has no effect, and the remedy."""
    for name in field.metadata["unless"]:
        if values[name]:
            return f"with {name}; leave one of them out"
    needs = field.metadata["needs"]
    unset = [name for name, need in needs.items() if need is True]
    if unset:
        return f"without {' or '.join(unset)}"
    (name, need), *_ = needs.items()
    allowed = [*map(str, need() if callable(need) else need)]
    remedy = allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}"
    return f"with {name}={values[name]!r}; use {remedy}"


def checked(field: Field[Any], value: Any) -> Any:
    """Return the value in the field's own type.

    Whole numbers are accepted for `float` fields, NumPy scalars for numbers, and paths for `str` fields.

    Raises:
        InputError: The value has the wrong type, is out of range or is none of the choices.
    """
    kind, optional = kind_of(field)
    if value is None and optional:
        return None
    converted = _converted(kind, value)
    if isinstance(converted, str):
        if converted.startswith("~/"):  # which a shell does not replace everywhere, and a file never
            converted = os.path.expanduser(converted)
        if not converted.strip() and (converted or field.default != ""):
            raise InputError(f"{field.name}={value!r}: must not be empty" + ("; leave it out" if optional else ""))
        if set(converted) & ({"\0"} if field.metadata["several_lines"] else {"\0", "\n", "\r"}):
            raise InputError(f"{field.name}={value!r}: must be one line")
    choices = choices_of(field)
    if converted is None or (choices is not None and converted not in choices) or not _in_range(field, converted):
        raise InputError(f"{field.name}={value!r}: {_requirement(field)}")
    return converted


def parsed(field: Field[Any], text: str) -> Any:
    """Return the value that a text on a command line or in a file stands for; `checked` judges it.

    A text that is no value of the field's type is returned as it is.
    """
    kind, optional = kind_of(field)
    words = choices_of(field)
    is_name = kind is str and (words is None or text in words)  # which none may be too
    if optional and not is_name and text.lower() in ("none", "null"):
        return None
    try:
        if kind is bool:
            return BOOLEANS.get(text.lower(), text)
        return kind(text)
    except ValueError:
        return text


def from_file(field: Field[Any], value: Any) -> Any:
    """Return the value that YAML or JSON stands for: of YAML's texts what they would be on a command line.

    Raises:
        InputError: It is of no type that an option has.
    """
    kind, optional = kind_of(field)
    if isinstance(value, str):
        return parsed(field, value)
    if value is None and not optional:
        raise InputError(f"{field.name}: has no value; leave it out, or put a text that begins with # in quotes")
    if isinstance(value, (list, tuple)) and kind is str:
        raise InputError(f"{field.name}={value!r}: must be one text, such as {','.join(map(str, value))!r}")
    if kind is str and isinstance(value, bool):
        raise InputError(f"{field.name}={value!r}: must be a text; put it in quotes")
    if kind is str and isinstance(value, (int, float)):
        return str(value)
    return value


def words_of(name: str, text: str) -> list[str]:
    """Return the words of a text that separates them by commas, each once and without the empty ones.

    Args:
        name: The name of the option.
        text: Its value.

    Raises:
        InputError: It holds commas and spaces only.
    """
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{name}={text!r}: holds no name; name one, or several separated by commas")
    return words


def choices_of(field: Field[Any]) -> Collection[Any] | None:
    """Return the allowed words of a field, or None if it is not restricted to a list."""
    hint = _without_none(field.type)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else field.metadata["choices"]


def read_options(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a mapping from a YAML or JSON file.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    if not os.fspath(path):
        raise InputError("config='': must not be empty; name a file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = _json_or_yaml(text, is_json=Path(path).suffix.lower() == ".json")
    except OSError as error:
        remedy = "; name a file in it, as a run's training_config.json" if Path(path).is_dir() else ""
        why = error.strerror or one_line(error)
        raise InputError(f"config={str(path)!r}: cannot be read ({why}){remedy}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"config={str(path)!r}: is no valid YAML or JSON ({_problem(error)})") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"config={str(path)!r}: must hold options as `name: value`")
    return content


def _problem(error: Exception) -> str:
    """Return what is wrong with a file and where, without the name that YAML has for a text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    return one_line(error)


def _json_or_yaml(text: str, is_json: bool) -> Any:
    if is_json or text.lstrip().startswith("{"):  # which may also begin a mapping of YAML
        try:
            return json.loads(text, object_pairs_hook=_mapping)
        except json.JSONDecodeError:
            if is_json:
                raise
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a mapping with a key twice instead of taking the last.

    Of plain words it takes `true` and `false` for what they are, and nothing for none; all others stay texts, which
    mean what they do on a command line: YAML 1.1 takes `no` for false, `010` for 8, `1:30` for 90.
    """

    yaml_implicit_resolvers: typing.ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in YAML_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        _check_unique(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(YAML_BOOLEAN, re.compile("(?i:true|false)$"), list("tTfF"))


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a mapping in a JSON file, which has no key twice either."""
    _check_unique(name for name, _ in pairs)
    return dict(pairs)


def _check_unique(names: Iterable[Any]) -> None:
    """Check the keys of a mapping in a file.

    Raises:
        ValueError: One is there twice.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{twice[0]} is there twice; keep one")


def nearest(name: str, known: Iterable[str], hints: Mapping[str, str] | None = None) -> str:
    """Return what to say about an unknown option: a hint, the nearest known name, or nothing."""
    if hints and name in hints:
        return hints[name]
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else ""


def unknown_options(
    names: Sequence[str], where: str, known: Collection[str], hints: Mapping[str, str], others: Iterable[str] = ()
) -> str:
    """Return the message for options that do not exist.

    Args:
        names: What was given.
        where: What it was given to.
        known: The options that exist.
        hints: What to answer to options of other programs, by name.
        others: Further names that could have been meant.
    """
    answers = dict.fromkeys(filter(None, (nearest(name, [*known, *others], hints) for name in names)))
    return "; ".join([f"{where}: there is no option {', '.join(map(repr, names))}", *answers])


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What a command line says."""

    options: dict[str, Any]  # explicit options, by name
    others: dict[str, Any]  # positional arguments and flags of the command itself, by name
    option_classes: tuple[type, ...]

    @property
    def configs(self) -> list[Any]:
        """Return one instance of each dataclass, in the order of the parser's."""
        return [self.build(option_class) for option_class in self.option_classes]

    @property
    def explicit(self) -> set[str]:
        """Return the names of the options that were typed, also those with their default values."""
        return set(self.options)

    def build(self, option_class: type[T], **defaults: Any) -> T:
        """Return an instance of an options dataclass from the explicit options, over other defaults than its own."""
        names = _names(option_class)
        explicit = {name: value for name, value in self.options.items() if name in names}
        built = option_class(**{**defaults, **explicit})
        check_typed(option_fields(option_class), explicit, vars(built))
        return built


class OptionParser(argparse.ArgumentParser):
    """Parse a command line into dataclasses of options. A mistake is answered in one line.

    Args:
        option_classes: The dataclasses; their field names must differ.
        exclude: Fields that this command has no use for.
        hints: What to answer to options of other programs, by name.
        stray: What to answer to a word too many that is no option.
        common_only: Whether `--help` lists common options alone, and nothing of a dataclass that has none.
        kwargs: Arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *option_classes: type,
        exclude: Collection[str] = (),
        hints: Mapping[str, str] | None = None,
        stray: str = "put a name with spaces in quotes",
        common_only: bool = False,
        **kwargs: Any,
    ):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, add_help=False, **kwargs)
        self.option_classes, self.hints, self._stray = option_classes, hints or {}, stray
        self._fields: dict[str, Field[Any]] = {}
        self._rare: set[str] = set()  # options that `--help` leaves out
        self.add_argument("-h", "--help", action="help", help="Show the most used options and exit.")
        for option_class in option_classes:
            heading = (option_class.__doc__ or "").splitlines()[0].rstrip(":.")
            group = self.add_argument_group(heading)
            members = option_fields(option_class)
            if common_only or any(field.metadata["common"] for field in members):
                self._rare |= {field.name for field in members if not field.metadata["common"]}
            for field in members:
                if field.metadata["group"]:
                    group = self.add_argument_group(field.metadata["group"])
                if field.name not in exclude:
                    self._fields[field.name] = field
                    group.add_argument(f"--{field.name}", help=_help(field), **_argument(field))
        if self._has_more:
            self.add_argument("--help-all", action=_HelpAll, help="Show all options and exit.")

    @property
    def _has_more(self) -> bool:
        """Return whether `--help` leaves options out."""
        return bool(self._rare & set(self._fields))

    def parse(self, args: Sequence[str] | None = None) -> Parsed:
        """Parse a command line once.

        Raises:
            InputError: An option is unknown, or a value is not what the option takes.
        """
        parsed, unknown = self.parse_known(args)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed

    def parse_known(self, args: Sequence[str] | None = None) -> tuple[Parsed, list[str]]:
        """Parse a command line; return what it says, and the words that stand for no option.

        Raises:
            InputError: A value is not what the option takes.
        """
        namespace, unknown = self.parse_known_args(self._joined(sys.argv[1:] if args is None else args))
        values = vars(namespace)
        texts = {name: values.pop(name) for name in list(values) if name in self._fields}
        options = {
            name: checked(self._fields[name], parsed(self._fields[name], value) if isinstance(value, str) else value)
            for name, value in texts.items()
        }
        return Parsed(options, values, self.option_classes), unknown

    def _joined(self, words: Sequence[str]) -> list[str]:
        """Return the words as argparse takes them: values that begin with a dash, and of flags that are true or false.

        `--value_range -1,3` becomes `--value_range=-1,3`, and `--use_ema=false` becomes `--no-use_ema`.

        Raises:
            InputError: A flag has another value.
        """

        def flag(name: str, is_true: bool) -> str:
            return "--" + ("" if is_true else "no-") + name

        joined: list[str] = []
        flags = {name for name, field in self._fields.items() if kind_of(field)[0] is bool}
        options = {name for action in self._actions for name in action.option_strings}
        has_positional = any(not action.option_strings for action in self._actions)
        booleans = ("true", "false") if has_positional else BOOLEANS  # the others may be a model or a file there
        for word in words:
            name, is_value, value = word.removeprefix("--").partition("=")
            before = joined[-1][2:] if joined and joined[-1].startswith("--") else None  # the option, if it is one
            if word.startswith("--") and is_value and name.removeprefix("no-") in flags:
                if name not in flags:
                    raise InputError(f"--{name} takes no value; leave {value!r} out")
                if value.lower() not in BOOLEANS:
                    raise InputError(f"{name}={value!r}: must be true or false")
                joined.append(flag(name, BOOLEANS[value.lower()]))
            elif before in flags and word.lower() in booleans:
                joined[-1] = flag(str(before), BOOLEANS[word.lower()])
            elif re.match("-[^-]", word) and word not in options and before in self._fields.keys() - flags:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def parse_options(self, args: Sequence[str] | None = None) -> list[Any]:
        """Return one instance of each dataclass, in the order of the constructor."""
        return self.parse(args).configs

    def _unknown(self, words: list[str]) -> str:
        options = [word.partition("=")[0].lstrip("-") for word in words if word.startswith("-")]
        known = [name.lstrip("-") for action in self._actions for name in action.option_strings]
        positional = [action.dest for action in self._actions if not action.option_strings]

        def answer_to(name: str) -> str:
            if name in known:
                return f"did you mean --{name}?"
            for here in positional:
                if name == here or name in POSITIONAL.get(here, ()):
                    return f"{here} is no option; leave --{name} out, and write {here.upper()} alone"
            return nearest(name, known, self.hints)

        said = [answer_to(name.replace("-", "_")) for name in options]
        if not words[0].startswith("-"):
            outputs = [name for name in ("output", "output_dir") if name in self._fields and positional]
            said += [self._stray, *(f"--{name} names what is written" for name in outputs)]
        answer = "; ".join(dict.fromkeys(filter(None, said)))
        return f"unrecognized arguments: {' '.join(words)}" + (f": {answer}" if answer else "")

    def error(self, message: str) -> NoReturn:
        """Raise the message as an `InputError`."""
        raise InputError(f"{message} ({'--help-all' if self._has_more else '--help'} lists the options)")

    def format_help(self) -> str:
        """Return the short help: of each dataclass the options marked as common, or all if none is."""
        if not self._has_more:
            return super().format_help()
        hidden = [action for action in self._actions if self._is_hidden(action)]
        texts = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(hidden, texts):
                action.help = text

    def format_full_help(self) -> str:
        """Return the help with all options."""
        return super().format_help()

    def format_usage(self) -> str:
        """Return one line, as a list of a hundred options helps nobody."""
        return f"usage: {self._short_usage()}\n"

    def _short_usage(self) -> str:
        positional = [action.metavar or action.dest for action in self._actions if not action.option_strings]
        return " ".join(map(str, [self.prog, *positional, "[options]"]))

    def _get_formatter(self) -> argparse.HelpFormatter:
        self.usage = self._short_usage().replace("%", "%%")
        return super()._get_formatter()

    def _is_hidden(self, action: argparse.Action) -> bool:
        return action.dest in self._rare


class LastCounts(argparse.Action):
    """Take the last of several values, and say so. The line shows none of them: one may be a token."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = getattr(namespace, self.dest, None)
        if earlier not in (None, values) and not number_of("size", 0):  # the processes of a run need not repeat it
            say_once(f"--{self.dest} is there twice with different values: only the last counts.")
        setattr(namespace, self.dest, values)


class _LastFlagCounts(argparse.BooleanOptionalAction):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        LastCounts.__call__(self, parser, namespace, option_string == self.option_strings[0])  # type: ignore[arg-type]


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None, **_: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        assert isinstance(parser, OptionParser)
        print(parser.format_full_help(), end="")
        parser.exit()


def _argument(field: Field[Any]) -> dict[str, Any]:
    """Return the `add_argument` keywords of a field. Values stay texts; `parsed` and `checked` see to them."""
    kind, _ = kind_of(field)
    if kind is bool:
        return {"action": _LastFlagCounts, "default": argparse.SUPPRESS}
    choices = choices_of(field)
    metavar = "{" + ",".join(map(str, choices)) + "}" if choices is not None else kind.__name__.upper()
    return {"action": LastCounts, "default": argparse.SUPPRESS, "metavar": metavar}


def _help(field: Field[Any]) -> str:
    text = field.metadata["help"]
    if field.default not in (None, "", MISSING):
        text += f" (default: {field.default})"
    return text.replace("%", "%%")


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [member for member in typing.get_args(hint) if member is not type(None)]
    return hint


def kind_of(field: Field[Any]) -> tuple[type, bool]:
    """Return `bool`, `int`, `float` or `str`, and whether None is allowed."""
    hint = _without_none(field.type)
    optional = hint is not field.type
    return (str if typing.get_origin(hint) is Literal else hint), optional


def _converted(kind: type, value: Any) -> Any:
    """Return the value as this type, or None if it is no such thing."""
    if kind is str:
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    is_bool = isinstance(value, bool) or type(value).__name__ == "bool_" or type(value).__name__ == "bool"
    if kind is bool:
        return bool(value) if is_bool else None
    if is_bool:
        return None
    if kind is int:
        return int(value) if isinstance(value, numbers.Integral) else None
    if isinstance(value, numbers.Real):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def _in_range(field: Field[Any], value: Any) -> bool:
    bounds = field.metadata["bounds"]
    return (
        (bounds["minimum"] is None or value >= bounds["minimum"])
        and (bounds["above"] is None or value > bounds["above"])
        and (bounds["maximum"] is None or value <= bounds["maximum"])
        and (bounds["below"] is None or value < bounds["below"])
    )


def _requirement(field: Field[Any]) -> str:
    """Return what the field takes, as the end of an error message."""
    kind, optional = kind_of(field)
    choices = choices_of(field)
    if choices is not None:
        words = "one of " + ", ".join(map(str, choices))
    else:
        words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}[kind]
        bounds = field.metadata["bounds"]
        names = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
        limits = [f"{names[name]} {bound}" for name, bound in bounds.items() if bound is not None]
        words += " " + " and ".join(limits) if limits else ""
    return f"must be {words}" + (", or None" if optional else "")
