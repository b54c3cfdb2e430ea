"""The parts of a trainer: accelerator, optimizers, schedules, average, batches and evaluations."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import parse_flag_from_env
from diffusers import ModelMixin

from ..algorithm.execution import Execution
from ..data import (
    DataConfig,
    ImageSet,
    ImageStream,
    RealBatches,
    StreamedBatches,
    check_same_ranges,
    images_of,
    load_held_out,
)
from ..metrics.names import check_number
from ..models.factory import shape_of
from ..utils.console import say_once
from ..utils.errors import InputError, check_type, one_line
from ..utils.launcher import drop_empty_variables, number_of
from ..utils.processes import this_process
from .agreement import choose_interface
from .average import AveragedWeights
from .checks import check_outputs, check_precision, check_same_images
from .config import TrainingConfig
from .fast import FastPaths, bf16_slowdown, has_bf16_arithmetic
from .graphs import check_graphs
from .optimizers import build_optimizer, build_scheduler
from .schedules import position
from .state import TrainingState
from .trackers import LOGS, tracker_names

UNSUPPORTED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")
NOT_SUPPORTED = (
    "distributed_type {} is not supported, as these networks fit every device; use MULTI_GPU, MULTI_CPU or NO"
)


def build_accelerator(config: TrainingConfig) -> Accelerator:
    """Build the accelerator of a run and set PyTorch's precision of float32 products.

    Raises:
        InputError: The machine does not have the requested precision, trackers or CUDA graphs, or its processes were
            started for something that is not supported.
    """
    drop_empty_variables()
    for kind in UNSUPPORTED:
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):  # which `accelerate launch` sets
            raise InputError(NOT_SUPPORTED.format(kind))
    # Broadcasting buffers would make two passes of a wrapped critic before one backward pass fail on CUDA
    # (pytorch/pytorch#175024). Batch-norm statistics are measured again for the saved pipeline in any case.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    trackers = tracker_names(config.report_to)
    world_size = number_of("size", 1)
    in_group = world_size > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()
    if in_group and world_size > int(os.environ.get("LOCAL_WORLD_SIZE", world_size)):
        choose_interface(os.environ["MASTER_ADDR"])
    if in_group and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # without it, each process takes itself for the only one
    try:
        device = this_process().device
    except ValueError as error:
        if world_size == 1:
            raise InputError(f"Accelerate cannot use this environment ({one_line(error)})") from error
        raise InputError(
            f"{world_size} processes were started, which Accelerate cannot connect ({one_line(error)}): set "
            "num_processes instead, or use accelerate launch"
        ) from error
    precision = requested = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION")
    if precision == "bf16" and not has_bf16_arithmetic(device):
        if device.type == "cpu":
            why = f"CPU has no bf16 arithmetic, and a product takes {bf16_slowdown():.0f} times as long as in float32"
        else:
            why = "GPU has no bf16 arithmetic (--mixed_precision fp16 may be faster)"
        say_once(f"mixed_precision='bf16': this {why}; the run uses float32.")
        precision = "no"
    if precision not in (None, "no", "fp16", "bf16"):
        raise InputError(
            f"mixed_precision={precision!r} (from Accelerate's configuration): must be one of no, fp16, bf16; set "
            "mixed_precision to override it"
        )
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=handlers,
            log_with=trackers or None,
            project_dir=Path(config.output_dir, LOGS),
        )
    except ValueError as error:
        raise InputError(f"mixed_precision={config.mixed_precision!r}: {error}") from error
    if config.penalty_in_float32 and "bf16" not in (requested, accelerator.mixed_precision):
        raise InputError(
            f"penalty_in_float32=True: has no effect with mixed_precision={accelerator.mixed_precision!r}; use bf16"
        )
    if world_size > accelerator.num_processes:
        raise InputError(
            f"{world_size} processes were started (WORLD_SIZE, or MPI's variable for it), and Accelerate has "
            f"connected {accelerator.num_processes}: set num_processes instead, or use accelerate launch"
        )
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        # Accelerate would train in float32 and call it float16.
        raise InputError(
            f"mixed_precision={accelerator.mixed_precision!r}: not available on {accelerator.device.type}; "
            "use bf16 or no there"
        )
    if config.cuda_graphs:
        check_graphs(config, accelerator)
    choose_tf32(config.allow_tf32)
    return accelerator


def choose_tf32(allowed: bool) -> None:
    """Set whether float32 convolutions and matrix products may use TF32.

    The older settings alone would leave convolutions to `torch.backends.fp32_precision`, if a script has set that.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    backends: Any = torch.backends  # whose attributes PyTorch does not declare
    for operations in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        operations.fp32_precision = "tf32" if allowed else "ieee"


def training_images(config: TrainingConfig, dataset: Any, generator: ModelMixin) -> ImageSet | ImageStream:
    """Return the training images, scaled and cropped to what the generator makes.

    A class-conditional run trains on those that have a class, numbered as the generator's config names them. The config
    keeps the range of values of more than 8 bits, for whatever reads pictures for the model, and the names of the
    classes if it has none.

    Raises:
        InputError: The dataset has no images, images of another shape, or classes that the generator does not name.
    """
    shape = channels, height, width = shape_of(generator)
    if isinstance(dataset, torch.Tensor):
        dataset = ImageSet(dataset)
    elif not isinstance(dataset, (ImageSet, ImageStream)):
        dataset = images_of(
            dataset, DataConfig(resolution=height, width=width if width != height else None, channels=channels)
        )
    if dataset.shape != shape:
        raise InputError(f"dataset with images of shape {dataset.shape}: the generator makes {shape}")
    if dataset.config and dataset.config.value_range:
        generator.register_to_config(value_range=dataset.config.value_range)
    return _in_classes_of(generator, dataset) if config.class_conditional and dataset.label_names else dataset


def _in_classes_of(generator: ModelMixin, dataset: ImageSet | ImageStream) -> ImageSet | ImageStream:
    names, present = list(generator.config.get("class_names") or []), dataset.label_names or []
    if not names:
        if len(present) == generator.config.get("num_classes"):
            generator.register_to_config(class_names=present)
        return dataset.labelled()
    fits = names[: len(present)] == present  # a stream numbers its classes by itself
    if isinstance(dataset, ImageSet):
        num_unlabelled, dataset = dataset.num_unlabelled, dataset.relabelled(names)
        fits = dataset.num_unlabelled == num_unlabelled
    if not fits:
        raise InputError(
            f"generator with class_names={names}: {dataset.name} has the classes {present}; name these, or leave "
            "class_names out"
        )
    return dataset.labelled()


def build_batches(
    dataset: ImageSet | ImageStream, config: TrainingConfig, accelerator: Accelerator
) -> RealBatches | StreamedBatches:
    """Return this process's share of the batches of real images, endlessly.

    Raises:
        InputError: The processes have different images.
    """
    check_same_images(dataset, accelerator)
    share = (accelerator.device, accelerator.num_processes, accelerator.process_index)
    if isinstance(dataset, ImageStream):
        return StreamedBatches(dataset, config.train_batch_size, config.seed, *share)
    return RealBatches(dataset, config.train_batch_size, config.seed, *share)


def build_state(
    generator: ModelMixin, critic: ModelMixin, config: TrainingConfig, accelerator: Accelerator, fast: FastPaths
) -> tuple[TrainingState, torch.nn.Module, torch.nn.Module]:
    """Build all that training changes.

    Returns:
        The state, which holds the networks themselves, and the two networks as Accelerate wraps them.

    Raises:
        InputError: The networks have another precision or other outputs than training needs.
    """
    check_precision(generator, critic, accelerator)
    generator, critic = (placed(network, config, accelerator, fast) for network in (generator, critic))
    how = {"fused": fast.fused_optimizers, "capturable": fast.cuda_graphs}
    with warnings.catch_warnings():
        # PyTorch 2.13 renames broadcast_buffers; Accelerate passes the old name, which means the same here.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        wrapped_generator, wrapped_critic, generator_optimizer, critic_optimizer = accelerator.prepare(
            generator,
            critic,
            build_optimizer(generator, config.generator_learning_rate, config, **how),
            build_optimizer(critic, config.critic_learning_rate, config, **how),
        )
    check_outputs(generator, critic)
    schedulers = {
        "generator_scheduler": build_scheduler(generator_optimizer.optimizer, config),
        "critic_scheduler": build_scheduler(critic_optimizer.optimizer, config),
    }
    torch.backends.cudnn.benchmark |= fast.cudnn_benchmark
    if accelerator.scaler is None:  # Accelerate's wrapper would only look for packages, at every step
        generator_optimizer, critic_optimizer = generator_optimizer.optimizer, critic_optimizer.optimizer
    state = TrainingState(
        generator,
        critic,
        optimizers={"generator_optimizer": generator_optimizer, "critic_optimizer": critic_optimizer},
        schedulers=schedulers,
        position=lambda progress: position(progress, config),
        ema=build_ema(generator, config) if config.use_ema else None,
        scaler=accelerator.scaler,
        is_world_process_zero=accelerator.is_main_process,
    )
    return state, wrapped_generator, wrapped_critic


def placed(network: ModelMixin, config: TrainingConfig, accelerator: Accelerator, fast: FastPaths) -> ModelMixin:
    """Return the network in training mode, in the fastest memory layout, compiled if the configuration says so.

    With several GPUs its batch norm uses the statistics of all processes together, unless the configuration says that
    each uses its own; PyTorch can only do the latter on CPUs.
    """
    if config.sync_batch_norm and accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(memory_format=torch.channels_last if fast.channels_last else torch.contiguous_format).train()
    if config.compile:
        network.compile()
    return network


def build_ema(generator: ModelMixin, config: TrainingConfig) -> AveragedWeights:
    """Build the exponential moving average of the generator's weights."""
    return AveragedWeights(generator.parameters(), config.ema_max_decay, config.ema_rampup_ratio)


def held_out_images(
    config: TrainingConfig, dataset: ImageSet | ImageStream, held_out: ImageSet | None
) -> ImageSet | None:
    """Return the images that are not trained on, if there are any, for evaluation or for adaptive augmentation.

    Raises:
        InputError: They, or else the training images, are too few or do not fit.
    """
    if held_out is not None:
        check_type("held_out", held_out, ImageSet, ", as load_images returns")
        check_same_ranges(dataset, held_out)
    if not (config.evaluation_steps or config.adaptive_augmentation):
        return held_out
    if isinstance(dataset, ImageStream):
        if config.evaluation_steps:
            raise InputError(
                "evaluation_steps: metrics are of the whole set, and this is a stream; leave streaming out"
            )
        return held_out
    if held_out is None and dataset.config:
        held_out = load_held_out(replace(dataset.config, channels=dataset.shape[0]))
    if held_out is not None:
        held_out = held_out.relabelled(dataset.without_clusters().label_names or [])
        has_classes = config.class_conditional and not dataset.has_clusters
        if has_classes and held_out.num_unlabelled < len(held_out):
            held_out = held_out.labelled()  # not those of classes that no training image has
    compared, name = (dataset, "dataset") if held_out is None else (held_out, "held_out")
    if config.evaluation_steps:
        remedy = "use more, or leave evaluation_steps out"
        check_number(f"evaluation_steps: {name} {compared.name}", len(compared), remedy)
    if compared.shape != dataset.shape:
        raise InputError(f"held_out with images of shape {compared.shape}: the training images have {dataset.shape}")
    if config.class_conditional and compared.labels is None and not dataset.has_clusters:
        user = "an evaluation" if config.evaluation_steps else "adaptive_augmentation"
        raise InputError(f"class_conditional: {name} {compared.name} has no labels, which {user} needs")
    return held_out


def build_evaluations(
    config: TrainingConfig, dataset: ImageSet | ImageStream, held_out: ImageSet | None, device: torch.device
) -> Any:
    """Build what measures the pipeline during training.

    Raises:
        InputError: The images are a stream.
    """
    if isinstance(dataset, ImageStream):
        raise InputError("evaluation_steps: metrics are of the whole set, and this is a stream; leave streaming out")
    from .evaluation import Evaluations  # needs what hf_wgan[train] installs

    cache_dir = dataset.config.cache_dir if dataset.config else None
    return Evaluations(config, dataset.without_clusters(), held_out, device, cache_dir)


def build_execution(config: TrainingConfig, accelerator: Accelerator, begin_part: Callable[[int], None]) -> Execution:
    """Build how the passes of a step are run."""
    # Accelerate divides a loss by the number of parts even if that is 1, which takes two kernels.
    is_scaled = accelerator.scaler is not None or accelerator.gradient_accumulation_steps > 1
    return Execution(
        backward=accelerator.backward if is_scaled else torch.Tensor.backward,
        num_parts=accelerator.gradient_accumulation_steps,
        begin_part=begin_part,
        no_sync=accelerator.no_sync,
        penalty_dtype=penalty_dtype(config, accelerator),
        fast_paths=config.fast_paths,
    )


def penalty_dtype(config: TrainingConfig, accelerator: Accelerator) -> torch.dtype:
    """Return the precision of the critic's passes for a penalty: float16 lacks the range for second derivatives."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" and not config.penalty_in_float32 else torch.float32
