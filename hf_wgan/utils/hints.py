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
    "tracker_project_name": "trackers name the project hf_wgan and the run after output_dir",
    "model_config_name_or_path": "architecture and its options shape new networks; pretrained_model_name_or_path "
    "continues from a model",
    "gradient_checkpointing": "these networks are small enough to keep their activations; a smaller train_batch_size, "
    "with gradient_accumulation_steps, takes less memory",
}
"""Answers to options of diffusers' example scripts and of other GAN code that are no options here."""
HINTS |= dict.fromkeys(("fp16", "bf16"), "use mixed_precision")
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
HINTS |= {name: f"--{name} is for the command line: hf-wgan train --{name}" for name in ("dry_run", "import")}

OTHER_NAMES = {
    "lr": "learning_rate",
    "lr_g": "generator_learning_rate",
    "lr_d": "critic_learning_rate",
    "lrG": "generator_learning_rate",
    "lrD": "critic_learning_rate",
    "discriminator_learning_rate": "critic_learning_rate",
    "batch_size": "train_batch_size",
    "batchSize": "train_batch_size",
    "per_device_train_batch_size": "train_batch_size",
    "image_size": "resolution",
    "imageSize": "resolution",
    "img_size": "resolution",
    "size": "resolution",
    "nz": "latent_dim",
    "z_dim": "latent_dim",
    "latent_size": "latent_dim",
    "ngf": "generator_width",
    "ndf": "critic_width",
    "nc": "channels",
    "dataroot": "train_data_dir",
    "data_dir": "train_data_dir",
    "dataset": "dataset_name",
    "dataset_id": "dataset_name",
    "outf": "output_dir",
    "output": "output_dir",
    "experiment": "output_dir",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "weight_decay": "adam_weight_decay",
    "eps": "adam_epsilon",
    "warmup_steps": "lr_warmup_steps",
    "save_steps": "checkpointing_steps",
    "eval_steps": "evaluation_steps",
    "log_interval": "logging_steps",
    "max_steps": "max_train_steps",
    "manualSeed": "seed",
    "Diters": "n_critic",
    "critic_iters": "n_critic",
    "critic_iterations": "n_critic",
    "clip": "clip_value",
    "clip_lower": "clip_value",
    "clip_upper": "clip_value",
    "weight_clip": "clip_value",
    "lambda_gp": "gradient_penalty_weight",
    "gp_weight": "gradient_penalty_weight",
    "gp_lambda": "gradient_penalty_weight",
    "gradient_penalty": "lipschitz",
    "penalty": "lipschitz",
    "model": "architecture",
    "checkpoint": "resume_from_checkpoint",
    "resume": "resume_from_checkpoint",
    "tracker": "report_to",
    "ema": "use_ema",
    "repo_id": "hub_model_id",
    "token": "hub_token",
    "private": "hub_private_repo",
    "message": "commit_message",
    "branch": "revision",
    "num_samples": "num_images",
    "n": "num_images",
    "count": "num_images",
    "class_label": "class_labels",
    "truncation_psi": "truncation",
    "trunc": "truncation",
    "out": "output",
    "output_file": "output",
    "output_path": "output",
    "outdir": "output_dir",
    "split": "dataset_split",
    "cache": "cache_dir",
    "metric": "metrics",
    "server_name": "host",
    "server_port": "port",
}
"""Options of other programs, and what they are called here, in this or that command."""

EPOCHS = ("num_epochs", "num_train_epochs", "epochs", "n_epochs", "niter")
HINTS |= dict.fromkeys(EPOCHS, HINTS["num_epochs"])


def called_here(known: Collection[str]) -> dict[str, str]:
    """Return what to answer to other programs' names for options, of those that are known here."""
    return {name: f"{name} is called {here} here" for name, here in OTHER_NAMES.items() if here in known}
