"""Checks of configs and tensor headers: the fields and tensors that differ between revisions.

Stages of one run may rightly differ (a longer context, YaRN), so revisions are compared with those of their own stage;
differences between stages are one note. Fields that do not change the computation are notes too.

    >>> sorted(flat({"rope": {"theta": 1e4}, "vocab_size": 64}))
    ['rope.theta', 'vocab_size']
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from olmo_dynamics.auditing.contents import majority
from olmo_dynamics.auditing.evidence import Evidence, Tensors
from olmo_dynamics.auditing.findings import Finding, Severity, some

WITHOUT_EFFECT = (
    "transformers_version",
    "_name_or_path",
    "torch_dtype",
    "dtype",
    "use_cache",
    "architectures",
    "auto_map",
)
"""Fields of a config that do not change the model; the dtype is read from the weights."""

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}

_ABSENT = "absent"


def find_config_drift(evidence: Evidence) -> list[Finding]:
    """Fields in which revisions differ from the rest of their stage, and stages from one another."""
    configs = {name: config for name in evidence.listings if (config := evidence.config_of(name)) is not None}
    stages: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for name, config in configs.items():
        stages[_stage_of(name, evidence)][name] = flat(config)
    found = [finding for members in stages.values() for finding in _within(members)]
    return found + _between(stages)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config as `field.subfield` and the JSON of its value."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value, sort_keys=True)
    return found


def _stage_of(name: str, evidence: Evidence) -> str:
    revision = next(each for each in evidence.revisions if each.name == name)
    if revision.step is None:
        return name
    return f"stage {revision.stage}" if revision.stage else "steps"


def _within(members: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Fields in which single revisions differ from most of their stage."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for field in sorted({field for config in members.values() for field in config}):
        values = {name: config.get(field, _ABSENT) for name, config in members.items()}
        common = majority(values)
        for name, value in values.items():
            if value != common:
                groups[field, str(common or "one value"), value].append(name)
    return [
        Finding(
            "config",
            _severity(field),
            tuple(names),
            f"{field} = {common}, as in most of the stage",
            f"{field} = {value}",
        )
        for (field, common, value), names in groups.items()
    ]


def _severity(field: str) -> Severity:
    return Severity.NOTE if field.partition(".")[0] in WITHOUT_EFFECT else Severity.DOUBTFUL


def _between(stages: Mapping[str, Mapping[str, Mapping[str, str]]]) -> list[Finding]:
    """The fields whose common value differs between stages (and `main`), as one note."""
    common: dict[str, dict[str, str | None]] = {}
    for stage, members in stages.items():
        fields = {field for config in members.values() for field in config}
        common[stage] = {field: majority({n: config.get(field, _ABSENT) for n, config in members.items()})
                         for field in fields}  # fmt: skip
    differing = []
    for field in sorted({field for fields in common.values() for field in fields}):
        values = {stage: fields.get(field, _ABSENT) for stage, fields in common.items()}
        if len(set(values.values())) > 1 and field.partition(".")[0] not in WITHOUT_EFFECT:
            differing.append(field)
    if not differing:
        return []
    names = tuple(next(iter(members)) for members in stages.values())
    return [Finding("config", Severity.NOTE, names, "", f"stages differ in {some(differing, 8)}")]


def find_header_drift(evidence: Evidence) -> list[Finding]:
    """Tensors whose dtype or shape is not that of most revisions, and dtypes that contradict the config."""
    headers = evidence.headers
    common = majority({name: _frozen(tensors) for name, tensors in headers.items()})
    if common is None:
        return _contradicted_dtypes(evidence)
    usual: Tensors = {name: (dtype, shape) for name, dtype, shape in common}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tensors in headers.items():
        for kind, found in _differences(usual, tensors):
            groups[kind, found].append(name)
    drift = [
        Finding(kind, Severity.DOUBTFUL, tuple(names), "the tensors that most revisions have", found)
        for (kind, found), names in groups.items()
    ]
    return drift + _contradicted_dtypes(evidence)


def _frozen(tensors: Tensors) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    return tuple(sorted((name, dtype, shape) for name, (dtype, shape) in tensors.items()))


def _differences(usual: Tensors, tensors: Tensors) -> list[tuple[str, str]]:
    """Kind and description of each difference: missing or new tensors, shapes, dtypes."""
    both = sorted(set(usual) & set(tensors))
    shapes = [f"{name} {list(tensors[name][1])} not {list(usual[name][1])}" for name in both
              if tensors[name][1] != usual[name][1]]  # fmt: skip
    dtypes = [f"{name} {tensors[name][0]} not {usual[name][0]}" for name in both if tensors[name][0] != usual[name][0]]
    lost, new = sorted(set(usual) - set(tensors)), sorted(set(tensors) - set(usual))
    found = [("shape", f"without {some(lost)}")] if lost else []
    found += [("shape", f"besides these, {some(new)}")] if new else []
    found += [("shape", some(shapes))] if shapes else []
    return found + ([("dtype", some(dtypes))] if dtypes else [])


def _contradicted_dtypes(evidence: Evidence) -> list[Finding]:
    """Revisions whose config names a dtype that no tensor's header has: a note, since the header decides."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tensors in evidence.headers.items():
        config = evidence.config_of(name) or {}
        declared = DTYPES.get(str(config.get("dtype", config.get("torch_dtype", ""))))
        stored = {dtype for dtype, _ in tensors.values()}
        if declared and stored and declared not in stored:
            groups[declared, "+".join(sorted(stored))].append(name)
    return [
        Finding("dtype", Severity.NOTE, tuple(names), f"{declared}, as in the config", f"{stored} in the headers")
        for (declared, stored), names in groups.items()
    ]
