"""m3-mix: mixing of features on the hypersphere.

Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning".
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batching.expert_batch import ExpertBatch
from ..config import UserError, check_fields
from ..streams import M3_MIX
from ..towers.positions import full_precision
from .base import Gather, Objective

VL_TARGETS = ("both", "both-sum", "diagonal")
TERMS = ("v", "l", "vl", "m2")
SMALL_SINE = 1e-4  # nothing is divided by a smaller sin(theta)


@dataclass(frozen=True)
class M3MixConfig:
    """Weights and Beta parameters of the authors' m3 script.

    Its sweep of weight_vl has 0.05, 0.1 and 0.2.
    """

    weight_v: float = 0.05
    weight_l: float = 0.05
    weight_vl: float = 0.1
    weight_m2: float = 0.01
    beta: float = 0.5  # lam ~ Beta(beta, beta) of V, L and VL
    beta_m2: float = 0.2
    temperature_m2: float = 0.07  # fixed; V, L and VL use the model's own
    # 1/2 on i and 1/2 on i'; 'both-sum': 1 and 1, the authors' code; 'diagonal': i alone
    vl_target: str = "both"
    decay: bool = True  # all weights times 1 / (epoch + 1)

    def __post_init__(self) -> None:
        checks = [
            (getattr(self, f"weight_{term}") >= 0, f"weight_{term}", "0 or more") for term in TERMS
        ]
        checks += [
            (getattr(self, name) > 0, name, "a positive number")
            for name in ("beta", "beta_m2", "temperature_m2")
        ]
        checks += [(self.vl_target in VL_TARGETS, "vl_target", f"one of {VL_TARGETS}")]
        check_fields(self, "m3-mix", checks)


class M3Mix(Objective):
    """L_clip + rho * (w_v L_V + w_l L_L + w_vl L_VL + w_m2 L_m2) over the originals of all ranks.

    Each term has one lam a step; i' = N + 1 - i. The mixed pairs of eCLIP take part in L_clip only.
    Their texts repeat those of the originals, so in L_m2 a sample's text would be half of its own
    hard negative.
    """

    def __init__(self, config: M3MixConfig = M3MixConfig()) -> None:
        self.config = config
        self.weights = {term: getattr(config, f"weight_{term}") for term in TERMS}

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        names = ", ".join(
            f"{field.name}={field.default}" for field in dataclasses.fields(M3MixConfig)
        )
        group.add_argument(
            "--m3-mix-cfg",
            nargs="+",
            metavar="KEY=VALUE",
            help=f"settings of m3-mix (default: {names})",
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> M3Mix:
        return cls(parse_settings(args.m3_mix_cfg or ()))

    def draw(self, seed: int, step: int, epoch: int, sample_id: Tensor) -> dict[str, Any]:
        """m3_mix_draws (B, 5) float32: lam of V, L, VL and m2, and rho; all rows are equal."""
        draws, beta = M3_MIX.generator(seed, step), self.config.beta
        row = [draws.beta(beta, beta) for _ in range(3)] + [
            draws.beta(self.config.beta_m2, self.config.beta_m2)
        ]
        row.append(1 / (epoch + 1) if self.config.decay else 1.0)
        return {"m3_mix_draws": torch.tensor([row]).repeat(len(sample_id), 1)}

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        out["m3_mix_draws"] = batch.draws["m3_mix_draws"]

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """{m3_v_loss, m3_l_loss, m3_vl_loss, m3_m2_loss}, those whose weight is not 0."""
        *lams, rho = out["m3_mix_draws"][0].unbind()  # stay on the device: no synchronisation
        image, text, rows = gather(out["image_features"], out["text_features"])
        image, text = (F.normalize(full_precision(x), dim=1) for x in (image, text))
        mixed = self._mixtures(image, text, dict(zip(TERMS, lams)))
        scale, (lam_v, lam_l, *_) = out["logit_scale"], lams
        terms: dict[str, Tensor] = {}
        if "v" in mixed:
            terms["v"] = _paired(mixed["v"][0], text, rows, scale, lam_v, 1 - lam_v)
        if "l" in mixed:
            terms["l"] = _paired(image, mixed["l"][0], rows, scale, lam_l, 1 - lam_l)
        if "vl" in mixed:
            own, other = {"both": (0.5, 0.5), "both-sum": (1.0, 1.0), "diagonal": (1.0, 0.0)}[
                self.config.vl_target
            ]
            mixed_image, mixed_text = mixed["vl"]
            terms["vl"] = _paired(mixed_image, mixed_text, rows, scale, own, other)
        if "m2" in mixed:
            terms["m2"] = self._m2(image, text, mixed["m2"][0], rows)
        return {f"m3_{name}_loss": rho * self.weights[name] * term for name, term in terms.items()}

    def _mixtures(
        self, image: Tensor, text: Tensor, lams: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, ...]]:
        """The mixtures of each term with a weight above 0.

        One call of `geodesic` makes them all, since a GPU waits for many small kernels.
        """
        ends = {
            "v": [(image, image.flip(0))],
            "l": [(text, text.flip(0))],
            "vl": [(image, image.flip(0)), (text, text.flip(0))],
            "m2": [(image, text)],
        }
        ends = {name: pairs for name, pairs in ends.items() if self.weights[name]}
        if not ends:
            return {}
        first, second, lam = zip(
            *(
                (a, b, lams[name].expand(len(a), 1))
                for name, pairs in ends.items()
                for a, b in pairs
            )
        )
        parts = iter(
            geodesic(torch.cat(first), torch.cat(second), torch.cat(lam)).split(len(image))
        )
        return {name: tuple(next(parts) for _ in pairs) for name, pairs in ends.items()}

    def _m2(self, image: Tensor, text: Tensor, mixed: Tensor, rows: slice) -> Tensor:
        """The sum of both directions with hard negatives m_lam(v_j, t_j) between the modalities.

        The positives stay v_i . t_i.
        """
        index = torch.arange(len(image), device=image.device)[rows]
        positive = (image[rows] * text[rows]).sum(dim=1, keepdim=True)
        directions = []
        for x in (image[rows], text[rows]):
            cosines = _product(x, mixed)
            cosines = cosines.scatter(1, index[:, None], positive.to(cosines.dtype))
            directions.append(F.cross_entropy(cosines / self.config.temperature_m2, index))
        return cast(Tensor, sum(directions))


def _paired(
    image: Tensor,
    text: Tensor,
    rows: slice,
    scale: Tensor,
    own: Tensor | float,
    other: Tensor | float,
) -> Tensor:
    """Mean cross-entropy of the `rows` over both directions, target `own` on i, `other` on i'."""
    index = torch.arange(len(image), device=image.device)[rows]
    mirror = len(image) - 1 - index
    directions = []
    for x, y in ((image, text), (text, image)):
        log_p = _product(full_precision(scale) * x[rows], y).log_softmax(dim=1)
        directions.append(
            -(
                own * log_p.gather(1, index[:, None]) + other * log_p.gather(1, mirror[:, None])
            ).mean()
        )
    return cast(Tensor, sum(directions)) / 2


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x y^T in the type of x and y; autocast would round the logits to 16 bits."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def geodesic(a: Tensor, b: Tensor, lam: Tensor | float) -> Tensor:
    """m_lam(a, b) = (sin(lam theta) a + sin((1 - lam) theta) b) / sin theta, of unit length.

    lam = 1 gives a, 0 gives b. `a`, `b` (N, D), unit length up to rounding; fp16 and bf16 come back
    as fp32. theta comes from atan2, which is exact near 0 and pi, where arccos(a . b) is not. Where
    sin theta vanishes, a = b gives the linear blend. For a = -b no arc is defined: it goes through
    the axis of a's smallest component, so that m_lam(a, b) = m_(1 - lam)(b, a) holds.
    """
    a, b = (F.normalize(full_precision(x), dim=1) for x in (a, b))
    theta = 2 * torch.atan2(
        torch.linalg.vector_norm(a - b, dim=1, keepdim=True),
        torch.linalg.vector_norm(a + b, dim=1, keepdim=True),
    )
    sine = theta.sin()
    small, opposite = sine < SMALL_SINE, theta > math.pi / 2
    # before the division: a branch that `where` does not select must not give NaN gradients
    safe = sine.masked_fill(small, 1.0)
    arc = (torch.sin(lam * theta) * a + torch.sin((1 - lam) * theta) * b) / safe
    axis = torch.zeros_like(a).scatter(1, a.abs().argmin(dim=1, keepdim=True), 1.0)
    across = F.normalize(axis - (axis * a).sum(dim=1, keepdim=True) * a, dim=1)
    turn = torch.as_tensor((1 - lam) * math.pi, dtype=a.dtype, device=a.device)
    blend = torch.where(opposite, turn.cos() * a + turn.sin() * across, lam * a + (1 - lam) * b)
    return F.normalize(torch.where(small, blend, arc), dim=1)


def parse_settings(pairs: Sequence[str]) -> M3MixConfig:
    """Settings of KEY=VALUE words. UserError names a word of another form."""
    types: dict[str, type[Any]] = {
        field.name: type(field.default) for field in dataclasses.fields(M3MixConfig)
    }
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            values[key] = (
                {"true": True, "false": False}[text.lower()]
                if types[key] is bool
                else types[key](text)
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--m3-mix-cfg {pair}: expected KEY=VALUE with one of {', '.join(types)}."
            ) from error
    return M3MixConfig(**values)
