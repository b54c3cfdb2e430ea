"""The demo: a Gradio page with the images of a seed, and videos from one seed to another."""

import html
import io
import math
import random
import tempfile
import zipfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image

from ..algorithm.latents import sample_normals
from ..algorithm.random import seeded
from ..models.factory import shape_of
from ..utils.errors import InputError
from ..utils.grids import VIDEO_WIDTH, image_grid, save_video
from ..utils.options import MAX_SEED

MAX_IMAGES = 256
MAX_FRAMES = 240
NO_TRUNCATION = 4.0  # the end of the slider: one latent number in 16,000 lies farther out, and none is truncated
ALL_CLASSES = "all"
SMALL = 64  # pixels; images up to this size are shown with their pixels as squares
DAY = 24 * 60 * 60  # seconds; files for download are deleted after one or two days
MAX_WAITING = 32  # requests; more are refused until some are answered. Without a limit Gradio's queue breaks at 2,000
MAX_REQUEST_BYTES = 2**20  # a request holds a few numbers; the page has nothing to upload

# Changes to Gradio's own parts: captions below images, as many columns as fit, no scrolling area within the page.
CSS = """
.small img {image-rendering: pixelated}
#images .grid-wrap {max-height: none}
#images .grid-container {grid-template-columns: repeat(auto-fill, minmax(max(5.5rem, 15%), 1fr)); padding: 0}
#images .thumbnail-item {display: flex; flex-direction: column; aspect-ratio: auto; height: auto}
#images .thumbnail-item > img {aspect-ratio: 1; height: auto; border-radius: 0}
#images .caption-label {position: static; max-width: none; border: 0; padding: 0.25rem 0}
#images .caption-label {text-align: center; white-space: pre-line}
"""
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing to download


def page(pipeline: Any, name: str) -> Any:
    """Return the page of a pipeline, a `gradio.Blocks`, to be served by `launch`.

    Requests that are out of range are answered with a message.

    Args:
        pipeline: A `WGANPipeline`.
        name: The name of the model on the page.
    """
    import gradio as gr

    pipeline.set_progress_bar_config(disable=True)
    _, height, width = shape_of(pipeline.generator)
    classes = _classes(pipeline)
    small = ["small"] if max(height, width) <= SMALL else []

    def sampling_inputs() -> list[Any]:
        """Return the inputs for truncation and class."""
        truncation = gr.Slider(
            *(0.1, NO_TRUNCATION, NO_TRUNCATION),
            step=0.1,
            label="Truncation",
            info=f"Lower: more typical, less varied. {NO_TRUNCATION:g}: none.",
        )
        choices = [(ALL_CLASSES, ALL_CLASSES), *classes]
        return [truncation, gr.Dropdown(choices, value=ALL_CLASSES, label="Class", visible=bool(classes))]

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(DAY, DAY)) as blocks:
        gr.Markdown(f"# {name}\n{_about(pipeline)}")
        with gr.Tab("Images"), gr.Row():
            with gr.Column(min_width=280):
                with gr.Row():
                    seed = gr.Number(0, label="Seed", info="Of the first image.", min_width=100)
                    number = gr.Number(24, label="Images", info=f"Up to {MAX_IMAGES}.", min_width=100)
                another = gr.Button("Random seed", size="sm")
                inputs = [seed, number, *sampling_inputs()]
                generate = gr.Button("Generate", variant="primary")
                download = gr.DownloadButton("Download", size="sm")
            with gr.Column(scale=3):
                gallery = gr.Gallery(
                    label="Images",
                    show_label=False,
                    format="png",
                    height="auto",
                    interactive=False,
                    elem_id="images",
                    elem_classes=small,
                    buttons=["download", "fullscreen"],
                )
        with gr.Tab("Video"), gr.Row():
            with gr.Column(min_width=280):
                with gr.Row():
                    ends = [
                        gr.Number(value, label=label, min_width=100)
                        for value, label in ((0, "From seed"), (1, "To seed and back"))
                    ]
                frames = gr.Slider(2, MAX_FRAMES, 60, step=1, label="Frames")
                path = [
                    *ends,
                    frames,
                    *sampling_inputs(),
                    gr.Radio(["gif", "webp"], value="gif", label="Format"),
                ]
                interpolate = gr.Button("Interpolate", variant="primary")
                download_video = gr.DownloadButton("Download", size="sm", interactive=False)
            with gr.Column(scale=3):
                video = gr.Image(
                    label="Video",
                    show_label=False,
                    interactive=False,
                    elem_id="video",
                    buttons=["fullscreen"],
                )

        @_errors_as_messages
        def make_images(seed: Any, images: Any, truncation: Any, label: Any) -> tuple[list[Any], str]:
            captioned = sample(pipeline, seed, images, truncation, label)
            return captioned, stored(download, "images.zip", zipped([image for image, _ in captioned]))

        @_errors_as_messages
        def make_video(
            from_seed: Any, to_seed: Any, frames: Any, truncation: Any, label: Any, kind: Any
        ) -> tuple[str, str]:
            data = interpolation(pipeline, from_seed, to_seed, frames, truncation, label, kind)
            path = stored(video, f"walk.{kind}", data)
            return path, path

        # One request at a time. Values are checked here, not by each component with a message of its own.
        options = {
            "concurrency_id": "pipeline",
            "concurrency_limit": 1,
            "preprocess": False,
            "show_progress": "minimal",  # earlier results stay visible
        }
        images_of_seed = {"fn": make_images, "inputs": inputs, "outputs": [gallery, download], **options}
        gr.on([blocks.load, generate.click, seed.submit, number.submit], **images_of_seed, api_name="images")
        another.click(lambda: random.randrange(10**6), outputs=seed, api_visibility="private").then(
            **images_of_seed, api_visibility="private"
        )
        interpolate.click(make_video, path, [video, download_video], **options, api_name="video").success(
            lambda: gr.update(interactive=True), outputs=download_video, api_visibility="private"
        )
    return blocks.queue(max_size=MAX_WAITING)


def launch(blocks: Any, **options: Any) -> None:
    """Serve a page: on loopback, unless `GRADIO_SERVER_NAME` or the options say otherwise.

    Args:
        blocks: What `page` returned.
        options: Those of `gradio.Blocks.launch`.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    blocks.launch(
        theme=gr.themes.Default(**FONTS),
        css=CSS,
        footer_links=[],
        run_history=False,
        max_file_size=1,
        app_kwargs={"middleware": [Middleware(_LimitedRequests)]},
        **options,
    )


class _LimitedRequests:
    """Refuse requests with large bodies, before they are read."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        length = dict(scope.get("headers") or ()).get(b"content-length", b"0")
        num_bytes = 0

        async def limited() -> Any:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body") or b"")
            return message if num_bytes <= MAX_REQUEST_BYTES else {"type": "http.disconnect"}

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif length.isdigit() and int(length) <= MAX_REQUEST_BYTES:
            await self.app(scope, limited, send)
        else:
            await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b"The request is too large."})


def sample(pipeline: Any, seed: Any, images: Any, truncation: Any, label: Any) -> list[tuple[Image.Image, str]]:
    """Generate images with captions: image k is that of seed + k, as with `hf-wgan generate`.

    Args:
        pipeline: A `WGANPipeline`.
        seed: From 0 to `MAX_SEED`.
        images: Number of images, up to `MAX_IMAGES`.
        truncation: Positive; `NO_TRUNCATION` for none.
        label: A class by number or name, or `ALL_CLASSES`.

    Raises:
        InputError: An argument is out of its range.
    """
    seed, number = _whole("seed", seed, 0, MAX_SEED), _whole("images", images, 1, MAX_IMAGES)
    generators = seeded(seed, number)
    labels = pipeline.class_numbers(_label(label), number, generators)
    generated = pipeline(number, generator=generators, truncation=_truncation(truncation), class_labels=labels).images
    captions = [f"seed {seed + index}" for index in range(number)]
    if pipeline.critic is not None:
        scores = pipeline.score(generated, labels)
        largest = max(scores.abs().nan_to_num().max().item(), 1e-9)
        places = max(0, 2 - math.floor(math.log10(largest)))  # three figures of the largest
        captions = [f"{caption}\nscore {score:.{places}f}" for caption, score in zip(captions, scores.tolist())]
    return list(zip(generated, captions))


def interpolation(
    pipeline: Any, from_seed: Any, to_seed: Any, frames: Any, truncation: Any, label: Any, kind: Any
) -> bytes:
    """Generate a video from one seed's image to another's and back, as with `hf-wgan generate`.

    Args:
        pipeline: A `WGANPipeline`.
        from_seed: From 0 to `MAX_SEED`.
        to_seed: From 0 to `MAX_SEED`.
        frames: Number of frames, up to `MAX_FRAMES`.
        truncation: As for `sample`.
        label: As for `sample`.
        kind: `"gif"` or `"webp"`.

    Raises:
        InputError: An argument is out of its range.
    """
    ends = _whole("from_seed", from_seed, 0, MAX_SEED), _whole("to_seed", to_seed, 0, MAX_SEED)
    number = _whole("frames", frames, 2, MAX_FRAMES)
    if kind not in ("gif", "webp"):
        raise InputError(f"kind={kind!r}: must be gif or webp")
    generators = [seeded(end, 1)[0] for end in ends]
    labels = pipeline.class_numbers(_label(label), len(ends), generators)
    latents = sample_normals(len(ends), pipeline.generator.config.latent_dim, generators)
    images = pipeline.interpolate(
        latents, number, loop=True, truncation=_truncation(truncation), class_labels=labels
    ).images
    file = io.BytesIO()
    save_video([image_grid([frame], smallest_width=VIDEO_WIDTH) for frame in images], file, kind)
    return file.getvalue()


def zipped(images: list[Image.Image]) -> bytes:
    """Return a ZIP file of images: 00000.png, 00001.png and so on."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, image in enumerate(images):
            with archive.open(f"{number:05d}.png", "w") as entry:
                image.save(entry, "PNG")
    return file.getvalue()


def _about(pipeline: Any) -> str:
    _, height, width = shape_of(pipeline.generator)
    about = f"A Wasserstein GAN that generates images of {width}\u00a0×\u00a0{height} pixels."
    if pipeline.critic is not None:
        about += " The score is its critic's opinion: the higher, the more real an image looks to it."
    return about


def _classes(pipeline: Any) -> list[tuple[str, int]]:
    """Return the names of the classes, or their numbers, each with its number."""
    config = pipeline.generator.config
    numbers = range(config.get("num_classes") or 0)
    return list(zip(config.get("class_names") or map(str, numbers), numbers))


def _whole(name: str, value: Any, least: int, most: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_whole = is_whole or (isinstance(value, float) and value.is_integer())
    if not is_whole or not least <= value <= most:
        raise InputError(f"{_named(name, value)}: must be a whole number from {least} to {most}")
    return int(value)


def _truncation(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= NO_TRUNCATION:
        raise InputError(
            f"{_named('truncation', value)}: must be more than 0 and at most {NO_TRUNCATION:g}, which is none"
        )
    return None if value == NO_TRUNCATION else float(value)


def _label(value: Any) -> int | str | None:
    if value == ALL_CLASSES:
        return None
    if value is not None and not isinstance(value, (int, str)):
        raise InputError(f"{_named('label', value)}: must be a class, by number or name")
    return value


def _named(name: str, value: Any) -> str:
    return f"{name} is empty" if value is None else f"{name}={value!r:.40}"


def _errors_as_messages(function: Callable) -> Callable:
    """Return the function with its input errors shown in the page, without a traceback anywhere."""
    import gradio as gr

    @wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except InputError as error:
            # The page would interpret it as HTML.
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    return run


def stored(component: Any, name: str, data: bytes) -> str:
    """Write a file into the folder from which Gradio serves those of a component for a time; return its path."""
    cache = Path(component.GRADIO_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=cache)) / name
    path.write_bytes(data)
    return str(path)
