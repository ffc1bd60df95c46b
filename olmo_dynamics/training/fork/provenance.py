"""The provenance of a fork: the fields that were restored from the parent, replaced by the user, assumed, or are missing.

>>> Field("clip", "restored", "1.0").status
'restored'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.weight_edits import describe_edits
from olmo_dynamics.training.parent.parent import Parent
from olmo_dynamics.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a fork's provenance; status is "restored", "replaced", "assumed" or "missing"."""

    name: str
    status: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The provenance of a fork of `parent` by `recipe`."""

    parent: Parent
    recipe: Recipe
    options: ForkOptions
    moments: str
    has_experts: bool = False

    def fields(self, *, data: Field, position: str) -> tuple[Field, ...]:
        """All rows; `data` is the row of the files, `position` the position in them where the fork begins."""
        recipe, parent, options = self.recipe, self.parent, self.options
        replaced = options.replaced_rows()
        begun = options.order != "parent" or options.seed is not None
        position_status = "replaced" if begun else self._own("data position")
        found = [
            Field("weights", "restored", "float32 masters"),
            self._moments(),
            *(self._field(name, value) for name, value in self._values()),
            Field("loss", self._own("loss"), f"mean over {recipe.mean_over}"),
            data,
            Field("data position", position_status, position),
            Field("random state", "restored" if parent.saved else "missing", "nothing draws from it"),
        ]
        if recipe.step_stays_zero:
            found.append(Field("AdamW's step", "restored", "frozen at 0, as in the parent (SkipStepAdamW bug)"))
        if recipe.frozen:
            found.append(Field("frozen", "replaced" if "frozen" in replaced else "restored", ", ".join(recipe.frozen)))
        if edits := describe_edits(options):
            found.append(Field("weights edited", "replaced", "; ".join(edits)))
        if parent.step_file:
            found.append(Field("step", "restored", f"{parent.step}, of {parent.step_file}"))
        missing = "the parent has this; the fork does not"
        return (*found, *(Field(name, "missing", missing) for name in self._missing()), *self._unread())

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
        return Field(name, "replaced" if name in self.options.replaced_rows() else self._own(name), str(value))

    def _own(self, name: str) -> str:
        """Status "restored" if the value is from the parent's files, else "assumed"."""
        of_optimizer = self.parent.rate is not None and name in ("betas, eps", "weight decay")
        is_known = (self.parent.recipe is not None or of_optimizer) and name not in self.parent.assumed
        return "restored" if is_known else "assumed"

    def _moments(self) -> Field:
        if self.moments == "parent":
            return Field("moments", "restored", "with their steps as stored")
        return Field("moments", "replaced" if self.parent.has_moments else "missing", "zero")

    def _unread(self) -> Sequence[Field]:
        """The files beside the weights that are not read, those of one reason in one row."""
        unread = self.parent.unread
        return [
            Field(", ".join(name for name in unread if unread[name] == why), "missing", f"present, but not read: {why}")
            for why in dict.fromkeys(unread.values())
        ]

    def _missing(self) -> Sequence[str]:
        return [
            name for name in self.parent.left_out if not (self.recipe.skip_spikes and name.startswith("step skipping"))
        ]


def _names(globs: Sequence[str]) -> str:
    return ", ".join(globs) or "nothing" if len(globs) < 4 else f"{len(globs)} parameters"
