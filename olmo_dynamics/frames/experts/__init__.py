"""Experts in tables: their choices compared between revisions, counted by domain and token id, and their weights pooled.

>>> counts = expert_counts({"code": [{0: 3, 1: 1}], "prose": [{0: 2, 1: 2}]}, layers=[7])
>>> domain_specialisation(counts, per_token=1).select("domain", "expert", "value").rows()
[('code', 0, 0.75), ('code', 1, 0.25), ('prose', 0, 0.5), ('prose', 1, 0.5)]
"""

from olmo_dynamics.frames.experts.choices import Choices
from olmo_dynamics.frames.experts.co_activations import co_activation, most_together
from olmo_dynamics.frames.experts.domain_counts import domain_specialisation, expert_balance, expert_counts
from olmo_dynamics.frames.experts.pooled_experts import pool_experts
from olmo_dynamics.frames.experts.router_saturation import churn, saturation
from olmo_dynamics.frames.experts.token_tables import expert_tokens, token_counts, vocabulary_specialisation

__all__ = [
    "Choices",
    "churn",
    "co_activation",
    "domain_specialisation",
    "expert_balance",
    "expert_counts",
    "expert_tokens",
    "most_together",
    "pool_experts",
    "saturation",
    "token_counts",
    "vocabulary_specialisation",
]
