"""Edge attribution patching against transformer-lens 4's own on the same model and pairs: time, memory, agreement.

    make test-tl4                                                        # makes the environment
    OMP_NUM_THREADS=1 .venv-tl4/bin/python -m benchmarks.peer_eap [--pairs 10] [--rounds 3]

A random GPT-2 of the usual size, 15 tokens: theirs refuses grouped queries. Both take turns in one process. Memory is
the peak of a process of its own above that after loading (Linux). Theirs differentiates at the corrupt prompts: with
the sides exchanged it is ours, negated; the control has them as they are. It scores one pair at a time and edges by
position; ours are sums over positions.
"""

import multiprocessing
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformer_lens.tools.analysis import EdgeAttributionConfig, Node, attribution_patch
from transformers import AutoModelForCausalLM, GPT2Config

from benchmarks.common import arguments, timed
from interp.activations.metric import task_metric
from interp.models import Model, load_model
from interp.prompts.pairs import PromptPairs
from interp.scores.eap import EAPConfig, eap
from interp.scores.result import Scores
from tests.pairs import random_pairs
from tests.tiny_models import make_tokenizer

LENGTH = 15
Edges = dict[tuple[str, str, str | None], float]


def ours(model: Model, pairs: PromptPairs, batch_size: int = 8) -> Scores:
    return eap(model, pairs, EAPConfig(edges=10**7, batch_size=batch_size))


def peer(model: Model, pairs: PromptPairs, granularity: str = "edge", exchanged: bool = True) -> list[Any]:
    """Theirs, of each pair."""
    model.requires_grad_(True)  # their graph begins at the parameters
    attributions, config = [], EdgeAttributionConfig(granularity=granularity)
    for pair in pairs:
        sides = [torch.tensor([tokens]) for tokens in (pair.clean_tokens, pair.corrupt_tokens)]

        def metric(logits: torch.Tensor, pair=pair) -> torch.Tensor:
            return task_metric(logits[:, -1], [pair], "logit_diff")[0]

        attributions.append(attribution_patch(model, *sides[:: -1 if exchanged else 1], metric, config))
    model.requires_grad_(False)
    return attributions


FORMS = {"theirs": peer, "ours": ours, "ours, one pair at a time": partial(ours, batch_size=1)}


def name_of(node: Node) -> str:
    if node.kind in ("embed", "logits"):
        return "input" if node.kind == "embed" else "logits"
    return f"m{node.layer}" if node.head is None else f"a{node.layer}.h{node.head}"


def by_name(results: list[Any], sign: int = 1) -> Edges:
    """Their edges, summed over positions, averaged over pairs."""
    totals: Edges = defaultdict(float)
    for result in results:
        for (writer, reader), score in result.edge_scores.items():
            into = reader.kind[0] if reader.kind.endswith("_input") else None
            totals[name_of(writer), name_of(reader), into] += sign * score / len(results)
    return totals


def edges_of(scores: Scores) -> Edges:
    return {(edge.sender, edge.receiver, edge.into): edge.score for edge in scores.edges}


def case(n: int) -> tuple[Model, PromptPairs]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(GPT2Config()).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        model = load_model(Path(folder), device="cpu")
    return model, random_pairs(model.cfg.d_vocab, n, (LENGTH,))


def peak_mb(name: str, n: int) -> float:
    """For a fresh process."""
    model, pairs = case(n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew, from what is resident now
    before = _high_water()
    FORMS[name](model, pairs)
    return (_high_water() - before) * 1024 / 1e6


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def compared(a: Edges, b: Edges) -> str:
    x, y = (np.array([edges[key] for key in sorted(a, key=str)]) for edges in (a, b))
    return (
        f"{len(a)} edges and {len(b)}, Pearson {np.corrcoef(x, y)[0, 1]:.6f}, "
        f"difference at most {np.abs(x - y).max() / np.abs(y).max():.1e} of the largest"
    )


def main() -> None:
    given = arguments(__doc__, pairs=10, rounds=3)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        # theirs takes one pair at a time: the results of the others, which are kept here, are not counted
        pairs_of = {name: 1 if name == "theirs" else given.pairs for name in FORMS}
        peaks = {name: pool.apply(peak_mb, (name, n)) for name, n in pairs_of.items()}
    model, pairs = case(given.pairs)
    seconds, results = defaultdict(list), {}
    for _ in range(given.rounds):
        for name, form in FORMS.items():
            results[name], clock, _ = timed(lambda form=form: form(model, pairs))
            seconds[name].append(clock)
    for name, taken in seconds.items():
        ratios = np.array(seconds["theirs"]) / taken
        print(
            f"{name}: {np.median(taken):.2f} s, theirs takes {np.median(ratios):.1f} × "
            f"[{ratios.min():.1f}, {ratios.max():.1f}]; peak {peaks[name]:.0f} MB"
        )
    known = edges_of(results["ours"])
    print("agreement:", compared(known, by_name(results["theirs"], sign=-1)))
    print("control:", compared(known, by_name(peer(model, pairs, exchanged=False))))


if __name__ == "__main__":
    main()
