"""Programs and explanations in the graph format of circuit-tracer, for its viewer and others that read it.

A node is a head, or an MLP, at a token; its label says what it looks at, writes or says. ``activation`` is its measured
effect: the fall of the logit difference when the corrupt prompt's, or B's, value stands there. A link to the one logit
node weighs the same. Links among nodes are in logits too: of an explanation the direct fall, measured; of a program the
score of the run's edge, drawn from a tenth of the smaller effect on. No link leads from the prompt's tokens.

The format: github.com/safety-research/circuit-tracer, ``frontend/graph_models.py``. Its viewer draws types that it does
not know as dots; here they are ``attention head`` and ``mlp``. A logit's label needs ``(p=…)``: 0 if unknown.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from interp.contrast.explanation import Why
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models.sites import Site, parse_site
from interp.runs.run import Run

DRAWN = 0.1  # of the smaller of two effects, from where on an edge between them is drawn
INDEX = "graph-metadata.json"  # the file by which the viewer finds the graphs of a folder


def why_graph(why: Why, slug: str) -> dict[str, Any]:
    """The graph of an explanation's nodes and arrows, at the tokens of prompt A."""
    graph = _Graph(why.tokens)
    for node in why.nodes:
        raises = f"; raises {', '.join(node.raises[:3])}" if node.raises else ""
        looks = f" looks at {', '.join(token for token, _, _ in node.looks_at[:2])}" if node.looks_at else ""
        graph.add(parse_site(node.site), node.position, node.effect, f"{node.site}{looks}{raises}")
    names = [_node_id(parse_site(node.site), node.position) for node in why.nodes]
    for arrow in why.arrows:
        graph.link(names[arrow.sender], names[arrow.receiver], arrow.direct)
    answer, instead = why.answers["answer"], why.answers["instead"]
    answers = answer["token"], instead["token"]
    return graph.finish(slug, why.model, why.a, answers, answer["a"], pinned=names[: why.kept])


def program_graph(run: Run, slug: str) -> dict[str, Any]:
    """The graph of a run's program, at the tokens of its first prompt. :class:`InputError`: the run has no program."""
    if run.program is None or not run.program.slots:
        raise InputError(
            "this run has no program, and a circuit alone is at no token: run interp discover again without "
            "--no-program"
        )
    example, program = run.examples[0], run.program
    graph, names = _Graph(example.clean), {}
    at: dict[str, list[tuple[int, float]]] = {}
    for slot_codes in program.slots:
        if (position := example.positions.get(slot_codes.role)) is None:
            continue
        site = parse_site(slot_codes.site)
        says = f" says {slot_codes.variable}" if slot_codes.variable else ""
        looks = f", {look}" if (look := program.looks.get(slot_codes.site)) else ""
        label = f"{slot_codes.site} at {slot_codes.role}{says}{looks}, {slot_codes.bits:.1f} bits"
        graph.add(site, position, slot_codes.effect, label)
        names[str(slot_codes.slot)] = _node_id(site, position)
        at.setdefault(slot_codes.site, []).append((position, slot_codes.effect))
    scores: dict[tuple[str, str], float] = {}
    for edge in () if run.edges_are_counts else run.edges:  # into queries, keys and values: one link
        scores[edge.sender, edge.receiver] = scores.get((edge.sender, edge.receiver), 0) + edge.score
    for (sender, receiver), score in scores.items():
        pairs = [(start, end) for start in at.get(sender, []) for end in at.get(receiver, []) if start[0] <= end[0]]
        # at which tokens an edge is, it does not say: where its ends matter most
        if pairs:
            start, end = max(pairs, key=lambda pair: min(abs(pair[0][1]), abs(pair[1][1])))
            if abs(score) >= DRAWN * min(abs(start[1]), abs(end[1])):
                ends = _node_id(parse_site(sender), start[0]), _node_id(parse_site(receiver), end[0])
                graph.link(*ends, score)
    answers = (", ".join(example.answers), ", ".join(example.wrong_answers))
    lines = [
        [f"line {number + 1}", *ids]
        for number, group in enumerate(program.groups)
        if len(ids := [names[slot] for s in group.sites if (slot := f"{s} @ {group.role}") in names]) > 1
    ]
    prompt = "".join(example.clean)
    return graph.finish(slug, run.model, prompt, answers, pinned=names.values(), supernodes=lines)


def write(graph: dict[str, Any], path: Path) -> None:
    """Write a graph, and enter it in the viewer's index beside it.

    :class:`InputError`: a file of the index's name that is none, or the graph's own.
    """
    index = path.with_name(INDEX)
    if path == index:
        raise InputError(f"{path} is the viewer's index of graphs: name the graph otherwise")
    known: dict[str, Any] = {"graphs": []}
    if index.exists():
        try:
            known = read_json(index)
            known["graphs"] = [entry for entry in known["graphs"] if entry["slug"] != graph["metadata"]["slug"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{index} is no index of graphs: write to another folder") from None
    write_json(path, graph)
    write_json(index, known | {"graphs": [*known["graphs"], graph["metadata"]]})


def _node_id(site: Site, position: int) -> str:
    return f"{site.layer}_{'mlp' if site.head is None else site.head}_{position}"


class _Graph:
    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self.nodes = [
            _node(f"E_{place}_{place}", place, "E", place, "embedding", token) for place, token in enumerate(tokens)
        ]
        self.links: list[dict[str, Any]] = []
        self.effects: dict[str, float] = {}
        self.layers = 0

    def add(self, site: Site, position: int, effect: float, label: str) -> None:
        name = _node_id(site, position)
        if name in self.effects:  # two roles at one token of this prompt
            return
        kind = "mlp" if site.kind == "mlp" else "attention head"
        # a number of its own, by Cantor's pairing, heads after the MLP
        across = 0 if site.head is None else site.head + 1
        number = (site.layer + across) * (site.layer + across + 1) // 2 + across
        self.nodes.append(_node(name, number, str(site.layer), position, kind, label) | {"activation": effect})
        self.effects[name], self.layers = effect, max(self.layers, site.layer + 1)

    def link(self, source: str, target: str, weight: float) -> None:
        self.links.append({"source": source, "target": target, "weight": weight})

    def finish(
        self,
        slug: str,
        model: str | None,
        prompt: str,
        answers: tuple[str, str],
        probability: float = 0.0,
        *,
        pinned: Iterable[str] = (),
        supernodes: Sequence[list[str]] = (),
    ) -> dict[str, Any]:
        last, layer = len(self.tokens) - 1, str(self.layers + 1)
        # the viewer reads the label between quotes
        label = f'Output "{" less ".join(answers)}" (p={probability:.3f})'.replace('""', "''")
        logit = _node(f"{layer}_0_{last}", 0, layer, last, "logit", label)
        self.nodes.append(logit | {"token_prob": probability, "is_target_logit": True})
        for name, effect in self.effects.items():
            self.link(name, logit["node_id"], effect)
        largest = max((abs(effect) for effect in self.effects.values()), default=1.0) or 1.0
        for node in self.nodes:
            # what the viewer's slider cuts by: 0 for the largest effect, 1 for none
            if (name := node["node_id"]) in self.effects:
                node["influence"] = 1 - abs(self.effects[name]) / largest
        metadata: dict[str, Any] = {
            "slug": slug,
            "scan": str(model),
            "transcoder_list": [],
            "prompt_tokens": self.tokens,
            "prompt": prompt,
            "node_threshold": None,
            "schema_version": 1,
        }
        shown: dict[str, Any] = {
            "pinnedIds": [*pinned, logit["node_id"]],
            "supernodes": list(supernodes),
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        }
        return {"metadata": metadata, "qParams": shown, "nodes": self.nodes, "links": self.links}


def _node(name: str, feature: int, layer: str, position: int, kind: str, label: str) -> dict[str, Any]:
    node = {"node_id": name, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind}
    rest = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
    return {**node, **rest, "jsNodeId": name, "clerp": label}
