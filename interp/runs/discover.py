"""From a task and a model to a circuit: every stage once, in order.

1. Sample pairs. 2. Run them once; the method's scores, the readout behind head roles and the means that codes are
read from all come from these passes. 3. Patch the best-scored components exactly and decide who is a member.
4. Score the edges among members. 5. Read the members' codes.
6. Compare the scores with the references there are.
"""

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from interp import CANDIDATES, DEFAULT_MODEL, MIN_PAIRS, MOST_PAIRS, MOST_SEED, THRESHOLD
from interp.activations.stream import HUNDREDTHS
from interp.circuits.circuit import CodesUsed, Component, Edge, Writes
from interp.circuits.references import ExactEffects, Reference, reference_for
from interp.circuits.roles import LONGEST, HeadReadout, HeadRoles, head_roles, role_name
from interp.circuits.verify import VerifiedHeads, verify
from interp.errors import InputError, real_number, whole_number
from interp.evaluation.recovery import recover
from interp.interventions.clean_run import CleanRun
from interp.models import Model, Site, describe_model, load_model
from interp.models.hooks import check_model
from interp.models.limits import check_memory
from interp.models.provenance import versions
from interp.planted.tasks import planted_task_names
from interp.programs.program import find_program
from interp.programs.schema import Program
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import check_counterfactual, sample_pairs
from interp.prompts.user_code import USER_CODE
from interp.runs.run import Example, Judged, Metric, ModelRun, PairsMade, Proposed, Provenance, Run, Settings, Stricter
from interp.scores.adaptive_patching.edges import edges_by_patching
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.eap import attributed_edges
from interp.scores.method import Method
from interp.scores.registry import DEFAULT_METHOD, load_method, method_config, with_mlps
from interp.scores.result import FALSE_DISCOVERY_RATE, EdgeScore, ScoredEdges, Scores
from interp.tasks import TaskFile, load_task

TOO_FEW = f"n {{}}: too few, at least {MIN_PAIRS} pairs of {{}} are needed to check a circuit"
EXAMPLES = 3  # pairs whose tokens are kept in the run; patterns and writings are kept for the first


@dataclass
class CircuitSearch:
    """What a discovery is asked for, checked; :func:`find_circuit` says what each part means. :class:`InputError`:
    naming the value and what is allowed; everything that needs no model is looked at."""

    task: Any
    method: Any = DEFAULT_METHOD
    n: Any = None
    seed: Any = 0
    counterfactual: str | None = None
    config: Any = None
    candidates: Any = CANDIDATES
    threshold: Any = THRESHOLD
    mlps: bool = False
    bos: bool = True
    reference: Any = None
    batch_size: Any = None
    program: bool = False
    task_spec: str = field(init=False)  # what the task is found by: its name, its file, or where its class is
    own_reference: ExactEffects | None = field(init=False)  # the reference of one's own

    def __post_init__(self) -> None:
        # NumPy's numbers, too, but as Python's: what a run was made with is written as JSON
        limits_of = {"n": (0, MOST_PAIRS), "seed": (0, MOST_SEED), "batch_size": (1,), "candidates": (1,)}
        for name, limits in limits_of.items():
            if (value := getattr(self, name)) is not None or name in ("seed", "candidates"):
                setattr(self, name, whole_number(name, value, *limits))
        self.threshold = real_number("threshold", self.threshold)
        if not 0 <= self.threshold <= 1:  # NaN neither
            raise InputError(f"threshold {self.threshold}: it is a share of the clean–corrupt gap, from 0 to 1")
        self.method = load_method(self.method)
        task = load_task(self.task)
        self.task_spec = str(self.task) if isinstance(self.task, str | Path) else task.name
        self.task = task
        if (n := task.default_n if self.n is None else self.n) < MIN_PAIRS:
            raise InputError(TOO_FEW.format(n, task.name))
        check_counterfactual(task, self.counterfactual)
        self.config = self._config()
        if self.batch_size is None:
            self.batch_size = self.config.batch_size
        self.own_reference = None
        if self.reference is not None:
            self.reference, self.own_reference = str(self.reference), ExactEffects.load(self.reference)

    def _config(self) -> Any:
        method, config = self.method, {} if self.config is None else self.config
        if isinstance(config, Mapping):
            for key in ("threshold", "batch_size", "mlps"):
                if key in config:
                    raise InputError(f"{key}={config[key]}: say --{key.replace('_', '-')}, which is of every method")
            common = {"threshold": self.threshold, "seed": self.seed}
            common |= {} if self.batch_size is None else {"batch_size": self.batch_size}
            config = method_config(method, self.task.name, {key: str(v) for key, v in config.items()}, **common)
        elif type(config) is not method.config:
            raise InputError(
                f"config of type {type(config).__name__}: method {method.name!r} takes a {method.config.__name__}"
            )
        if getattr(config, "threshold", self.threshold) != self.threshold:
            raise InputError(
                f"threshold {self.threshold}, but {config.threshold} in the method's config: members are what both "
                "mean by them, so give the same"
            )
        return with_mlps(method, config) if self.mlps else config

    @property
    def is_user_class(self) -> bool:
        """Whether the task is a class of one's own, which may have the name of a task of the package."""
        return self.task_spec != self.task.name and not isinstance(self.task, TaskFile)

    def request(self, model: str | None, dtype: str) -> dict[str, Any]:
        """All that a run is asked for, as JSON; pairs per forward pass are no part."""
        apart = ("task", "method", "config", "batch_size")
        same = [field.name for field in fields(self) if field.init and field.name not in apart]
        options = {key: value for key, value in asdict(self.config).items() if key != "batch_size"}
        asked = {key: getattr(self, key) for key in same} | {"method": self.method.name, "config": options}
        asked |= {"task": self.task_spec, "model": model, "dtype": dtype}
        if isinstance(self.task, TaskFile):  # the same name may hold other prompts by now
            asked["prompts"] = hashlib.sha256(self.task.data).hexdigest()
        # of a file of the user's the name says what it holds
        modules = (self.method.score.__module__, type(self.task).__module__)
        asked["code"] = [name for name in modules if name.startswith(USER_CODE)]
        return json.loads(json.dumps(asked, default=str))


def find_circuit(
    model: str | Path | Model,
    task: str | Path | Task,
    *,
    method: str | Method | Callable = DEFAULT_METHOD,
    n: SupportsIndex | None = None,
    seed: SupportsIndex = 0,
    counterfactual: str | None = None,
    config: Any = None,
    candidates: SupportsIndex = CANDIDATES,
    threshold: SupportsFloat = THRESHOLD,
    mlps: bool = False,
    bos: bool = True,
    reference: str | Path | None = None,
    batch_size: SupportsIndex | None = None,
    program: bool = False,
    stage: Stage = silent,
) -> Run:
    """Find the circuit that does ``task`` in ``model``. :class:`InputError`: anything that a user can mend, before the
    model is loaded where that is possible.

    >>> run = find_circuit("planted-induction", "planted-induction", n=8)
    >>> sorted(head.site for head in run.circuit.heads)
    ['a0.h3', 'a1.h1', 'a2.h4']

    Args:
        model: a spec (see :func:`interp.models.load_model`) or a loaded model.
        task: a shipped name, a prompt file, your own class (see :func:`interp.tasks.load_task`), or a task.
        method: a registered name, or your own (see :func:`interp.scores.registry.load_method`).
        n: pairs; if not given the task's own default, or as many as a prompt file has with this tokenizer.
        config: the method's options, as a mapping or as its config object; its defaults if not given. Its seed is the
            method's own, and need not be that of the prompts.
        candidates: how many of the best-scored components are checked by activation patching.
        threshold: share of the clean–corrupt gap from which on an effect makes a member.
        mlps: whether MLPs may be members; otherwise they stay live.
        reference: a file that ``interp reference`` wrote; the scores are judged by it and by those of the package.
        batch_size: pairs per forward pass; the config's if not given.
        program: also find out what the members write (:func:`~interp.programs.program.find_program`), on pairs beyond
            the ``n``.
        stage: draws progress (:func:`interp.progress.bar`).
    """
    asked = (task, method, n, seed, counterfactual, config, candidates, threshold, mlps, bos, reference)
    return run_search(CircuitSearch(*asked, batch_size, program), model, stage=stage)


def run_search(search: CircuitSearch, model: str | Path | Model, *, stage: Stage = silent) -> Run:
    """:func:`find_circuit` of what was checked before."""
    task, method, config, seed = search.task, search.method, search.config, search.seed
    batch_size, reference = search.batch_size, search.own_reference
    seconds: dict[str, float] = {}
    clock = partial(_clock, seconds)
    if isinstance(model, str | Path):
        with clock("load"):
            model = load_model(model)
    check_model(model)
    with clock("sample"):
        pairs = sample_pairs(
            task, model.tokenizer, search.n, task.default_n, seed, search.counterfactual, bos=search.bos
        )
    if len(pairs) < MIN_PAIRS:
        raise InputError(TOO_FEW.format(len(pairs), task.name))
    if reference is not None:
        reference.check_made_as(pairs, model, search.reference)
    longest = max(len(pair.clean_tokens) for pair in pairs)
    check_memory(model, batch_size, longest, layers_kept=model.cfg.n_layers, gradients=True)
    outputs, readout = RoleOutputs(pairs), HeadReadout(model, len(pairs))
    clean = CleanRun.of_first(model, pairs, mlps=search.mlps)
    with clock("score"), stage(f"{method.name} scores", HUNDREDTHS) as advance:
        scores = method(model, pairs, config, consumers=(outputs, readout, clean), progress=advance)
    with clock("check"):
        options: dict[str, Any] = {
            "n_candidates": search.candidates,
            "mlps": search.mlps,
            "threshold": search.threshold,
        }
        checked = verify(scores, clean, **options, seed=seed, stage=stage)
    members = checked.members
    with clock("roles"):
        roles = head_roles(model, readout, seed)
    program = None
    if search.program:
        with clock("program"):
            looks = {str(s): role_name(roles.of(s.layer, s.head)) for s in members if s.head is not None}
            effects = checked.effects(members)
            program = find_program(task, clean, members, effects, seed=seed, looks=looks, stage=stage)
    source, codes = vocabulary(model, outputs, program)
    with clock("edges"), stage("edges", HUNDREDTHS) as advance:
        score_edges: Callable[..., ScoredEdges] = method.edges or attributed_edges
        if score_edges is edges_by_patching:
            score_edges = partial(edges_by_patching, clean=clean, codes=codes)
        scored = score_edges(model, pairs, scores, sites=members, batch_size=batch_size, progress=advance)
    edges, evidence = scored.edges, scored.evidence
    proposed = None
    if scores.probability is not None:  # the circuit before any check
        heads = [f"a{layer}.h{head}" for layer, head in np.argwhere(scores.circuit()).tolist()]
        proposed = Proposed(false_discovery_rate=FALSE_DISCOVERY_RATE, heads=heads)
    described = describe_model(model)
    return Run(
        model=described["spec"],
        task=pairs.task,
        method=scores.method,
        seed=pairs.seed,
        n_pairs=len(pairs),
        # of a method that scores no MLP they all stay live
        universe="heads+mlps" if search.mlps and scores.mlps is not None else "heads",
        metric=_metric(pairs, checked.measured.metric_clean.mean(), checked.measured.metric_corrupt.mean()),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        cost={"score": scores.cost.forwards, "check": checked.measured.forwards}
        | ({} if program is None else {"program": program.forwards}),
        heads=_heads(model, scores, checked, roles, readout, codes),
        mlps=_mlps(scores, checked),
        edges=[
            Edge(**vars(edge), **(vars(why) if why else {})) for edge, why in itertools.zip_longest(edges, evidence)
        ],
        edges_are_counts=scored.counts,
        left_out=_left_out(readout, edges),
        proposed=proposed,
        recovery=_recovery(pairs, model, scores, search),
        settings=Settings(
            candidates=search.candidates,
            threshold=search.threshold,
            mlps=search.mlps,
            signed=scores.signed,
            config=scores.config,
            codes={} if source is None else {"source": source},
            reference=search.reference,
            task_class=search.task_spec if search.is_user_class else None,
        ),
        provenance=Provenance(
            pairs=PairsMade(**pairs.provenance(), digest=pairs.digest()),
            model=ModelRun(**described, parallel_attn_mlp=bool(model.cfg.parallel_attn_mlp)),
        ),
        versions=versions(),
        request=search.request(described["spec"], described["dtype"]),
        program=program,
        examples=[_example(model, pairs, checked, i) for i in range(min(EXAMPLES, len(pairs)))],
        arrays=_arrays(scores, checked, readout),
        own_reference=reference,
        prompts=task if isinstance(task, TaskFile) else None,
    )


def vocabulary(model: Model, outputs: RoleOutputs, program: Program | None) -> tuple[str | None, RoleCodes | None]:
    """The codes that a run speaks of, and whose they are: its program's, else those that come with the package."""
    if program is not None and program.books:
        return "program", RoleCodes(outputs, program.books)
    from interp.bottlenecks.store import Codebooks, pretrained_names

    for name in pretrained_names(model):
        codebooks = Codebooks.from_pretrained(name)
        if codebooks.sites[0].startswith("a"):
            heads = np.ndindex(model.cfg.n_layers, model.cfg.n_heads)
            sites = [f"a{layer}.h{head}" for layer, head in heads if f"a{layer}" in codebooks.sites]
            return name, RoleCodes(outputs, {site: codebooks[site] for site in sites})
    return None, None


def default_model(task: Task) -> str:
    """The model for a task when none is named: a planted task's own, else the embedded one."""
    return task.name if task.name in planted_task_names() else DEFAULT_MODEL


@contextlib.contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin


def _metric(pairs: PromptPairs, clean: float, corrupt: float) -> Metric:
    return Metric(clean=float(clean), corrupt=float(corrupt), name=pairs.metric)


def _left_out(readout: HeadReadout, edges: tuple[EdgeScore, ...]) -> list[str]:
    residual_writes, sentences = readout.residual_writes, []
    if not residual_writes.has_edges and not edges:
        sentences.append(f"No edges were scored for this model: {residual_writes.why_no_edges}.")
    if not residual_writes.known:
        sentences.append(
            f"What heads write to the logits is not known for this model ({residual_writes.why_no_edges}): roles that "
            "need it and the tokens that heads raise are left out."
        )
    return sentences


def _effects(checked: VerifiedHeads) -> dict[Site, dict]:
    """What the check says of a component, by site."""
    measured = np.isfinite(checked.measured.effects).sum(0)
    columns = (checked.effect, checked.low, checked.high, checked.member, measured)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = ("effect", "low", "high", "in_circuit", "measured")
    return {site: dict(zip(names, row, strict=True)) for site, row in zip(checked.sites, rows, strict=True)}


def _heads(
    model: Model,
    scores: Scores,
    checked: VerifiedHeads,
    roles: HeadRoles,
    readout: HeadReadout,
    codes: RoleCodes | None,
) -> list[Component]:
    effects, heads = _effects(checked), []
    for (layer, head), score in np.ndenumerate(scores.heads):
        site = Site("attn", layer, head)
        details = effects.get(site, {}) | {"roles": roles.of(layer, head)}
        if details.get("in_circuit"):
            details |= _member(model, site, readout, codes, scores)
        heads.append(Component(site=str(site), layer=layer, head=head, score=float(score), **details))
    return heads


def _mlps(scores: Scores, checked: VerifiedHeads) -> list[Component]:
    effects, components = _effects(checked), []
    for layer, score in enumerate(() if scores.mlps is None else scores.mlps):
        details = effects.get(Site("mlp", layer), {})
        components.append(Component(site=f"m{layer}", layer=layer, score=float(score), **details))
    return components


WRITES = 8  # tokens kept at either end of what a member writes
CHANGES = 8  # changes of code that are told of a member


def _member(model: Model, site: Site, readout: HeadReadout, codes: RoleCodes | None, scores: Scores) -> dict:
    assert site.head is not None
    at = site.layer, site.head
    details: dict[str, Any] = {"evidence": (evidence := scores.evidence.get(str(site)))}
    if codes is not None:
        if evidence is not None:
            details["evidence"] = replace(evidence, changes=tuple(codes.changes(*at, CHANGES)))
        if str(site) in codes.codebooks:  # one for all roles
            clean, corrupt = codes.usage(*at)
            details["codes"] = CodesUsed(clean=clean, corrupt=corrupt)
    if readout.tells_writing:
        unembedding = readout.norm.unembedding
        logits = (readout.written_[at].to(unembedding.device) @ unembedding).cpu()
        order = logits.argsort(descending=True).tolist()
        top, bottom = (
            [(model.tokenizer.decode([i]), float(logits[i])) for i in ids]
            for ids in (order[:WRITES], order[: -WRITES - 1 : -1])
        )
        details |= {"direct": float(readout.direct_[:, *at].mean()), "writes": Writes(top=top, bottom=bottom)}
    return details


STRICTER = (0.05, 0.10)  # shares of the gap beside 2 % at which a measured reference is read, too


def _recovery(pairs: PromptPairs, model: Model, scores: Scores, search: CircuitSearch) -> dict[str, Judged]:
    """How the scores stand against every reference that applies: those of the package, and one's own."""
    # a class of one's own may have the name of a task of the package
    spec = describe_model(model)["spec"] or ""
    shipped = [] if search.is_user_class else reference_for(pairs.task, spec)
    references: dict[str, Reference | ExactEffects] = {reference.name: reference for reference in shipped}
    if search.own_reference is not None:
        references[search.reference] = search.own_reference
    by_reference = {}
    for name, reference in references.items():
        truth = reference.members()
        measured = reference if isinstance(reference, ExactEffects) else None
        if truth.shape != scores.heads.shape or (measured and not measured.measures(pairs)):
            continue
        effects, stricter = measured.effects() if measured else None, {}
        for share, fewer in {s: measured.members(s) for s in STRICTER}.items() if measured else ():
            judged = recover(scores.heads, fewer, effects)
            columns = {key: getattr(judged, key) for key in Stricter.model_fields}
            stricter[f"{share:.0%}"] = Stricter(**columns)
        by_reference[name] = Judged(
            **vars(recover(scores.heads, truth, effects, scores.heads_per_pair)),
            shared_pairs=measured.shared(pairs) if measured else None,
            measured_pairs=measured.n_pairs if measured else None,
            stricter=stricter,
        )
    return by_reference


def _example(model: Model, pairs: PromptPairs, checked: VerifiedHeads, index: int) -> Example:
    pair, measured = pairs[index], checked.measured

    def texts(tokens: Sequence[int]) -> list[str]:
        return [model.tokenizer.decode([token]) for token in tokens]

    return Example(
        clean=texts(pair.clean_tokens),
        corrupt=texts(pair.corrupt_tokens),
        answers=texts(pair.answers),
        wrong_answers=texts(pair.wrong_answers),
        positions=dict(pair.positions),
        metric=_metric(pairs, measured.metric_clean[index], measured.metric_corrupt[index]),
    )


def _arrays(scores: Scores, checked: VerifiedHeads, readout: HeadReadout) -> dict[str, np.ndarray]:
    members = sorted((site.layer, site.head) for site in checked.members if site.kind == "attn")
    # longer ones would make a run's files grow with the square of the prompt, and cannot be read anyway
    drawn = members and readout.patterns_.shape[-1] <= LONGEST
    arrays = {
        "heads": scores.heads,
        "heads_per_pair": scores.heads_per_pair,
        "mlps_per_pair": scores.mlps_per_pair,
        "effects": checked.measured.effects,
        "metric_clean": checked.measured.metric_clean,
        "metric_corrupt": checked.measured.metric_corrupt,
        "patterns": np.stack([readout.patterns_[at] for at in members]) if drawn else None,
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items() if value is not None}
