"""Scoring methods under one contract: ``method(model, pairs, config, consumers=, progress=) -> Scores``."""

from collections.abc import Callable
from dataclasses import Field, dataclass, fields, replace

from interp.activations.stream import HUNDREDTHS
from interp.errors import InputError, check_choice
from interp.models import Model, has_mlps
from interp.scores.acdc import ACDCConfig, acdc
from interp.scores.adaptive_patching.edges import PatchedEdges, edges_by_patching
from interp.scores.adaptive_patching.method import AdaptivePatchingConfig, adaptive_patching
from interp.scores.adaptive_patching.nested import NestedCircuits, grow
from interp.scores.atp_star import AtPStarConfig, atp_star
from interp.scores.attribution import AttributionConfig, attribution
from interp.scores.baselines import LayerIndexConfig, RandomConfig, layer_index, random_ranking
from interp.scores.contextual_decomposition import ContextualDecompositionConfig, contextual_decomposition
from interp.scores.eap import EAPConfig, eap
from interp.scores.eap_ig import EAPIGConfig, eap_ig, eap_ig_activations
from interp.scores.flow_routes import FlowRoutesConfig, flow_routes
from interp.scores.hisp import HISPConfig, hisp
from interp.scores.mean_difference import MeanDifferenceConfig, mean_difference
from interp.scores.nap_ig import NAPIGConfig, nap_ig, nap_ig_activations
from interp.scores.overlap import PUBLISHED_L1, OverlapConfig, overlap
from interp.scores.pair_subsets import (
    PairSubsets,
    adaptive_patching_subsets,
    eap_ig_subsets,
    eap_subsets,
    hisp_subsets,
    mean_difference_subsets,
    overlap_subsets,
)
from interp.scores.patching import PatchingConfig, patching
from interp.scores.result import Cost, EdgeScore, Scores
from interp.scores.subnetwork_probing import SubnetworkProbingConfig, subnetwork_probing


@dataclass(frozen=True)
class Method:
    """A registered method: its function, its config class, and how many progress steps a number of pairs takes."""

    function: Callable[..., Scores]
    config: type
    steps: Callable[[Model, int], int]
    summary: str
    task_defaults: Callable[[str], dict] = lambda _task: {}
    """Options whose default the method's publication gives per task."""
    pooled: Callable[..., PairSubsets] | None = None
    """``pooled(model, pool, config, progress=)`` for methods that are no mean over pairs, but rank any subset of a pool
    from one set of base runs."""
    edges: Callable[..., PatchedEdges] | None = None
    """``edges(model, pairs, scores, sites=, seed=, progress=)`` for methods that score edges only when asked, after
    the heads: from their scores of the same pairs."""
    alone: Callable[..., NestedCircuits] | None = None
    """``alone(model, pairs, config, progress=)`` for methods that, when asked, order heads anew for circuits that are
    to do the task by themselves. Others order them by their scores."""
    by_batch: bool = False
    """Whether another batch size gives other scores, and not only other last digits."""
    scores_mlps: bool = True
    """Whether MLPs are scored, too, where a model has some (or the config's ``mlps`` says so)."""
    version: int = 1
    """Raised whenever the same config gives other scores: cells of an older bench are then made again."""


def _components(model: Model) -> int:
    return model.cfg.n_layers * (model.cfg.n_heads + has_mlps(model))


def _pairs(_model: Model, n: int) -> int:
    return n


def _hundredths(_model: Model, _n: int) -> int:
    return HUNDREDTHS


METHODS: dict[str, Method] = {
    "adaptive-patching": Method(
        adaptive_patching,
        AdaptivePatchingConfig,
        _pairs,
        "attribution, corrected by exact patches where membership is open; codes say what a head does",
        pooled=adaptive_patching_subsets,
        edges=edges_by_patching,
        alone=grow,
        by_batch=True,  # a batch skips what all its prompts begin with in common, which says what a patch costs
        version=5,  # effects' variance over pairs is no longer taken for attribution's
    ),
    "attribution": Method(attribution, AttributionConfig, _pairs, "attribution patching: one backward pass"),
    "overlap": Method(
        overlap,
        OverlapConfig,
        _pairs,
        "codes unique to clean prompts, by a discrete SAE",
        lambda task: {"l1": PUBLISHED_L1.get(task, OverlapConfig.l1)},
        pooled=overlap_subsets,
        scores_mlps=False,
    ),
    "patching": Method(
        patching,
        PatchingConfig,
        lambda model, n: n * _components(model),
        "activation patching of every component: the reference",
    ),
    "nap-ig": Method(
        nap_ig,
        NAPIGConfig,
        _hundredths,
        "attribution patching with gradients between corrupt and clean input",
    ),
    "nap-ig-activations": Method(
        nap_ig_activations,
        NAPIGConfig,
        _hundredths,
        "the same between corrupt and clean activations, layer by layer",
    ),
    "atp-star": Method(
        atp_star,
        AtPStarConfig,
        _pairs,
        "attribution patching with softmax recomputed and layers dropped (AtP*)",
    ),
    "eap": Method(
        eap,
        EAPConfig,
        _pairs,
        "edge attribution patching, heads by their largest edge",
        pooled=eap_subsets,
    ),
    "eap-ig": Method(
        eap_ig,
        EAPIGConfig,
        _hundredths,
        "the same with gradients between corrupt and clean input",
        pooled=eap_ig_subsets,
    ),
    "eap-ig-activations": Method(
        eap_ig_activations,
        EAPIGConfig,
        _hundredths,
        "the same between corrupt and clean activations, layer by layer",
    ),
    "hisp": Method(
        hisp,
        HISPConfig,
        _pairs,
        "absolute attribution of every pair, normed in each layer",
        pooled=hisp_subsets,
        scores_mlps=False,
    ),
    "mean-difference": Method(
        mean_difference,
        MeanDifferenceConfig,
        _pairs,
        "how far a head's mean output moves: no gradient, no codes",
        pooled=mean_difference_subsets,
        scores_mlps=False,
    ),
    "random": Method(random_ranking, RandomConfig, _pairs, "a random ranking", scores_mlps=False),
    "layer-index": Method(layer_index, LayerIndexConfig, _pairs, "later layers first", scores_mlps=False),
    "subnetwork-probing": Method(
        subnetwork_probing,
        SubnetworkProbingConfig,
        _hundredths,
        "learned masks that keep the answer",
        by_batch=True,  # a step of its optimizer is a batch
    ),
    "acdc": Method(
        acdc, ACDCConfig, _hundredths, "greedy pruning of heads or edges, a sweep of its threshold"
    ),
    "flow-routes": Method(
        flow_routes, FlowRoutesConfig, _pairs, "information flow routes: what END's vector is made of"
    ),
    "contextual-decomposition": Method(
        contextual_decomposition,
        ContextualDecompositionConfig,
        _hundredths,
        "each head's part of every later activation, followed to the logits",
        scores_mlps=False,
    ),
}
DEFAULT_METHOD = "adaptive-patching"


def load_method(name: str) -> Method:
    """The method of this name."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: choose {', '.join(METHODS)}")
    return METHODS[name]


def method_config(name: str, task: str, options: dict[str, str], **common: float | int):
    """A method's config for a task from ``key=value`` texts, each turned into the type of the config's default.

    Args:
        common: settings that every method may have; those that this one lacks are left out.
    """
    method = load_method(name)
    config = method.config
    known = {field.name: field for field in fields(config)}
    values = {key: value for key, value in common.items() if key in known}
    for key, text in options.items():
        if key not in known:
            raise InputError(f"method {name!r} has no option {key!r}: it has {', '.join(known)}")
        values[key] = _parse(key, text, known[key])
    return config(**{**method.task_defaults(task), **values})


def with_mlps(name: str, config):
    """A method's config that lets MLPs be members.

    Raises:
        InputError: the method scores heads alone.
    """
    if not load_method(name).scores_mlps:
        others = ", ".join(other for other, method in METHODS.items() if method.scores_mlps)
        raise InputError(f"mlps: method {name!r} scores heads alone; MLPs, too, are scored by {others}")
    return replace(config, mlps=True) if hasattr(config, "mlps") else config


def _parse(key: str, text: str, field: Field):
    check_choice(f"option {key}=", field.type, text)
    default = field.default
    kind = type(default)
    if default is None or kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"option {key}={text!r}: it is true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"option {key}={text!r}: it is {kind.__name__}") from None


__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Cost",
    "EdgeScore",
    "Method",
    "Scores",
    "load_method",
    "method_config",
    "with_mlps",
]
