"""`WGANPipeline`: latents to images in one pass of the generator. Inference only; this code travels with the model."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from PIL import Image

from ..algorithm.latents import prior_of, sample_normals
from ..utils.errors import InputError

PIXELS_PER_CHUNK = 2**20
REFERENCE_SCORES = 1024  # samples that rejection learns the range of the scores from, of each class
REFERENCES_AT_ONCE = 4096  # of the images that neighbours are looked for among
MOST_DRAWS = 1000  # for an image, before rejection gives up
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
        truncation: float | None = None,
        num_candidates: int = 1,
        rejection_temperature: float | None = None,
    ) -> Any:
        """
        Args:
            batch_size: How many images to generate.
            generator: Source of random numbers. A list gives each image its own, so that an image is the same in any
                batch.
            latents: `(batch_size, latent_dim)` to use instead of random ones: standard normal numbers, which the
                generator's prior maps to its own distribution.
            output_type: `"pil"` for a list of PIL images (grey ones for a one-channel model), `"np"` for an array
                `(N, H, W, C)`, or `"pt"` for a tensor `(N, C, H, W)` on the pipeline's device; arrays and tensors hold
                [0, 1].
            return_dict: Whether to return an `ImagePipelineOutput` rather than a tuple.
            class_labels: For a model with classes, the class of every image, or a list of one an image: numbers, or
                names as in `pipeline.generator.config.class_names`. If not given, the classes in turn.
            chunk_size: How many images pass through the network at once, which bounds the memory it needs; about a
                million pixels' worth if not given. A progress bar counts the chunks if there are several.
            truncation: The largest absolute value of a latent number: smaller ones make images more typical and less
                varied (Brock et al. 2019, arXiv 1809.11096, section 3.1). A seed's image changes smoothly with it.
            num_candidates: Of so many images for each one that is asked for, keep that which the critic scores highest.
                The first candidate is the image without candidates.
            rejection_temperature: Draw each image until the critic accepts one, with the probability
                `exp((score - highest) / (temperature * deviation))`, where 1,024 samples of its class tell the highest
                score and the standard deviation: rejection sampling (Azadi et al. 2019, arXiv 1810.06758) from the
                generator's distribution reweighted by the critic (Che et al. 2020, arXiv 2003.06060). The lower, the
                stricter and the slower.

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

        if num_candidates < 1:
            raise InputError(f"num_candidates={num_candidates}: must be at least 1")
        if rejection_temperature is not None and not rejection_temperature > 0:
            raise InputError(f"rejection_temperature={rejection_temperature!r}: must be positive")
        choices = [] if num_candidates == 1 else [f"num_candidates={num_candidates}"]
        choices += [] if rejection_temperature is None else [f"rejection_temperature={rejection_temperature}"]
        if len(choices) > 1:
            raise InputError(f"{' with '.join(choices)}: give one of them")
        for choice in choices:
            if latents is not None:
                raise InputError(f"{choice} with latents: it chooses among drawn ones; leave one of them out")
            self._need_critic(choice)

        device = self._execution_device
        labels = self._class_numbers(class_labels, batch_size)
        conditions = [] if labels is None else [torch.tensor(labels, device=device)]

        prior = prior_of(self.generator)

        def draw(generator: Any, number: int = batch_size) -> torch.Tensor:
            # In float32 whatever the network's precision, so that a seed means the same image in all of them.
            return prior(truncated(sample_normals(number, config.latent_dim, generator, device), truncation))

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
            if latents is not None:
                candidates = [prior(truncated(latents, truncation))]
            elif rejection_temperature is not None:
                candidates = [self._accepted(draw, generator, conditions, chunk_size, rejection_temperature)]
            else:
                candidates = [draw(generator) for _ in range(num_candidates)]
            candidates = [each.to(device, self.generator.dtype) for each in candidates]
            for start in self.progress_bar(starts) if len(starts) > 1 else starts:
                chunk = slice(start, start + chunk_size)
                given = [each[chunk] for each in conditions]
                results.add(self._best_of([each[chunk] for each in candidates], given))
        finally:
            self.generator.train(was_training)
            if relaid:
                self.generator.to(memory_format=torch.contiguous_format)
        self.maybe_free_model_hooks()

        images = results.joined()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _best_of(self, candidates: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        """Of each place in several batches of latents, the image in [-1, 1] with the highest score."""
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
        draw: Callable[..., torch.Tensor],
        generator: torch.Generator | list[torch.Generator] | None,
        labels: list[torch.Tensor],
        chunk_size: int,
        temperature: float,
    ) -> torch.Tensor:
        """Latents whose images the critic accepted, an image's draws following one another in its own generator."""

        def scores(latents: torch.Tensor, labels: list[torch.Tensor]) -> torch.Tensor:
            found = []
            for start in range(0, len(latents), chunk_size):
                given = [each[start : start + chunk_size] for each in labels]
                images = self.generator(latents[start : start + chunk_size].to(self.generator.dtype), *given)
                found.append(self._scores(images, given))
            return torch.cat(found).to(latents.device)

        latents = draw(generator)
        device = latents.device
        highest, scale = torch.empty(2, len(latents), device=device)
        reference = draw(torch.Generator().manual_seed(0), REFERENCE_SCORES).to(device)
        for kind in labels[0].unique() if labels else [None]:
            found = scores(reference, [] if kind is None else [kind.expand(REFERENCE_SCORES)])
            of_kind = slice(None) if kind is None else labels[0] == kind
            highest[of_kind], scale[of_kind] = found.max(), temperature * found.std().clamp(min=1e-12)
        pending = torch.arange(len(latents), device=device)
        for _ in range(MOST_DRAWS):
            waiting = [generator[index] for index in pending] if isinstance(generator, list) else generator
            normal = sample_normals(len(pending), 1, waiting, device).squeeze(1)
            uniform = torch.special.ndtr(normal)
            found = scores(latents[pending], [each[pending] for each in labels])
            accepted = uniform.log() < (found - highest[pending]) / scale[pending]
            pending = pending[~accepted]
            if len(pending) == 0:
                return latents
            waiting = [generator[index] for index in pending] if isinstance(generator, list) else generator
            latents[pending] = draw(waiting, len(pending))
        raise InputError(
            f"rejection_temperature={temperature}: the critic accepted none of {MOST_DRAWS:,} samples for an image; "
            "choose a higher one"
        )

    def _scores(self, images: torch.Tensor, labels: list[torch.Tensor]) -> torch.Tensor:
        """In float32, of images in [-1, 1], by the critic in evaluation mode."""
        critic = self._need_critic("a score")
        was_training = critic.training
        critic.eval()
        try:
            return critic(images.to(critic.device, critic.dtype), *(each.to(critic.device) for each in labels)).float()
        finally:
            critic.train(was_training)

    def _need_critic(self, what: str) -> ModelMixin:
        if self.critic is None:
            raise InputError(f"{what}: the pipeline has no critic; load one that was saved with it")
        return self.critic

    @torch.no_grad()
    def score(self, images: Any, class_labels: Any = None, chunk_size: int = 256) -> torch.Tensor:
        """What the critic thinks of images: high for those that look real. Only differences mean something, and only
        between scores of one critic.

        A critic with batch normalisation takes the statistics that it gathered in training, so that an image's score is
        its own.

        Args:
            images: A PIL image or a list of them; an array `(N, H, W, C)` or a tensor `(N, C, H, W)` in [0, 1], or
                of uint8. Of the size and the channels that the pipeline makes.
            class_labels: As for `__call__`, for a critic with classes.
            chunk_size: How many pass through the network at once.

        Returns:
            Scores, `(N,)` float32, unbounded.

        Raises:
            InputError: the pipeline has no critic, or the images do not fit it.
        """
        self._need_critic("score")
        tensor = self.pixels(images) * 2 - 1
        numbers = self._class_numbers(class_labels, len(tensor))
        labels = [] if numbers is None else [torch.tensor(numbers)]
        return torch.cat(
            [
                self._scores(tensor[start : start + chunk_size], [each[start : start + chunk_size] for each in labels])
                for start in range(0, len(tensor), chunk_size)
            ]
        ).cpu()

    def pixels(self, images: Any) -> torch.Tensor:
        """Images in any of the forms that `score` takes, as a tensor `(N, C, H, W)` in [0, 1], float32.

        Raises:
            InputError: they are not such as the pipeline makes.
        """
        config = self.generator.config
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, (list, tuple)) and images and all(isinstance(each, Image.Image) for each in images):
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[config.out_channels]
            arrays = [np.asarray(each.convert(mode), np.float32) / 255 for each in images]
            images = np.stack([each.reshape(*each.shape[:2], -1) for each in arrays])
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = torch.from_numpy(images).permute(0, 3, 1, 2)
        height, width = np.broadcast_to(config.sample_size, 2)
        expected = (config.out_channels, int(height), int(width))
        if not isinstance(images, torch.Tensor) or images.ndim != 4 or tuple(images.shape[1:]) != expected:
            found = (
                f"of shape {tuple(images.shape)}" if hasattr(images, "shape") else f"of type {type(images).__name__}"
            )
            raise InputError(
                f"images {found}: must be PIL images, an array (N, {expected[1]}, {expected[2]}, {expected[0]}) or a "
                f"tensor (N, {', '.join(map(str, expected))})"
            )
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    @torch.no_grad()
    def neighbours(self, images: Any, references: Any, num_neighbours: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of other images, such as those that the model was trained on: whether it made something new.

        Args:
            images: As for `score`, `N` of them.
            references: The others, `M`, in the same forms.
            num_neighbours: How many for each image.

        Returns:
            Their numbers among the references, `(N, num_neighbours)` int64, and how far they are, float32: the root of
            the mean squared difference of pixels in [0, 1]. The nearest come first.

        Raises:
            InputError: there are too few references, or images of another size or channels.
        """
        pixels = self.pixels(images).cpu().flatten(1)
        if not 1 <= num_neighbours <= len(references):
            raise InputError(
                f"num_neighbours={num_neighbours} of {len(references)} references: must be from 1 to as many"
            )
        distances, numbers = torch.empty(len(pixels), 0), torch.empty(len(pixels), 0, dtype=torch.long)
        for start in range(0, len(references), REFERENCES_AT_ONCE):
            others = self.pixels(references[start : start + REFERENCES_AT_ONCE]).cpu().flatten(1)
            # The faster mode, by matrix products, is a thousandth off where a copy has the distance 0.
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
        **options: Any,
    ) -> Any:
        """Images along a path through latents, for a film.

        Args:
            latents: `(K, latent_dim)`, at least two: where the path goes through, in order.
            num_frames: How many images, of all the path.
            method: `"spherical"`, which keeps to the lengths that latents have, or `"linear"`.
            loop: Whether the path ends where it began; the first frame is then not repeated at the end.
            options: Those of `__call__`, such as `output_type` and `class_labels`.

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
            As `__call__`.

        Raises:
            InputError: an argument is out of its range.
        """
        return self(latents=latent_path(latents, num_frames, method, loop), **options)

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
        """Latents whose images are close to given ones, by the mean squared error of pixels.

        The closest of random candidates are improved by Adam, with a rate that falls to nothing. A progress bar counts
        the steps.

        Args:
            images: As for `score`.
            num_steps: Steps of gradient descent.
            num_candidates: Random latents to begin with.
            num_starts: How many of them are improved for each image; the best of these is returned.
            learning_rate: Of Adam.
            class_labels: As for `__call__`, for a model with classes.
            generator: Source of the candidates.

        Returns:
            `(N, latent_dim)` float32 on the pipeline's device. `pipeline(latents=...)` shows how close they came.

        Raises:
            InputError: an argument is out of its range.
        """
        for name, value in {"num_steps": num_steps, "num_candidates": num_candidates, "num_starts": num_starts}.items():
            if value < 1:
                raise InputError(f"{name}={value}: must be at least 1")
        num_starts = min(num_starts, num_candidates)
        device, network = self._execution_device, self.generator
        target = self.pixels(images).to(device) * 2 - 1  # (N, C, H, W)
        number = len(target)
        numbers = self._class_numbers(class_labels, number)
        labels = None if numbers is None else torch.tensor(numbers, device=device)
        was_training = network.training
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        network.eval().requires_grad_(False)
        try:
            starts = []
            prior = prior_of(network)
            candidates = sample_normals(num_candidates, network.config.latent_dim, generator, device)
            for index in range(number):
                given = [] if labels is None else [labels[index].expand(num_candidates)]
                with torch.no_grad():
                    far = (network(prior(candidates).to(network.dtype), *given).float() - target[index]).square()
                starts.append(candidates[far.mean(dim=(1, 2, 3)).argsort()[:num_starts]])
            latents = torch.cat(starts).requires_grad_()  # (N · num_starts, latent_dim)
            wanted = target.repeat_interleave(num_starts, dim=0)
            given = [] if labels is None else [labels.repeat_interleave(num_starts)]
            optimizer = torch.optim.Adam([latents], learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
            for _ in self.progress_bar(range(num_steps)):
                optimizer.zero_grad()
                with torch.enable_grad():
                    errors = (
                        (network(prior(latents).to(network.dtype), *given).float() - wanted)
                        .square()
                        .mean(dim=(1, 2, 3))
                    )
                    errors.sum().backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                errors = (
                    (network(prior(latents).to(network.dtype), *given).float() - wanted).square().mean(dim=(1, 2, 3))
                )
        finally:
            network.train(was_training)
            for parameter in trainable:
                parameter.requires_grad_(True)
        best = errors.view(number, num_starts).argmin(dim=1)
        return latents.detach().view(number, num_starts, -1)[torch.arange(number, device=device), best]

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

    def _code_of(self, of: type) -> tuple[str, str] | None:
        """Return the name and the source of a self-contained module with this class; None if there is none."""
        file = Path(inspect.getfile(of))
        return file.stem, file.read_text(encoding="utf-8")


def truncated(latents: torch.Tensor, limit: Optional[float]) -> torch.Tensor:  # noqa: UP045
    """Standard normal numbers to ones of the normal distribution cut off at ±limit, each at its own quantile."""
    if limit is None:
        return latents
    if not limit > 0:
        raise InputError(f"truncation={limit!r}: must be positive; 2 cuts little off, 0.5 much")
    share = torch.erf(torch.tensor(limit / 2**0.5, dtype=torch.float64))
    quantiles = torch.erf(latents.double() / 2**0.5) * share.to(latents.device)
    return (2**0.5 * torch.erfinv(quantiles)).to(latents.dtype)


def latent_path(latents: torch.Tensor, num_frames: int, method: str = "spherical", loop: bool = False) -> torch.Tensor:
    """Points along a path through latents `(K, latent_dim)`, evenly between each two: `(num_frames, latent_dim)`.

    Spherical interpolation (White 2016, arXiv 1609.04468) goes along a great circle, and evenly from one length to the
    other: the middle of a straight line between two random latents is shorter than latents ever are.

    Raises:
        InputError: an argument is out of its range.
    """
    if method not in ("spherical", "linear"):
        raise InputError(f'method={method!r}: must be "spherical" or "linear"')
    if latents.ndim != 2 or len(latents) < 2:
        raise InputError(
            f"latents of shape {tuple(latents.shape)}: must be (K, latent_dim), at least two to go between"
        )
    if num_frames < 2:
        raise InputError(f"num_frames={num_frames}: must be at least 2")
    stops = torch.cat([latents, latents[:1]]) if loop else latents
    places = torch.linspace(0, len(stops) - 1, num_frames + loop)[:num_frames].to(latents.device)
    before = places.long().clamp(max=len(stops) - 2)
    share = (places - before)[:, None]
    start, end = stops[before], stops[before + 1]
    line = (1 - share) * start + share * end
    if method == "linear":
        return line
    lengths = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    cosine = (start * end).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    arc = ((1 - share) * angle).sin() * start / lengths[0] + (share * angle).sin() * end / lengths[1]
    arc = arc / sine.clamp(min=1e-6) * ((1 - share) * lengths[0] + share * lengths[1])
    return torch.where(sine > 1e-4, arc, line)


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
