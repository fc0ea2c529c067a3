"""An explanation in words: sentences, and how tokens and numbers are written. All is plain text, nothing is escaped."""

from interp.contrast.explanation import Alone, Why, WhyNode

MINUS = "\N{MINUS SIGN}"


def label(token: str) -> str:
    """A token by itself: white space in front is not shown, what cannot be seen is an escape."""
    return repr(token.strip() or token)[1:-1].replace(" ", "\u00b7" if not token.strip() else " ")


def quoted(token: str) -> str:
    return f"\u201c{label(token)}\u201d"


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def headline(explanation: Why) -> list[str]:
    answer, instead = (explanation.answers[name] for name in ("answer", "instead"))
    kept, alone = explanation.kept, explanation.alone_kept
    share = f"{alone.restored:z.0%} of the difference and remove {alone.kl_removed:z.0%} of the KL divergence"
    heads = ", ".join(f"{node.site} at {quoted(node.token)}" for node in explanation.nodes[: min(kept, 3)])
    heads += ", \u2026" if kept > 3 else ""
    count = "1 head at a token is" if kept == 1 else f"{kept} heads at tokens are"
    if explanation.sparse:
        enough = f"{count} enough ({heads}). With every other head as after B they restore {share}."
    else:
        enough = f"This difference is not sparse: {count} not enough ({heads}). Alone they restore {share}."
    return [
        f"After A the model says {quoted(answer['token'])} with {answer['a']:.0%}, after B with {answer['b']:.0%}. "
        f"It says {quoted(instead['token'])} with {instead['a']:.0%} after A, with {instead['b']:.0%} after B.",
        enough,
        f"With B's values at them in A {explanation.needed:z.0%} of the difference is lost. {explanation.left:z.0%} "
        "stays when every head is as after B. Backups can hide: a head that another one replaces shows no effect.",
    ]


def every_node(explanation: Why) -> list[WhyNode]:
    """The explanation's nodes, and behind them the MLPs of the second ranking."""
    more = explanation.with_mlps.nodes if explanation.with_mlps else []
    return [*explanation.nodes, *(node for node in more if node.site.startswith("m"))]


def curves(explanation: Why) -> dict[str, list[Alone]]:
    """By name: the chosen nodes, with MLPs as nodes if that was asked, and the controls."""
    rows = {"these nodes": explanation.alone}
    if explanation.alone_with_mlps:
        rows["with MLPs as nodes"] = explanation.alone_with_mlps
    return rows | explanation.controls


def details(node: WhyNode) -> dict[str, str]:
    """What a node looks at, writes and says, by what a reader calls it; what is not known is left out."""
    lines = {"Looks at": ", ".join(f"{quoted(token)} {i} {share:.0%}" for token, i, share in node.looks_at)}
    lines |= {"Raises": ", ".join(map(quoted, node.raises or ())), "Lowers": ", ".join(map(quoted, node.lowers or ()))}
    if node.code is not None:
        lines |= {f"Code after {side.upper()}": f"{node.code[side]} {node.code[f'name_{side}']}" for side in "ab"}
    return {name: line for name, line in lines.items() if line}


def about(explanation: Why, index: int) -> str:
    node = explanation.nodes[index]
    first = f"{node}" + (", kept" if index < explanation.kept else "")
    effect = f"Effect {signed(node.effect)} logits, estimate {signed(node.estimate)}"
    return "\n".join([first, effect, *(f"{name} {line}" for name, line in details(node).items())])
