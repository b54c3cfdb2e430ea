"""Named settings from papers, and some of our own. Explicit options override them.

docs/presets.md compares each with its paper and the authors' code, and says where ours differs. Every preset has the
Wasserstein loss.
"""

from typing import Any

from ..utils.errors import InputError

# Gulrajani et al. 2017 (arXiv 1704.00028), appendix F and the authors' gan_cifar_resnet.py.
_WGAN_GP = {
    "architecture": "resnet",
    "latent_dim": 128,
    "critic_norm_type": "none",
    "critic_pooling": "mean",
    "train_batch_size": 64,
    "generator_batch_ratio": 2,
    "n_critic": 5,
    "lipschitz": "gp",
    "gradient_penalty_weight": 10.0,
    "optimizer": "adam",
    "generator_learning_rate": 2e-4,
    "critic_learning_rate": 2e-4,
    "adam_beta1": 0.0,
    "adam_beta2": 0.9,
    "lr_scheduler": "linear",
}
# The same from 64 pixels on: algorithm 1, and the networks of gan_64x64.py.
_WGAN_GP_64 = {
    "critic_norm_type": "layer",
    "critic_pooling": "flatten",
    "generator_batch_ratio": 1,
    "generator_learning_rate": 1e-4,
    "critic_learning_rate": 1e-4,
    "lr_scheduler": "constant",
}
# Huang et al. 2024 (arXiv 2501.05441), and the preset CIFAR10 in the authors' train.py.
_R3GAN = {
    "architecture": "r3gan",
    "latent_dim": 64,
    "generator_width": 768,
    "critic_width": 768,
    "num_blocks": 2,
    "train_batch_size": 512,
    "n_critic": 1,
    "lipschitz": "r1r2",
    "gradient_penalty_weight": 0.05,
    "gradient_penalty_weight_end": 0.005,
    "optimizer": "adam",
    "generator_learning_rate": 2e-4,
    "critic_learning_rate": 2e-4,
    "adam_beta1": 0.0,
    "adam_beta2": 0.9,
    "adam_beta2_end": 0.99,
    "lr_scheduler": "cosine",
    "lr_end_ratio": 0.25,
    "use_ema": True,
    "ema_max_decay": 0.9999,
}

# Ours, for a CPU: what made the best images of Fashion-MNIST at 32 pixels in minutes (docs/speed.md has the
# figures). Adam without momentum did much: in early trials with beta1 0.5 the Fréchet distance was twice as large.
_WGAN_FAST: dict[str, Any] = {
    "architecture": "dcgan",
    "critic_norm_type": "none",
    "n_critic": 1,
    "lipschitz": "r1",
    "gradient_penalty_weight": 10.0,
    "penalty_interval": 8,
    "optimizer": "adam",
    "generator_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "adam_beta1": 0.0,
    "adam_beta2": 0.9,
    "use_ema": True,
    "ema_max_decay": 0.999,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Arjovsky et al. 2017 (arXiv 1701.07875), algorithm 1 and section 4: the defaults of every option.
    "wgan": {
        "architecture": "dcgan",
        "critic_norm_type": "batch",
        "train_batch_size": 64,
        "n_critic": 5,
        "lipschitz": "clip",
        "clip_value": 0.01,
        "optimizer": "rmsprop",
        "generator_learning_rate": 5e-5,
        "critic_learning_rate": 5e-5,
    },
    "wgan-gp": _WGAN_GP,
    # The one-sided penalty of Petzka et al. 2018 (arXiv 1709.08894), with all else as in WGAN-GP, as their code has it.
    "wgan-lp": {**_WGAN_GP, "lipschitz": "lp"},
    # Kodali et al. 2017 (arXiv 1705.07215) and the authors' notebook: one critic step, a penalty around the data.
    "dragan": {
        "architecture": "dcgan",
        "latent_dim": 100,
        "latent_prior": "uniform",
        "critic_norm_type": "none",
        "train_batch_size": 128,
        "n_critic": 1,
        "lipschitz": "dragan",
        "gradient_penalty_weight": 10.0,
        "optimizer": "adam",
        "generator_learning_rate": 1e-4,
        "critic_learning_rate": 1e-4,
        "adam_beta1": 0.5,
        "adam_beta2": 0.9,
    },
    # Miyato et al. 2018 (arXiv 1802.05957), the residual networks of section 4 and appendix B.4, and their code.
    "sngan": {
        "architecture": "resnet",
        "latent_dim": 128,
        "generator_width": 256,
        "critic_width": 128,
        "critic_norm_type": "none",
        "critic_pooling": "sum",
        "train_batch_size": 64,
        "generator_batch_ratio": 2,
        "n_critic": 5,
        "lipschitz": "spectral",
        "optimizer": "adam",
        "generator_learning_rate": 2e-4,
        "critic_learning_rate": 2e-4,
        "adam_beta1": 0.0,
        "adam_beta2": 0.9,
        "lr_scheduler": "linear",
    },
    "r3gan": _R3GAN,
    # Ours: the same with networks, batches, rates and weights for the thousands of steps that a CPU has time for.
    "r3gan-small": {
        **_R3GAN,
        "generator_width": 32,
        "critic_width": 32,
        "num_blocks": 1,
        "train_batch_size": 64,
        "gradient_penalty_weight": 10.0,
        "gradient_penalty_weight_end": 1.0,
        "generator_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    },
    "wgan-fast": _WGAN_FAST,
    # Ours, for some hundred to some ten thousand pictures in colour (docs/presets.md has the figures).
    "wgan-color": {
        **_WGAN_FAST,
        "latent_dim": 128,
        "generator_width": 32,
        "critic_width": 32,
        "generator_upsampling": "nearest",
        "generator_modulated": True,
        "generator_output_skips": True,
        "num_clusters": 1000,
        "train_batch_size": 32,
        "lipschitz": "lp",
        "penalty_interval": 4,
        "ema_rampup_ratio": 0.1,
    },
}
"""The settings of each preset for images of 32 pixels and fewer."""

LARGER: dict[str, dict[int, dict[str, Any]]] = {
    "wgan-gp": {64: _WGAN_GP_64},
    "wgan-lp": {64: _WGAN_GP_64},
    "sngan": {64: {"generator_width": 64, "critic_width": 64}},
    "r3gan": {
        64: {
            "generator_width": 384,
            "critic_width": 384,
            "train_batch_size": 256,
            "gradient_penalty_weight": 2.0,
            "gradient_penalty_weight_end": 0.2,
        },
        128: {"generator_width": 192, "critic_width": 192},
        256: {
            "generator_width": 96,
            "critic_width": 96,
            "gradient_penalty_weight": 150.0,
            "gradient_penalty_weight_end": 15.0,
        },
    },
}
"""What differs from a height in pixels on."""

FOR_COLOUR = "wgan-color"
"""The preset to advise for images in colour or above 32 pixels."""


def preset_options(name: str, resolution: int = 64) -> dict[str, Any]:
    """Return the options that a preset sets for images of this height, by name.

    Raises:
        InputError: There is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"preset={name!r}: must be one of {', '.join(PRESETS)}")
    options = dict(PRESETS[name])
    for size, larger in LARGER.get(name, {}).items():
        if resolution >= size:
            options |= larger
    return options
