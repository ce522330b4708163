"""One family of evidence as a module: views -> encoder -> projection, flow and density of each layer -> columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import build_backbone, chosen_layers, encoder_row, layers_of, load_backbone
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.likelihood import mahalanobis, nll
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.normalise import Normalise
from muflow_cli.engine.projection import Projection, pool
from muflow_cli.engine.statistics import channel_statistics
from muflow_cli.specs import BranchSpec, FeatureSpec, ScoreKind


class Encoder(nn.Module):
    """Normalisation, frozen backbone and pooling: images -> one pooled map per layer.

    Args:
        feature: which encoder, layers, grid and statistics.
        backbone: maps normalised images to a dict of one map per layer, in order.
    """

    def __init__(self, feature: FeatureSpec, backbone: nn.Module) -> None:
        super().__init__()
        row = encoder_row(feature.encoder)
        self.feature = feature
        # Another version of timm could give other constants for the same name, so a bundle holds those.
        self.normalise = Normalise(row.mean, row.std, stored=row.library is Library.TIMM)
        self.backbone = backbone

    @classmethod
    def load(cls, feature: FeatureSpec, weights: Mapping[str, Tensor]) -> Encoder:
        """The encoder with `weights` by its library's names; BadWeights where they do not fit."""
        layers = chosen_layers(feature.encoder, feature.layers)
        return cls(feature, load_backbone(feature.encoder, layers, weights))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pooled maps, float32, one (B, C, g, g) per layer, or (B, 2C, g, g) of means and deviations.

        Args:
            images: (B, 3, H, W) grey levels 0..255, uint8, or float32 for averages.
        """
        return [pool(map_, self.feature) for map_ in self.layer_maps(images)]

    def layer_maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps, one (B, C, H, W) per layer, of the same images."""
        return list(self.backbone(self.normalise(images)).values())


class Head(nn.Module):
    """The fitted parts of one layer: projection, flow and density.

    Args:
        projection: C channels to D dimensions.
        flow: maps (B, D, g, g) to latents and log-determinants (B, g, g).
        density: in D dimensions, of the flow's latents.
        score_kind: negative log-likelihood, or the latent Mahalanobis distance.
    """

    def __init__(self, projection: Projection, flow: nn.Module, density: Mixture, score_kind: ScoreKind) -> None:
        super().__init__()
        self.projection, self.flow, self.density = projection, flow, density
        self._measure = mahalanobis if score_kind is ScoreKind.MAHALANOBIS else nll

    def forward(self, pooled: Tensor) -> Tensor:
        """Score of each position (B, g, g), nats per dimension, of pooled maps (B, C, g, g)."""
        return self._measure(self.flow, self.density, self.projection(pooled)) / self.projection.dimensions


class Branch(nn.Module):
    """One family of evidence. Its `state_dict` is what a bundle stores and what the fingerprint hashes.

    Args:
        spec: view, encoder, flow and target.
        encoder: of `spec.feature`.
        heads: one per layer, in the layers' order.

    Attributes:
        columns: (S,) names of the scores, `branch/layer`.
    """

    def __init__(self, spec: BranchSpec, encoder: Encoder, heads: Sequence[Head]) -> None:
        super().__init__()
        layers = chosen_layers(spec.feature.encoder, spec.feature.layers)
        self.spec = spec
        self.columns = tuple(f"{spec.name}/{layer.name}" for layer in layers)
        self.encoder = encoder
        # By index and not by name: a layer's name may hold a dot or be that of a method of nn.Module.
        self.heads = nn.ModuleList(heads)

    @classmethod
    def empty(
        cls, spec: BranchSpec, components: Sequence[int], *, moments: bool = True, adapted: bool = False
    ) -> Branch:
        """The branch of `spec`: tensors of the right shapes without values (meta device).

        Args:
            spec: of the branch.
            components: of each layer's density.
            moments: whether its projections hold those of the training reals.
            adapted: whether it was adapted to other reals.

        Raises:
            BadSpec: as `layers_of`.
        """
        feature = spec.feature
        layers = layers_of(feature, spec.view.size)
        heads = []
        for layer, count in zip(layers, components, strict=True):
            channels = layer.channels * feature.per_channel
            dimensions = min(feature.dimensions, channels)
            projection = Projection.empty(channels, dimensions, moments=moments, adapted=adapted)
            flow = PlainFlow.empty(projection.dimensions, spec.flow)
            density = Mixture.empty(count, projection.dimensions)
            heads.append(Head(projection, flow, density, spec.target.score_kind))
        return cls(spec, Encoder(feature, build_backbone(feature.encoder, layers)), heads)

    def layer_heads(self) -> list[Head]:
        """The heads in the order of the columns."""
        return [cast("Head", head) for head in self.heads]

    def forward(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Columns (B, S) in nats per dimension, the mean over positions, and the position scores (B, g, g) of each.

        Args:
            views: (B, H, W, 3) uint8.
        """
        maps = self.maps(views.permute(0, 3, 1, 2))
        return torch.stack([map_.mean(dim=(1, 2)) for map_ in maps], dim=1), maps

    def maps(self, images: Tensor) -> list[Tensor]:
        """Position scores, one (B, g, g) per layer, of images (B, 3, H, W)."""
        return [head(pooled) for head, pooled in zip(self.layer_heads(), self.encoder(images), strict=True)]

    def maps_and_features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps, and (B, F) float32 channel statistics of the layers one after the other, from a single pass."""
        layer_maps = self.encoder.layer_maps(images)
        pooled = (pool(map_, self.spec.feature) for map_ in layer_maps)
        maps = [head(own) for head, own in zip(self.layer_heads(), pooled, strict=True)]
        return maps, torch.cat([channel_statistics(map_) for map_ in layer_maps], dim=1)

    @property
    def feature_count(self) -> int:
        """F: two numbers for each channel of each layer."""
        return 2 * sum(layer.channels for layer in chosen_layers(self.spec.feature.encoder, self.spec.feature.layers))
