"""What a trainer is made of: the accelerator, optimizers, schedules and average, and the checks of what it is given."""

import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..data import DataConfig, ImageSet, ImageStream, RealBatches, StreamedBatches, images_of
from ..models.factory import shape_of
from ..utils.errors import InputError
from .config import TrainingConfig
from .fast import FastPaths
from .graphs import check_graphs
from .trackers import LOGS, tracker_names


def build_accelerator(config: TrainingConfig) -> Accelerator:
    """Build the accelerator of a run and set PyTorch's precision of float32 products.

    Raises:
        InputError: The machine does not have the requested precision, trackers or CUDA graphs.
    """
    # Broadcasting buffers would make two passes of a wrapped critic before one backward pass fail on CUDA
    # (pytorch/pytorch#175024). Batch-norm statistics are measured anew for the saved pipeline in any case.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    trackers = tracker_names(config.report_to)
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=handlers,
            log_with=trackers or None,
            project_dir=Path(config.output_dir, LOGS),
        )
    except ValueError as error:
        raise InputError(f"mixed_precision={config.mixed_precision!r}: {error}") from error
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        # Accelerate would train in float32 and call it float16.
        raise InputError(
            f"mixed_precision={accelerator.mixed_precision!r}: not available on {accelerator.device.type}; "
            "use bf16 or no there"
        )
    if config.cuda_graphs:
        check_graphs(config, accelerator)
    torch.backends.cudnn.allow_tf32 = config.allow_tf32
    torch.set_float32_matmul_precision("high" if config.allow_tf32 else "highest")
    return accelerator


def training_images(dataset: Any, generator: ModelMixin) -> ImageSet | ImageStream:
    """Return the training images, scaled and cropped to what the generator makes.

    Raises:
        InputError: The dataset has no images, or images of another shape.
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
    return dataset


def build_batches(
    dataset: ImageSet | ImageStream, config: TrainingConfig, accelerator: Accelerator
) -> RealBatches | StreamedBatches:
    """Return this process's share of the batches of real images, endlessly."""
    share = (accelerator.device, accelerator.num_processes, accelerator.process_index)
    if isinstance(dataset, ImageStream):
        return StreamedBatches(dataset, config.train_batch_size, config.seed, *share)
    return RealBatches(dataset, config.train_batch_size, config.seed, *share)


def check_shapes(generator: ModelMixin, critic: ModelMixin) -> None:
    """Check that both networks are for the same images.

    Raises:
        InputError: They are not.
    """
    if shape_of(generator) != shape_of(critic):
        raise InputError(
            f"the generator makes images of shape {shape_of(generator)}, the critic takes {shape_of(critic)}: "
            "build them for the same images"
        )


def check_classes(
    config: TrainingConfig, dataset: ImageSet | ImageStream, generator: ModelMixin, critic: ModelMixin
) -> None:
    """Check that the configuration, the labels and both networks agree on the classes.

    Raises:
        InputError: They do not.
    """
    for name, network in {"generator": generator, "critic": critic}.items():
        num_classes = network.config.get("num_classes")
        if bool(num_classes) != config.class_conditional:
            raise InputError(
                f"class_conditional={config.class_conditional} with a {name} of num_classes={num_classes}: build both "
                "networks with num_classes, or neither, and set class_conditional likewise"
            )
        if config.class_conditional and isinstance(dataset, ImageSet):
            if dataset.labels is None:
                raise InputError(f"class_conditional: {dataset.name} has no labels; set label_column")
            if not 0 <= int(dataset.labels.min()) <= int(dataset.labels.max()) < num_classes:
                raise InputError(
                    f"class_conditional: {dataset.name} has labels from {int(dataset.labels.min())} to "
                    f"{int(dataset.labels.max())}, the {name} has {num_classes} classes"
                )


def place(network: ModelMixin, config: TrainingConfig, accelerator: Accelerator, fast: FastPaths) -> ModelMixin:
    """Return the network in training mode, in the fastest memory layout, compiled if the configuration says so.

    With several GPUs its batch norm uses the statistics of all processes together; PyTorch cannot do so on CPUs.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(memory_format=torch.channels_last if fast.channels_last else torch.contiguous_format).train()
    if config.compile:
        network.compile()
    return network


def prepare(accelerator: Accelerator, *objects: Any) -> Any:
    """Wrap networks and optimizers by `Accelerator.prepare`."""
    with warnings.catch_warnings():
        # PyTorch 2.13 renames broadcast_buffers; Accelerate passes the old name, which means the same here.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return accelerator.prepare(*objects)


def build_optimizer(
    network: ModelMixin, learning_rate: float, config: TrainingConfig, fast: FastPaths
) -> torch.optim.Optimizer:
    """Build the optimizer of one network."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            network.parameters(), learning_rate, eps=config.adam_epsilon, capturable=config.cuda_graphs
        )
    options: dict[str, Any] = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "fused": fast.fused_optimizers or None,
        "capturable": config.cuda_graphs,
    }
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), learning_rate, **options)
    return torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=config.adam_weight_decay, **options)


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Build the schedule of one optimizer's learning rate."""
    return get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )


def build_ema(generator: ModelMixin, config: TrainingConfig) -> EMAModel:
    """Build the exponential moving average of the generator's weights."""
    return EMAModel(
        generator.parameters(),
        decay=config.ema_max_decay,
        use_ema_warmup=True,
        inv_gamma=config.ema_inv_gamma,
        power=config.ema_power,
    )


def penalty_dtype(config: TrainingConfig, accelerator: Accelerator) -> torch.dtype:
    """Return the precision of the critic's passes for a penalty: float16 lacks the range for second derivatives."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" and not config.penalty_in_float32 else torch.float32


def has_batch_norm(network: ModelMixin) -> bool:
    """Return whether a network has batch normalisation."""
    return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
