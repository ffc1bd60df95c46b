"""The learning rate as a function of steps or tokens: the trainers' own curves, and those that a fork may choose.

>>> Schedule(kind="cosine", peak=3e-4, warmup=2000, end=1_192_093).learning_rate(476_838, 0)
0.00020712352850360292
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from olmo_dynamics.errors import OptionError

KINDS = ("cosine", "linear", "constant", "wsd")
UNITS = ("steps", "tokens")
SHAPES = ("linear", "sqrt")
"""The shapes of WSD's decay: a line, or 1 - √u with u the share of the decay that is done (Hägele et al. 2024)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A curve over steps or tokens since `begin`, and over it a fork's own warm-up from 0, counted in steps.

    From `warmup_from` a line up to `peak` at `warmup`; then half a cosine, a line or nothing down to `final_fraction · peak`
    at `end`; flat from there on. "wsd" is flat until `decay_from` and decays from there, by `decay_shape`. `scale`
    multiplies all of it; so does `(step - rewarm_at) / rewarm_steps` until it is 1, and the factor of the last of `factors`
    whose update is reached.
    """

    kind: str = "cosine"
    units: str = "steps"
    begin: int = 0
    peak: float = 1e-3
    warmup: float = 0
    warmup_from: float = 0.0
    end: float = 1
    final_fraction: float = 0.1
    scale: float = 1.0
    rewarm_at: int = 0
    rewarm_steps: int = 0
    decay_from: float = 0
    decay_shape: str = "linear"
    factors: tuple[tuple[int, float], ...] = ()  # (update, factor from it on), updates rising

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.units not in UNITS:
            raise OptionError(
                f"schedule must be one of {', '.join(KINDS)} over {' or '.join(UNITS)} (got {self.kind} over {self.units})"
            )
        for name in ("peak", "warmup", "warmup_from", "final_fraction", "scale", "rewarm_steps"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise OptionError(f"schedule: {name} must be a finite number of at least 0 (got {getattr(self, name)})")

    def learning_rate(self, step: int, tokens_seen: int) -> float:
        """The learning rate of the update that makes the counters `step` and `tokens_seen`."""
        now = (tokens_seen if self.units == "tokens" else step) - self.begin
        rate = self.scale * self._curve(now) * self.factor(step)
        rewarmed = step - self.rewarm_at
        return rate if rewarmed >= self.rewarm_steps else rate * rewarmed / self.rewarm_steps

    def factor(self, step: int) -> float:
        """The factor of that update."""
        return next((factor for at, factor in reversed(self.factors) if step >= at), 1.0)

    def has_ended(self, step: int, tokens_seen: int) -> bool:
        """True if the curve stays constant from here: the counters lie at its end, or beyond."""
        return self.kind != "constant" and (tokens_seen if self.units == "tokens" else step) - self.begin >= self.end

    def __str__(self) -> str:
        """`cosine over tokens: up from 0 to 0.002 at 20480, down to 0.0002 at 409600`."""
        peak = self.scale * self.peak
        text = f"{self.kind} over {self.units}"
        text += f" from {self.begin}" if self.begin else ""
        text += f": up from {self.scale * self.warmup_from:.6g} to" if self.warmup else ":"
        text += f" {peak:.6g}" + (f" at {self.warmup:.0f}" if self.warmup else "")
        text += f", from {self.decay_from:.0f} on ({self.decay_shape})" if self.kind == "wsd" else ""
        text += "" if self.kind == "constant" else f", down to {self.final_fraction * peak:.6g} at {self.end:.0f}"
        text += f"; re-warmed over {self.rewarm_steps} steps" if self.rewarm_steps else ""
        return text + "".join(f"; times {factor:.6g} from update {at}" for at, factor in self.factors)

    def _curve(self, now: float) -> float:
        if now < self.warmup and self.warmup_from:
            return self.warmup_from + (self.peak - self.warmup_from) * now / self.warmup
        if self.kind == "cosine" or now < self.warmup:
            return cosine_with_warmup(
                now, peak=self.peak, warmup=self.warmup, end=self.end, final_fraction=self.final_fraction
            )
        if self.kind == "constant":
            return self.peak
        low, first = self.final_fraction * self.peak, self.decay_from if self.kind == "wsd" else self.warmup
        if now >= self.end:
            return low
        done = max(0.0, (now - first) / (self.end - first))
        return self.peak - (self.peak - low) * (math.sqrt(done) if self.decay_shape == "sqrt" else done)


def cosine_with_warmup(now: float, *, peak: float, warmup: float, end: float, final_fraction: float) -> float:
    """The learning rate at `now`, which may count steps or tokens: a line up from 0, half a cosine down, then flat.

    `peak · now / warmup` before `warmup`; then `low + (peak - low) (1 + cos(π (now - warmup) / (end - warmup))) / 2`
    with `low = final_fraction · peak`; `low` from `end` on. OLMo 2 and OLMo-core use this formula.
    """
    low = final_fraction * peak
    if now < warmup:
        return peak * now / warmup
    if now >= end:
        return low
    return low + (peak - low) * (1 + math.cos(math.pi * (now - warmup) / (end - warmup))) / 2
