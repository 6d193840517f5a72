"""A convolutional head: visual tokens on their grid, modulated by the query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from timm.layers.conv_bn_act import ConvNormAct
from timm.layers.norm import LayerNorm2d
from timm.layers.weight_init import trunc_normal_
from torch import nn

from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.head import HeadInputs, RPNHead, masked_softmax


class ConvHead(RPNHead):
    """Scores a cell from its neighborhood, which query-key products cannot.

    The trunk's visual tokens are projected to ``channels`` feature planes, multiplied by a
    projection of the query, and read by ``depth`` 3x3 convolutions. All R copied layers stay in the
    trunk.

    Options:
        channels: width of the planes.
        depth: number of 3x3 convolutions.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"channels": 64, "depth": 2}

    def __init__(
        self, layers: Sequence[nn.Module], text_config: Any, options: Mapping[str, Any]
    ) -> None:
        super().__init__(layers, text_config, options)
        channels, depth = options["channels"], options["depth"]
        if channels < 1 or depth < 1:
            raise ConfigError("channels and depth of the conv head must be 1 or more")
        self.reduce = ConvNormAct(
            text_config.hidden_size, channels, 1, norm_layer=LayerNorm2d, act_layer=nn.Identity
        )
        self.query = nn.Sequential(
            nn.LayerNorm(text_config.hidden_size), nn.Linear(text_config.hidden_size, channels)
        )
        self.blocks = nn.Sequential(
            *(
                ConvNormAct(channels, channels, 3, norm_layer=LayerNorm2d, act_layer=nn.GELU)
                for _ in range(depth)
            )
        )
        self.score = nn.Conv2d(channels, 1, 1)
        trunc_normal_(self.score.weight, std=0.02)

    def forward(self, inputs: HeadInputs, distribution: bool) -> torch.Tensor:
        """Scores ``(images, n)``; images of one grid go through the convolutions together."""
        scores = inputs.visual.new_zeros(inputs.valid.shape, dtype=torch.float32)
        by_grid: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, grid in enumerate(inputs.grids):
            by_grid[grid].append(row)
        for (height, width), rows in by_grid.items():
            n = height * width
            planes = inputs.visual[rows, :n].transpose(1, 2).unflatten(2, (height, width))
            modulation = 1 + self.query(inputs.query[rows])[:, :, None, None]
            logits = self.score(self.blocks(self.reduce(planes) * modulation))
            index = torch.tensor(rows, device=scores.device)
            scores[index, :n] = logits.flatten(1).float()
        return masked_softmax(scores, inputs.valid) if distribution else scores
