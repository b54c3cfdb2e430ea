"""`WGANPipeline`: latents to images in one pass of the generator. Inference only; this code travels with the model."""

import inspect
import json
import math
import operator
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Optional, Self, overload

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput  # where type checkers see its fields
from PIL import Image

from ..algorithm.latents import latents_of, prior_of, sample_normals
from ..data.decode import Preprocessing, as_picture, decode, reason
from ..utils.errors import InputError, NotFiniteError

PIXELS_PER_CHUNK = 2**20  # that pass through a network at once
REFERENCE_SCORES = 1024, 64  # samples of each class, at most and at least, for the range of the scores in rejection
MANY_CLASSES = 16  # from which on each has fewer of them
REFERENCES_PER_CHUNK = 4096  # images that are compared at a time when neighbours are looked for
MAX_ATTEMPTS = 1000  # samples for one image before rejection gives up
RANGE_TOLERANCE = 1e-3  # by which images may leave [0, 1], as after resizing in low precision
GOLDEN_RATIO = (5**0.5 - 1) / 2  # whose multiples, without their whole parts, fill [0, 1) most evenly
LARGEST = 1e30  # number that is taken for an option; what is computed from it is in the range of float32
LONGEST_SHOWN = 100  # characters of a value in a message
FAR_OUT = 100.0  # absolute value of a latent number that no standard normal number comes near to
CHANNELS_LAST_FROM = 64  # images: with fewer, copying the weights costs more than the layout gains
ClassLabels = int | str | Sequence[int | str] | torch.Tensor | None


class WGANPipeline(DiffusionPipeline):
    """Generate images with a generator trained as a Wasserstein GAN.

    Args:
        generator: Maps latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1]; its config holds `latent_dim` and
            `sample_size`.
        critic: The critic it was trained with, which maps images `(N, C, H, W)` to scores `(N,)`, or None. Not needed
            to generate.

    Raises:
        InputError: There is no generator, or one of them is no network of diffusers.
    """

    model_cpu_offload_seq = "generator->critic"
    _optional_components: ClassVar = ["critic"]

    # diffusers 0.35 reads the annotation, and does not know `ModelMixin | None`. `critic` has no default here, or
    # `DiffusionPipeline.from_pretrained(..., critic=None)` would load it nevertheless.
    def __init__(self, generator: ModelMixin, critic: Optional[ModelMixin]):  # noqa: UP045
        super().__init__()
        if generator is None:
            raise InputError("generator=None: must be a network; from_pretrained without it loads the saved one")
        for name, network in {"generator": generator, "critic": critic}.items():
            if network is not None and not hasattr(network, "config"):
                raise InputError(
                    f"{name}: {type(network).__name__} has no config; must be a ModelMixin and ConfigMixin of "
                    "diffusers, such as a subclass of hf_wgan.models.network.Network"
                )
        if not hasattr(generator.config, "latent_dim"):
            raise InputError(
                f"generator: the config of {type(generator).__name__} has no latent_dim, as a generator's has"
            )
        self.register_modules(generator=generator, critic=critic)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **options: Any) -> Self:
        """Create a pipeline from the components of another, which it shares.

        Args:
            pipeline: The other pipeline.
            options: Components to use instead, and `dtype` (or `torch_dtype`), which converts the shared networks too.
        """
        dtype = options.pop("torch_dtype", None)
        dtype = options.pop("dtype", dtype)
        # diffusers itself takes only components of exactly the class that the constructor is annotated with.
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        components = {name: part for name, part in pipeline.components.items() if name in names}
        created = cls(**{**components, **options})
        if source := pipeline.config.get("_name_or_path"):
            created.register_to_config(_name_or_path=source)
        return created if dtype is None else created.to(dtype=dtype)

    @overload
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: Literal[True] = True,
        class_labels: ClassLabels = None,
        chunk_size: int | None = None,
        truncation: float | None = None,
        num_candidates: int = 1,
        rejection_temperature: float | None = None,
    ) -> ImagePipelineOutput: ...

    @overload
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        *,
        return_dict: Literal[False],
        class_labels: ClassLabels = None,
        chunk_size: int | None = None,
        truncation: float | None = None,
        num_candidates: int = 1,
        rejection_temperature: float | None = None,
    ) -> tuple[Any]: ...

    @overload
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_labels: ClassLabels = None,
        chunk_size: int | None = None,
        truncation: float | None = None,
        num_candidates: int = 1,
        rejection_temperature: float | None = None,
    ) -> ImagePipelineOutput | tuple[Any]: ...

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_labels: ClassLabels = None,
        chunk_size: int | None = None,
        truncation: float | None = None,
        num_candidates: int = 1,
        rejection_temperature: float | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            batch_size: Number of images.
            generator: Source of random numbers. With a list of one generator per image, an image is the same in any
                batch.
            latents: `(batch_size, latent_dim)` to use instead of random ones: standard normal numbers, which the
                generator's prior maps to its own distribution.
            output_type: `"pil"` for a list of PIL images (grey ones for a one-channel model), `"np"` for an array
                `(N, H, W, C)`, or `"pt"` for a tensor `(N, C, H, W)` on the pipeline's device; arrays and tensors hold
                [0, 1].
            return_dict: Whether to return an `ImagePipelineOutput` rather than a tuple.
            class_labels: For a model with classes, the class of all images, or a list with that of each image: numbers,
                or names as in `pipeline.generator.config.class_names`. By default the classes in turn: by the place
                of an image, or the seed of its own generator. Where the generator's config has `class_frequencies`,
                they are drawn with these by `generator`, or for `latents` without it spread evenly, in the same order
                every time.
            chunk_size: Number of images that pass through the network at once, which bounds its memory; by default
                about a million pixels' worth. A progress bar counts the chunks if there are several.
            truncation: Largest absolute value of a latent number: smaller values make images more typical and less
                varied (Brock et al. 2019, arXiv 1809.11096, section 3.1). A seed's image changes smoothly with it.
            num_candidates: Number of samples for each image, of which the one that the critic scores highest is
                returned. The first candidate is the image without candidates.
            rejection_temperature: Sample each image until the critic accepts one, with the probability
                `exp((score - highest) / (temperature * deviation))`, where the highest score and the standard deviation
                are those of 1,024 samples of its class, or of fewer where there are many classes: rejection sampling
                (Azadi et al. 2019, arXiv 1810.06758) from the generator's distribution reweighted by the critic (Che et
                al. 2020, arXiv 2003.06060). Lower temperatures are stricter and slower.

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
            InputError: An argument is out of its range, or two of them contradict each other.
        """
        self.check_inputs(
            batch_size,
            generator,
            latents,
            output_type,
            chunk_size,
            truncation,
            num_candidates,
            rejection_temperature,
            return_dict,
        )
        config, device = self.generator.config, self._execution_device
        batch_size = len(latents) if latents is not None else int(batch_size)
        chunk_size = self._images_per_chunk() if chunk_size is None else int(chunk_size)
        source = generator if generator is not None or latents is not None else torch.default_generator
        if isinstance(class_labels, _ClassWeights):
            conditions = [class_labels.weights.to(device)]
        else:
            labels = self.class_numbers(class_labels, batch_size, source)
            conditions = [] if labels is None else [torch.tensor(labels, device=device)]
        prior = prior_of(self.generator)

        def sample(generator: Any, number: int = batch_size) -> torch.Tensor:
            # In float32 whatever the network's precision, so that a seed means the same image in all of them.
            normals = sample_normals(number, config.latent_dim, generator, device)
            return latents_of(prior, truncated(normals, truncation))

        starts = range(0, batch_size, chunk_size)
        results = _Results(batch_size, output_type)
        was_training = self.generator.training
        self.generator.eval()
        # The layout in which convolutions are fastest. It costs a copy of the weights, there and back, as networks that
        # lie in it cannot be saved. Offloaded weights cannot be copied.
        channels_last = batch_size >= CHANNELS_LAST_FROM and device.type == "cpu" and not self._is_offloaded()
        try:
            if channels_last:
                self.generator.to(memory_format=torch.channels_last)
            if latents is not None:
                candidates = [latents_of(prior, truncated(latents, truncation))]
            elif rejection_temperature is not None:
                candidates = [self._accepted(sample, generator, conditions, chunk_size, rejection_temperature)]
            else:
                candidates = [sample(generator) for _ in range(num_candidates)]
            candidates = [batch.to(device, self.generator.dtype) for batch in candidates]
            for start in self.progress_bar(starts) if len(starts) > 1 else starts:
                chunk = slice(start, start + chunk_size)
                results.add(
                    self._best_of([batch[chunk] for batch in candidates], [batch[chunk] for batch in conditions])
                )
        except NotFiniteError as error:
            largest = 0.0 if latents is None else latents.abs().max().item()
            if largest > FAR_OUT:
                raise InputError(
                    f"latents up to {largest:g}: the generator returns NaN or infinity for them; must be of the size "
                    "of standard normal numbers"
                ) from error
            raise
        finally:
            self.generator.train(was_training)
            if channels_last:
                self.generator.to(memory_format=torch.contiguous_format)
        self.maybe_free_model_hooks()

        images = results.joined()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check_inputs(
        self,
        batch_size: Any = 1,
        generator: Any = None,
        latents: Any = None,
        output_type: Any = "pil",
        chunk_size: Any = None,
        truncation: Any = None,
        num_candidates: Any = 1,
        rejection_temperature: Any = None,
        return_dict: Any = True,
    ) -> None:
        """Check the arguments of `__call__`, except for the class labels.

        Raises:
            InputError: An argument is out of its range, or two of them contradict each other.
        """
        _check_word("output_type", output_type, ("pil", "np", "pt"))
        _check_flag("return_dict", return_dict)
        _whole("batch_size", batch_size)
        _whole("num_candidates", num_candidates)
        if chunk_size is not None:
            _whole("chunk_size", chunk_size)
        for name, value in {"truncation": truncation, "rejection_temperature": rejection_temperature}.items():
            if value is not None:
                _positive(name, value)
        if latents is not None:
            if generator is not None:
                raise InputError("generator and latents were both given: give one of them")
            _check_latents(latents, self.generator.config.latent_dim)
            if batch_size not in (1, len(latents)):
                raise InputError(f"batch_size={batch_size} with {len(latents)} latents: leave batch_size out")
        _check_generator(generator, batch_size)
        choices = [] if num_candidates == 1 else [f"num_candidates={num_candidates}"]
        choices += [] if rejection_temperature is None else [f"rejection_temperature={rejection_temperature}"]
        if len(choices) > 1:
            raise InputError(f"{' with '.join(choices)}: give one of them")
        for choice in choices:
            if latents is not None:
                raise InputError(f"{choice} with latents: it chooses among random samples; leave one of them out")
            self._need_critic(choice)

    def _images_per_chunk(self) -> int:
        """Return the number of images that pass through a network at once where the caller names none."""
        return max(1, PIXELS_PER_CHUNK // int(np.prod(np.broadcast_to(self.generator.config.sample_size, 2))))

    def _is_offloaded(self) -> bool:
        """Return whether hooks of accelerate or diffusers move the generator's weights."""
        return any(
            hasattr(module, name) for module in self.generator.modules() for name in ("_hf_hook", "_diffusers_hook")
        )

    def _best_of(self, candidates: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        """Return the images in [-1, 1] of several batches of latents, at each place the one with the highest score."""
        best = self.generator(candidates[0], *labels)
        if len(candidates) == 1:
            return best
        best_scores = self._scores(best, labels)
        for latents in candidates[1:]:
            images = self.generator(latents, *labels)
            scores = self._scores(images, labels)
            better = scores > best_scores
            best = torch.where(better[:, None, None, None], images, best)
            best_scores = torch.where(better, scores, best_scores)
        return best

    def _accepted(
        self,
        sample: Callable[..., torch.Tensor],
        generator: torch.Generator | list[torch.Generator] | None,
        labels: list[torch.Tensor],
        chunk_size: int,
        temperature: float,
    ) -> torch.Tensor:
        """Return latents whose images the critic accepts; the samples for an image come from its own generator."""

        def scores_of(latents: torch.Tensor, labels: list[torch.Tensor]) -> torch.Tensor:
            scores = []
            for start in range(0, len(latents), chunk_size):
                chunk_labels = [batch[start : start + chunk_size] for batch in labels]
                images = self.generator(latents[start : start + chunk_size].to(self.generator.dtype), *chunk_labels)
                scores.append(self._scores(images, chunk_labels))
            return torch.cat(scores).to(latents.device)

        latents = sample(generator)
        device = latents.device
        highest, scale = torch.empty(2, len(latents), device=device)
        most, least = REFERENCE_SCORES
        count = max(least, min(most, most * MANY_CLASSES // (self.generator.config.get("num_classes") or 1)))
        reference = sample(torch.Generator().manual_seed(0), count).to(device)
        for label in labels[0].unique() if labels else [None]:
            scores = scores_of(reference, [] if label is None else [label.expand(count)])
            of_label = slice(None) if label is None else labels[0] == label
            highest[of_label], scale[of_label] = scores.max(), temperature * scores.std().clamp(min=1e-12)
        pending = torch.arange(len(latents), device=device)
        for _ in range(MAX_ATTEMPTS):
            sources = [generator[index] for index in pending] if isinstance(generator, (list, tuple)) else generator
            normal = sample_normals(len(pending), 1, sources, device).squeeze(1)
            uniform = torch.special.ndtr(normal)
            scores = scores_of(latents[pending], [batch[pending] for batch in labels])
            accepted = uniform.log() < (scores - highest[pending]) / scale[pending]
            pending = pending[~accepted]
            if len(pending) == 0:
                return latents
            sources = [generator[index] for index in pending] if isinstance(generator, (list, tuple)) else generator
            latents[pending] = sample(sources, len(pending))
        raise InputError(
            f"rejection_temperature={temperature}: the critic accepted none of {MAX_ATTEMPTS:,} samples for an image; "
            "choose a higher one"
        )

    def _scores(self, images: torch.Tensor, labels: list[torch.Tensor]) -> torch.Tensor:
        """Score images in [-1, 1] with the critic in eval mode; return float32 `(N,)`."""
        critic, device = self._need_critic("a score"), self._execution_device
        was_training = critic.training
        critic.eval()
        try:
            scores = critic(images.to(device, critic.dtype), *(batch.to(device) for batch in labels))
        finally:
            critic.train(was_training)
        if scores.shape not in ((len(images),), (len(images), 1)):
            raise InputError(
                f"{type(critic).__name__} returns scores of shape {tuple(scores.shape)} for {len(images)} images: must "
                "be (N,)"
            )
        return scores.reshape(-1).float()

    def _need_critic(self, purpose: str) -> ModelMixin:
        if self.critic is None:
            raise InputError(f"{purpose}: the pipeline has no critic; load one that was saved with it")
        return self.critic

    @torch.no_grad()
    def score(self, images: Any, class_labels: Any = None, chunk_size: int | None = None) -> torch.Tensor:
        """Score images with the critic: high for images that look real.

        Only differences are meaningful, and only between scores of one critic. A critic with batch normalisation uses
        the statistics of its training, so that an image's score does not depend on the others.

        Args:
            images: A PIL image or a list of them, of any size and mode, read as training reads them; or an array
                `(N, H, W, C)` or a tensor `(N, C, H, W)` in [0, 1], or of uint8, of the pipeline's size and channels.
            class_labels: As for `__call__`, for a critic with classes. They have to be given where the model draws its
                classes; `class_numbers` draws some to give to `__call__` too.
            chunk_size: Number of images that pass through the network at once; by default as for `__call__`.

        Returns:
            Scores, `(N,)` float32, unbounded.

        Raises:
            InputError: The pipeline has no critic, or the images do not fit it.
        """
        self._need_critic("score")
        chunk_size = self._images_per_chunk() if chunk_size is None else _whole("chunk_size", chunk_size)
        tensor = self.pixels(images) * 2 - 1
        if class_labels is None and self.generator.config.get("class_frequencies"):
            raise InputError(
                "class_labels are missing: a score is of an image and its class, which this model draws; draw them by "
                "labels = pipeline.class_numbers(None, batch_size, generator), and give them to the pipeline and score"
            )
        numbers = self.class_numbers(class_labels, len(tensor))
        labels = [] if numbers is None else [torch.tensor(numbers)]
        chunks = [slice(start, start + chunk_size) for start in range(0, len(tensor), chunk_size)]
        scores = [self._scores(tensor[chunk], [batch[chunk] for batch in labels]).cpu() for chunk in chunks]
        self.maybe_free_model_hooks()
        return torch.cat(scores)

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how pictures are read: in the size and the channels of the model, and in the range of its training.

        Raises:
            InputError: The generator's config holds no valid range.
        """
        config = self.generator.config
        height, width = map(int, np.broadcast_to(config.sample_size, 2))
        return Preprocessing(height, config.out_channels, width=width).with_range(config.get("value_range"))

    def pixels(self, images: Any) -> torch.Tensor:
        """Return images in any of the forms that `score` takes as a tensor `(N, C, H, W)` in [0, 1], float32.

        Raises:
            InputError: They are not of the size and the channels that the pipeline generates.
        """
        return self._pixels("images", images)

    def _pixels(self, name: str, images: Any) -> torch.Tensor:
        """Return the images of an argument of this name as `pixels` does."""
        how = self.preprocessing
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, (list, tuple)) and images and all(isinstance(image, Image.Image) for image in images):
            try:
                images = np.stack([decode(image, how) for image in images])
            except Exception as error:  # PIL raises anything for a damaged file
                raise InputError(f"{name}: {reason(error)}") from error
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind in "biuf":
            own = np.uint8 if images.dtype == np.uint8 else np.float32
            with np.errstate(over="ignore"):  # infinity is out of range, as what overflows is
                images = np.require(images, own, ["C_CONTIGUOUS", "WRITEABLE"])
            images = torch.from_numpy(images).permute(0, 3, 1, 2)
        is_batch = isinstance(images, torch.Tensor) and images.ndim == 4 and len(images) > 0
        if not is_batch or tuple(images.shape[1:]) != (how.channels, how.resolution, how.width):
            raise self._unfit(name, images)
        if images.is_complex():
            raise InputError(f"{name} of type {images.dtype}: must be in [0, 1], or of uint8")
        if images.dtype == torch.uint8:
            return images.float() / 255
        images = images.detach().float()
        low, high = (float(value) for value in images.aminmax())
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise InputError(f"{name} from {low:g} to {high:g}: must be in [0, 1], or of uint8")
        return images

    def _unfit(self, name: str, images: Any) -> InputError:
        """Return the error for an argument that holds no images of the pipeline's size and channels."""
        how, kind = self.preprocessing, f"of type {type(images).__name__}"
        if isinstance(images, np.ndarray) and images.dtype.kind not in "biuf":
            kind = f"of type {images.dtype}"
        elif isinstance(images, (np.ndarray, torch.Tensor)):
            kind = f"of shape {tuple(images.shape)}"
        return InputError(
            f"{name} {kind}: must be PIL images, an array (N, {how.resolution}, {how.width}, {how.channels}) or a "
            f"tensor (N, {how.channels}, {how.resolution}, {how.width})"
        )

    @torch.no_grad()
    def neighbours(self, images: Any, references: Any, num_neighbours: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the nearest of other images, such as the training images, to see whether the model copies them.

        Args:
            images: `N` images in a form that `score` takes.
            references: `M` other images, in the same forms.
            num_neighbours: Number of neighbours of each image.

        Returns:
            Their numbers among the references, `(N, num_neighbours)` int64, and their distances, float32: the root of
            the mean squared difference of pixels in [0, 1]. The nearest come first.

        Raises:
            InputError: There are too few references, or images of another size or channels.
        """
        pixels = self.pixels(images).cpu().flatten(1)
        num_neighbours = _whole("num_neighbours", num_neighbours)
        if isinstance(references, Image.Image):
            references = [references]
        is_batch = isinstance(references, (list, tuple)) or getattr(references, "ndim", 0) == 4
        if not is_batch or len(references) == 0:
            raise self._unfit("references", references)
        if num_neighbours > len(references):
            raise InputError(
                f"num_neighbours={num_neighbours} of {len(references)} references: must be from 1 to as many"
            )
        distances, numbers = torch.empty(len(pixels), 0), torch.empty(len(pixels), 0, dtype=torch.long)
        at_once = min(REFERENCES_PER_CHUNK, 16 * self._images_per_chunk())  # fewer above 64 pixels
        for start in range(0, len(references), at_once):
            others = self._pixels("references", references[start : start + at_once]).cpu().flatten(1)
            # The faster mode, by matrix products, is off by a thousandth where a copy has the distance 0.
            more = torch.cdist(pixels, others, compute_mode="donot_use_mm_for_euclid_dist")
            distances = torch.cat([distances, more], dim=1)
            numbers = torch.cat([numbers, torch.arange(start, start + len(others)).expand_as(more)], dim=1)
            distances, places = distances.topk(min(num_neighbours, distances.shape[1]), largest=False)
            numbers = numbers.gather(1, places)
        return numbers, distances / pixels.shape[1] ** 0.5

    def interpolate(
        self,
        latents: torch.Tensor,
        num_frames: int = 60,
        method: str = "spherical",
        loop: bool = False,
        class_labels: ClassLabels = None,
        **options: Any,
    ) -> Any:
        """Generate the frames of a video along a path through latents.

        Args:
            latents: `(K, latent_dim)`, at least two: the points of the path, in order.
            num_frames: Number of images along the whole path.
            method: `"spherical"`, which keeps to the lengths that latents have, or `"linear"`.
            loop: Whether the path returns to its beginning; the first frame is then not repeated at the end.
            class_labels: For a model with classes, as for `__call__`, of the points of the path. Between two points the
                vectors of their classes are mixed. Where a generator cannot do that (an exported one, or your own
                without `mixes_classes = True`), the class changes halfway.
            options: Others of `__call__`, such as `output_type`.

        Example:
        ```py
        >>> import torch
        >>> from hf_wgan import WGANPipeline

        >>> pipeline = WGANPipeline.from_pretrained("wgan-digits")
        >>> latents = torch.randn(4, pipeline.generator.config.latent_dim, generator=torch.Generator().manual_seed(0))
        >>> frames = pipeline.interpolate(latents, num_frames=48, loop=True).images
        >>> frames[0].save("walk.gif", save_all=True, append_images=frames[1:], duration=50, loop=0)
        ```

        Returns:
            What `__call__` returns.

        Raises:
            InputError: An argument is out of its range.
        """
        _check_latents(latents, self.generator.config.latent_dim, 2)
        path = latent_path(latents, num_frames, method, loop)
        labels: Any = self.class_numbers(class_labels, len(latents))
        if labels is not None:
            points = torch.eye(self.generator.config.num_classes)[labels]  # (K, num_classes)
            weights = latent_path(points, num_frames, "linear", loop)
            mixes = getattr(self.generator, "mixes_classes", False) and len(set(labels)) > 1
            labels = _ClassWeights(weights) if mixes else weights.argmax(dim=1)
        return self(latents=path, class_labels=labels, **options)

    @torch.inference_mode(False)  # in which a caller may be, and where there are no gradients
    def invert(
        self,
        images: Any,
        num_steps: int = 200,
        num_candidates: int = 1000,
        num_starts: int = 4,
        learning_rate: float = 0.1,
        class_labels: Any = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Find latents whose images are close to the images, by the mean squared error of pixels.

        The closest of random candidates are improved by Adam, with a learning rate that decays to 0. A progress bar
        counts the steps. About a million pixels pass through the generator at once, however many the images and the
        candidates are.

        Args:
            images: As for `score`.
            num_steps: Number of steps of gradient descent.
            num_candidates: Number of random latents to begin with.
            num_starts: Number of candidates that are improved for each image; the best result is returned.
            learning_rate: Learning rate of Adam.
            class_labels: The classes of the images as for `__call__`, for a model with classes: those that
                `closest_classes` finds, or others.
            generator: Source of the candidates.

        Returns:
            `(N, latent_dim)` float32 on the pipeline's device. `pipeline(latents=..., class_labels=...)` shows how
            close they are.

        Raises:
            InputError: An argument is out of its range, or classes are missing.
        """
        num_steps, num_candidates = _whole("num_steps", num_steps), _whole("num_candidates", num_candidates)
        num_starts = min(_whole("num_starts", num_starts), num_candidates)
        learning_rate = _positive("learning_rate", learning_rate)
        _check_generator(generator, None)
        if class_labels is None and self.generator.config.get("num_classes"):
            raise InputError(
                "class_labels are missing: an image is inverted within a class; those of the samples that come closest "
                "are pipeline.closest_classes(images)"
            )
        device, network = self._execution_device, self.generator
        target = self.pixels(images).to(device) * 2 - 1  # (N, C, H, W)
        number = len(target)
        numbers = self.class_numbers(class_labels, number)
        labels = None if numbers is None else torch.tensor(numbers, device=device)
        prior = prior_of(network)

        def images_of(latents: torch.Tensor, labels: list[torch.Tensor]) -> torch.Tensor:
            return network(latents_of(prior, latents).to(network.dtype), *labels).float()

        def errors_of(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (images - targets).square().mean(dim=(1, 2, 3))

        def chunks(count: int) -> list[slice]:
            size = self._images_per_chunk()
            return [slice(start, start + size) for start in range(0, count, size)]

        was_training = network.training
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        network.eval().requires_grad_(False)
        try:
            candidates = sample_normals(num_candidates, network.config.latent_dim, generator, device)
            errors = torch.empty(number, num_candidates, device=device)
            with torch.no_grad():
                for label in [None] if labels is None else labels.unique():
                    of_label = range(number) if label is None else (labels == label).nonzero()[:, 0].tolist()
                    for chunk in chunks(num_candidates):  # the candidates of a class serve all of its images
                        part = candidates[chunk]
                        images = images_of(part, [] if label is None else [label.expand(len(part))])
                        check_finite(images)
                        for index in of_label:
                            errors[index, chunk] = errors_of(images, target[index])
            starts = [candidates[of_image.argsort()[:num_starts]] for of_image in errors]
            latents = torch.cat(starts).requires_grad_()  # (N · num_starts, latent_dim)
            owners = torch.arange(number, device=device).repeat_interleave(num_starts)
            errors = torch.empty(len(latents), device=device)

            def improved(chunk: slice) -> torch.Tensor:
                images = images_of(latents[chunk], [] if labels is None else [labels[owners[chunk]]])
                return errors_of(images, target[owners[chunk]])

            optimizer = torch.optim.Adam([latents], learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
            for _ in self.progress_bar(range(num_steps)):
                optimizer.zero_grad()
                for chunk in chunks(len(latents)):  # no latent's gradient depends on another's
                    with torch.enable_grad():
                        improved(chunk).sum().backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                for chunk in chunks(len(latents)):
                    errors[chunk] = improved(chunk)
        finally:
            network.train(was_training)
            for parameter in trainable:
                parameter.requires_grad_(True)
        self.maybe_free_model_hooks()
        if not (errors.isfinite().all() and latents.isfinite().all()):
            raise InputError(f"learning_rate={learning_rate:g}: leads to NaN or infinity; choose a smaller one")
        best = errors.view(number, num_starts).argmin(dim=1)
        return latents.detach().view(number, num_starts, -1)[torch.arange(number, device=device), best]

    def closest_classes(
        self, images: Any, num_candidates: int = 1000, generator: torch.Generator | None = None
    ) -> list[int]:
        """Find the class of the sample that comes closest to each image, by the mean squared error of pixels.

        Args:
            images: As for `score`.
            num_candidates: Number of samples, in equal parts of each class that a pipeline draws, at least one of each.
            generator: Source of the samples.

        Returns:
            The number of a class for each image, to give to `invert` and `__call__`.

        Raises:
            InputError: The model has no classes, or an argument is out of its range.
        """
        num_classes = self.generator.config.get("num_classes")
        if not num_classes:
            raise InputError("closest_classes: the model has no classes")
        num_candidates = _whole("num_candidates", num_candidates)
        _check_generator(generator, None)
        images = self.pixels(images)
        frequencies = self.generator.config.get("class_frequencies") or [1] * num_classes
        drawn = [number for number in range(num_classes) if frequencies[number]]  # others may be of an earlier training
        labels = [drawn[number % len(drawn)] for number in range(max(num_candidates, len(drawn)))]
        samples = self(len(labels), generator, class_labels=labels, output_type="pt").images
        numbers, _ = self.neighbours(images, samples)
        return [labels[number] for number in numbers[:, 0].tolist()]

    def class_numbers(self, class_labels: Any, batch_size: int, generator: Any = None) -> list[int] | None:
        """Return the numbers of the classes of a batch; None for a model without classes.

        Args:
            class_labels: As for `__call__`.
            batch_size: Number of images.
            generator: Source of random numbers, or a list with one for each image, for classes that are not given.
                Without it those that are drawn by their frequencies are spread evenly, and the same every time.

        Raises:
            InputError: An argument is out of its range, or the model has no classes.
        """
        batch_size = _whole("batch_size", batch_size)
        _check_generator(generator, batch_size)
        num_classes = self.generator.config.get("num_classes")
        if not num_classes:
            if class_labels is not None:
                raise InputError(f"class_labels={_shown(class_labels)}: the model has no classes; leave them out")
            return None
        frequencies = self.generator.config.get("class_frequencies")
        if class_labels is None and frequencies:
            return _drawn(frequencies, batch_size, generator)
        if class_labels is None and isinstance(generator, (list, tuple)):  # an image is the same in any batch
            return [one.initial_seed() % num_classes for one in generator]
        if class_labels is None:
            return [number % num_classes for number in range(batch_size)]
        if isinstance(class_labels, (torch.Tensor, np.ndarray, np.generic)):
            class_labels = class_labels.tolist()
        if not isinstance(class_labels, (list, tuple, range)):
            class_labels = [class_labels] * batch_size
        if len(class_labels) != batch_size:
            raise InputError(f"{len(class_labels)} class_labels for batch_size={batch_size}: give one an image, or one")
        names = list(self.generator.config.get("class_names") or [])
        numbers = []
        for label in class_labels:
            number = class_number(label, names)
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < num_classes:
                known = f", or one of {', '.join(map(repr, names))}" if names else ""
                raise InputError(f"class_labels={_shown(label)}: must be a number from 0 to {num_classes - 1}{known}")
            numbers.append(number)
        return numbers

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the pipeline as `DiffusionPipeline.save_pretrained` does.

        The folder carries the code of the pipeline and of its networks, with which diffusers alone loads it, by
        `trust_remote_code=True`.

        Args:
            save_directory: The folder.
            options: `variant`, `max_shard_size`, and `push_to_hub=True` with the arguments of `push_to_hub`.
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

    def _code_of(self, of: type) -> tuple[str, str] | None:
        """Return the name and the source of a self-contained module with this class; None if there is none."""
        file = Path(inspect.getfile(of))
        return file.stem, file.read_text(encoding="utf-8")


def _is_whole(value: Any) -> bool:
    """Return whether a value is an integer, of Python, numpy or torch, and not a boolean."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _shown(value: Any) -> str:
    """Return a value as it is shown in a message: on one line, and no more than the beginning of a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _whole(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number as one of Python's."""
    number = operator.index(value) if _is_whole(value) else -1
    if not least <= number <= sys.maxsize:
        most = f" and at most {sys.maxsize}" if number > sys.maxsize else ""
        raise InputError(f"{name}={_shown(value)}: must be a whole number, at least {least}{most}")
    return number


def _positive(name: str, value: Any) -> float:
    """Return a positive number as one of Python's."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not 0 < number <= LARGEST:
        hint = "; 2 cuts little off, 0.5 much" if name == "truncation" else ""
        most = f" and at most {LARGEST:g}" if number > LARGEST else ""
        raise InputError(f"{name}={_shown(value)}: must be positive{most}{hint}")
    return number


def _check_word(name: str, value: Any, words: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in words:
        *others, last = (f'"{word}"' for word in words)
        raise InputError(f"{name}={_shown(value)}: must be {', '.join(others)} or {last}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}={_shown(value)}: must be True or False")


def _drawn(frequencies: Sequence[float], number: int, generator: Any) -> list[int]:
    """Draw classes by their frequencies; without a source of random numbers by a sequence that is evenly spread."""
    if generator is None:
        quantiles = torch.arange(number, dtype=torch.float64) * GOLDEN_RATIO % 1
    elif isinstance(generator, (list, tuple)):
        quantiles = torch.cat([torch.rand(1, generator=one, device=one.device).cpu() for one in generator])
    else:
        quantiles = torch.rand(number, generator=generator, device=generator.device).cpu()
    ends = torch.tensor(frequencies, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends, quantiles.double() * ends[-1], right=True).tolist()


def _check_generator(generator: Any, batch_size: Optional[int]) -> None:  # noqa: UP045
    """Check a source of random numbers, or, with a batch size, a list of them."""
    sources = generator if batch_size is not None and isinstance(generator, (list, tuple)) else [generator]
    for source in sources:
        if source is not None and not isinstance(source, torch.Generator):
            is_seed = _is_whole(source) and 0 <= source <= sys.maxsize
            seed = f", such as torch.Generator().manual_seed({source})" if is_seed else ""
            raise InputError(f"generator={_shown(source)}: must be a torch.Generator{seed}")
    if sources is generator and len(sources) != batch_size:
        raise InputError(f"generator is a list of {len(sources)} for batch_size={batch_size}: give one an image")


def _check_latents(latents: Any, latent_dim: int | str = "latent_dim", least: int = 1) -> None:
    """Check latents: a tensor `(N, latent_dim)` of finite numbers, at least so many vectors."""
    expected = f"(N, {latent_dim})" if least == 1 else f"(K, {latent_dim}), at least two to interpolate between"
    _check_latent_type(latents, expected)
    is_of_dim = latents.ndim == 2 and latent_dim in ("latent_dim", latents.shape[1])
    if not is_of_dim or len(latents) < least:
        raise InputError(f"latents of shape {tuple(latents.shape)}: must be {expected}")
    _check_finite_latents(latents)


def _check_latent_type(latents: Any, expected: str = "(N, latent_dim)") -> None:
    if not isinstance(latents, torch.Tensor):
        remedy = "; torch.from_numpy makes one" if isinstance(latents, np.ndarray) else ""
        raise InputError(f"latents of type {type(latents).__name__}: must be a tensor {expected}{remedy}")
    if not latents.is_floating_point():
        raise InputError(f"latents of type {latents.dtype}: must be floating-point numbers, as latents.float() is")


def _check_finite_latents(latents: torch.Tensor) -> None:
    if not latents.isfinite().all():
        raise InputError("latents hold NaN or infinity: must be finite")


def truncated(latents: torch.Tensor, limit: Optional[float]) -> torch.Tensor:  # noqa: UP045
    """Map standard normal numbers to the normal distribution truncated at ±limit, each to its own quantile.

    Args:
        latents: Standard normal numbers, of any shape.
        limit: Largest absolute value of the result; None for no truncation.

    Raises:
        InputError: The limit is not positive, or latents are no floating-point numbers.
    """
    _check_latent_type(latents)
    if limit is None:
        return latents
    limit = _positive("truncation", limit)
    exact = latents.to("cpu", torch.float64)  # which not every device has
    quantiles = torch.erf(exact / 2**0.5) * math.erf(limit / 2**0.5)
    # Far from 0 a quantile rounds to 1, while the probability to lie farther out keeps all of its digits.
    beyond, beyond_limit = torch.erfc(exact.abs() / 2**0.5), math.erfc(limit / 2**0.5)
    beyond = beyond + beyond_limit * (1 - beyond)
    outer = torch.minimum(-torch.special.ndtri(beyond / 2), exact.abs()).clamp(max=limit).copysign(exact)
    return torch.where(quantiles.abs() < 0.5, 2**0.5 * torch.erfinv(quantiles), outer).to(latents)


def latent_path(latents: torch.Tensor, num_frames: int, method: str = "spherical", loop: bool = False) -> torch.Tensor:
    """Return points along a path through latents `(K, latent_dim)`, evenly spaced: `(num_frames, latent_dim)`.

    Spherical interpolation (White 2016, arXiv 1609.04468) follows a great circle, with lengths that change evenly: the
    middle of a straight line between two random latents is shorter than latents ever are.

    Raises:
        InputError: An argument is out of its range.
    """
    _check_word("method", method, ("spherical", "linear"))
    _check_latents(latents, least=2)
    num_frames = _whole("num_frames", num_frames, 2)
    _check_flag("loop", loop)
    stops = torch.cat([latents, latents[:1]]) if loop else latents
    places = torch.linspace(0, len(stops) - 1, num_frames + int(loop))[:num_frames].to(latents.device)
    before = places.long().clamp(max=len(stops) - 2)
    share = (places - before)[:, None]
    start, end = stops[before], stops[before + 1]
    line = (1 - share) * start + share * end
    if method == "linear":
        return line
    lengths = [point.norm(dim=1, keepdim=True).clamp(min=1e-12) for point in (start, end)]
    cosine = (start * end).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1])
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    arc = ((1 - share) * angle).sin() * start / lengths[0] + (share * angle).sin() * end / lengths[1]
    arc = arc / sine.clamp(min=1e-6) * ((1 - share) * lengths[0] + share * lengths[1])
    return torch.where(sine > 1e-4, arc, line)


def check_finite(images: torch.Tensor) -> None:
    """Check that generated images hold numbers only: in a file NaN would look black.

    Raises:
        NotFiniteError: They do not.
    """
    if not images.sum(dtype=torch.float32).isfinite():
        raise NotFiniteError(
            "the generator returns NaN or infinity: the model's weights are damaged, or torch_dtype is too narrow for "
            "them; train again from a checkpoint before that, or load the model in float32"
        )


class _ClassWeights(NamedTuple):
    """What images between classes are made of."""

    weights: torch.Tensor  # (N, num_classes)


class _Results:
    """Collect images that come in chunks, `(n, C, H, W)` in [-1, 1], in the form that the caller asked for."""

    def __init__(self, number: int, output_type: str):
        self.number, self.output_type = number, output_type
        self.done = 0
        self.tensor: Optional[torch.Tensor] = None  # noqa: UP045
        self.pil: list[Image.Image] = []

    def add(self, images: torch.Tensor) -> None:
        if self.output_type != "pt" or images.device.type == "cpu":  # looking at others would wait for the device
            check_finite(images)
        images = images.mul(0.5).add_(0.5).clamp_(0, 1)  # VaeImageProcessor.denormalize, with one copy instead of three
        if self.output_type == "pil":
            pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            self.pil += [as_picture(image) for image in pixels]
            return
        if self.output_type == "np":
            images = images.permute(0, 2, 3, 1).float().cpu()
        if self.tensor is None:
            self.tensor = torch.empty((self.number, *images.shape[1:]), dtype=images.dtype, device=images.device)
        self.tensor[self.done : self.done + len(images)] = images
        self.done += len(images)

    def joined(self) -> Any:
        """Return a list of PIL images, a tensor `(N, C, H, W)` or an array `(N, H, W, C)`, the last two in [0, 1]."""
        if self.tensor is None:
            return self.pil
        return self.tensor.numpy() if self.output_type == "np" else self.tensor


def class_number(label: Any, names: Sequence[str]) -> Any:
    """Return the number of a class: of a text the class with that name, or else the number that it is written as."""
    if isinstance(label, str):
        return names.index(label) if label in names else int(label) if label.isdecimal() else label
    return operator.index(label) if _is_whole(label) else label
