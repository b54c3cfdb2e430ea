"""A critic with self-attention. It has a file of its own, whose source is saved and pushed with the model."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from hf_wgan.models.network import Network


class AttentionCritic(Network):
    """Score images `(N, in_channels, sample_size, sample_size)` in [-1, 1]: patches, self-attention, a linear layer."""

    @register_to_config
    def __init__(self, sample_size: int = 16, in_channels: int = 1, width: int = 64):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, kernel_size=4, stride=4)
        self.attention = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.score = nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(width * (sample_size // 4) ** 2, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # (N, T, width)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.score(tokens.flatten(1)).flatten()  # (N,)
