"""Recorded iterations against plain ones, by a recorder that replays operators as a CUDA graph does."""

import importlib
import math
import os
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import tiny_critic, tiny_generator, tiny_images
from recorder import recorded

from hf_wgan import ImageSet, InputError, TrainingConfig, WGANTrainer
from hf_wgan.algorithm.augment import OPERATIONS, Augmentation
from hf_wgan.algorithm.execution import Execution
from hf_wgan.algorithm.latents import prior_of
from hf_wgan.algorithm.lipschitz import CONSTRAINTS, Constraint, build_constraint
from hf_wgan.algorithm.step import RealBatch, WGANStep
from hf_wgan.data import DataConfig
from hf_wgan.models.factory import ARCHITECTURES, NetworkConfig, build_networks
from hf_wgan.training.fast import FastPaths
from hf_wgan.training.graphs import WARM_UP_STEPS, GraphedStep, HostWaits, check_graphs
from hf_wgan.training.optimizers import build_optimizer
from hf_wgan.training.schedules import keep_on_device

ADAM = {"optimizer": "adam", "adam_beta1": 0.0, "adam_beta2": 0.9}
SCHEDULES = {
    "lipschitz": "r1r2",
    "gradient_penalty_weight_end": 0.1,
    "optimizer": "adamw",
    "adam_beta2_end": 0.99,
    "lr_scheduler": "cosine",
}
RUNS = {
    **{name: {"lipschitz": name} for name in CONSTRAINTS},
    "averaged generator": {"use_ema": True},
    "Adam": {"lipschitz": "gp", **ADAM},
    "lazy penalty": {"lipschitz": "r1r2", "penalty_interval": 2, "optimizer": "adamw"},
    "lazy penalty in another phase each time": {"lipschitz": "gp", "penalty_interval": 3, **ADAM},
    "classes": {"class_conditional": True},
    "classes with a penalty": {"class_conditional": True, "lipschitz": "dragan"},
    "flips": {"random_flip": True},
    "augmentation": {"lipschitz": "gp", "augmentation": ",".join(OPERATIONS)},
    "adaptive augmentation": {
        "lipschitz": "gp",
        "augmentation": ",".join(OPERATIONS),
        "adaptive_augmentation": True,
        "adaptive_augmentation_images": 20,
    },
    "bf16": {"mixed_precision": "bf16"},
    "bf16 with a penalty": {"mixed_precision": "bf16", "lipschitz": "lp", **ADAM},
    "schedule": {"lr_scheduler": "linear"},
    "schedule with Adam": {"lr_scheduler": "cosine", "lipschitz": "gp", "use_ema": True, **ADAM},
    "schedules of the penalty and of Adam": SCHEDULES,
    "plain paths": {"lipschitz": "gp", "fast_paths": False},
}


def trainer_of(make_config, graphed, random_flip=False, constraint=None, **settings):
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps one precision for a process
    config = make_config(overwrite_output_dir=True, generator_learning_rate=1e-3, **settings)
    classes = 3 if config.class_conditional else None
    spectral = config.lipschitz == "spectral"
    norm_type = (
        "none" if spectral else "layer" if (constraint or CONSTRAINTS[config.lipschitz]).has_penalty else "batch"
    )
    images = tiny_images(80, size=16).images
    trainer = WGANTrainer(
        tiny_generator(num_classes=classes, sample_size=16),
        tiny_critic(num_classes=classes, sample_size=16, norm_type=norm_type, spectral_norm=spectral),
        ImageSet(images, labels=torch.arange(80) % 3, config=DataConfig(random_flip=random_flip)),
        config,
        constraint=constraint,
    )
    # As they are with --cuda_graphs on a GPU.
    keep_on_device(config, trainer.algorithm, has_own_constraint=constraint is not None)
    if config.lr_scheduler != "constant":
        for optimizer in trainer.state.optimizers.values():
            for group in optimizer.param_groups:
                group["foreach"] = group["capturable"] = not group.get("fused")
    if graphed:
        captures = []
        trainer.iteration = GraphedStep(
            trainer.algorithm,
            config.n_critic,
            trainer.random.rng,
            lambda function: captures.append(function) or recorded(function),
        )
        trainer.captures = captures
    return trainer


def state_of(trainer):
    tensors = [tensor for network in trainer.state.networks.values() for tensor in network.state_dict().values()]
    tensors += trainer.state.ema.shadow_params if trainer.state.ema else []
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def steps(trainer, number=9):
    records = []
    for _ in range(number):
        records.append(torch.stack(trainer.step()))
        trainer.callbacks.call("on_step_end", record=None)
    return torch.stack(records), state_of(trainer)


def assert_equal_to_the_bit(make_config, num_captures=1, **settings):
    plain, graphed = (trainer_of(make_config, graphed, **settings) for graphed in (False, True))
    (records, state), (own_records, own_state) = steps(plain), steps(graphed)
    assert len(graphed.captures) == num_captures
    assert records.isfinite().all() and records.std(dim=0)[:4].sum() > 0
    assert torch.equal(own_records, records) and torch.equal(own_state, state)
    assert graphed.state.progress == plain.state.progress, "images and critic steps are counted"
    return graphed.iteration


@pytest.fixture(autouse=True)
def capturable_on_a_cpu(monkeypatch):
    def of_schedules(network, rate, config, **how):
        return build_optimizer(network, rate, config, **how | ({"capturable": True} if config.adam_beta2_end else {}))

    monkeypatch.setattr("hf_wgan.training.setup.build_optimizer", of_schedules)
    rmsprop = importlib.import_module("torch.optim.rmsprop")
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu", "cuda"])


@pytest.mark.parametrize("run", RUNS)
def test_the_numbers_are_those_of_the_plain_step(tiny_config, run):
    num_phases = 3 if "phase" in run else 1
    assert_equal_to_the_bit(tiny_config, num_phases, **RUNS[run])


@pytest.mark.parametrize(("n_critic", "phases"), [(2, 2), (6, 2), (4, 3)])
def test_longer_iterations_between_move_the_phase_of_a_lazy_penalty(tiny_config, monkeypatch, n_critic, phases):
    monkeypatch.setattr("hf_wgan.training.trainer.critic_steps", lambda step, n, warmup: n + 1 if step == 5 else n)
    interval = 2 if n_critic == 2 else 3
    assert_equal_to_the_bit(tiny_config, phases, lipschitz="gp", n_critic=n_critic, penalty_interval=interval)


@pytest.mark.parametrize(
    "settings", [{"lr_scheduler": "linear"}, {"lipschitz": "gp", "use_ema": True, **ADAM}, SCHEDULES], ids=str
)
def test_a_graph_goes_on_after_a_restore(tiny_config, settings):
    def restored(graphed):
        config = partial(tiny_config, max_train_steps=10, checkpointing_steps=6, validation_steps=10, on_nan="restore")
        trainer = trainer_of(config, graphed, **settings)
        for _ in trainer.iterate():
            progress = trainer.state.progress
            if progress.step == 7 and not progress.restores:
                with torch.no_grad():
                    next(trainer.critic.parameters()).view(-1)[0] = math.nan
        return trainer

    plain, graphed = restored(False), restored(True)
    assert plain.state.progress.restores == graphed.state.progress.restores == len(graphed.captures) == 1
    assert torch.equal(state_of(graphed), state_of(plain))


@pytest.mark.parametrize(
    "change", ["decay", "clip", "frozen", "unfrozen", "eval", "frozen statistics", "slope", "weights"]
)
def test_what_is_changed_by_hand_acts(tiny_config, change):
    """By a callback or a script: a graph is captured anew."""

    def changed(graphed):
        trainer = trainer_of(tiny_config, graphed)
        next(trainer.critic.parameters()).requires_grad_(change != "unfrozen")
        steps(trainer, 5)
        if change == "decay":
            trainer.state.optimizers["generator_optimizer"].param_groups[0]["alpha"] = 0.5
        elif change == "clip":
            trainer.algorithm.constraint.clip_value = 0.002
        elif change == "frozen":
            next(trainer.critic.parameters()).requires_grad_(False)
        elif change == "unfrozen":  # for which the optimizer has no state yet
            next(trainer.critic.parameters()).requires_grad_(True)
        elif change == "frozen statistics":
            trainer.generator.get_submodule("layers.1").eval()
        elif change == "slope":
            trainer.critic.get_submodule("layers.1").negative_slope = 0.9
        elif change == "weights":
            parameter = next(trainer.critic.parameters())
            parameter.data = parameter.data / 2
        else:
            trainer.generator.eval()
        return trainer, *steps(trainer, 3)

    (_, records, state), (graphed, own_records, own_state) = changed(False), changed(True)
    assert torch.equal(own_records, records) and torch.equal(own_state, state)
    assert len(graphed.captures) == 2


def test_settings_that_change_at_every_step_are_not_recorded(tiny_config, capfd, monkeypatch):
    monkeypatch.setattr("hf_wgan.training.graphs.MAX_CHANGES", 2)

    def changed(graphed):
        trainer = trainer_of(tiny_config, graphed)
        for number in range(9):
            trainer.algorithm.constraint.clip_value = 0.01 / (1 + number)
            trainer.step()
        return trainer

    plain, graphed = changed(False), changed(True)
    assert torch.equal(state_of(graphed), state_of(plain)) and not graphed.captures
    assert "(its settings change again and again); the run goes on without" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["before", "later"])
def test_hooks_are_called(tiny_config, when):
    trainer, calls = trainer_of(tiny_config, True), []
    if when == "later":
        steps(trainer, 5)
    hook = trainer.critic.get_submodule("layers.0").register_forward_hook(lambda *_: calls.append(1))
    steps(trainer, 5)
    assert len(calls) == 5 * 5, "two passes of each of two critic steps, and one of the generator step"
    hook.remove()
    steps(trainer, 4)
    assert len(calls) == 5 * 5 and len(trainer.captures) == 1


@pytest.mark.parametrize("of", ["parameter", "optimizer"])
def test_hooks_of_parameters_and_optimizers_are_called(tiny_config, of):
    trainer, calls = trainer_of(tiny_config, True), []
    steps(trainer, 5)
    if of == "parameter":
        next(trainer.generator.parameters()).register_hook(lambda gradient: calls.append(1))
    else:
        trainer.algorithm.generator_optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    steps(trainer, 3)
    assert len(calls) == 3


class Reading(Constraint):
    """A constraint whose host waits for the device."""

    def penalty(self, score, real_images, fake_images):
        mean = score(real_images).mean()
        return mean * float(mean.detach())


@pytest.mark.parametrize("fails", ["while it warms up", "while it is captured"])
def test_where_recording_fails_one_line_says_so_and_the_run_goes_on_without(tiny_config, capfd, monkeypatch, fails):
    constraint = Reading() if fails == "while it warms up" else None
    if not constraint:
        monkeypatch.setattr("recorder.HostWaits.WAITING", frozenset({"leaky_relu_backward"}))
        monkeypatch.setattr("hf_wgan.training.graphs.HostWaits.__torch_dispatch__", lambda self, f, t, a, k: f(*a, **k))
    plain, graphed = (trainer_of(tiny_config, graphed, constraint=constraint) for graphed in (False, True))
    (records, state), (own_records, own_state) = steps(plain), steps(graphed)
    assert torch.equal(own_records, records) and torch.equal(own_state, state)
    assert graphed.state.progress == plain.state.progress
    assert len(graphed.captures) == (0 if constraint else 2), "with branches, and without"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "cuda_graphs" in line]
    assert ("_local_scalar_dense" if constraint else "leaky_relu_backward") in line
    assert line.endswith("the run goes on without --cuda_graphs.")


def test_what_cannot_be_recorded_with_branches_is_recorded_without(tiny_config, capfd, monkeypatch):
    @contextmanager
    def failing(self):
        raise RuntimeError("a branch cannot be recorded")
        yield

    monkeypatch.setattr(Execution, "branched", failing)
    iteration = assert_equal_to_the_bit(tiny_config, num_captures=2)
    assert iteration.is_recorded and iteration.failure == "a branch cannot be recorded"
    assert "cuda_graphs" not in capfd.readouterr().err


def test_graphs_from_before_a_failure_are_recorded_anew(tiny_config, monkeypatch):
    """Their random numbers are those of another seed, as the failure replaced the states of the generators."""
    plain, graphed = (
        trainer_of(tiny_config, graphed, lipschitz="gp", penalty_interval=2, n_critic=3) for graphed in (False, True)
    )
    num_failures, branched = 0, []

    @contextmanager
    def failing_at_the_second(self):
        branched.append(self)
        if len(branched) == 2:
            raise RuntimeError("a branch cannot be recorded")
        yield

    def capture(function):
        nonlocal num_failures
        try:
            replay, record = recorded(function)
        except RuntimeError:
            num_failures += 1
            raise
        before = num_failures

        def checked_replay():
            assert num_failures == before, "draws numbers of an old seed"
            replay()

        return checked_replay, record

    monkeypatch.setattr(Execution, "branched", failing_at_the_second)
    graphed.iteration.capture = capture
    (records, state), (own_records, own_state) = steps(plain), steps(graphed)
    assert torch.equal(own_records, records) and torch.equal(own_state, state)
    assert num_failures == 1 and len(branched) == 2, "no further try with branches"
    assert graphed.iteration.is_recorded


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("lipschitz", CONSTRAINTS)
def test_an_iteration_on_another_device_makes_the_host_wait_nowhere(monkeypatch, lipschitz, num_classes):
    """On the meta device, which has no autocast and no random numbers of a seed."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(torch, "autocast", lambda kind, *a, **k: autocast("cpu", enabled=False))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and is_enabled(kind))

    def rand(shape, **options):
        return torch.rand(shape, **{**options, "device": "meta"})

    spectral = lipschitz == "spectral"
    norm_type = "none" if spectral else "layer" if CONSTRAINTS[lipschitz].has_penalty else "batch"
    generator = tiny_generator(num_classes=num_classes, sample_size=16).to("meta")
    critic = tiny_critic(num_classes=num_classes, sample_size=16, norm_type=norm_type, spectral_norm=spectral)
    critic.to("meta")
    step = WGANStep(
        generator,
        critic,
        generator_optimizer=torch.optim.RMSprop(generator.parameters(), foreach=True),
        critic_optimizer=torch.optim.RMSprop(critic.parameters(), foreach=True),
        constraint=build_constraint(lipschitz, rand=rand),
        sample_latents=lambda number: torch.randn(number, 4, device="meta"),
        augment=Augmentation(",".join(OPERATIONS), rand),
    )
    labels = torch.zeros(2, dtype=torch.int64, device="meta") if num_classes else None
    with HostWaits() as waits:
        step(iter([RealBatch(torch.zeros(2, 1, 16, 16, device="meta"), labels)] * 2), n_critic=2)
    assert not waits.operators


def test_batches_may_wait_for_the_device(tiny_config, capfd):
    trainer = trainer_of(tiny_config, True)
    batches = (RealBatch(images * float(images[0, 0, 0, 0] ** 0)) for images, _ in trainer.real_batches)
    for _ in range(WARM_UP_STEPS + 1):
        trainer.iteration(batches, 2)
    assert len(trainer.captures) == 1 and "cuda_graphs" not in capfd.readouterr().err


def test_iterations_of_another_length_are_taken_one_kernel_at_a_time(tiny_config):
    trainer = trainer_of(tiny_config, True)
    batches = (RealBatch(images) for images, _ in trainer.real_batches)
    for n_critic, num_captures in [(2, 0)] * WARM_UP_STEPS + [(5, 0), (2, 1), (5, 1), (2, 1)]:
        trainer.iteration(batches, n_critic)
        assert len(trainer.captures) == num_captures
    assert trainer.algorithm.num_critic_steps == 2 * WARM_UP_STEPS + 5 + 2 + 5 + 2


class OneGPU:
    device, num_processes, mixed_precision = torch.device("cuda"), 1, "no"
    gradient_accumulation_steps = 1  # which an environment variable can set beside the options


@pytest.mark.parametrize(
    ("settings", "machine", "says"),
    [
        ({}, {"device": torch.device("cpu")}, "a CUDA GPU, and this is cpu"),
        ({}, {"num_processes": 2}, "one process, and there are 2"),
        ({}, {"mixed_precision": "fp16"}, "bf16"),
        ({}, {"gradient_accumulation_steps": 4}, "not in 4"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_mend(tiny_config, settings, machine, says):
    config = tiny_config(cuda_graphs=True, **settings)
    with pytest.raises(InputError, match=says):
        check_graphs(config, type("Machine", (OneGPU,), machine))


def test_what_can_be_recorded(tiny_config):
    check_graphs(tiny_config(cuda_graphs=True), OneGPU)


def test_without_a_gpu_the_run_does_not_begin(tiny_config):
    with pytest.raises(InputError, match="cuda_graphs=True: a graph needs a CUDA GPU"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(cuda_graphs=True))


def with_an_operation_of_ones_own():
    with patch.dict(OPERATIONS, darken=lambda images: images - 0.5):
        return Augmentation("color,darken")


def with_a_layer_of_ones_own():
    critic = tiny_critic()
    critic.add_module("own", type("Own", (torch.nn.Identity,), {"__module__": "somewhere"})())
    return critic


@pytest.mark.parametrize(
    ("settings", "machine", "part", "expected"),
    [
        ({}, {}, None, True),
        ({"fast_paths": False}, {}, None, False),
        ({"fast_paths": False, "cuda_graphs": True}, {}, None, True),
        ({"cuda_graphs": False}, {}, None, False),
        ({"compile": True}, {}, None, False),
        ({}, {"gradient_accumulation_steps": 2}, None, False),
        ({}, {"num_processes": 2}, None, False),
        ({}, {"mixed_precision": "fp16"}, None, False),
        ({}, {"device": torch.device("mps")}, None, False),
        ({}, {}, Reading(), False),
        ({"cuda_graphs": True}, {}, Reading(), True),
        ({}, {}, lambda images: images, False),
        ({}, {}, partial(torch.add, other=1), False),
        ({}, {}, torch.sin, True),
        ({}, {}, torch.Tensor.double, False),
        ({}, {}, with_an_operation_of_ones_own(), False),
        ({}, {}, with_a_layer_of_ones_own(), False),
    ],
)
def test_graphs_are_on_where_nothing_but_this_package_decides(
    tiny_config, monkeypatch, settings, machine, part, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = type("Machine", (OneGPU,), machine)
    parts = [tiny_generator(), tiny_critic(), *([part] if part else [])]
    assert FastPaths.of(tiny_config(**settings), gpu, parts).cuda_graphs is expected


def test_graphs_are_off_for_networks_that_accelerate_compiles(tiny_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for backend, expected in (("NO", True), ("INDUCTOR", False)):
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", backend)
        assert FastPaths.of(tiny_config(), OneGPU).cuda_graphs is expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lipschitz", CONSTRAINTS)
def test_graphs_are_on_by_default_for_everything_in_this_package(monkeypatch, architecture, lipschitz):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = NetworkConfig(architecture=architecture, generator_width=8, critic_width=8)
    networks = build_networks(config, 64, 3, spectral_norm=lipschitz == "spectral")
    others = build_constraint(lipschitz), Augmentation(",".join(OPERATIONS)), prior_of(networks[0])
    assert FastPaths.of(TrainingConfig(lipschitz=lipschitz), OneGPU, [*networks, *others]).cuda_graphs


@pytest.mark.skipif(
    not torch.cuda.is_available() or "ACCELERATE_USE_CPU" in os.environ, reason="needs a GPU, and pytest --gpu"
)
def test_on_a_gpu(tiny_config):
    def weights(**settings):
        config = tiny_config(overwrite_output_dir=True, max_train_steps=50, logging_steps=50, **settings)
        trainer = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config)
        trainer.train()
        return torch.cat([each.flatten() for each in trainer.generator.parameters()]).cpu()

    torch.testing.assert_close(weights(), weights(cuda_graphs=False), rtol=1e-5, atol=1e-6)
