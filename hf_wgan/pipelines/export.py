"""Export a pipeline's network as one file that needs neither this package nor diffusers: ONNX or an ExportedProgram.

A generator's file maps latents to images in [0, 1]; a critic's maps such images to scores.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from huggingface_hub import HfApi
from torch import nn

from ..algorithm.latents import prior_of, sample_normals
from ..hub.card import metadata
from ..hub.publish import published_text
from ..models.factory import shape_of
from ..utils import files
from ..utils.errors import ExportError, InputError, check_type, one_line
from ..version import __version__
from . import WGANPipeline

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
BATCH_SIZES = (1, 7, 64)
"""Batch sizes with which every file is checked."""
TOLERANCE = 1e-4
MAX_ONNX_BYTES = 2**31
"""Limit of one file, which is a protocol buffer."""
CONFIG_ENTRIES = (
    "sample_size",
    "out_channels",
    "in_channels",
    "latent_dim",
    "num_classes",
    "class_names",
    "class_frequencies",
    "value_range",
)
METADATA = "metadata.json"
"""The extra file of an ExportedProgram for the metadata, which ONNX has a place for."""

Run = Callable[..., torch.Tensor]


def export_pipeline(pipeline: WGANPipeline, path: str | Path, component: str = "generator") -> float:
    """Write one of a pipeline's networks, in eval mode and float32, as a file for other tools.

    The generator's file takes `latents` `(N, latent_dim)` float32, and with classes `class_labels` `(N,)` int64, and
    returns `images` `(N, C, H, W)` float32 in [0, 1], as `pipeline(latents=..., output_type="pt")` does. The critic's
    takes such `images` (and `class_labels`) and returns `scores` `(N,)` float32, as `pipeline.score(images)` does. N is
    free. The file's metadata has this description, and the network's config, name and licence.

    The file is read again and compared with the pipeline for batches of 1, 7 and 64. Weights of half precision are
    written, and compared, as the same numbers in float32.

    Args:
        pipeline: The pipeline, which is not changed.
        path: File to write or to replace: `.onnx` for ONNX, with the weights in it, or `.pt2` for an ExportedProgram.
        component: `"generator"` or `"critic"`.

    Example:
    ```py
    >>> from hf_wgan import WGANPipeline
    >>> from hf_wgan.pipelines.export import export_pipeline

    >>> export_pipeline(WGANPipeline.from_pretrained("wgan-digits"), "wgan-digits.onnx")
    ```

    Returns:
        The largest difference between file and pipeline, relative to the largest number where that is above 1.

    Raises:
        InputError: An argument is out of its range, or packages are missing.
        ExportError: The difference is above 1e-4; the file was not written.
    """
    check_type("pipeline", pipeline, WGANPipeline, "")
    if isinstance(pipeline.generator, _ExportedGenerator):
        raise InputError("pipeline: its generator is an exported file already: copy it, or export the model it is from")
    path = Path(path)
    if path.suffix not in SUFFIXES.values():
        raise InputError(f"path={str(path)!r}: must end in {' or '.join(SUFFIXES.values())}")
    if component not in files.NETWORKS:
        raise InputError(f"component={component!r}: must be one of {', '.join(files.NETWORKS)}")
    if pipeline.components[component] is None:
        raise InputError(f"component={component!r}: the pipeline has none")
    is_onnx = path.suffix == SUFFIXES["onnx"]
    if is_onnx:
        _packages("onnx", "onnxscript", "onnxruntime")
    networks = {name: part and _copy(part) for name, part in pipeline.components.items()}
    metadata = _metadata(networks[component], component, pipeline.config.get("_name_or_path"))
    if is_onnx and sum(tensor.nbytes for tensor in networks[component].state_dict().values()) >= MAX_ONNX_BYTES:
        raise InputError(f"path={str(path)!r}: the weights are too large for one ONNX file; write a .pt2")
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = WGANPipeline(**networks)
    copy.set_progress_bar_config(disable=True)
    with _quiet(), files.replacing(path) as temporary:
        (_write_onnx if is_onnx else _write_program)(_traced(networks[component], component), metadata, temporary)
        run, _ = (_read_onnx if is_onnx else _read_program)(temporary)
        difference = np.max([_difference(run, copy, component, size) for size in BATCH_SIZES]).item()
        if not difference <= TOLERANCE:  # not a number is no less
            raise ExportError(
                f"{path} was not written: it differs from the pipeline by {difference:.3g}, and may by {TOLERANCE}"
            )
    return difference


class ExportedPipeline(WGANPipeline):
    """A pipeline whose generator is an exported file: it generates, and refuses everything else."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        raise InputError("an exported generator is a file already: copy it, or save the pipeline that it came from")

    def invert(self, *args: Any, **options: Any) -> torch.Tensor:
        raise InputError("invert: an exported generator has no gradients; use the pipeline that it came from")


def load_exported(path: str | Path, trust_remote_code: bool = False) -> ExportedPipeline:
    """Load a pipeline on the CPU that generates the same images as the exported one, from an exported file alone.

    Seeds and class names mean the same. It has no critic.

    Args:
        path: A file that `export_pipeline` wrote from a generator.
        trust_remote_code: Whether to load a `.pt2` file: PyTorch reads it with pickle, which can run code that is in
            the file. ONNX files contain no code.

    Raises:
        InputError: It is no such file, it is a `.pt2` that is not trusted, or packages are missing.

    Example:
    ```py
    >>> import torch
    >>> from hf_wgan.pipelines.export import load_exported

    >>> pipeline = load_exported("wgan-digits.onnx")
    >>> images = pipeline(batch_size=16, generator=torch.Generator().manual_seed(0)).images
    ```
    """
    path = Path(path)
    readers = {SUFFIXES["onnx"]: _read_onnx, SUFFIXES["torch"]: _read_program}
    if not path.is_file() or path.suffix not in readers:
        raise InputError(f"{str(path)!r}: must be a file that ends in {' or '.join(readers)}")
    if path.suffix == SUFFIXES["torch"] and not trust_remote_code:
        raise InputError(
            f"{str(path)!r}: loading a .pt2 file can run code that is in it. If you trust its origin, pass "
            "trust_remote_code=True (--trust_remote_code); an .onnx file contains no code"
        )
    try:
        with _quiet():
            run, metadata = readers[path.suffix](path)
    except InputError:
        raise
    except Exception as error:  # neither library says which types it raises
        raise InputError(f"{str(path)!r} cannot be read ({one_line(error)})") from error
    if metadata.get("component") != "generator":
        raise InputError(f"{str(path)!r}: is no exported generator")
    return ExportedPipeline(_ExportedGenerator(run, metadata))


class Images(nn.Module):
    """Map latents to images in [0, 1], as the pipeline returns them."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator
        self.prior = prior_of(generator)

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        labels = () if class_labels is None else (class_labels,)
        return self.generator(self.prior(latents), *labels).mul(0.5).add(0.5).clamp(0, 1)


class Scores(nn.Module):
    """Score images in [0, 1], as the pipeline returns them."""

    def __init__(self, critic: nn.Module):
        super().__init__()
        self.critic = critic

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        labels = () if class_labels is None else (class_labels,)
        return self.critic(images * 2 - 1, *labels).reshape(images.shape[0])


class _ExportedGenerator(nn.Module):
    """Run an exported file in the place of a pipeline's generator."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, run: Run, metadata: dict[str, str]):
        super().__init__()
        self.run = run
        self.config = FrozenDict({name: json.loads(metadata[name]) for name in CONFIG_ENTRIES if name in metadata})

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.run(*inputs) * 2 - 1


def _copy(network: ModelMixin) -> ModelMixin:
    copy = deepcopy(network).cpu().float().eval().requires_grad_(False)
    return copy.to(memory_format=torch.contiguous_format)


def _metadata(network: ModelMixin, component: str, source: str | None) -> dict[str, str]:
    channels, height, width = shape_of(network)
    images = f"images (N, {channels}, {height}, {width}) float32 in [0, 1]"
    classes = network.config.get("num_classes")
    labels = f"; class_labels (N,) int64 from 0 to {classes - 1}" if classes else ""
    if component == "generator":
        latents = f"latents (N, {network.config.latent_dim}) float32, drawn from N(0, 1)"
        interface = {"inputs": latents + labels, "outputs": images}
    else:
        interface = {"inputs": images + labels, "outputs": "scores (N,) float32, high for what looks real"}
    config = {name: json.dumps(network.config[name]) for name in CONFIG_ENTRIES if network.config.get(name) is not None}
    program = {"made_by": f"hf_wgan {__version__}", "component": component, "network": type(network).__name__}
    # Only the name of a folder: its place on this machine is private.
    origin = {"source_model": Path(source).resolve().name if Path(source).is_dir() else source} if source else {}
    licence = _license(source) if source else None
    return {**program, **interface, **config, **origin, **({"license": licence} if licence else {})}


def _license(source: str) -> str | None:
    """Return the licence in the model's card."""
    try:
        folder = Path(source)
        card = files.read_text(folder / files.CARD, folder) if folder.is_dir() else ""
        card = card or published_text(HfApi(), source, files.CARD)
        licence = metadata(card).get("license")
    except Exception:  # there is no card, or it cannot be downloaded or read
        return None
    return licence if isinstance(licence, str) and licence != "unknown" else None


def _traced(network: ModelMixin, component: str) -> torch.export.ExportedProgram:
    inputs = _inputs(network, component, 2)
    batch = torch.export.Dim("batch")
    module = Images(network) if component == "generator" else Scores(network)
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for node in program.graph.nodes:  # stack traces would be saved, with the paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def _inputs(network: ModelMixin, component: str, batch_size: int) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    if component == "generator":
        first = sample_normals(batch_size, network.config.latent_dim, rng)
    else:
        first = torch.rand(batch_size, *shape_of(network), generator=rng)
    classes = network.config.get("num_classes")
    return (first, torch.arange(batch_size) % classes) if classes else (first,)


def _difference(run: Run, pipeline: WGANPipeline, component: str, batch_size: int) -> float:
    first, *labels = _inputs(pipeline.components[component], component, batch_size)
    class_labels = labels[0] if labels else None
    if component == "generator":
        expected = pipeline(latents=first, class_labels=class_labels, output_type="pt").images
    else:
        expected = pipeline.score(first, class_labels)
    return ((run(first, *labels) - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _write_onnx(program: torch.export.ExportedProgram, metadata: dict[str, str], path: Path) -> None:
    output = "images" if metadata["component"] == "generator" else "scores"
    shapes = tuple({0: "batch"} for _ in program.graph_signature.user_inputs)
    exported: Any = torch.onnx.export(program, dynamo=True, verbose=False, output_names=[output], dynamic_shapes=shapes)
    exported.model.metadata_props.update(metadata)
    exported.save(path, external_data=False)


def _read_onnx(path: Path) -> tuple[Run, dict[str, str]]:
    (onnxruntime,) = _packages("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run, session.get_modelmeta().custom_metadata_map


def _write_program(program: torch.export.ExportedProgram, metadata: dict[str, str], path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata, indent=2)})


def _read_program(path: Path) -> tuple[Run, dict[str, str]]:
    extra = {METADATA: ""}
    with path.open("rb") as file:
        program = torch.export.load(file, extra_files=extra)
    return torch.no_grad()(program.module()), json.loads(extra[METADATA] or "{}")


def _packages(*names: str) -> list[Any]:
    try:
        return [import_module(name) for name in names]
    except ModuleNotFoundError as error:
        raise InputError(f'ONNX needs {error.name}; pip install "hf_wgan[export]" brings it') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of PyTorch's exporters, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
