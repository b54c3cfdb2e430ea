"""The base class of all networks, which load from matching safetensors files only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError

from ..utils.errors import InputError, one_line

CONFIG_ONLY = ("value_range", "class_names")
"""Entries that training puts into a generator's config, also where its constructor does not take them: the range of
values of more than 8 bits, and the names of classes."""


class Network(ModelMixin, ConfigMixin):
    """The base class of generators and critics."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Load a network as `ModelMixin.from_pretrained` does, but only from safetensors that match.

        Raises:
            InputError: The weights are pickled, damaged, or not those of the network that `config.json` describes.
            OSError: The files cannot be read or downloaded.
        """
        if options.pop("use_safetensors", None) is False:
            raise InputError("use_safetensors=False: pickled weights can run code, so only safetensors are loaded")
        with_info = options.pop("output_loading_info", False)
        folder = Path(str(pretrained_model_name_or_path), options.get("subfolder") or "")
        file = folder / weights_name(options.get("variant"))
        pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickled and not any(folder.glob("*.safetensors")):
            raise InputError(f"{folder} holds only pickled weights ({pickled[0]}), which can run code: not loaded")
        try:
            network, info = super().from_pretrained(
                pretrained_model_name_or_path, use_safetensors=True, output_loading_info=True, **options
            )
        except InputError:
            raise
        except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
            damage = next((cause for cause in _causes(error) if isinstance(cause, SafetensorError)), None)
            if isinstance(error, OSError) and damage is None:  # the files cannot be had
                if file.name in str(error):
                    raise OSError(f"{error} Only safetensors are loaded: pickled weights can run code.") from error
                raise
            why = error if damage is None or "git-lfs" in str(error) else damage
            raise InputError(f"{file} cannot be loaded as {cls.__name__}: {one_line(why)}") from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[what]:
                raise InputError(f"{file} does not fit its config.json ({what.replace('_', ' ')}: {info[what][0]})")
        return (network, info) if with_info else network

    @classmethod
    def extract_init_dict(cls, config_dict: Any, **options: Any) -> Any:
        """Keep what only the config holds, which diffusers would warn about."""
        names = set(CONFIG_ONLY) - cls._get_init_keys(cls)
        kept = {name: value for name, value in config_dict.items() if name in names}
        others = {name: value for name, value in config_dict.items() if name not in kept}
        arguments, unused, hidden = super().extract_init_dict(others, **options)
        return arguments, unused, hidden | kept

    @classmethod
    def _dict_from_json_file(cls, json_file: Any, **options: Any) -> dict[str, Any]:
        config = super()._dict_from_json_file(json_file, **options)
        name = config.get("_class_name") if isinstance(config, dict) else None
        if name != cls.__name__:
            raise InputError(f"{json_file} describes {name or 'no network'}, not a {cls.__name__}")
        return config


def weights_name(variant: str | None = None) -> str:
    """Return the file name that diffusers gives to the weights of a variant."""
    return SAFETENSORS_WEIGHTS_NAME.replace(".safetensors", f".{variant}.safetensors" if variant else ".safetensors")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
