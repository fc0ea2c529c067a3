"""How good are the descriptions of heads? Heads replaced by them on held-out text, all together.

    python -m benchmarks.head_descriptions fit order curves     # goes on where it stopped; then prints the tables
    python -m benchmarks.head_descriptions fit order curves --model gemma-3-270m --books runs/gemma-heads

A description of a head is a rule for where it looks, from the tokens alone (:mod:`benchmarks.head_rules`), and
codes for what it says. Arms, at the same heads:

* ``mean output``: the head's mean output at every token;  ``mean pattern``: its mean attention at every place
* ``rule``: attention by the rule, what is there by the model;  ``rule + code``: then the nearest code of that
* ``rule + coarse code``: then the coarse one;  ``code``, ``coarse code``: of what the head says itself, an oracle

The order in which heads are replaced is chosen on other text: by the KL divergence that ``rule + code`` at the head
alone costs. Rules are fitted on text of their own, and so are the codebooks of Gemma::

    interp fit --model gemma-3-270m --sites 'a*' --tokens 65536 --codes 512 --k 1 --out runs/gemma-heads
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from benchmarks.head_rules import HeadRules, Reading, common_tokens, fit_rules, read_patterns
from benchmarks.labels import TEXT
from interp import DEFAULT_CODEBOOKS, DEFAULT_MODEL, load_model
from interp.bottlenecks.store import Codebooks
from interp.codesearch.coarse import merged_vectors
from interp.codesearch.corpus import read_corpus
from interp.codesearch.labels import LABELS, Labels, labels_of
from interp.codesearch.patterns import Vocabulary
from interp.files import write_json
from interp.models import Model, hooked
from interp.progress import bar
from interp.stats import mean_interval
from interp.text import load_text

CONTEXT, AT_ONCE = 128, 8
FITTED, ORDERED, JUDGED = 256, 16, 64
"""Blocks of text that rules are fitted on, that choose the order, and that judge."""
CHOSEN_BY = 4
"""Blocks by which single heads are ordered; the mean outputs are of all :data:`ORDERED`."""
SHARES = 0.25, 0.5, 1.0
ARMS = "mean output", "mean pattern", "rule", "rule + code", "rule + coarse code", "code", "coarse code"
AT_RANDOM = "mean output", "rule", "rule + code"
Head = tuple[int, int]
Hooks = Callable[[Tensor], Mapping[str, Callable]]


class Descriptions:
    """The heads of a model, and what stands for them.

    Args:
        rules: of each layer; fitted to ``tokens`` where they are not there.
    """

    def __init__(self, model: Model, books: Codebooks, folder: Path) -> None:
        self.model, self.books = model, books
        self.layers, self.heads, self.d_head = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
        text = partial(load_text, TEXT, model, context=CONTEXT)
        self.fitted = text(n_tokens=FITTED * CONTEXT, seed=1).tokens
        self.ordered = text(n_tokens=ORDERED * CONTEXT, seed=2).tokens
        self.judged = text(n_tokens=JUDGED * CONTEXT, seed=1, split="heldout").tokens
        blocks = self.fitted.numpy().astype(np.int32)
        words = Vocabulary(read_corpus(blocks, model.tokenizer, model.cfg.d_vocab, np.zeros(len(blocks), int)))
        self.classes = torch.from_numpy(words.partition()[0])
        self.common = common_tokens(self.fitted, model.cfg.d_vocab)
        self.rules, self.pattern = self._rules(folder / "rules.safetensors")
        self.mean = self._mean_outputs()
        labels = labels_of(books)
        self.coarse = {} if labels is None else {head: self._merged(head, labels) for head in labels.groups}

    def _merged(self, head: str, labels: Labels) -> Float[Tensor, "code d_head"]:
        """Of every code of a head the mean vector of its coarse one."""
        site, _, number = head.partition(".h")
        (begin, n), groups = labels.starts[head], labels.groups[head]
        vectors = self.books[site].codes[int(number)].detach().float()
        merged = merged_vectors(vectors, groups, labels.columns["firings"][begin : begin + n])
        return merged[torch.from_numpy(groups)]

    def _rules(self, path: Path) -> tuple[list[HeadRules], Float[Tensor, "layer head q k"]]:
        if not path.exists():
            patterns = read_patterns(self.model, self.fitted, bar)
            rules = fit_rules(patterns, self.fitted, self.classes, self.common, stage=bar)
            kept = {f"{i}.{name}": value for i, rule in enumerate(rules) for name, value in rule.state_dict().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({**kept, "pattern": torch.stack([p.float().mean(1) for p in patterns])}, path)
        kept, rules = load_file(path), []
        for layer in range(self.layers):
            rule = HeadRules(self.heads, CONTEXT, int(self.classes.max()) + 1).requires_grad_(False)
            rule.load_state_dict({name: kept[f"{layer}.{name}"] for name in rule.state_dict()})
            rules.append(rule)
        return rules, kept["pattern"]

    def _mean_outputs(self) -> Float[Tensor, "layer head d_head"]:
        total = torch.zeros(self.layers, self.heads, self.d_head)

        def add(layer: int, z: Tensor) -> None:
            total[layer] += z.reshape(-1, self.heads, self.d_head).sum(0)

        hooks = {f"blocks.{i}.attn.hook_z": partial(add, i) for i in range(self.layers)}
        with torch.no_grad(), hooked(self.model, hooks):
            for blocks in self.ordered.split(AT_ONCE):
                self.model(blocks)
        return total / self.ordered.numel()

    def hooks(self, arm: str, heads: Sequence[Head]) -> Hooks:
        """Hooks for a batch of blocks, that put an arm in place of heads."""
        where = torch.zeros(self.layers, self.heads, dtype=torch.bool)
        for head in heads:
            where[head] = True

        def of(tokens: Int[Tensor, "block pos"]) -> Mapping[str, Callable]:
            hooks: dict[str, Callable] = {}
            text = Reading.of(tokens, self.classes, self.common)
            for layer in where.any(1).nonzero()[:, 0].tolist():
                if arm == "mean pattern" or arm.startswith("rule"):
                    hooks[f"blocks.{layer}.attn.hook_pattern"] = partial(self._attend, arm, text, layer, where[layer])
                if arm == "mean output" or "code" in arm:
                    hooks[f"blocks.{layer}.attn.hook_z"] = partial(self._say, arm, layer, where[layer])
            return hooks

        return of

    def _attend(self, arm: str, text: Reading, layer: int, where: Tensor, pattern: Tensor) -> Tensor:
        replaced = self.pattern[layer][None] if arm == "mean pattern" else self.rules[layer](text).exp().transpose(0, 1)
        return torch.where(where[None, :, None, None], replaced.to(pattern), pattern)

    def _say(self, arm: str, layer: int, where: Tensor, z: Tensor) -> Tensor:
        heads = z.reshape(*z.shape[:2], self.heads, self.d_head)
        if arm == "mean output":
            replaced = self.mean[layer].expand_as(heads)
        else:
            book = self.books[f"a{layer}"]
            ids = book.encode(heads).ids.reshape(-1, self.heads).long()
            codes = [
                self.coarse[f"a{layer}.h{head}"] if "coarse" in arm else book.codes[head] for head in range(self.heads)
            ]
            replaced = torch.stack([codes[head][ids[:, head]] for head in range(self.heads)], 1).reshape(heads.shape)
        return torch.where(where[None, None, :, None], replaced.to(heads), heads).reshape(z.shape)

    @torch.no_grad()
    def log_probabilities(self, tokens: Tensor, hooks: Hooks) -> list[Tensor]:
        parts = []
        for blocks in tokens.split(AT_ONCE):
            with hooked(self.model, hooks(blocks)):
                parts.append(self.model(blocks)[:, :-1].float().log_softmax(-1))
        return parts

    @torch.no_grad()
    def losses(self, hooks: Hooks) -> Float[np.ndarray, " block"]:
        """Cross entropy of the text that judges, by block."""
        parts = []
        for blocks in self.judged.split(AT_ONCE):
            with hooked(self.model, hooks(blocks)):
                logits = self.model(blocks)[:, :-1].float()
            surprise = torch.nn.functional.cross_entropy(logits.mT, blocks[:, 1:], reduction="none")
            parts.append(surprise.mean(1))
        return torch.cat(parts).double().numpy()


def order(described: Descriptions, path: Path) -> None:
    """Of each head alone the KL divergence and the rise of loss by ``rule + code`` and by its mean output."""
    done, text = kept(path, {}), described.ordered[:CHOSEN_BY]
    (plain,) = described.log_probabilities(text, lambda _: {})
    following = text[:, 1:, None]
    with bar("heads alone", described.layers * described.heads) as advance:
        for layer in range(described.layers):
            for head in range(described.heads):
                name = f"a{layer}.h{head}"
                if name not in done:
                    done[name] = {}
                    for arm in ("rule + code", "mean output"):
                        (edited,) = described.log_probabilities(text, described.hooks(arm, [(layer, head)]))
                        kl = (plain.exp() * (plain - edited)).sum(-1).mean()
                        rise = (plain - edited).gather(-1, following).mean()
                        done[name][arm] = {"kl": float(kl), "rise": float(rise)}
                advance(1)
            write_json(path, done)


def keep(singly: Mapping[str, dict], books: Codebooks) -> None:
    """With the labels, where `interp heads` finds it; `python -m benchmarks.labels label` makes these anew."""
    if books.folder is None or (labels := labels_of(books)) is None:
        return
    labels.about["kl"] = {
        head: [round(arms["mean output"]["kl"], 5), round(arms["rule + code"]["kl"], 5)]
        for head, arms in singly.items()
    }
    labels.save(books.folder / LABELS)


def curves(described: Descriptions, path: Path, singly: Mapping[str, dict], seed: int) -> None:
    heads = [(layer, head) for layer in range(described.layers) for head in range(described.heads)]
    ordered = sorted(heads, key=lambda head: singly["a{}.h{}".format(*head)]["rule + code"]["kl"])
    drawn = [heads[i] for i in np.random.default_rng(seed).permutation(len(heads))]
    done = kept(path, {})
    done.setdefault("plain", described.losses(lambda _: {}).tolist())
    wanted = [(by, share, arm) for share in SHARES for by in ("order", "random") for arm in ARMS]
    wanted = [
        (by, share, arm)
        for by, share, arm in wanted
        if (by == "order" or (share < 1 and arm in AT_RANDOM)) and ("coarse" not in arm or described.coarse)
    ]
    with bar("replacing heads", len(wanted)) as advance:
        for by, share, arm in wanted:
            name = f"{by} {share} {arm}"
            if name not in done:
                replaced_heads = (ordered if by == "order" else drawn)[: round(share * len(heads))]
                done[name] = described.losses(described.hooks(arm, replaced_heads)).tolist()
                write_json(path, done)
            advance(1)


def show(losses: Mapping[str, list[float]], title: str, seed: int) -> None:
    plain, rows = np.array(losses["plain"]), []
    for by in ("order", "random"):
        for arm in ARMS:
            cells = []
            for share in SHARES:
                if (name := f"{by} {share} {arm}") in losses:
                    rise = np.array(losses[name]) - plain
                    (low,), (high,) = mean_interval(rise[:, None], seed)
                    mean = np.array(losses[f"{by} {share} mean output"]) - plain
                    cells += [interval(float(rise.mean()), low, high), f"{rise.mean() / mean.mean():.2f}"]
            if cells:
                rows.append(("least first" if by == "order" else "random", arm, *cells))
    columns = [cell for share in SHARES for cell in (f"{share:.0%} of heads", "of mean output")]
    print_table(("heads", "arm", *columns), rows, f"{title}: rise of loss, plain {plain.mean():.3f}", left=2)


def main() -> None:
    steps = {"nargs": "*", "choices": ("fit", "order", "curves", "show"), "default": "show"}
    given = arguments(__doc__, {"steps": steps}, model=DEFAULT_MODEL, books=DEFAULT_CODEBOOKS, seed=0, threads=2)
    folder = RESULTS / "head_descriptions"
    singly, path = folder / f"{given.model}--alone.json", folder / f"{given.model}--curves.json"
    if "show" not in given.steps:
        model = load_model(given.model)
        described = Descriptions(model, Codebooks.from_pretrained(given.books), Path("runs") / f"rules-{given.model}")
        if "order" in given.steps:
            order(described, singly)
            keep(kept(singly, {}), described.books)
        if "curves" in given.steps:
            curves(described, path, kept(singly, {}), given.seed)
    if path.exists():
        show(kept(path, {}), given.model, given.seed)


if __name__ == "__main__":
    main()
