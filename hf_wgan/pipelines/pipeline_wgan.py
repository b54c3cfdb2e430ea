"""`WGANPipeline`: latents to images in one pass of the generator. Inference only; this code travels with the model."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from ..errors import InputError

PIXELS_PER_CHUNK = 2**20
RELAY_FROM = 64  # images: with fewer the copy of the weights costs more than it brings


class WGANPipeline(DiffusionPipeline):
    """Generates images with a generator trained as a Wasserstein GAN.

    Args:
        generator: Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1]; its config holds `latent_dim` and
            `sample_size`.
        critic: The critic it was trained with, images `(N, C, H, W)` to scores `(N,)`. Not needed to generate.
    """

    model_cpu_offload_seq = "generator"
    _optional_components: ClassVar = ["critic"]

    # diffusers 0.35 reads the annotation, and does not know `ModelMixin | None`.
    def __init__(self, generator: ModelMixin, critic: Optional[ModelMixin] = None):  # noqa: UP045
        super().__init__()
        self.register_modules(generator=generator, critic=critic)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """
        Args:
            batch_size: How many images to generate.
            generator: Source of random numbers. A list gives each image its own, so that an image is the same in any
                batch.
            latents: `(batch_size, latent_dim)` to use instead of random ones.
            output_type: `"pil"` for a list of PIL images (grey ones for a one-channel model), `"np"` for an array
                `(N, H, W, C)`, or `"pt"` for a tensor `(N, C, H, W)` on the pipeline's device; arrays and tensors hold
                [0, 1].
            return_dict: Whether to return an `ImagePipelineOutput` rather than a tuple.
            class_labels: For a model with classes, the class of every image, or a list of one an image: numbers, or
                names as in `pipeline.generator.config.class_names`. If not given, the classes in turn.
            chunk_size: How many images pass through the network at once, which bounds the memory it needs; about a
                million pixels' worth if not given. A progress bar counts the chunks if there are several.

        Example:

        ```py
        >>> import torch
        >>> from hf_wgan import WGANPipeline

        >>> pipeline = WGANPipeline.from_pretrained("wgan-digits")
        >>> images = pipeline(batch_size=16, generator=torch.Generator().manual_seed(0)).images
        >>> images[0].save("sample.png")
        ```

        Returns:
            An `ImagePipelineOutput`, whose `images` are as `output_type` says, or a tuple of just them.

        Raises:
            InputError: an argument is out of its range, or two of them contradict each other.
        """
        config = self.generator.config
        if output_type not in ("pil", "np", "pt"):
            raise InputError(f'output_type={output_type!r}: must be "pil", "np" or "pt"')
        if latents is not None:
            if generator is not None:
                raise InputError("generator and latents were both given: give one of them")
            if latents.ndim != 2 or latents.shape[1] != config.latent_dim or len(latents) == 0:
                raise InputError(f"latents of shape {tuple(latents.shape)}: must be (N, {config.latent_dim})")
            if batch_size not in (1, len(latents)):
                raise InputError(f"batch_size={batch_size} with {len(latents)} latents: leave batch_size out")
            batch_size = len(latents)
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: must be at least 1")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"generator is a list of {len(generator)} for batch_size={batch_size}: give one an image")
        if chunk_size is None:
            chunk_size = max(1, PIXELS_PER_CHUNK // int(np.prod(np.broadcast_to(config.sample_size, 2))))
        if chunk_size < 1:
            raise InputError(f"chunk_size={chunk_size}: must be at least 1")

        device = self._execution_device
        labels = self._class_numbers(class_labels, batch_size)
        conditions = () if labels is None else (torch.tensor(labels, device=device),)
        if latents is None:
            # In float32 whatever the network's precision, so that a seed means the same image in all of them.
            latents = randn_tensor((batch_size, config.latent_dim), generator, device, torch.float32)
        latents = latents.to(device, self.generator.dtype)

        starts = range(0, batch_size, chunk_size)
        results = _Results(batch_size, output_type)
        was_training = self.generator.training
        self.generator.eval()
        # The layout in which convolutions are fastest. It costs a copy of the weights, there and back, as networks that
        # lie in it cannot be saved.
        relaid = batch_size >= RELAY_FROM and device.type == "cpu"
        try:
            if relaid:
                self.generator.to(memory_format=torch.channels_last)
            for start in self.progress_bar(starts) if len(starts) > 1 else starts:
                chunk = slice(start, start + chunk_size)
                results.add(self.generator(latents[chunk], *(labels[chunk] for labels in conditions)))
        finally:
            self.generator.train(was_training)
            if relaid:
                self.generator.to(memory_format=torch.contiguous_format)
        self.maybe_free_model_hooks()

        images = results.joined()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _class_numbers(self, class_labels: Any, batch_size: int) -> list[int] | None:
        num_classes = self.generator.config.get("num_classes")
        if not num_classes:
            if class_labels is not None:
                raise InputError(f"class_labels={class_labels!r}: the model knows no classes; leave them out")
            return None
        if class_labels is None:
            return [number % num_classes for number in range(batch_size)]
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.tolist()
        if isinstance(class_labels, (int, str)):
            class_labels = [class_labels] * batch_size
        if len(class_labels) != batch_size:
            raise InputError(f"{len(class_labels)} class_labels for batch_size={batch_size}: give one an image, or one")
        names = list(self.generator.config.get("class_names") or [])
        numbers = [names.index(label) if label in names else label for label in class_labels]
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < num_classes:
                known = f", or one of {', '.join(map(repr, names))}" if names else ""
                raise InputError(f"class_labels={number!r}: must be a number from 0 to {num_classes - 1}{known}")
        return numbers

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """`DiffusionPipeline.save_pretrained`, with its arguments.

        The folder carries the code of the pipeline and of its networks, with which diffusers alone loads it, by
        `trust_remote_code=True`.
        """
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        parts = {name: part for name, part in self.components.items() if part is not None}
        for name, part in {**parts, "_class_name": self}.items():
            if (code := self._code_of(type(part))) is not None:
                module, source = code
                index[name] = [module, type(part).__name__]
                (folder / (name if part is not self else "") / f"{module}.py").write_text(source, encoding="utf-8")
        (folder / self.config_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    @staticmethod
    def _code_of(of: type) -> tuple[str, str] | None:
        """The name and the source of a self-contained module with this class; None if there is none."""
        file = Path(inspect.getfile(of))
        return file.stem, file.read_text(encoding="utf-8")


class _Results:
    """Images that come in chunks, `(n, C, H, W)` in [-1, 1], as what the caller asked for."""

    def __init__(self, number: int, output_type: str):
        self.number, self.output_type = number, output_type
        self.done = 0
        self.tensor: Optional[torch.Tensor] = None  # noqa: UP045
        self.pil: list[Image.Image] = []

    def add(self, images: torch.Tensor) -> None:
        images = images.mul(0.5).add_(0.5).clamp_(0, 1)  # VaeImageProcessor.denormalize, with one copy instead of three
        if self.output_type == "pil":
            pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            self.pil += [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in pixels]
            return
        if self.output_type == "np":
            images = images.permute(0, 2, 3, 1).float().cpu()
        if self.tensor is None:
            self.tensor = torch.empty((self.number, *images.shape[1:]), dtype=images.dtype, device=images.device)
        self.tensor[self.done : self.done + len(images)] = images
        self.done += len(images)

    def joined(self) -> Any:
        """A list of PIL images, a tensor `(N, C, H, W)` or an array `(N, H, W, C)`, the last two in [0, 1]."""
        if self.tensor is None:
            return self.pil
        return self.tensor.numpy() if self.output_type == "np" else self.tensor
