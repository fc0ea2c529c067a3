"""One page: what a run measured beside what was published."""

from collections.abc import Mapping
from typing import Any

PUBLISHED = {
    "loss": 1.269,
    "token_accuracy": 0.4527,
    "transition_accuracy": 0.6365,
    "first_transition": 0.88,
    "top10_overlap": 0.975,
}
"""Attention and MLP, k = 1, C = 10 000: the paper's Table 1, the model card, the tutorial."""
PUBLISHED_PLAIN = {"loss": 1.179, "token_accuracy": 0.4636, "transition_accuracy": 0.9677}
"""Without codebooks: the paper's Table 1."""
PUBLISHED_ALIVE = (0.0031, 0.0465, 0.0651, 0.0181)
"""By layer, of the model card."""
PUBLISHED_PURITY = {"bigram": (0.0, 0.99, 0.96, 0.84), "trigram": (0.0, 0.91, 0.81, 0.66)}
"""Of MLP codes by layer, read off a plot, ± 0.01."""
PUBLISHED_PRECISION = {"codes": 0.971, "neuron": 0.705}
PUBLISHED_JSD = {"none": 1.0, "a0": 0.86, "m1": 0.71, "all attention": 0.56, "all MLP": 0.26, "all": 0.0}
"""Read off a chart, ± 0.01."""
NAMES = {
    "loss": "loss, nats a token",
    "token_accuracy": "token accuracy",
    "transition_accuracy": "state accuracy: transitions sampled",
    "first_transition": "state accuracy: first transition",
    "top10_overlap": "state accuracy: top-10 overlap",
}

PHASE = {
    "forbidden": "probability of forbidden digits a state, on true texts",
    "one_digit_off": "transitions sampled, read from the second digit on",
}
"""What state accuracy is short by: see ``accuracy``. Not published."""


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    recipe, scores, codes = result["recipe"], result["scores"], result["codes"]
    lines = [
        f"# TokFSM, scale {recipe['scale']}, seed {recipe['seed']}",
        "",
        f"Four layers, attention and MLP codebooks, k = 1, C = {recipe['n_codes']}; trained on "
        f"{result['tokens'] / 1e6:.1f} M tokens ({result['plain_tokens'] / 1e6:.1f} M of them before there were "
        "codebooks). Published: C = 10 000, 2 600 M tokens.",
        "",
        _row("", "codebooks", "published", "no codebooks", "published", "untrained k-means", "random codes"),
        _row(*["---"] * 7),
    ]
    for key, name in (NAMES | PHASE).items():
        cells = [_score(scores[arm][key], key) for arm in ("codebooks", "no codebooks")]
        others = [_score(scores[arm][key], key) for arm in ("untrained k-means", "random codes")]
        lines.append(
            _row(name, cells[0], _given(PUBLISHED, key), cells[1], _given(PUBLISHED_PLAIN, key), *others)
        )
    lines += [
        "",
        "Mean and 95 % interval over sequences (top-10 overlap, state precision and recall: over states, the sequences "
        "held fixed). Texts of all seeds are drawn from one stream of random numbers. No codebooks and untrained "
        "k-means: the model as it was when the codebooks came in, on fewer tokens; random codes: the trained model "
        "with every code drawn at random. Forbidden digits are nearly always right a digit earlier or later: there the "
        "text leaves the phase, and what follows is allowed only if it is read one digit off.",
        "",
        _row("codes", *(f"layer {layer}" for layer in range(4)), "published"),
        _row(*["---"] * 6),
    ]
    ours = codes["codebooks"]
    published = " / ".join(f"{share:.1%}" for share in PUBLISHED_ALIVE)
    for kind, name in (("a", "alive, heads (mean)"), ("m", "alive, MLP")):
        sites = [site for site in ours["alive"] if site[0] == kind]
        lines.append(_row(name, *(_percent(_mean(ours["alive"][site])) for site in sites), published))
    for kind, given in PUBLISHED_PURITY.items():
        values = ours["purity"][kind]
        mlps = (_percent(values[site][0]) for site in values if site[0] == "m")
        lines.append(_row(f"purity, MLP, {kind}s", *mlps, " / ".join(map(_percent, given))))
    for name in ("precision", "recall"):
        mlps = (_percent(ours["state"][site][name]["mean"]) for site in ours["state"] if site != "best")
        lines.append(_row(f"state {name}, MLP", *mlps, ""))
    best = ours["state"]["best"]
    kmeans = codes["untrained k-means"]["state"]["best"]
    lines += [
        "",
        f"Alive on average over books: {ours['alive_mean']:.1%} (MLPs {ours['alive_mlp']:.1%}). The MLP of layer 0 "
        "reads nothing but the token: more than 11 codes cannot live there.",
        "",
        f"State precision, each state's best MLP code: {_score(best['precision'], 'precision')} at recall "
        f"{_percent(best['recall']['mean'])} (published {_percent(PUBLISHED_PRECISION['codes'])}); best neuron of "
        f"this model at the same recall: {_score(ours['neuron_precision'], 'precision')} (published "
        f"{_percent(PUBLISHED_PRECISION['neuron'])}); untrained k-means: {_score(kmeans['precision'], 'precision')}.",
        "",
        _row(
            "divergence after setting codes", "ours", "published", "untrained k-means", "another pair's codes"
        ),
        _row(*["---"] * 5),
    ]
    arms = [result["intervention"][arm] for arm in ("untrained k-means", "another pair's codes")]
    for name, value in result["intervention"]["codebooks"].items():
        given = f"{PUBLISHED_JSD[name]:.2f}" if name in PUBLISHED_JSD else ""
        lines.append(_row(name, f"{value:.2f}", given, *(f"{arm[name]:.2f}" for arm in arms)))
    lines += [
        "",
        f"Jensen–Shannon divergence from the target's prediction, mean over {result['n']['pairs']} pairs, divided by "
        "that without intervention.",
        "",
        _row("tokens, M", "codebooks", "loss", "state accuracy", "top-10 overlap"),
        _row(*["---"] * 5),
    ]
    for point in result["curve"]:
        cells = (
            f"{point['loss']:.3f}",
            _percent(point["transition_accuracy"]),
            _percent(point["top10_overlap"]),
        )
        lines.append(_row(f"{point['tokens'] / 1e6:.1f}", "yes" if point["coded"] else "no", *cells))
    lines += ["", f"Again: `{result['command']}`"]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def form_of(key: str) -> str:
    """How a number of this name is written."""
    return {"loss": ".3f", "forbidden": ".4f"}.get(key, ".1%")


def _score(value: Mapping[str, float], key: str) -> str:
    if form_of(key) != ".1%":
        mean, low, high = (format(value[part], form_of(key)) for part in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"
    return f"{value['mean']:.1%} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _given(published: Mapping[str, float], key: str) -> str:
    if key not in published:
        return ""
    return format(published[key], form_of(key))


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
