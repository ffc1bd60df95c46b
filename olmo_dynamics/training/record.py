"""A fork's record: field by field, what was restored from the parent, replaced by the user, assumed, or is missing.

>>> Field("clip", "restored", "1.0").status
'restored'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from olmo_dynamics.training.edits import describe_edits
from olmo_dynamics.training.options import Options
from olmo_dynamics.training.parents import Parent
from olmo_dynamics.training.recipe import Recipe

_SOURCES = {  # by field, the options that replace it
    "schedule": ("schedule", "lr", "peak_lr", "warmup", "decay_steps", "decay_share", "decay_shape", "batch_lr"),
    "batch": ("batch", "batch_warmup"),
    "betas, eps": ("betas", "eps"),
    "weight decay": ("weight_decay", "decay", "no_decay"),
    "clip": ("clip",),
    "z-loss": ("z_loss",),
    "router's losses": ("balance_loss", "router_z_loss"),
    "precision": ("dtype",),
    "document masking": ("mask_documents",),
    "repeated n-grams": ("mask_repeated_ngrams",),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One line of a fork's record; status is "restored", "replaced", "assumed" or "missing"."""

    name: str
    status: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Writes the record of a fork of `parent` by `recipe`."""

    parent: Parent
    recipe: Recipe
    options: Options
    moments: str
    has_experts: bool = False

    def fields(self, *, data: Field, place: str) -> tuple[Field, ...]:
        """The record; `data` is the line of the files, `place` where in them the fork begins."""
        recipe, parent, options = self.recipe, self.parent, self.options
        begun = options.order != "parent" or options.seed is not None
        place_status = "replaced" if begun else self._own("place in the data")
        found = [
            Field("weights", "restored", "float32 masters"),
            self._moments(),
            *(self._field(name, value) for name, value in self._values()),
            Field("loss", self._own("loss"), f"mean over {recipe.mean_over}"),
            data,
            Field("place in the data", place_status, place),
            Field("random state", "restored" if parent.saved else "missing", "nothing draws from it"),
        ]
        if recipe.step_stays_zero:
            words = "0 for ever, as its optimiser left it: bias corrections stay the first"
            found.append(Field("AdamW's step", "restored", words))
        if recipe.frozen:
            found.append(Field("frozen", "replaced" if options.freeze else "restored", ", ".join(recipe.frozen)))
        if edits := describe_edits(options):
            found.append(Field("weights edited", "replaced", "; ".join(edits)))
        missing = "the parent did this; the fork does not"
        return (*found, *(Field(name, "missing", missing) for name in self._missing()))

    def _values(self) -> Sequence[tuple[str, object]]:
        recipe, first = self.recipe, self.parent.step + 1
        rate = recipe.learning_rate(first, self.parent.tokens_seen + recipe.tokens_per_step)
        growth = "".join(f", {size} after {step} batches" for step, size in recipe.batch_growth)
        values = [
            ("schedule", f"{recipe.schedule}; {rate:.6g} at step {first}"),
            ("batch", f"{recipe.sequences_per_step}x{recipe.sequence_length}{growth}"),
            ("betas, eps", f"{recipe.betas}, {recipe.eps}"),
            ("weight decay", f"{recipe.weight_decay}, none on {_names(recipe.no_decay)}"),
            ("clip", recipe.clip),
            ("z-loss", recipe.z_loss),
            ("precision", recipe.dtype),
            ("document masking", "attention within documents" if recipe.mask_documents else "none"),
            ("repeated n-grams", recipe.repeats or "all labels count"),
        ]
        if self.has_experts:
            values.append(("router's losses", f"balance {recipe.balance_loss}, z {recipe.router_z_loss}"))
        return values

    def _field(self, name: str, value: object) -> Field:
        replaced = any(each in self.options.given() for each in _SOURCES[name])
        return Field(name, "replaced" if replaced else self._own(name), str(value))

    def _own(self, name: str) -> str:
        """Whether the parent's files say it."""
        return "assumed" if self.parent.recipe is None or name in self.parent.assumed else "restored"

    def _moments(self) -> Field:
        if self.moments == "parent":
            return Field("moments", "restored", "with their steps as stored")
        return Field("moments", "replaced" if self.parent.has_moments else "missing", "zero")

    def _missing(self) -> Sequence[str]:
        return [
            name for name in self.parent.left_out if not (self.recipe.skip_spikes and name.startswith("step skipping"))
        ]


def _names(globs: Sequence[str]) -> str:
    return ", ".join(globs) or "nothing" if len(globs) < 4 else f"{len(globs)} parameters"
