"""From what the stages of a discovery found to the rows, details and arrays of a run."""

import importlib.metadata
import itertools
import platform
from dataclasses import asdict, dataclass

import numpy as np

import interp
from interp.circuits.exact_effects import ExactEffects
from interp.circuits.references import reference_for
from interp.circuits.roles import LONGEST, HeadReadout, HeadRoles
from interp.circuits.verify import VerifiedHeads
from interp.evaluation.recovery import recover
from interp.models import Model, Site, describe_model
from interp.prompts.pairs import PromptPairs
from interp.runs.run import FORMAT, Run
from interp.scores.head_codes import SIDES, HeadCodes, usage
from interp.scores.result import FALSE_DISCOVERY_RATE, EdgeEvidence, EdgeScore, Scores

EXAMPLES = 3
"""Pairs whose tokens are kept in the run; patterns and writings are kept for the first."""


@dataclass(frozen=True)
class Found:
    """What every stage of one discovery left behind."""

    pairs: PromptPairs
    scores: Scores
    checked: VerifiedHeads
    roles: HeadRoles
    readout: HeadReadout
    codes: HeadCodes
    edges: tuple[EdgeScore, ...]
    edge_evidence: tuple[EdgeEvidence, ...] = ()
    """Of each edge in turn, where the method gathers it."""
    reference: tuple[str, ExactEffects] | None = None
    """One's own and its file, beside those of the package."""

    def record(
        self,
        model: Model,
        *,
        seconds: dict[str, float],
        n_candidates: int,
        threshold: float,
        mlps: bool,
        task_class: str | None = None,
    ) -> Run:
        """All that a run keeps; see :mod:`interp.runs.run`.

        Args:
            task_class: where the task is a class of one's own, what :func:`~interp.tasks.load_task` finds it by.
        """
        pairs, scores, checked = self.pairs, self.scores, self.checked
        members = [site for site, inside in zip(checked.sites, checked.member, strict=True) if inside]
        result = {
            "format": FORMAT,
            "model": describe_model(model)["spec"],
            "task": pairs.task,
            "method": scores.method,
            "seed": pairs.seed,
            "n_pairs": len(pairs),
            # of a method that scores no MLP they all stay live
            "universe": "heads+mlps" if mlps and scores.mlps is not None else "heads",
            "metric": {
                "clean": float(checked.measured.metric_clean.mean()),
                "corrupt": float(checked.measured.metric_corrupt.mean()),
                "name": pairs.metric,
            },
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "cost": {"score": scores.cost.forwards, "check": checked.measured.forwards},
            "heads": _head_rows(scores, checked, self.roles),
            "mlps": _mlp_rows(scores, checked),
            "edges": [
                _edge_row(edge) | (asdict(evidence) if evidence else {})
                for edge, evidence in itertools.zip_longest(self.edges, self.edge_evidence)
            ],
            "left_out": self._left_out(),
            "proposed": _proposed(scores),
            "recovery": _recovery(pairs, model, scores, self.reference, shipped=task_class is None),
            "settings": {
                "mlps": mlps,
                "n_candidates": n_candidates,
                "threshold": threshold,
                **({"reference": self.reference[0]} if self.reference else {}),
                **({"task_class": task_class} if task_class else {}),
                "signed": scores.signed,
                "config": scores.config,
                "codes": asdict(self.codes.dictionary.config),
            },
            "provenance": {
                # not in provenance(), which what earlier versions measured is compared with
                "pairs": pairs.provenance() | {"digest": pairs.digest()},
                # not in describe_model: what earlier versions wrote is compared with it
                "model": describe_model(model) | {"parallel_attn_mlp": bool(model.cfg.parallel_attn_mlp)},
            },
            "versions": versions(),
        }
        details = {
            "examples": [_example(model, pairs, checked, i) for i in range(min(EXAMPLES, len(pairs)))],
            "members": {
                str(site): {
                    **_member(model, site, self.readout, self.codes),
                    **_evidence(scores, site),
                }
                for site in members
            },
        }
        own = self.reference[1] if self.reference else None
        return Run(result, details, _arrays(scores, checked), own)

    def _left_out(self) -> list[str]:
        """Why parts of the run are missing, a sentence each."""
        wiring, found = self.readout.wiring, []
        if not wiring.has_edges and not self.edges:
            found.append(f"No edges were scored for this model: {wiring.why_no_edges}.")
        if not wiring.known:
            found.append(
                f"What heads write to the logits is not known for this model ({wiring.why_no_edges}): roles that "
                "need it and the tokens that heads raise are left out."
            )
        return found


def versions() -> dict[str, str]:
    """Versions of everything a number may depend on."""
    names = ("torch", "transformers", "transformer-lens", "sae-lens", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"interp": interp.__version__, "python": platform.python_version(), **found}


def _proposed(scores: Scores) -> dict | None:
    """The circuit before any check, where the method tells how probable members are."""
    if scores.probability is None:
        return None
    chosen = scores.circuit(FALSE_DISCOVERY_RATE)
    sites = [str(Site("attn", int(layer), int(head))) for layer, head in np.argwhere(chosen)]
    return {"false_discovery_rate": FALSE_DISCOVERY_RATE, "heads": sites}


def _effects(checked: VerifiedHeads) -> dict[Site, dict]:
    return {
        site: {
            "effect": float(checked.effect[k]),
            "effect_low": float(checked.low[k]),
            "effect_high": float(checked.high[k]),
            "in_circuit": bool(checked.member[k]),
        }
        for k, site in enumerate(checked.sites)
    }


_UNCHECKED = {"effect": None, "effect_low": None, "effect_high": None, "in_circuit": False}


def _head_rows(scores: Scores, checked: VerifiedHeads, roles: HeadRoles) -> list[dict]:
    known = _effects(checked)
    return [
        {
            "site": str(site := Site("attn", layer, head)),
            "layer": layer,
            "head": head,
            "score": float(scores.heads[layer, head]),
            **known.get(site, _UNCHECKED),
            "roles": roles.of(layer, head),
        }
        for layer in range(scores.heads.shape[0])
        for head in range(scores.heads.shape[1])
    ]


def _mlp_rows(scores: Scores, checked: VerifiedHeads) -> list[dict]:
    if scores.mlps is None:
        return []
    known = _effects(checked)
    return [
        {
            "site": str(site := Site("mlp", layer)),
            "layer": layer,
            "score": float(score),
            **known.get(site, _UNCHECKED),
        }
        for layer, score in enumerate(scores.mlps)
    ]


def _edge_row(edge: EdgeScore) -> dict:
    return {"from": edge.sender, "to": edge.receiver, "into": edge.into, "score": edge.score}


STRICTER = (0.05, 0.10)
"""Shares of the gap beside 2 % at which a measured reference is read, too."""


def _recovery(
    pairs: PromptPairs,
    model: Model,
    scores: Scores,
    own: tuple[str, ExactEffects] | None,
    *,
    shipped: bool,
) -> dict:
    """
    Args:
        shipped: whether the task is one of the package: a class of one's own may have the name of one.
    """
    spec = describe_model(model)["spec"]
    found = {}
    known = reference_for(pairs.task, spec or "") if shipped else ()
    named = {reference.name: reference for reference in known}
    for name, reference in (named | dict([own] if own else [])).items():
        truth = reference.members()
        if truth.shape != scores.heads.shape:
            continue
        measured = isinstance(reference, ExactEffects)
        if measured and not reference.measures(pairs):
            continue
        effects = reference.effects() if measured else None
        found[name] = recover(scores.heads, truth, effects, scores.heads_per_pair).to_dict()
        if measured:
            found[name]["pairs"] = {"shared": reference.shared(pairs), "measured": reference.n_pairs}
            found[name]["stricter"] = {
                f"{share:.0%}": _short(recover(scores.heads, reference.members(share), effects).to_dict())
                for share in STRICTER
            }
    return found


def _short(recovery: dict) -> dict:
    return {key: recovery[key] for key in ("roc_auc", "average_precision", "n_positive")}


def _example(model: Model, pairs: PromptPairs, checked: VerifiedHeads, index: int) -> dict:
    pair = pairs[index]

    def texts(tokens):
        return [model.tokenizer.decode([token]) for token in tokens]

    return {
        "clean": texts(pair.clean_tokens),
        "corrupt": texts(pair.corrupt_tokens),
        "answers": texts(pair.answers),
        "wrong_answers": texts(pair.wrong_answers),
        "positions": dict(pair.positions),
        "metric": {
            "clean": float(checked.measured.metric_clean[index]),
            "corrupt": float(checked.measured.metric_corrupt[index]),
        },
    }


WRITES = 8
"""Tokens shown at either end of what a head writes."""


def _member(model: Model, site: Site, readout: HeadReadout, codes: HeadCodes) -> dict:
    """What the report shows of a member, pattern and writing on the first example; an MLP has neither."""
    if site.kind == "mlp":
        return {}
    layer, head = site.layer, site.head
    pattern = readout.patterns_[layer, head]
    # longer ones would make a run's files grow with the square of the prompt, and cannot be read anyway
    drawn = {"pattern": pattern.astype(float).round(4).tolist()} if len(pattern) <= LONGEST else {}
    return {
        **drawn,
        **(_writes(model, readout, layer, head) if readout.tells_writing else {}),
        "codes": {side: [list(pair) for pair in usage(codes, layer, head, side)] for side in SIDES},
    }


def _writes(model: Model, readout: HeadReadout, layer: int, head: int) -> dict:
    unembedding = readout.norm.unembedding
    logits = (readout.written_[layer, head].to(unembedding.device) @ unembedding).cpu()
    order = logits.argsort(descending=True)

    def named(ids):
        return [[model.tokenizer.decode([int(i)]), float(logits[i])] for i in ids]

    return {
        "direct": float(readout.direct_[:, layer, head].mean()),
        "writes": {"top": named(order[:WRITES]), "bottom": named(order[-WRITES:].flip(0))},
    }


def _evidence(scores: Scores, site: Site) -> dict:
    found = scores.evidence.get(str(site))
    return {} if found is None else {"evidence": asdict(found)}


def _arrays(scores: Scores, checked: VerifiedHeads) -> dict[str, np.ndarray]:
    arrays = {
        "heads": scores.heads,
        "heads_per_pair": scores.heads_per_pair,
        "mlps_per_pair": scores.mlps_per_pair,
        "effects": checked.measured.effects,
        "metric_clean": checked.measured.metric_clean,
        "metric_corrupt": checked.measured.metric_corrupt,
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items() if value is not None}
