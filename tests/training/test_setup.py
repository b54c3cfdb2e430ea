"""What a trainer is made of, and what it refuses before anything is made."""

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from processes import ended, free_port, join, start
from torch import nn

from hf_wgan import ImageSet, InputError, TrainingConfig, WGANPipeline, WGANTrainer, build_trainer, load_images
from hf_wgan.data import clustered, load_held_out
from hf_wgan.pipelines.export import export_pipeline
from hf_wgan.training.optimizers import OPTIMIZERS, SCHEDULES, Schedule, build_scheduler
from hf_wgan.utils.errors import DeviceMemoryError
from hf_wgan.utils.options import OptionParser

LR = 0.5


def rates(steps=12, **options):
    """Return the learning rate of every step of a schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], LR)
    schedule = build_scheduler(optimizer, TrainingConfig(max_train_steps=steps, **options))
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(values)


def test_cosine_with_restarts_starts_each_cycle_at_the_full_rate():
    cosine, one = rates(lr_scheduler="cosine"), rates(lr_scheduler="cosine_with_restarts")
    three = rates(lr_scheduler="cosine_with_restarts", lr_num_cycles=3)
    assert np.allclose(one, cosine)
    assert three[[0, 4, 8]] == pytest.approx(LR) and three[[3, 7, 11]] == pytest.approx(
        rates(4, lr_scheduler="cosine")[3]
    )
    assert np.allclose(three[:4], rates(4, lr_scheduler="cosine"))
    warm = rates(lr_scheduler="cosine_with_restarts", lr_num_cycles=2, lr_warmup_steps=4)
    assert warm[:4] == pytest.approx(LR * np.arange(4) / 4) and warm[[4, 8]] == pytest.approx(LR)


def test_the_power_of_the_polynomial_schedule():
    remaining = 1 - np.arange(12) / 12
    for power in (0.5, 1.0, 2.0):
        assert np.allclose(rates(lr_scheduler="polynomial", lr_power=power), LR * remaining**power, atol=1e-6)
    assert np.allclose(rates(lr_scheduler="polynomial"), rates(lr_scheduler="linear"), atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr_num_cycles": 2}, "lr_num_cycles=2: has no effect with lr_scheduler='constant'; use cosine_with_restarts"),
        ({"lr_num_cycles": 2, "lr_scheduler": "cosine"}, "use cosine_with_restarts"),
        ({"lr_power": 2.0, "lr_scheduler": "linear"}, "lr_power=2.0: .* use polynomial"),
        ({"lr_scheduler": "polynomial", "lr_warmup_steps": 9, "max_train_steps": 9}, "must be below max_train_steps=9"),
    ],
)
def test_options_of_another_schedule_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**options)


def test_a_schedule_that_is_not_defined_for_a_rate_is_one_line(tiny_config):
    with pytest.raises(InputError, match="lr_scheduler='polynomial': lr_end"):
        trainer(tiny_config(lr_scheduler="polynomial", critic_learning_rate=1e-8))


def trainer(config, generator=None, critic=None, **options):
    generator = tiny_generator() if generator is None else generator
    critic = tiny_critic() if critic is None else critic
    return WGANTrainer(generator, critic, tiny_images(), config, **options)


# Precision.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", ["generator", "critic"])
def test_half_precision_weights_are_refused(which, dtype, tiny_config, tmp_path):
    networks = {"generator": tiny_generator(), "critic": tiny_critic()}
    networks[which].to(dtype)
    with pytest.raises(InputError, match=rf"{which} with weights in {dtype}: .*pass float32 weights \(.float\(\)\)"):
        trainer(tiny_config(), **networks)
    next(networks[which].parameters()).data = next(networks[which].parameters()).data.float()
    with pytest.raises(InputError, match=rf"{which} with weights in {dtype} and torch.float32"):
        trainer(tiny_config(), **networks)
    assert not (tmp_path / "run").exists()


def test_float64_networks_train_from_beginning_to_end_and_resume_exactly(tiny_config, tmp_path):
    options = {"use_ema": True, "evaluation_steps": 2, "evaluation_features": "pixels", "num_evaluation_images": 20}

    def run(name, **more):
        config = tiny_config(output_dir=str(tmp_path / name), logging_steps=2, **options, **more)
        return trainer(config, tiny_generator().double(), tiny_critic().double()).train()

    whole = run("whole", max_train_steps=6)
    assert whole.generator.dtype == torch.float64
    run("parts", max_train_steps=3)
    run("parts", max_train_steps=6, resume_from_checkpoint="latest")
    weights = "generator/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()
    WGANPipeline.from_pretrained(tmp_path / "whole", torch_dtype=torch.float64)


def test_networks_of_two_precisions_are_refused(tiny_config):
    with pytest.raises(InputError, match=r"a generator in torch.float64 with a critic in torch.float32"):
        trainer(tiny_config(), tiny_generator().double())


def test_mixed_precision_of_float64_networks_is_refused(tiny_config):
    with pytest.raises(InputError, match="mixed_precision='bf16' with float64 networks"):
        trainer(tiny_config(mixed_precision="bf16"), tiny_generator().double(), tiny_critic().double())


# Networks.


class Linear(ModelMixin, ConfigMixin):
    """A critic, whose output is what a test needs."""

    @register_to_config
    def __init__(self, sample_size=8, in_channels=1, out_channels=1, latent_dim=4, output="scores"):
        super().__init__()
        self.layer = nn.Linear(64, 1)

    def forward(self, images):
        scores = self.layer(images.flatten(1))
        return (
            {"column": scores, "tuple": (scores,), "error": None}[self.config.output]
            if self.config.output != "scores"
            else scores[:, 0]
        )


class Generator(Linear):
    def forward(self, latents):
        return latents.new_zeros(len(latents), 3, 8, 8) + self.layer.weight.mean()


class WithoutLatentDim(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, sample_size=8, out_channels=1):
        super().__init__()


class Undecorated(ModelMixin, ConfigMixin):
    def __init__(self, sample_size=8, in_channels=1, out_channels=1, latent_dim=4):
        super().__init__()


@pytest.mark.parametrize(
    "networks, message",
    [
        ({"generator": nn.Linear(4, 64)}, "generator of type Linear: must be a diffusers ModelMixin and .*Network"),
        (
            {"critic": tiny_critic().requires_grad_(False)},
            r"critic: none of its weights .* critic.requires_grad_\(True",
        ),
        ({"critic": nn.Sequential()}, "critic of type Sequential: must be a diffusers ModelMixin.*@register_to_config"),
        ({"generator": WithoutLatentDim()}, "generator of type WithoutLatentDim: its config has no latent_dim"),
        ({"generator": Undecorated()}, "Undecorated: its config has no sample_size; .*@register_to_config"),
        ({"critic": Undecorated()}, "critic of type Undecorated: its config has no sample_size"),
        ({"critic": Linear(output="column")}, r"scores of shape \(2, 1\) for two images: must be \(2,\)"),
        ({"critic": Linear(output="tuple")}, "the critic returns a tuple: must be a tensor"),
        ({"critic": Linear(output="other")}, "the critic fails for input of shape"),
        ({"generator": Generator()}, r"images of shape \(2, 3, 8, 8\) for two latents: must be \(2, 1, 8, 8\)"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused_in_one_line(networks, message, tiny_config, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        trainer(tiny_config(), **networks)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_critic_whose_scores_are_bounded_is_named(tiny_config, capsys):
    critic = Linear()
    trainer(tiny_config(), critic=critic)
    assert "last layer" not in capsys.readouterr().err
    critic.add_module("last", nn.Sigmoid())
    trainer(tiny_config(), critic=critic)
    assert "critic: its last layer is a Sigmoid, which bounds the scores" in capsys.readouterr().err


def test_networks_of_ones_own_train(tiny_config):
    trainer(tiny_config(), critic=Linear()).train()


# Evaluation.


def test_too_few_images_to_evaluate_are_refused_at_the_start(tiny_config, tmp_path):
    evaluated = {"evaluation_steps": 2, "evaluation_features": "pixels"}
    few = tiny_images(num_images=15)
    with pytest.raises(InputError, match="held_out images has 15 images, and an evaluation needs 16"):
        trainer(tiny_config(**evaluated), held_out=few)
    with pytest.raises(InputError, match="dataset images has 15 images"):
        WGANTrainer(tiny_generator(), tiny_critic(), few, tiny_config(**evaluated))
    with pytest.raises(InputError, match=r"held_out with images of shape \(3, 8, 8\)"):
        trainer(tiny_config(**evaluated), held_out=tiny_images(channels=3))
    with pytest.raises(InputError, match="num_evaluation_images=15: must be a whole number at least 16"):
        tiny_config(num_evaluation_images=15)
    assert not (tmp_path / "run").exists()
    trainer(tiny_config(), held_out=few)  # which nothing compares with


@pytest.mark.parametrize("has_clusters, number", [(True, 20), (False, 16)])
def test_held_out_images_of_unknown_classes_are_left_out_only_where_the_run_has_these_classes(
    has_clusters, number, tiny_config
):
    images = ImageSet(tiny_images().images, labels=torch.arange(24) % 2, label_names=["cat", "dog"])
    labels = torch.tensor([0] * 16 + [1] * 4)
    held_out = ImageSet(tiny_images(20).images, labels=labels, label_names=["dog", "fish"])
    images = clustered(images, 4) if has_clusters else images
    networks = tiny_generator(num_classes=images.num_classes), tiny_critic(num_classes=images.num_classes)
    config = tiny_config(class_conditional=True, evaluation_steps=2, evaluation_features="pixels")
    assert len(WGANTrainer(*networks, images, config, held_out=held_out).held_out) == number


def test_held_out_images_of_a_conditional_run_need_labels(tiny_config):
    labels = torch.arange(24) % 3
    networks = tiny_generator(num_classes=3), tiny_critic(num_classes=3)
    config = tiny_config(class_conditional=True, evaluation_steps=2, evaluation_features="pixels")
    with pytest.raises(InputError, match="held_out images has no labels"):
        WGANTrainer(*networks, ImageSet(tiny_images().images, labels=labels), config, held_out=tiny_images())


def begin_with_own_images(folder, counts, classes, shifts, message, index, port):
    join(index, len(counts), port)
    images = tiny_images(counts[index])
    networks = [network(num_classes=3) for network in (tiny_generator, tiny_critic)]
    images = images.with_clusters((np.arange(len(images)) + shifts[index]) % classes[index])
    config = TrainingConfig(output_dir=folder, train_batch_size=4, class_conditional=True)
    with pytest.raises(InputError) as error:
        WGANTrainer(*networks, images, config)
    assert str(error.value) == f"images: the processes have different {message}"
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "counts, classes, shifts, message",
    [
        (
            (40, 39),
            (3, 3),
            (0, 0),
            "images or classes (process 0: 40 in 3; process 1: 39 in 3 classes); give every machine the same files",
        ),
        (
            (40, 40),
            (3, 2),
            (0, 0),
            "images or classes (process 0: 40 in 3; process 1: 40 in 2 classes); give every machine the same files",
        ),
        ((40, 40), (3, 3), (0, 1), "clusters; start them on processors of one kind"),
    ],
)
def test_processes_with_different_images_are_refused_in_all_of_them(counts, classes, shifts, message, tmp_path):
    port = free_port()
    arguments = (str(tmp_path / "run"), counts, classes, shifts, message)
    processes = [start(begin_with_own_images, *arguments, rank, port) for rank in range(2)]
    assert ended(processes) == [0, 0]
    assert not (tmp_path / "run").exists()


def test_a_precision_of_accelerates_that_is_none_of_ours_is_named(tiny_config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(
        InputError, match=r"precision='fp8' \(from Accelerate's configuration\): must be one of no, fp16"
    ):
        trainer(tiny_config())


def test_memory_that_is_used_up_while_a_checkpoint_is_loaded_is_not_the_checkpoints_fault(tiny_config, monkeypatch):
    trainer(tiny_config()).train()

    def load(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("hf_wgan.training.checkpoint.torch.load", load)
    with pytest.raises(DeviceMemoryError, match=r"^train_batch_size=8 with .*checkpoint-000004 is whole"):
        trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=8)).train()


@pytest.mark.parametrize("what", ["an optimizer", "a schedule"])
def test_one_line_adds(what, tiny_config, tmp_path, monkeypatch, capsys):
    """An option's choices, help, checks and effect follow from the list, for one of PyTorch's and one of diffusers'."""
    if what == "an optimizer":
        monkeypatch.setitem(OPTIMIZERS, "nadam", torch.optim.NAdam)
        options, wrong = {"optimizer": "nadam", "adam_beta1": 0.3, "adam_epsilon": 1e-6}, {"adam_weight_decay": 0.1}
    else:
        monkeypatch.setitem(SCHEDULES, "halving", Schedule(factor=lambda share: 0.5**share))
        options, wrong = {"lr_scheduler": "halving", "lr_warmup_steps": 1, "lr_end_ratio": 0.2}, {"lr_power": 2.0}
    run = trainer(tiny_config(**options))
    run.train()
    group = run.state.optimizers["critic_optimizer"].param_groups[0]
    if "optimizer" in options:
        assert group["betas"] == (0.3, 0.999) and group["eps"] == 1e-6
    else:
        assert float(group["lr"]) == pytest.approx(5e-5 * (0.2 + 0.8 * 0.5))
    with pytest.raises(InputError, match="has no effect with "):
        tiny_config(**options, **wrong)
    with pytest.raises(SystemExit):
        OptionParser(TrainingConfig).parse(["--help-all"])
    assert next(iter(options.values())) in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("lr_scheduler", SCHEDULES)
def test_every_optimizer_and_schedule_trains(optimizer, lr_scheduler, tiny_config):
    run = trainer(tiny_config(optimizer=optimizer, lr_scheduler=lr_scheduler))
    before = [parameter.clone() for parameter in run.critic.parameters()]
    for _ in range(2):
        run.step()
    assert not all(map(torch.equal, before, run.critic.parameters()))
    rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in run.state.optimizers.values()]
    assert all(rate < 5e-5 if SCHEDULES[lr_scheduler].decays else rate == 5e-5 for rate in rates)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: build_trainer({"max_train_steps": 1}), "config={'max_train_steps': 1}: must be a RunConfig, as "),
        (lambda: build_trainer(TrainingConfig()), "config of type TrainingConfig: must be a RunConfig"),
        (lambda: load_images("photos"), "config='photos': must be a DataConfig, such as DataConfig"),
        (lambda: load_held_out(None), "config=None: must be a DataConfig"),
        (lambda: export_pipeline(tiny_generator(), "model.onnx"), "pipeline of type .*: must be a WGANPipeline"),
        (lambda: WGANPipeline.from_pretrained(None), "pretrained_model_name_or_path=None: must be a folder, or a name"),
        (
            lambda: WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), held_out=tiny_images().images),
            "held_out of type Tensor: must be an ImageSet, as load_images returns",
        ),
    ],
)
def test_an_object_of_another_type_is_one_line(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
