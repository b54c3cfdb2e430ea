"""Answers to options that do not exist here, because other programs or other commands have them."""

from collections.abc import Collection

HINTS = {
    "num_epochs": "max_train_steps counts generator updates; an epoch is the number of images divided by "
    "train_batch_size × n_critic of them",
    "eval_batch_size": "num_validation_images is the number of images in a sample grid",
    "logging_dir": "trackers write into OUTPUT_DIR/logs; output_dir sets the folder",
    "save_images_epochs": "validation_steps is the number of steps between two sample grids",
    "save_model_epochs": "checkpointing_steps is the number of steps between two checkpoints",
    "logger": "report_to names the trackers",
    "momentum": "RMSProp runs without momentum, as in the paper; optimizer and adam_beta1 choose another optimizer",
    "scale_lr": "the learning rates are taken as they are; learning_rate sets both",
    "prediction_type": "a GAN predicts no noise: there is no such choice",
    "ddpm_num_steps": "a GAN generates in one step: there is no such choice",
    "local_rank": "start several processes with --num_processes",
    "num_workers": "dataloader_num_workers is the number of processes that decode a stream",
    "device": "Accelerate chooses the device; --cpu keeps to the CPU",
    "gradient_penalty": "lipschitz names the penalty, such as gp, and gradient_penalty_weight its weight",
    "imports": "a record names what a run imported; --import imports it",
    "multi_gpu": "every GPU is used by default; --num_processes says how many are",
    "tracker_project_name": "trackers name the project hf_wgan and the run after output_dir",
    "model_config_name_or_path": "architecture and its options shape new networks; pretrained_model_name_or_path "
    "continues from a model",
    "metrics": "an evaluation computes all metrics, every evaluation_steps steps; metric_for_best_model names one",
    "kimg": "max_train_steps counts generator updates; one takes train_batch_size × n_critic real images",
    "snap": "checkpointing_steps and validation_steps count generator updates",
    "strategy": "hf-wgan train starts its processes by itself; --num_processes says how many",
    "loss": "every run has the Wasserstein loss; lipschitz names the constraint of the critic",
    "max_grad_norm": "gradients are not clipped; lipschitz=clip with clip_value bounds the critic's weights",
    "callbacks": "callbacks are objects that WGANTrainer takes in Python",
    "img_height": "resolution is the height, and width the width where it differs",
    "gradient_checkpointing": "these networks are small enough to keep their activations; a smaller train_batch_size, "
    "with gradient_accumulation_steps, takes less memory",
}
"""Answers to options of diffusers' example scripts and of other GAN code that are no options here."""
HINTS |= dict.fromkeys(("fp16", "bf16"), "use mixed_precision")
HINTS |= dict.fromkeys(("use_cpu", "cuda", "use_cuda", "no_cuda"), HINTS["device"])
HINTS |= dict.fromkeys(("gpu", "accelerator"), HINTS["device"])
HINTS["penalty"] = HINTS["gradient_penalty"]
HINTS["img_width"] = HINTS["img_height"]
HINTS |= dict.fromkeys(("gradient_clip_val", "grad_clip", "clip_grad_norm"), HINTS["max_grad_norm"])
HINTS |= dict.fromkeys(("gan_mode", "gan_type", "loss_type"), HINTS["loss"])
HINTS |= dict.fromkeys(("workers", "n_cpu"), HINTS["num_workers"])
HINTS |= dict.fromkeys(
    ("enable_xformers_memory_efficient_attention", "use_8bit_adam", "set_grads_to_none"),
    "it speeds up or shrinks large models, and these networks do without it",
)
HINTS |= {
    name: f"processes are started by the command line alone: hf-wgan train --{name}"
    for name in (
        "num_processes",
        "cpu",
        "config_file",
        "num_machines",
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "gpu_ids",
        "num_cpu_threads_per_process",
    )
}
HINTS |= {name: f"--{name} is for the command line: hf-wgan train --{name}" for name in ("dry_run", "import", "config")}

WITHOUT_LAUNCH = {
    "seeds": "image k depends on seed + k alone: --seed 0 --num_images 36 makes those of the seeds 0 to 35",
    "metrics": "all metrics are computed in one pass",
    **dict.fromkeys(
        ("device", "gpu", "cpu", "gpu_ids", "use_cpu", "cuda", "use_cuda", "no_cuda"),
        "a GPU is used where there is one; the environment variable ACCELERATE_USE_CPU=true keeps to the CPU",
    ),
}
"""Answers of commands that start no processes."""

OTHER_NAMES = {
    "learning_rate": ("lr",),
    "generator_learning_rate": ("lr_g", "lrG", "g_lr", "generator_lr", "glr"),
    "critic_learning_rate": (
        "lr_d",
        "lrD",
        "d_lr",
        "critic_lr",
        "discriminator_lr",
        "discriminator_learning_rate",
        "dlr",
    ),
    "train_batch_size": ("batch_size", "batchSize", "per_device_train_batch_size", "per_gpu_batch_size", "batch"),
    "resolution": ("image_size", "imageSize", "img_size", "size", "img_resolution"),
    "latent_dim": ("nz", "z_dim", "latent_size", "noise_dim", "codings_size"),
    "generator_width": ("ngf",),
    "critic_width": ("ndf",),
    "channels": ("nc",),
    "train_data_dir": ("dataroot", "data_dir", "data", "data_path", "data_root"),
    "dataset_name": ("dataset", "dataset_id"),
    "output_dir": ("outf", "output", "experiment", "outdir", "default_root_dir", "save_dir", "log_dir"),
    "adam_beta1": ("beta1",),
    "adam_beta2": ("beta2",),
    "adam_weight_decay": ("weight_decay",),
    "adam_epsilon": ("eps",),
    "lr_warmup_steps": ("warmup_steps", "warmup_ratio"),
    "checkpoints_total_limit": ("save_total_limit",),
    "checkpointing_steps": ("save_steps", "save_every"),
    "evaluation_steps": ("eval_steps",),
    "logging_steps": ("log_interval", "log_every_n_steps"),
    "max_train_steps": ("max_steps", "num_steps", "iterations", "num_iterations", "n_iter"),
    "seed": ("manualSeed", "random_seed"),
    "n_critic": (
        "Diters",
        "critic_iters",
        "critic_iterations",
        "critic_steps",
        "d_steps",
        "discriminator_steps",
        "discriminator_extra_steps",
        "n_dis",
    ),
    "clip_value": ("clip", "clip_lower", "clip_upper", "weight_clip"),
    "gradient_penalty_weight": ("lambda_gp", "gp_weight", "gp_lambda", "lambda", "gamma", "r1_gamma"),
    "architecture": ("model",),
    "resume_from_checkpoint": ("checkpoint", "resume", "ckpt_path"),
    "report_to": ("tracker",),
    "use_ema": ("ema",),
    "hub_model_id": ("repo_id",),
    "hub_token": ("token",),
    "hub_private_repo": ("private",),
    "commit_message": ("message",),
    "revision": ("branch",),
    "num_images": ("num_samples", "n", "count", "samples", "n_samples"),
    "class_labels": ("class_label", "class", "label", "labels"),
    "truncation": ("truncation_psi", "trunc"),
    "output": ("out", "output_file", "output_path"),
    "dataset_split": ("split",),
    "cache_dir": ("cache",),
    "metrics": ("metric",),
    "host": ("server_name",),
    "port": ("server_port",),
    "hub_space_id": ("repo_id", "space_id"),
    "features": ("feature_extractor", "extractor"),
    "batch_size": ("eval_batch_size", "per_device_eval_batch_size"),
    "random_flip": ("mirror",),
    "class_conditional": ("cond", "conditional"),
    "augmentation": ("aug", "augment"),
    "gradient_accumulation_steps": ("accumulate_grad_batches",),
    "mixed_precision": ("precision", "amp"),
    "num_processes": ("gpus", "devices", "num_gpus", "n_gpus", "ngpu", "nproc_per_node"),
    "num_machines": ("num_nodes", "nnodes"),
    "validation_steps": ("sample_interval", "sample_every"),
    "preset": ("cfg",),
    "lipschitz": ("constraint",),
    "num_frames": ("frames",),
    "invert": ("project", "projection"),
}
"""Options of this or that command, and what other programs call them."""

POSITIONAL = {
    "model": (
        "network",
        "network_pkl",
        "generator",
        "pipeline",
        "checkpoint",
        "ckpt",
        "run",
        "model_path",
        "model_id",
        "model_name_or_path",
        "pretrained_model_name_or_path",
    ),
    "folder": ("model", "run", "model_path"),
    "runs": ("run", "folder", "folders", "logdir"),
    "generator": ("network", "netG", "model", "checkpoint"),
}
"""Arguments without a name of this or that command, and the options by which other programs take them."""

EPOCHS = ("num_epochs", "num_train_epochs", "epochs", "n_epochs", "niter", "max_epochs", "nb_epochs")
HINTS |= dict.fromkeys(EPOCHS, HINTS["num_epochs"])


def called_here(known: Collection[str]) -> dict[str, str]:
    """Return what to answer to other programs' names for options, of those that are known here."""
    return {
        name: f"{name} is called {here} here"
        for here, names in OTHER_NAMES.items()
        if here in known
        for name in names
        if name not in known
    }
