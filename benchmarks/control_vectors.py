"""What exporting codes as a control vector costs, beside the native edit, on seven topics.

    python -m benchmarks.control_vectors [--show] [--development] [--n 48] [--tokens 40]

Codes of a topic are found as ``interp steer --topic`` finds them and added with its dose, 2.5. Arms: ``native``, at the
generated tokens alone; ``native, all tokens``, the prompt's too; and as llama.cpp does it, behind each block and at all
tokens, the exported vector, what heads write moved by ``shift`` blocks, and ``matched``, what the native edit changes
there in the mean of everyday sentences beyond what the vectors of earlier blocks have changed. ``shift -1 × s`` is the
exported vector at another dose, ``random`` a vector of its length at every block. KL is of the next token,
KL(native, all tokens ‖ arm), on the texts which that arm wrote. Rates are of texts with a word of the topic.
``--development``: four other topics, by which the export was chosen. Of 24 texts a topic
takes three minutes of one core.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from interp import DEFAULT_MODEL, Codebooks, attach
from interp.activations.metric import kl_divergence
from interp.bottlenecks.edits import Positions, code_edits
from interp.evaluation.steering import perplexity
from interp.files import write_json
from interp.models import Model, hooked, load_model
from interp.models.generate import pad_left
from interp.progress import bar
from interp.stats import mean_interval
from interp.steering import load_topic, topic_names
from interp.steering.cache import find_or_recall
from interp.steering.code_set import SCALE
from interp.steering.continuations import continue_prompts, encode_prompts
from interp.steering.control_vector import SHIFT, ControlVector
from interp.steering.topics import neutral_texts
from interp.text.special import opened

FILE = RESULTS / "control_vectors.json"
NATIVE, ALL = "native", "native, all tokens"
SHIFTS = (-1, 0, 1)
DOSES = (0.8, 0.9)


def main() -> None:
    given = arguments(
        __doc__,
        show=False,
        development=False,
        n=48,
        tokens=40,
        threads=torch.get_num_threads(),
        codebooks="smollm2-135m-instruct-k1",
        model=DEFAULT_MODEL,
    )
    results = kept(FILE, {})
    names = topic_names("development" if given.development else "topics")
    key = f"{'development' if given.development else 'topics'}, {given.n} texts of {given.tokens} tokens"
    cells = results.setdefault(key, {})
    if not given.show:
        model = load_model(given.model)
        books = Codebooks.from_pretrained(given.codebooks, model)
        with bar("topics", len(names)) as done:
            for name in names:
                there = cells.get(name, {})
                if new := _measure(model, books, name, given.n, given.tokens, there):
                    cells[name] = there | new
                    write_json(FILE, results)
                done(1)
    _print(cells, given.n)


def _measure(
    model: Model, books: Codebooks, name: str, n: int, n_tokens: int, there: Mapping[str, dict]
) -> dict[str, dict]:
    """The arms that are not there yet."""
    topic = load_topic(name)
    codes = find_or_recall(model, books, topic.positive, topic.negative).named(None, "added")
    edits = code_edits(codes, "added", scale=SCALE)

    def native(positions: Positions) -> AbstractContextManager:
        return attach(model, books, read=False).edit(*edits, positions=positions)

    vectors = {f"shift {shift:+d}": ControlVector.from_edits(model, books, edits, shift=shift) for shift in SHIFTS}
    vectors["matched"] = ControlVector(_matched(model, native("all")))
    exported = vectors[f"shift {SHIFT:+d}"].directions
    vectors |= {f"shift {SHIFT:+d} × {dose}": ControlVector(dose * exported) for dose in DOSES}
    random = torch.randn(exported.shape, generator=torch.Generator().manual_seed(0))
    length = exported.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    vectors["random"] = ControlVector(length * random)
    arms: dict[str, Callable[[], AbstractContextManager]] = {
        "base": nullcontext,
        NATIVE: lambda: native("generated"),
        ALL: lambda: native("all"),
    } | {arm: lambda vector=vector: vector.attached(model) for arm, vector in vectors.items()}
    arms = {arm: within for arm, within in arms.items() if arm == ALL or arm not in there}
    if {*arms} == {ALL} and ALL in there:
        return {}
    prompts = [topic.prompts[i % len(topic.prompts)] for i in range(n)]
    cells, texts = {}, []
    for arm, within in arms.items():
        written = continue_prompts(model, prompts, n_tokens, within=within())
        texts = written if arm == ALL else texts
        held = [topic.is_in(text.text) for text in written]
        cells[arm] = {"held": held, "perplexity": perplexity(written), "example": written[0].text}
    totals: dict[str, list[float]] = {arm: [] for arm in arms}
    for text, prompt in zip(texts, encode_prompts(model, prompts), strict=True):
        if text.tokens:
            # of the whole text the generated part is told by column
            begin = len(prompt) - 1
            here = dict(arms)
            if NATIVE in arms:
                here[NATIVE] = lambda begin=begin: native(slice(begin, None))
            for arm, kl in _divergences(model, [*prompt, *text.tokens], begin, here).items():
                totals[arm].append(kl)
    for arm, kl in totals.items():
        cells[arm]["kl"] = kl
    return cells


@torch.no_grad()
def _matched(model: Model, native: AbstractContextManager) -> torch.Tensor:
    rows = [opened(model.tokenizer, text) for text in neutral_texts()]
    tokens, mask = pad_left(rows, torch.device("cpu"))
    counted = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    means: dict[str, torch.Tensor] = {}
    directions = torch.zeros(model.cfg.n_layers, model.cfg.d_model)

    def read(hook: str, x: torch.Tensor) -> None:
        means[hook] = x[counted].mean(0)

    def add(hook: str, x: torch.Tensor) -> torch.Tensor | None:
        layer = hooks.index(hook)
        if not layer:
            return None
        directions[layer] = means[hook] - x[counted].mean(0)
        return x + directions[layer]

    with native, hooked(model, {hook: lambda x, hook=hook: read(hook, x) for hook in hooks}):
        model(tokens, attention_mask=mask)
    with hooked(model, {hook: lambda x, hook=hook: add(hook, x) for hook in hooks}):
        model(tokens, attention_mask=mask)
    return directions


@torch.no_grad()
def _divergences(
    model: Model, text: list[int], begin: int, arms: Mapping[str, Callable[[], AbstractContextManager]]
) -> dict[str, float]:
    """KL(native at all tokens ‖ arm), the mean over the steps that made a text."""
    log_p = {}
    for arm, within in arms.items():
        with within():
            log_p[arm] = model(torch.tensor([text[:-1]]))[0, begin:].float().log_softmax(-1)
    return {arm: float(kl_divergence(log_p[ALL], other).mean()) for arm, other in log_p.items()}


def _print(cells: Mapping[str, dict], n: int) -> None:
    rows = []
    for arm in next(iter(cells.values())):
        of_arm = [topic[arm] for topic in cells.values()]
        kl = np.array([np.mean(cell["kl"]) for cell in of_arm])
        rates = np.array([100 * np.mean(cell["held"]) for cell in of_arm])
        against = np.log([topic[arm]["perplexity"] / topic[ALL]["perplexity"] for topic in cells.values()])
        surprise = np.exp(np.mean([np.log(cell["perplexity"]) for cell in of_arm]))
        low, high = np.exp(mean_interval(against[:, None], 0))
        times = interval(np.exp(against.mean()), float(low[0]), float(high[0]))
        means = [
            interval(values.mean(), *(float(bound[0]) for bound in mean_interval(values[:, None], 0)), form=form)
            for values, form in ((kl, ".3f"), (rates, ".0f"))
        ]
        rows.append((arm, *means, f"{surprise:.1f}", times))
    columns = ("arm", "KL, nats a token", "texts with a word, %", "perplexity", "times that of native at all")
    print_table(columns, rows, f"{len(cells)} topics, {n} texts each; means and 95 % intervals over topics")


if __name__ == "__main__":
    main()
