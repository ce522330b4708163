"""An encoder alone on a device: images -> pooled maps, for fitting, before any head exists."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.executor import PieceExecutor
from muflow_cli.engine.inference import encoder_for_inference


class PlacedEncoder:
    """An encoder on a device.

    Args:
        encoder: with its weights.
        placement: where and how to compute.

    Attributes:
        encoder: as given, of which a copy computes.
        placement: likewise.
        feature: of the encoder.
    """

    def __init__(self, encoder: Encoder, placement: Placement) -> None:
        self.encoder, self.placement = encoder, placement
        self.feature = encoder.feature
        self._placed = encoder_for_inference(encoder, placement)
        self._executor = PieceExecutor(placement)
        self._splitter = self._executor.splitter()

    def submit(
        self, images: Tensor, after: Callable[[list[Tensor]], list[Tensor]] = lambda pooled: pooled
    ) -> Future[list[Tensor]]:
        """Begin to compute the pooled maps, one (B, C, g, g) float32 per layer, of images (B, 3, H, W).

        Args:
            images: grey levels, uint8, or float32 for averages.
            after: applied to the maps of each piece, on the core that encoded it.
        """

        @torch.inference_mode()
        def pooled(piece: Tensor) -> list[Tensor]:
            return after(self._placed(piece.to(self.placement.device, non_blocking=True)))

        return self._executor.submit(lambda piece: self._splitter.run(pooled, piece), images)
