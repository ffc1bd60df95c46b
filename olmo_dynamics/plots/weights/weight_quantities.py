"""The quantities of tables of distances, as axes and tooltips name them.

>>> QUANTITIES["angle"].unit
'rad'
"""

from __future__ import annotations

from olmo_dynamics.quantities.declaration import Quantity


def _quantity(name: str, long_name: str, formula: str, *, symbol: str, unit: str = "") -> Quantity:
    return Quantity(name, "", long_name, (), formula, "", symbol=symbol, unit=unit)


QUANTITIES = {
    each.name: each
    for each in (
        _quantity("distance", "distance from the reference", "‖θ - θ_ref‖", symbol="‖Δθ‖", unit="weight unit"),
        _quantity("relative", "relative distance from the reference", "‖θ - θ_ref‖ / ‖θ_ref‖", symbol="‖Δθ‖/‖θ‖"),
        _quantity(
            "angle", "angle to the reference", "2 atan2(‖u - v‖, ‖u + v‖) of unit vectors", symbol="∠", unit="rad"
        ),
        _quantity("cosine", "cosine with the reference", "θ·θ_ref / (‖θ‖ ‖θ_ref‖)", symbol="cos"),
        _quantity(
            "successive_cosine",
            "cosine of successive displacements",
            "cosine of the last two displacements",
            symbol="cos",
        ),
    )
}
"""Of the table of `od.displacement`, by column."""

PAIRED = {
    each.name: each
    for each in (
        _quantity("distance", "distance", "‖θ_r - θ_s‖ of revisions r and s", symbol="‖Δθ‖", unit="weight unit"),
        _quantity("cosine", "cosine", "θ_r·θ_s / (‖θ_r‖ ‖θ_s‖) of revisions r and s", symbol="cos"),
        _quantity(
            "angle", "angle", "2 atan2(‖u - v‖, ‖u + v‖) of the unit vectors of two revisions", symbol="∠", unit="rad"
        ),
    )
}
"""Of the table of `od.pairwise`, by column."""

COORDINATE = _quantity(
    "coordinate", "coordinate", "sqrt(λ) V, of the revisions' centred Gram matrix", symbol="c", unit="weight unit"
)

SINGULAR = _quantity("singular_value", "singular value", "σ_i of W = U diag(σ) Vᵀ", symbol="σ", unit="weight unit")

OPTIMIZER = (
    _quantity("exp_avg_rms", "size of the first moment", "sqrt(mean m²)", symbol="RMS(m)", unit="gradient unit"),
    _quantity("exp_avg_sq_mean", "mean second moment", "mean over elements", symbol="mean v", unit="gradient unit²"),
    _quantity("update_rms", "size of an update over the learning rate", "RMS of m̂ / (√v̂ + ε)", symbol="RMS(u)"),
    _quantity("signal_to_noise", "signal-to-noise ratio", "RMS(m̂) / sqrt(mean v̂)", symbol="SNR"),
    _quantity("eps_dominance", "share of elements where ε dominates", "share of √v̂ < ε", symbol="ε share"),
)
"""Of the table `optimizer`, in the order of the panels."""

PADDING = _quantity(
    "padding_rms", "RMS of rows without gradient", "RMS(first) Π (1 - η λ)", symbol="RMS(E)", unit="weight unit"
)

TURN = _quantity(
    "angle",
    "angle between neighbouring revisions",
    "arccos exp(-η λ V(n)) for n updates",
    symbol="∠",
    unit="rad",
)
