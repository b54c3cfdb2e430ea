"""Arguments of wrong types and values are refused in one line that names them, unless they have a meaning."""

import math

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator
from PIL import Image

from hf_wgan import InputError, WGANPipeline
from hf_wgan.pipelines.pipeline_wgan import latent_path, truncated
from hf_wgan.utils.errors import NotFiniteError

VALUES = {
    "text": "x",
    "number as text": "1",
    "bytes": b"x",
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "0.5": 0.5,
    "1.0": 1.0,
    "NaN": math.nan,
    "infinity": math.inf,
    "huge": 10**400,
    "complex": np.complex64(1),
    "empty list": [],
    "list": [1],
    "list of lists": [[1.0, 2.0]],
    "list of arrays": [np.zeros((8, 8))],
    "dict": {"a": 1},
    "object": object(),
    "class": np.ndarray,
    "array": np.zeros((2, 8)),
    "array of no axis": np.array(0.5),
    "large array": np.zeros((50, 4)),
    "array of texts": np.full((2, 8, 8, 1), "x"),
    "array of numbers too large": np.full((2, 8, 8, 1), 1e300),
    "tensor": torch.zeros(3, 5),
    "tensor of no axis": torch.tensor(0.5),
    "empty tensor": torch.zeros(0, 4),
    "tensor of whole numbers": torch.zeros(2, 4, dtype=torch.int64),
    "tensor of complex numbers": torch.zeros(2, 1, 8, 8, dtype=torch.complex64),
    "latents of NaN": torch.full((2, 4), math.nan),
    "images of NaN": torch.full((2, 1, 8, 8), math.nan),
}
NUMBERS = {"0.5", "1.0"}  # what is positive
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LATENTS = torch.zeros(2, 4)
SHORT = {"num_steps": 1, "num_candidates": 3, "num_starts": 1, "class_labels": 0}
CALLS = {
    "__call__": (
        {"latents": None, "class_labels": 0},
        {
            "batch_size": set(),
            "generator": {"None"},
            "latents": {"None"},
            "output_type": set(),
            "return_dict": {"True"},
            "class_labels": {"None", "0", "number as text", "list"},
            "chunk_size": {"None"},
            "truncation": {"None"} | NUMBERS,
            "num_candidates": set(),
            "rejection_temperature": {"None"} | NUMBERS,
        },
    ),
    "score": (
        {"images": IMAGES},
        {"images": set(), "class_labels": {"None", "0", "number as text"}, "chunk_size": {"None"}},
    ),
    "pixels": ({}, {"images": set()}),
    "neighbours": (
        {"images": IMAGES, "references": IMAGES},
        {"images": set(), "references": set(), "num_neighbours": set()},
    ),
    "interpolate": (
        {"latents": LATENTS, "num_frames": 2, "class_labels": 0},
        {
            "latents": set(),
            "num_frames": set(),
            "method": set(),
            "loop": {"True"},
            "truncation": {"None"} | NUMBERS,
            "class_labels": {"None", "0", "number as text"},
        },
    ),
    "invert": (
        {"images": IMAGES, **SHORT},
        {
            "images": set(),
            "num_steps": set(),
            "num_candidates": set(),
            "num_starts": set(),
            "learning_rate": NUMBERS,
            "class_labels": {"0", "number as text"},
            "generator": {"None"},
        },
    ),
    "closest_classes": (
        {"images": IMAGES, "num_candidates": 3},
        {"images": set(), "num_candidates": set(), "generator": {"None"}},
    ),
    "class_numbers": (
        {"class_labels": None, "batch_size": 2},
        {"class_labels": {"None", "0", "number as text"}, "batch_size": set(), "generator": {"None"}},
    ),
    "latent_path": (
        {"latents": LATENTS, "num_frames": 3},
        {"latents": {"tensor"}, "num_frames": set(), "method": set(), "loop": {"True"}},
    ),
    "truncated": (
        {"latents": LATENTS, "limit": 1.0},
        {
            "latents": {"tensor", "empty tensor", "tensor of no axis", "latents of NaN", "images of NaN"},
            "limit": {"None"} | NUMBERS,
        },
    ),
}
SAID = {"limit": "truncation"}  # the name of the argument in messages, where it is another
CASES = [(call, name) for call, (_, arguments) in CALLS.items() for name in arguments]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = WGANPipeline(tiny_generator(num_classes=3), tiny_critic(num_classes=3))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call, name", CASES, ids=str)
def test_wrong_arguments_are_named_in_one_line(call, name, pipeline):
    others, arguments = CALLS[call]
    function = {"latent_path": latent_path, "truncated": truncated}.get(call) or getattr(pipeline, call)
    for kind, value in VALUES.items():
        try:
            function(**{**others, name: value})
        except InputError as error:
            message = str(error)
            assert kind not in arguments[name], f"{kind}: {message}"
            assert SAID.get(name, name) in message and len(message.splitlines()) == 1 and len(message) < 300, message
        except Exception as error:
            raise AssertionError(f"{kind}: {type(error).__name__}: {error}") from error
        else:
            assert kind in arguments[name], f"{kind} is accepted"


def test_a_single_picture_is_a_reference(pipeline):
    picture = Image.new("L", (8, 8), 255)
    numbers, distances = pipeline.neighbours(torch.ones(2, 1, 8, 8), picture)
    assert numbers.tolist() == [[0], [0]] and distances.max() == 0


def test_arrays_of_any_order_and_type_are_images(pipeline):
    array = IMAGES.permute(0, 2, 3, 1).numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    for images in (array[:, ::-1, ::-1], read_only[:, ::-1, ::-1], array.astype(">f8")[:, ::-1, ::-1]):
        assert torch.equal(pipeline.pixels(images), IMAGES.flip(2, 3))
    integers = np.uint16(array > 0.5)
    assert pipeline.pixels(integers).unique().tolist() == [0, 1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_images_are_inverted_where_gradients_are_off(mode, pipeline):
    expected = pipeline.invert(IMAGES, 2, 3, 1, class_labels=0, generator=torch.Generator().manual_seed(0))
    with mode():
        images = IMAGES.clone()
        latents = pipeline.invert(images, 2, 3, 1, class_labels=0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents, expected) and not latents.requires_grad


def test_images_with_a_gradient_are_inverted(pipeline):
    latents = pipeline.invert(IMAGES.clone().requires_grad_(), 2, 3, 1, class_labels=0)
    assert latents.shape == (2, 4)


def test_numbers_of_numpy_and_torch_are_whole_numbers_everywhere(pipeline):
    for number in (np.int8(2), torch.tensor(2), np.array(2)):
        assert len(pipeline.neighbours(IMAGES, IMAGES, number)[0][0]) == 2
        assert len(latent_path(LATENTS, number, loop=np.bool_(True))) == 2
        assert len(pipeline.invert(IMAGES, number, number, number, class_labels=[0, 1])) == 2
    assert len(pipeline(300, chunk_size=np.int8(100), class_labels=0, output_type="pt").images) == 300


def test_latents_to_interpolate_are_checked_before_their_path(pipeline):
    with pytest.raises(InputError, match=r"latents of shape \(3, 5\): must be \(K, 4\), at least two"):
        pipeline.interpolate(torch.zeros(3, 5))


def test_inversion_that_leads_to_no_numbers_is_named():
    overflowing = WGANPipeline(tiny_generator())
    forward = overflowing.generator.forward
    overflowing.generator.forward = lambda latents: forward(latents) + 0 * (latents * 1e10).sum()
    with pytest.raises(InputError, match=r"learning_rate=1e\+30: leads to NaN or infinity; choose a smaller one"):
        overflowing.invert(IMAGES, 2, 3, 1, learning_rate=1e30)
    broken = WGANPipeline(tiny_generator())
    next(broken.generator.parameters()).data.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="the model's weights are damaged"):
        broken.invert(IMAGES, 2, 3, 1)
