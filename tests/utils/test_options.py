"""What every dataclass of options of every command promises, whichever way its values come."""

import dataclasses
import importlib
import pkgutil

import pytest

import hf_wgan
from hf_wgan import InputError
from hf_wgan.utils.hints import OTHER_NAMES
from hf_wgan.utils.options import OptionParser, Options, choices_of, has_effect, kind_of, option_fields

WRONG = {bool: "maybe", int: 2.5, float: float("nan"), str: 3.5}


def option_classes():
    """Return every dataclass of the package with a field that is an option."""
    modules = pkgutil.walk_packages(hf_wgan.__path__, "hf_wgan.")
    loaded = [importlib.import_module(module.name) for module in modules if not module.name.endswith("__main__")]
    named = {value for module in loaded for value in vars(module).values() if dataclasses.is_dataclass(value)}
    classes = [value for value in named if any("help" in field.metadata for field in dataclasses.fields(value))]
    return sorted(classes, key=lambda value: value.__name__)


CLASSES = option_classes()


@pytest.mark.parametrize("option_class", CLASSES)
def test_every_value_of_every_option_is_checked_where_the_object_is_made(option_class):
    assert issubclass(option_class, Options)
    for field in option_fields(option_class):
        wrong = "no such word" if choices_of(field) is not None else WRONG[kind_of(field)[0]]
        with pytest.raises(InputError, match=f"^{field.name}={wrong!r}: must be "):
            option_class(**{field.name: wrong})


@pytest.mark.parametrize("option_class", CLASSES)
def test_an_option_that_does_not_exist_is_one_line_that_names_the_nearest(option_class):
    name = dataclasses.fields(option_class)[-1].name
    with pytest.raises(InputError, match=f"no option '{name}x'.*{name}") as caught:
        option_class(**{f"{name}x": 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option_class", CLASSES)
def test_a_default_that_is_typed_where_it_has_no_effect_is_one_line(option_class):
    defaults = {field.name: field.default for field in option_fields(option_class)}
    for field in option_fields(option_class):
        if field.default in (None, False) or has_effect(field, defaults):
            continue
        parsed = OptionParser(option_class).parse([f"--{field.name}={field.default}"])
        with pytest.raises(InputError, match=f"^{field.name}=.*: has no effect ") as caught:
            parsed.build(option_class)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option_class", CLASSES)
def test_of_an_option_that_is_there_twice_the_last_counts_and_a_line_says_so_without_the_values(option_class, capsys):
    parser = OptionParser(option_class)

    def outcome(*words):
        try:
            return parser.parse(words).options
        except InputError as error:  # the value is out of the option's range
            return str(error)

    for field in option_fields(option_class):
        if kind_of(field)[0] is bool:
            pairs = [f"--{field.name}"], [f"--no-{field.name}"]
        elif choices_of(field) is not None:
            pairs = [[f"--{field.name}", str(word)] for word in list(choices_of(field))[:2]]
        else:
            pairs = [f"--{field.name}", "7"], [f"--{field.name}=8"]
        for first, second in (pairs, pairs[::-1]):
            assert outcome(*first, *second) == outcome(*second)
            assert (
                capsys.readouterr().err
                == f"--{field.name} is there twice with different values: only the last counts.\n"
            )
            outcome(*first, *first)
            assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option_class", CLASSES)
def test_a_flag_with_another_value_than_true_or_false_is_one_line(option_class):
    for field in option_fields(option_class):
        if kind_of(field)[0] is bool:
            with pytest.raises(InputError, match=f"^{field.name}='1': must be true or false$"):
                OptionParser(option_class).parse([f"--{field.name}=1"])
            with pytest.raises(InputError, match=f"^--no-{field.name} takes no value; leave 'true' out$"):
                OptionParser(option_class).parse([f"--no-{field.name}=true"])


def test_what_other_programs_call_an_option_is_no_name_of_it_and_belongs_to_one_of_ours():
    ours = {field.name for option_class in CLASSES for field in option_fields(option_class)}
    assert OTHER_NAMES.keys() <= ours
    for name, others in OTHER_NAMES.items():
        assert len(set(others)) == len(others) and name not in others


def test_the_classes_are_those_of_all_commands():
    assert {"TrainingConfig", "DataConfig", "NetworkConfig", "LaunchOptions", "PlotConfig", "DemoConfig"} <= {
        option_class.__name__ for option_class in CLASSES
    }
