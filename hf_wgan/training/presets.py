"""Named settings from papers, and one from our own experiments. Explicit options override them."""

from typing import Any

from ..utils.errors import InputError

_ADAM = {"optimizer": "adam", "generator_learning_rate": 1e-4, "critic_learning_rate": 1e-4}

PRESETS: dict[str, dict[str, Any]] = {
    # Arjovsky et al. 2017, algorithm 1 and section 4: the defaults of every option.
    "wgan": {
        "architecture": "dcgan",
        "lipschitz": "clip",
        "clip_value": 0.01,
        "optimizer": "rmsprop",
        "generator_learning_rate": 5e-5,
        "critic_learning_rate": 5e-5,
        "n_critic": 5,
        "critic_norm_type": "batch",
    },
    # Gulrajani et al. 2017, algorithm 1 and section 4 (layer normalisation in the critic).
    "wgan-gp": {
        "architecture": "resnet",
        "lipschitz": "gp",
        "gradient_penalty_weight": 10.0,
        **_ADAM,
        "adam_beta1": 0.0,
        "adam_beta2": 0.9,
        "n_critic": 5,
        "critic_norm_type": "layer",
    },
    # WGAN-GP with the one-sided penalty of Petzka et al. 2018.
    "wgan-lp": {
        "architecture": "resnet",
        "lipschitz": "lp",
        "gradient_penalty_weight": 10.0,
        **_ADAM,
        "adam_beta1": 0.0,
        "adam_beta2": 0.9,
        "n_critic": 5,
        "critic_norm_type": "layer",
    },
    # Kodali et al. 2017: one critic step, a penalty around the data; with the Wasserstein loss, where they have the
    # ordinary one.
    "dragan": {
        "architecture": "dcgan",
        "lipschitz": "dragan",
        "gradient_penalty_weight": 10.0,
        **_ADAM,
        "adam_beta1": 0.5,
        "adam_beta2": 0.9,
        "n_critic": 1,
        "critic_norm_type": "none",
    },
    # Miyato et al. 2018, section 4 and table 1, setting D; with the Wasserstein loss, where they have the hinge.
    "sngan": {
        "architecture": "resnet",
        "lipschitz": "spectral",
        "optimizer": "adam",
        "generator_learning_rate": 2e-4,
        "critic_learning_rate": 2e-4,
        "adam_beta1": 0.0,
        "adam_beta2": 0.9,
        "n_critic": 5,
        "critic_norm_type": "none",
    },
    # In the spirit of Huang et al. 2024: their penalties and networks, with the Wasserstein loss.
    "r3gan": {
        "architecture": "r3gan",
        "lipschitz": "r1r2",
        "gradient_penalty_weight": 10.0,
        "optimizer": "adam",
        "generator_learning_rate": 2e-4,
        "critic_learning_rate": 2e-4,
        "adam_beta1": 0.0,
        "adam_beta2": 0.99,
        "n_critic": 1,
        "use_ema": True,
        "ema_max_decay": 0.999,
    },
    # Ours, for a CPU: what made the best images of Fashion-MNIST at 32 pixels in minutes (docs/constraints.md has the
    # figures). Adam without momentum did most: with beta1 0.5 the Fréchet distance was twice as large.
    "wgan-fast": {
        "architecture": "dcgan",
        "lipschitz": "lp",
        "gradient_penalty_weight": 10.0,
        "optimizer": "adam",
        "generator_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "adam_beta1": 0.0,
        "adam_beta2": 0.9,
        "n_critic": 2,
        "critic_norm_type": "layer",
        "use_ema": True,
        "ema_max_decay": 0.999,
    },
}


def preset_options(name: str) -> dict[str, Any]:
    """Return the options that a preset sets, by name.

    Raises:
        InputError: There is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"preset={name!r}: must be one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])
