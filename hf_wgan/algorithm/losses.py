"""The Wasserstein objective (Arjovsky et al. 2017, arXiv 1701.07875, eq. 3 and algorithm 1), and the labelled form.

Scores are high for real images. Every mean is taken in float32 (float64 for float64 scores), whatever precision the
scores come in: a mean of half-precision scores loses the small difference that is the whole signal.
"""

from typing import NamedTuple

import torch

from ..utils.errors import InputError


def critic_loss(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """Compute what the critic minimises: `E[D(G(z))] - E[D(x)]`, the negative of the Wasserstein estimate.

    Args:
        real_scores: `(N,)`, the critic's scores of real images.
        fake_scores: `(M,)`, its scores of generated images.

    Returns:
        A scalar, float32 or wider.
    """
    return mean_score(fake_scores) - mean_score(real_scores)


def generator_loss(fake_scores: torch.Tensor) -> torch.Tensor:
    """Compute what the generator minimises: `-E[D(G(z))]`.

    It goes with `critic_loss`, and with no critic loss of the other sign.

    Args:
        fake_scores: `(M,)`, the critic's scores of generated images.

    Returns:
        A scalar, float32 or wider.
    """
    return -mean_score(fake_scores)


def wasserstein_estimate(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """Compute `E[D(x)] - E[D(G(z))]`: positive once the critic is trained, and falling as the samples get better.

    It is proportional to the Wasserstein-1 distance, by the unknown Lipschitz constant that the constraint leaves the
    critic (section 3 of the paper): compare it within a run, not between runs of different critics.

    Args:
        real_scores: `(N,)`, the critic's scores of real images.
        fake_scores: `(M,)`, its scores of generated images.

    Returns:
        A scalar, float32 or wider.
    """
    return -critic_loss(real_scores, fake_scores)


class LabelConvention(NamedTuple):
    """The number that stands for a real and for a generated image in `wasserstein_loss`."""

    real: float
    fake: float


HIGH_IS_REAL = LabelConvention(real=-1.0, fake=1.0)
"""The convention of the paper and of everything in this package. Scores become high for real images."""

LOW_IS_REAL = LabelConvention(real=1.0, fake=-1.0)
"""The mirrored convention, that of many tutorials. Scores become low for real images."""


def wasserstein_loss(labels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Compute the objective from labels and scores, `mean(labels * scores)`, for either player to minimise.

    The labels carry the convention. Both are right, as long as the two players share one:

    |                                  | `HIGH_IS_REAL`          | `LOW_IS_REAL`           |
    |----------------------------------|-------------------------|-------------------------|
    | critic, real images              | −1                      | +1                      |
    | critic, generated images         | +1                      | −1                      |
    | generator, its generated images  | −1 (labelled as real)   | +1 (labelled as real)   |
    | scores of real images become     | high                    | low                     |
    | Wasserstein estimate             | `mean(real) - mean(fake)` | `mean(fake) - mean(real)` |

    A batch may mix labels: the mean is of the product, not the product of two means. With R real and F generated
    images in one batch it equals `(F * mean(fake) - R * mean(real)) / (R + F)` under `HIGH_IS_REAL`: half of
    `critic_loss` when R = F. One call for the real images plus one for the generated ones equals `critic_loss`.

    Args:
        labels: −1 or +1 for each score, in any numeric type, of the shape of `scores`.
        scores: `(N,)`, unbounded scores of a critic.

    Returns:
        A scalar, float32 or wider.

    Raises:
        InputError: The shapes differ. `(N, 1)` against `(N,)` would broadcast to all N × N pairs.
    """
    if labels.shape != scores.shape:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} for scores of shape {tuple(scores.shape)}: "
            "give one label for each score, in the same shape"
        )
    return mean_score(labels * _at_least_float32(scores))


def mean_score(scores: torch.Tensor) -> torch.Tensor:
    """Compute the mean of `(N,)` scores in float32 or wider. A scalar is its own mean."""
    scores = _at_least_float32(scores)
    return scores.mean() if scores.ndim else scores


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
