"""Every fast path against the plain one: the same seed, fifty iterations."""

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import tiny_critic, tiny_generator, tiny_images

from hf_wgan import ImageSet, WGANTrainer
from hf_wgan.models.layers import BatchNorm2d
from hf_wgan.training.fast import FastPaths
from hf_wgan.training.optimizers import FUSED, OPTIMIZERS

ADAM = {"optimizer": "adam", "adam_beta1": 0.0, "adam_beta2": 0.9}
RUNS = {
    "clipping": {},
    "a gradient penalty": {"lipschitz": "gp", **ADAM},
    "lazy R1 and R2": {"lipschitz": "r1r2", "penalty_interval": 2, "optimizer": "adamw"},
    "augmentation and accumulation": {
        "lipschitz": "lp",
        "augmentation": "color,translation",
        "gradient_accumulation_steps": 2,
    },
    "classes": {"lipschitz": "dragan", "class_conditional": True, "use_ema": True},
}


def trained(make_config, fast, size=8, dtype=torch.float32, **settings):
    """Weights of both networks, and the losses of every step. Networks for 8 pixels have no normalisation."""
    classes = 3 if settings.get("class_conditional") else None
    settings.setdefault("logging_steps", 50)
    norm_type = "batch" if settings.get("lipschitz", "clip") == "clip" else "layer"
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps one precision for a process
    config = make_config(fast_paths=fast, overwrite_output_dir=True, **settings)
    torch.manual_seed(0)
    trainer = WGANTrainer(
        tiny_generator(num_classes=classes, sample_size=size).to(dtype),
        tiny_critic(num_classes=classes, norm_type=norm_type, sample_size=size).to(dtype),
        ImageSet(tiny_images(size=size).images, labels=torch.arange(24) % 3),
        config,
    )
    records = torch.stack([torch.stack(trainer.step()) for _ in range(50)])
    return trainer, [*trainer.generator.parameters(), *trainer.critic.parameters()], records


def apart(one, other):
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(one, other))


@pytest.mark.parametrize("run", RUNS)
def test_float32(tiny_config, run):
    _, plain_weights, plain_records = trained(tiny_config, False, **RUNS[run])
    trainer, weights, records = trained(tiny_config, True, **RUNS[run])
    assert trainer.fast_paths.names(trainer.algorithm)
    assert apart(weights, plain_weights) < 1e-5
    assert apart(records.T, plain_records.T) < 1e-5
    untrained = [*tiny_generator().parameters(), *tiny_critic().parameters()]
    if run != "classes":  # whose networks have other parameters
        assert apart(weights, untrained) > 1e-2, "there is something to differ in"


@pytest.mark.parametrize("run", RUNS)
def test_float64_with_normalisation(tiny_config, run):
    """Which amplifies the rounding of float32 in fifty iterations."""
    settings = {"size": 16, "dtype": torch.float64, **RUNS[run]}
    _, plain_weights, plain_records = trained(tiny_config, False, **settings)
    trainer, weights, records = trained(tiny_config, True, **settings)
    layers = {type(layer) for network in (trainer.generator, trainer.critic) for layer in network.modules()}
    assert layers & {BatchNorm2d, torch.nn.GroupNorm}
    assert apart(weights, plain_weights) < 1e-9
    assert apart(records.T, plain_records.T) < 1e-9


@pytest.mark.parametrize("run", ["clipping", "a gradient penalty"])
def test_bfloat16_within_its_own_rounding(tiny_config, run):
    exact, plain, fast = (
        trained(tiny_config, fast, mixed_precision=precision, **RUNS[run])[1]
        for precision, fast in (("no", False), ("bf16", False), ("bf16", True))
    )
    rounding = apart(plain, exact)
    assert 0 < rounding < 0.2
    assert apart(fast, exact) < 2 * rounding


def test_a_penalty_in_float32_of_a_bf16_run(tiny_config):
    settings = {"mixed_precision": "bf16", **RUNS["a gradient penalty"]}
    seen = []

    def dtype(trainer):
        trainer.critic.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        trainer.step()
        return [seen.pop(0) for _ in range(len(seen))]

    for in_float32, expected in ((False, torch.bfloat16), (True, torch.float32)):
        config = tiny_config(n_critic=1, penalty_in_float32=in_float32, **settings)
        trainer = WGANTrainer(tiny_generator(), tiny_critic(norm_type="layer"), tiny_images(), config)
        assert dtype(trainer) == [torch.bfloat16, expected, torch.bfloat16], "scores, penalty, generator step"


def test_the_ways_are_said_and_one_option_leaves_them_out(tiny_config, capfd):
    WGANTrainer(tiny_generator(), tiny_critic(norm_type="layer"), tiny_images(), tiny_config(lipschitz="gp")).train()
    said = capfd.readouterr().err
    ways = ("channels-last memory", "fused optimizers", "freed memory is kept", "own derivatives of the penalty")
    assert f"Fast: {'; '.join(ways)}; one pass over" in said
    trainer = WGANTrainer(
        tiny_generator(), tiny_critic(), tiny_images(), tiny_config(fast_paths=False, overwrite_output_dir=True)
    )
    trainer.train()
    assert "Fast paths are off." in capfd.readouterr().err
    assert (
        not any(trainer.fast_paths)
        and not trainer.algorithm.execution.fast_paths
        and not trainer.algorithm.scores_in_one_pass
    )


def test_spectral_normalisation_takes_its_power_iterations_in_every_pass(tiny_config):
    critic = tiny_critic(norm_type="none", spectral_norm=True)
    trainer = WGANTrainer(tiny_generator(), critic, tiny_images(), tiny_config(lipschitz="gp"))
    assert not trainer.algorithm.scores_in_one_pass


def test_a_float16_loss_scaler_sees_every_step(tiny_config, monkeypatch):
    class OnGPU:
        device, mixed_precision, num_processes, gradient_accumulation_steps = torch.device("cuda"), "fp16", 1, 1

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert not FastPaths.of(tiny_config(optimizer="adam"), OnGPU).fused_optimizers
    OnGPU.mixed_precision = "bf16"
    assert FastPaths.of(tiny_config(optimizer="adam"), OnGPU).fused_optimizers
    assert FastPaths.of(tiny_config(), OnGPU).cudnn_benchmark
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert not FastPaths.of(tiny_config(), OnGPU).cudnn_benchmark


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("before", [True, False])
def test_a_run_goes_on_by_other_ways(tiny_config, before, optimizer):
    settings = {"optimizer": optimizer, "lipschitz": "gp", "use_ema": True, "overwrite_output_dir": True}

    def trained(steps, **more):
        torch.manual_seed(0)
        config = tiny_config(max_train_steps=steps, **settings, **more)
        trainer = WGANTrainer(tiny_generator(), tiny_critic(norm_type="layer"), tiny_images(), config)
        trainer.train()
        return trainer

    whole = trained(8, fast_paths=not before)
    trained(4, fast_paths=before)
    del settings["overwrite_output_dir"]
    resumed = trained(8, fast_paths=not before, resume_from_checkpoint="latest")
    assert resumed.state.progress.step == 8
    for one in resumed.state.optimizers.values():
        assert (isinstance(one, tuple(FUSED.values())) or bool(one.param_groups[0].get("fused"))) is not before
    for one, other in zip(resumed.state.networks.values(), whole.state.networks.values()):
        assert apart(one.parameters(), other.parameters()) < 1e-5
    assert apart(resumed.state.ema.shadow_params, whole.state.ema.shadow_params) < 1e-5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_optimizers_are_fused_where_their_kernels_are_known(tiny_config, monkeypatch, kind, optimizer):
    class OnDevice:
        device, mixed_precision, num_processes, gradient_accumulation_steps = torch.device(kind), "no", 1, 1

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    chosen = FastPaths.of(tiny_config(optimizer=optimizer), OnDevice)
    assert chosen.fused_optimizers == (optimizer not in FUSED or kind != "mps")


def test_fused_numbers_are_pytorchs_whatever_the_default_dtype():
    torch.manual_seed(0)
    weights, gradients = torch.randn(3, 4), torch.randn(5, 3, 4)
    results = []
    for build, dtype in ((torch.optim.RMSprop, torch.float32), (FUSED["rmsprop"], torch.float64)):
        torch.set_default_dtype(dtype)
        try:
            parameter = torch.nn.Parameter(weights.clone())
            optimizer = build([parameter], lr=0.1)
            for gradient in gradients:
                parameter.grad = gradient.clone()
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        results.append(parameter.detach())
    assert torch.allclose(*results, rtol=1e-6, atol=1e-7)


def test_tf32_is_a_choice(tiny_config):
    for allowed in (False, True):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(allow_tf32=allowed))
        assert torch.backends.cudnn.allow_tf32 == allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")


@pytest.mark.parametrize("run", ["clipping", "a gradient penalty"])
def test_compiled_networks(tiny_config, run, monkeypatch):
    """By the compiler's front ends alone: its code generation takes half a minute."""
    compiled = []

    def compile_eagerly(network):
        compiled.append(network)
        compile(network, backend="aot_eager")

    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    _, weights, records = trained(tiny_config, True, compile=True, **RUNS[run])
    _, plain_weights, plain_records = trained(tiny_config, False, **RUNS[run])
    assert len(compiled) == 2
    assert apart(weights, plain_weights) < 1e-5
    assert apart(records.T, plain_records.T) < 1e-5
