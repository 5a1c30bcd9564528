"""DACL: two views of an image, made by mixing it with other images.

Verma et al. 2021, "Towards Domain-Agnostic Contrastive Learning".
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batching.expert_batch import ExpertBatch
from ..config import UserError, check_fields
from ..mixup import mix_images
from ..streams import DACL_KIND, DACL_PARTNERS, DACL_WEIGHTS
from ..towers.host import ImageTower
from ..towers.positions import full_precision
from .base import Gather, Objective, add_mixed_pairs

FORMS = ("original", "release", "plus")
KINDS = ("linear", "geometric", "binary")  # DACL+ draws one of them each step
FLOOR = 1e-6  # smallest value of a pixel in geometric mixing


@dataclass(frozen=True)
class DaclConfig:
    """Settings of DACL: Verma et al.'s but for `temperature`, which their paper does not give."""

    form: str = "original"
    weight: float = 1.0  # of the NT-Xent term; 'release' has no such term
    alpha: float = 0.9  # lam ~ U(alpha, 1)
    temperature: float = 0.1
    release_beta: float = 0.6  # 'release': lam ~ Beta(release_beta, release_beta)

    def __post_init__(self) -> None:
        check_fields(
            self,
            "dacl",
            [
                (self.form in FORMS, "form", f"one of {FORMS}"),
                (self.weight >= 0, "weight", "0 or more"),
                (0 <= self.alpha <= 1, "alpha", "a number from 0 to 1"),
                (self.temperature > 0, "temperature", "a positive number"),
                (self.release_beta > 0, "release_beta", "a positive number"),
            ],
        )


class Dacl(Objective):
    """DACL in three forms.

    - original: L_clip + weight * NT-Xent(u, w) with u_i = lam x_i + (1 - lam) x_a and
      w_i = lam' x_i + (1 - lam') x_b. Each sample and view has its own lam ~ U(alpha, 1). Partners
      come from a cyclic shift of the micro-batch and are never the sample itself.
    - plus: each step mixes linearly, geometrically (x_i^lam * x_a^(1 - lam) of pixels before
      mean/std) or by a binary mask.
    - release: what eCLIP's authors call DACL. It has one lam ~ Beta(0.6, 0.6) and one permutation
      for each step and view. The text is unchanged, and the symmetric InfoNCE of
      ([v~; v~'], [t; t]) replaces L_clip.

    Deviation: Verma et al. put a projection head on the encoder; here u and w are the image
    features themselves.
    """

    def __init__(self, config: DaclConfig = DaclConfig()) -> None:
        self.config = config

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        group.add_argument(
            "--dacl-form",
            choices=FORMS,
            help=(
                "form of DACL: Verma et al.'s (original), with geometric and binary mixing "
                "(plus), or that of eCLIP's authors (release) (default: original)"
            ),
        )
        group.add_argument(
            "--dacl-weight",
            type=float,
            metavar="W",
            help="weight of DACL's NT-Xent loss (default: 1)",
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Dacl:
        given = {name: getattr(args, f"dacl_{name}") for name in ("form", "weight")}
        config = DaclConfig(**{name: value for name, value in given.items() if value is not None})
        if config.form == "release" and args.dacl_weight is not None:
            raise UserError(
                "--dacl-weight with --dacl-form release: that form adds no term to weigh; drop one"
                " of them."
            )
        if args.batch_size < 2:
            raise UserError(
                f"--method dacl with --batch-size {args.batch_size}: an image is mixed with another"
                " image of its batch; expected at least 2."
            )
        return cls(config)

    def draw(self, seed: int, step: int, epoch: int, sample_id: Tensor) -> dict[str, Any]:
        """dacl_partner (B, 2) int64 and dacl_lam (B, 2) float32.

        For DACL+ also dacl_kind and, for binary masks, dacl_seed (B, 2).
        """
        size, shared = len(sample_id), DACL_PARTNERS.generator(seed, step)
        if self.config.form == "release":
            partner = torch.from_numpy(
                np.stack([shared.permutation(size) for _ in range(2)], axis=1)
            )
            lam = torch.from_numpy(
                shared.beta(self.config.release_beta, self.config.release_beta, 2)
            ).expand(size, 2)
            return {"dacl_partner": partner, "dacl_lam": lam.float()}
        offset = torch.from_numpy(1 + np.floor(shared.random(2) * (size - 1)).astype(np.int64))
        generators = [DACL_WEIGHTS.generator(seed, step, int(key)) for key in sample_id]
        draws: dict[str, Any] = {
            "dacl_partner": (torch.arange(size)[:, None] + offset) % size,
            "dacl_lam": (
                torch.from_numpy(
                    np.stack([g.uniform(self.config.alpha, 1, 2) for g in generators])
                ).float()
            ),
        }
        if self.config.form == "plus":
            draws["dacl_kind"] = KINDS[DACL_KIND.generator(seed, step).integers(len(KINDS))]
            if draws["dacl_kind"] == "binary":
                draws["dacl_seed"] = np.stack([g.integers(1 << 62, size=2) for g in generators])
        return draws

    def images(self, batch: ExpertBatch, visual: nn.Module) -> dict[str, Tensor]:
        if self.config.form == "release":
            return {
                "image_features": _view(batch, 0, visual),
                "dacl_second": _view(batch, 1, visual),
            }
        if self.config.weight == 0:
            return {}
        return {"dacl_u": _view(batch, 0, visual), "dacl_w": _view(batch, 1, visual)}

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        """release: append the second view of every image with the image's text as a mixed pair."""
        if self.config.form == "release":
            add_mixed_pairs(out, out.pop("dacl_second"))

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """{dacl_loss} over the views of all ranks; nothing for 'release', which adds no term."""
        if "dacl_u" not in out:
            return {}
        u, w, rows = gather(out["dacl_u"], out["dacl_w"])
        return {"dacl_loss": self.config.weight * nt_xent(u, w, rows, self.config.temperature)}


def _view(batch: ExpertBatch, which: int, visual: nn.Module) -> Tensor:
    """The images, each mixed with its partner of view `which`, (B, 3, H, W)."""
    image, draws = batch.image, batch.draws
    partner, lam = image[draws["dacl_partner"][:, which]], draws["dacl_lam"][:, which]
    kind = draws.get("dacl_kind", "linear")
    if kind == "geometric":
        tower = cast(ImageTower, visual)
        return mix_geometric(image, partner, lam, tower.image_mean, tower.image_std)
    if kind == "binary":
        return torch.where(binary_mask(image, lam, draws["dacl_seed"][:, which]), image, partner)
    return mix_images(image, partner, lam)


def mix_geometric(
    image: Tensor, partner: Tensor, lam: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """x^lam * x_a^(1 - lam) of pixels in [0, 1], for normalised images (B, 3, H, W); `lam` (B,)."""
    dtype = full_precision(image).dtype
    # (3, 1, 1) each; filled on the device, since a GPU is waited for when a list is copied to it
    shift, scale = (
        torch.cat([image.new_full((1, 1, 1), value, dtype=dtype) for value in values])
        for values in (mean, std)
    )
    weight = lam.to(shift.dtype)[:, None, None, None]
    log_x, log_a = (
        (full_precision(x) * scale + shift).clamp(min=FLOOR).log() for x in (image, partner)
    )
    return (((weight * log_x + (1 - weight) * log_a).exp() - shift) / scale).to(image.dtype)


@torch.compiler.disable
def binary_mask(image: Tensor, lam: Tensor, seed: np.ndarray) -> Tensor:
    """(B, 3, H, W) bool, true with probability `lam` (B,).

    Each sample's mask depends on its entry of `seed` (B,) alone, not on its batch.
    """
    draws = [
        torch.rand(
            image.shape[1:],
            generator=torch.Generator(image.device).manual_seed(int(key)),
            device=image.device,
        )
        for key in seed
    ]
    return torch.stack(draws) < lam[:, None, None, None]


def nt_xent(u: Tensor, w: Tensor, rows: slice, temperature: float) -> Tensor:
    """Mean over both views of the `rows` of -log softmax over the other 2N - 1 points.

    `u`, `w` (N, D), unit length. As in SimCLR (Verma et al. 2021), the positive of u_i is w_i and
    the reverse. Computed in fp32 or more, under autocast too.
    """
    points, size = full_precision(torch.cat([u, w])), len(u)
    index = torch.arange(size, device=u.device)[rows]
    anchor, positive = torch.cat([index, index + size]), torch.cat([index + size, index])
    with torch.autocast(u.device.type, enabled=False):
        logits = points[anchor] @ points.T / temperature
    logits = logits.scatter(1, anchor[:, None], float("-inf"))
    return F.cross_entropy(logits, positive)
