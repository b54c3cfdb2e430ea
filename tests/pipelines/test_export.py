"""Exported files do what the pipeline does, here and where neither hf_wgan nor diffusers is imported."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import tiny_critic, tiny_generator
from hub_server import hub
from PIL import Image

from hf_wgan import (
    InputError,
    MLPCritic,
    MLPGenerator,
    R3GANCritic,
    R3GANGenerator,
    ResNetCritic,
    ResNetGenerator,
    WGANPipeline,
)
from hf_wgan.cli.evaluate import evaluate
from hf_wgan.cli.export import export
from hf_wgan.cli.generate import generate
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.pipelines import export as export_module
from hf_wgan.pipelines.export import export_pipeline, load_exported

NAMES = ["bag", "coat", "shoe"]
SMOOTH = {"upsampling": "nearest", "modulated": True, "output_skips": True}
NETWORKS = {
    "dcgan": (tiny_generator, tiny_critic),
    "dcgan of wgan-color": (lambda **o: tiny_generator(**SMOOTH, **o), tiny_critic),
    "mlp": (lambda **o: MLPGenerator((5, 7), 3, 4, 8, **o), lambda **o: MLPCritic((5, 7), 3, 8, **o)),
    "resnet": (lambda **o: ResNetGenerator(32, 1, 4, 4, **o), lambda **o: ResNetCritic(32, 1, 4, **o)),
    "r3gan": (lambda **o: R3GANGenerator(16, 3, 4, 8, **o), lambda **o: R3GANCritic(16, 3, 8, **o)),
}
SUFFIXES = ("onnx", "pt2")

ALONE = """
import sys
import numpy as np
if suffix == "onnx":
    import onnxruntime
else:
    import torch
for name in names:
    inputs, outputs = np.load(f"{name}.npz"), {}
    if suffix == "onnx":
        session = onnxruntime.InferenceSession(f"{name}.onnx")
        run = lambda **inputs: session.run(None, inputs)[0]
    else:
        module = torch.export.load(f"{name}.pt2").module()
        run = lambda **inputs: module(*map(torch.from_numpy, inputs.values())).detach().numpy()
    for size in (1, 7, 64):
        outputs[str(size)] = run(**{key: inputs[key][:size] for key in inputs})
    np.savez(f"{name}.{suffix}.npz", **outputs)
allowed = {"onnx": {"onnxruntime", "numpy"}, "pt2": {"torch", "numpy"}}[suffix]
found = {"hf_wgan", "diffusers", "torch", "onnxruntime"} & set(sys.modules)
assert found <= allowed, found
"""


def make(architecture="dcgan", classes=None, **critic_options):
    """In training mode; no number is as it starts, and pixels leave [-1, 1] where they can."""
    generator, critic = NETWORKS[architecture]
    names = {"class_names": NAMES} if classes else {}
    pipeline = WGANPipeline(generator(num_classes=classes, **names), critic(num_classes=classes, **critic_options))
    rng = torch.Generator().manual_seed(3)
    for network in (pipeline.generator.train(), pipeline.critic.train()):
        for parameter in network.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=rng))
        for statistic in network.buffers():
            if statistic.is_floating_point():
                statistic.add_(torch.rand(statistic.shape, generator=rng))
    return pipeline


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of files of every architecture and what goes in, and what the pipelines make of that. A DCGAN with
    classes is below."""
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    for architecture, classes in {"dcgan": None, **dict.fromkeys(list(NETWORKS)[1:], 3)}.items():
        pipeline, name = make(architecture, classes), f"{architecture}-{classes}"
        inputs = {"latents": torch.randn(64, 4, generator=torch.Generator().manual_seed(4))}
        if classes:
            inputs["class_labels"] = torch.arange(64) % 3
        np.savez(folder / f"{name}.npz", **inputs)
        expected[name] = [
            pipeline(**{key: value[:size] for key, value in inputs.items()}, output_type="pt").images.numpy()
            for size in (1, 7, 64)
        ]
        for suffix in SUFFIXES:
            assert export_pipeline(pipeline, folder / f"{name}.{suffix}") <= 1e-4
    return folder, expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_tool_alone_makes_the_images_of_the_pipeline_in_batches_of_any_size(suffix, exported):
    folder, expected = exported
    code = f"suffix, names = {suffix!r}, {list(expected)}\n{ALONE}"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name, images in expected.items():
        found = np.load(folder / f"{name}.{suffix}.npz")
        for batch in images:
            assert found[str(len(batch))].shape == batch.shape
            assert np.abs(found[str(len(batch))] - batch).max() <= 1e-4, name
    clamped = np.concatenate([images[-1].ravel() for images in expected.values()])
    assert (clamped.min(), clamped.max()) == (0, 1) and len(np.unique(clamped)) > 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a pipeline with classes, and a card that says its licence."""
    folder = tmp_path_factory.mktemp("models") / "wgan-clothes"
    make(classes=3).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def written(model):
    """What the command says, and by its suffix each file that it leaves beside the model."""
    code = "from hf_wgan.cli.export import export\n"
    code += "raise SystemExit(export(['wgan-clothes']) or export(['wgan-clothes', '--format', 'torch']))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return {"says": result, **{suffix: model.parent / f"wgan-clothes.{suffix}" for suffix in SUFFIXES}}


def test_the_command_says_how_much_a_file_differs_and_nothing_else(written):
    lines = written["says"].stdout.splitlines()
    for suffix, line in zip(SUFFIXES, lines):
        said = f"Saved the generator in wgan-clothes.{suffix}; in batches of 1, 7, 64 it differs by at most "
        assert line.startswith(said) and float(line.removeprefix(said)[:-1]) <= 1e-4
    assert len(lines) == 2
    errors = written["says"].stderr
    assert all("Loading pipeline components" in line for line in errors.splitlines() if line), errors
    assert not list(written["onnx"].parent.glob(".*"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_says_what_it_is_and_not_where_it_was_made(suffix, written):
    file = written[suffix]
    if suffix == "onnx":
        session = onnxruntime.InferenceSession(file)
        metadata = session.get_modelmeta().custom_metadata_map
        latents, labels, images = (*session.get_inputs(), *session.get_outputs())
        assert (latents.name, latents.shape, latents.type) == ("latents", ["batch", 4], "tensor(float)")
        assert (labels.name, labels.shape, labels.type) == ("class_labels", ["batch"], "tensor(int64)")
        assert (images.name, images.shape, images.type) == ("images", ["batch", 1, 8, 8], "tensor(float)")
    else:
        extra = {"metadata.json": ""}
        torch.export.load(file, extra_files=extra)
        metadata = json.loads(extra["metadata.json"])
    assert metadata.pop("made_by").startswith("hf_wgan ")
    assert metadata == {
        "component": "generator",
        "network": "DCGANGenerator",
        "inputs": "latents (N, 4) float32, drawn from N(0, 1); class_labels (N,) int64 from 0 to 2",
        "outputs": "images (N, 1, 8, 8) float32 in [0, 1]",
        "sample_size": "8",
        "out_channels": "1",
        "latent_dim": "4",
        "num_classes": "3",
        "class_names": json.dumps(NAMES),
        "source_model": "wgan-clothes",
        "license": "mit",
    }
    content = file.read_bytes()
    if suffix == "pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    for path in (Path(__file__).parents[2], Path(torch.__file__).parent, file.parent):
        assert str(path).encode() not in content


def generated(model, folder, *options):
    assert generate([str(model), *options, "--output_dir", str(folder)]) == 0
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("0*.png"))])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_generate_makes_the_images_of_the_pipeline_from_the_file(suffix, model, written, tmp_path):
    options = [
        "--num_images",
        "70",
        "--seed",
        "5",
        "--class_labels",
        "shoe,1",
        "--truncation",
        "1",
    ]
    trust = ["--trust_remote_code"] if suffix == "pt2" else []
    expected = generated(model, tmp_path / "expected", *options)
    found = generated(written[suffix], tmp_path / "found", *options, *trust)
    assert expected.std() > 10 and expected.shape == found.shape
    assert np.abs(expected - found).max() <= 1, "a difference of a rounding"
    video = [
        str(written[suffix]),
        *trust,
        "--video",
        "gif",
        "--num_images",
        "2",
        "--num_frames",
        "4",
        "--output_dir",
    ]
    assert generate([*video, str(tmp_path / "video")]) == 0


@pytest.mark.parametrize(
    "option",
    [
        "--num_candidates=2",
        "--rejection_temperature=1",
        "--scores",
        "--invert=photo.png",
    ],
)
def test_generate_refuses_what_takes_the_whole_pipeline(option, written, tmp_path, capsys):
    file = written["onnx"]
    assert generate([str(file), option, "--output_dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option.removeprefix('--').partition('=')[0]}=") and said.count("\n") == 1
    assert "is a generator alone; give the whole pipeline" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "suffix, option", [("onnx", "--revision=main"), ("pt2", "--variant=fp16"), ("onnx", "--trust_remote_code")]
)
def test_generate_refuses_what_has_no_effect_on_an_exported_file(suffix, option, written, tmp_path, capsys):
    assert generate([str(written[suffix]), option, "--output_dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option.removeprefix('--').partition('=')[0]}=") and "has no effect with" in said
    assert not (tmp_path / "out").exists()


def test_a_loaded_file_refuses_what_it_cannot_do(written, tmp_path):
    pipeline = load_exported(written["pt2"], trust_remote_code=True)
    for call in (lambda: pipeline.save_pretrained(tmp_path), lambda: pipeline.invert(torch.zeros(1, 1, 8, 8))):
        with pytest.raises(InputError, match="the pipeline that it came from"):
            call()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_a_file_already_is_not_exported_again(suffix, written, tmp_path, capsys):
    pipeline = load_exported(written["pt2"], trust_remote_code=True)
    for loaded in (pipeline, WGANPipeline.from_pipe(pipeline)):
        with pytest.raises(InputError, match="pipeline: its generator is an exported file already: copy it"):
            export_pipeline(loaded, tmp_path / f"again.{suffix}")
    for run in (export, evaluate):
        assert run([str(written["pt2"])]) == 2
        assert "is a file; name the folder of a pipeline" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exported_critic_scores_as_the_pipeline_does(suffix, tmp_path):
    pipeline, file = make(classes=3, norm_type="batch", spectral_norm=True), tmp_path / f"critic.{suffix}"
    assert export_pipeline(pipeline, file, "critic") <= 1e-4
    images, labels = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    expected = pipeline.score(images, labels)
    if suffix == "onnx":
        inputs = {"images": images.numpy(), "class_labels": labels.numpy()}
        (found,) = onnxruntime.InferenceSession(file).run(["scores"], inputs)
    else:
        found = torch.export.load(file).module()(images, labels).detach().numpy()
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * max(1, expected.abs().max())
    with pytest.raises(InputError, match="is no exported generator"):
        load_exported(file, trust_remote_code=True)


def test_a_file_that_can_run_code_is_loaded_only_where_it_is_trusted(written, tmp_path, capsys):
    with zipfile.ZipFile(written["pt2"]) as archive, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil:
        for name in archive.namelist():
            data = archive.read(name)
            if "sample_inputs" in name:
                data = io.BytesIO()
                torch.save(Payload(tmp_path / "marker"), data)
                data = data.getvalue()
            evil.writestr(name, data)
    arguments = [str(tmp_path / "evil.pt2"), "--output_dir", str(tmp_path / "out")]
    assert generate(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "can run code" in said and "--trust_remote_code" in said
    assert not (tmp_path / "marker").exists() and not (tmp_path / "out").exists()
    generate([*arguments, "--trust_remote_code"])
    assert (tmp_path / "marker").exists(), "so the flag is needed"


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_pipeline_of_half_precision_is_exported_in_float32_and_left_as_it_is(tmp_path):
    pipeline = make()
    pipeline.generator.bfloat16()
    export_pipeline(pipeline, tmp_path / "half.pt2")
    assert pipeline.generator.dtype == torch.bfloat16 and pipeline.generator.training
    assert all(parameter.requires_grad for parameter in pipeline.generator.parameters())
    latents = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    found = load_exported(tmp_path / "half.pt2", True)(latents=latents, output_type="pt").images
    pipeline.generator.float()
    assert torch.allclose(found, pipeline(latents=latents, output_type="pt").images, atol=1e-5)


def test_a_file_that_differs_from_the_pipeline_is_not_left(model, tmp_path, monkeypatch, capsys):
    forward = export_module.Images.forward
    monkeypatch.setattr(
        export_module.Images, "forward", lambda self, latents, labels: forward(self, latents, labels) * 1.01
    )
    (tmp_path / "older.pt2").write_text("older")
    arguments = [str(model), "--format", "torch", "--output", str(tmp_path / "older.pt2")]
    assert export(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "older.pt2 was not written: it differs from the pipeline by 0.0" in said
    assert said.endswith(", and may by 0.0001")
    assert [path.name for path in tmp_path.iterdir()] == ["older.pt2"]
    assert (tmp_path / "older.pt2").read_text() == "older"


def test_weights_that_are_no_numbers_are_not_exported(tmp_path):
    pipeline = make()
    pipeline.generator.layers[-2].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="the generator returns NaN"):
        export_pipeline(pipeline, tmp_path / "model.pt2")


def test_a_model_on_the_hub_is_exported_by_its_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(model, Push("me/clothes"))
        assert export(["me/clothes", "--format", "torch"]) == 0
    extra = {"metadata.json": ""}
    torch.export.load("clothes.pt2", extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    assert (metadata["source_model"], metadata["license"]) == ("me/clothes", "mit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.pt2"], "output='model.pt2' with format='onnx': must end in .onnx"),
        (["--component", "critic"], "component='critic': the pipeline has none"),
        (["--format", "tflite"], "format='tflite': must be one of onnx, torch"),
    ],
)
def test_bad_input_to_export_is_one_clear_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WGANPipeline(tiny_generator()).save_pretrained("model")
    assert export(["model", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_bad_input_from_python_is_named(tmp_path, monkeypatch):
    for path, component, says in (
        ("model.pth", "generator", r"model.pth': must end in .onnx or .pt2"),
        ("model.pt2", "discriminator", "component='discriminator': must be one of generator, critic"),
    ):
        with pytest.raises(InputError, match=says):
            export_pipeline(make(), tmp_path / path, component)
    monkeypatch.setattr(export_module, "MAX_ONNX_BYTES", 1000)
    with pytest.raises(InputError, match="too large for one ONNX file"):
        export_pipeline(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"junk", None], ids=["empty", "junk", "foreign"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_no_exported_generator_is_one_clear_line(content, suffix, tmp_path, capsys):
    file = tmp_path / f"model.{suffix}"
    if content is not None:
        file.write_bytes(content)
    elif suffix == "pt2":
        torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), file)
    else:
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"]) for name in "xy")
        graph = onnx.helper.make_graph([node], "relu", [x], [y])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), file)
    trust = ["--trust_remote_code"] if file.suffix == ".pt2" else []
    assert generate([str(file), "--output_dir", str(tmp_path / "out"), *trust]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"error: '{file}'")
    assert ("is no exported generator" if content is None else "cannot be read") in said
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_kind_is_named(tmp_path, capsys):
    (tmp_path / "weights.pth").write_text("")
    assert generate([str(tmp_path / "weights.pth"), "--output_dir", str(tmp_path / "out")]) == 2
    assert "weights.pth': must be a file that ends in .onnx or .pt2" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_said_with_the_command_that_brings_it(package, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert export([str(model), "--output", str(tmp_path / "model.onnx")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f'error: ONNX needs {package}; pip install "hf_wgan[export]" brings it'
    assert not list(tmp_path.iterdir())
