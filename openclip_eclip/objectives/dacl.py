"""DACL: two views of an image by mixing it with others (Verma et al. 2021, "Towards Domain-Agnostic
Contrastive Learning").
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
KINDS = ("linear", "geometric", "binary")  # DACL+ draws one a step
FLOOR = 1e-6  # of a pixel in the power of geometric mixing


@dataclass(frozen=True)
class DaclConfig:
    """`alpha`, two views and the forms are Verma et al.'s; `temperature` is ours, for the paper
    leaves it open.
    """

    form: str = "original"
    weight: float = 1.0  # of the NT-Xent term; without a meaning for 'release'
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
    """original: L_clip + weight * NT-Xent(u, w), u_i = lam x_i + (1 - lam) x_a, w_i = lam' x_i + (1
    - lam') x_b, one lam ~ U(alpha, 1) a sample and view, partners by a cyclic shift of the
    micro-batch, never the sample itself. plus: each step mixes linearly, geometrically (x_i^lam *
    x_a^(1 - lam) of pixels before mean/std) or by a binary mask. release: what eCLIP's authors call
    DACL: one lam ~ Beta(0.6, 0.6) and one permutation a step and view, the text unchanged, and the
    symmetric InfoNCE of ([v~; v~'], [t; t]) in the place of L_clip.

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
                "--dacl-weight with --dacl-form release: that form has no term of its own; drop one"
                " of them."
            )
        if args.batch_size < 2:
            raise UserError(
                f"--method dacl with --batch-size {args.batch_size}: an image is mixed with another"
                " one of its batch; expected at least 2."
            )
        return cls(config)

    def draw(self, seed: int, step: int, epoch: int, sample_id: Tensor) -> dict[str, Any]:
        """dacl_partner (B, 2) int64 and dacl_lam (B, 2) float32; for DACL+ dacl_kind and, of binary
        masks, dacl_seed (B, 2).
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
        own = [DACL_WEIGHTS.generator(seed, step, int(key)) for key in sample_id]
        draws: dict[str, Any] = {
            "dacl_partner": (torch.arange(size)[:, None] + offset) % size,
            "dacl_lam": (
                torch.from_numpy(
                    np.stack([one.uniform(self.config.alpha, 1, 2) for one in own])
                ).float()
            ),
        }
        if self.config.form == "plus":
            draws["dacl_kind"] = KINDS[DACL_KIND.generator(seed, step).integers(len(KINDS))]
            if draws["dacl_kind"] == "binary":
                draws["dacl_seed"] = np.stack([one.integers(1 << 62, size=2) for one in own])
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
        """release: the second view of every image is one more mixed pair with the image's
        own text.
        """
        if self.config.form == "release":
            add_mixed_pairs(out, out.pop("dacl_second"), out["text_features"], out["sample_id"])

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """{dacl_loss}: over the views of all ranks; nothing for 'release', which is a contrastive
        loss itself.
        """
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
    """x^lam * x_a^(1 - lam) of the pixels in [0, 1] behind normalised images (B, 3, H, W); `lam`
    (B,).
    """
    shift, scale = (
        torch.tensor(x, dtype=torch.float64, device=image.device)[:, None, None].to(
            full_precision(image).dtype
        )
        for x in (mean, std)
    )  # (3, 1, 1) each
    weight = lam.to(shift.dtype)[:, None, None, None]
    log_x, log_a = (
        (full_precision(x) * scale + shift).clamp(min=FLOOR).log() for x in (image, partner)
    )
    return (((weight * log_x + (1 - weight) * log_a).exp() - shift) / scale).to(image.dtype)


@torch.compiler.disable
def binary_mask(image: Tensor, lam: Tensor, seed: np.ndarray) -> Tensor:
    """(B, 3, H, W) bool, true with probability `lam` (B,); each sample's from its own `seed` (B,),
    whatever its batch.
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
    """Mean over both views of the `rows` of -log softmax over the other 2N - 1 points; `u`, `w` (N,
    D), unit length.

    Verma et al. 2021, as SimCLR's loss: the positive of u_i is w_i and the other way round.
    In fp32 or more, under autocast too.
    """
    points, size = full_precision(torch.cat([u, w])), len(u)
    index = torch.arange(size, device=u.device)[rows]
    own, positive = torch.cat([index, index + size]), torch.cat([index + size, index])
    with torch.autocast(u.device.type, enabled=False):
        logits = points[own] @ points.T / temperature
    logits = logits.scatter(1, own[:, None], float("-inf"))
    return F.cross_entropy(logits, positive)
