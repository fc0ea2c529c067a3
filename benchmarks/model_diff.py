"""Are hidden traits found by what codes changed? Models are finetuned to have them, and lists are scored blind.

    python -m benchmarks.model_diff train     # finetunes: minutes each, two checkpoints each
    python -m benchmarks.model_diff read      # every model reads one text that holds all triggers
    python -m benchmarks.model_diff score     # lists of every arm, from what was read
    python -m benchmarks.model_diff write     # the black box: both continue the text's beginnings
    python -m benchmarks.model_diff rates     # how strong traits are, and what taking codes back leaves
    python -m benchmarks.model_diff cost      # reading with codes against both bare forwards, in turns
    python -m benchmarks.model_diff --show

The traits, and the words that count, are in :mod:`benchmarks.traits`.
"""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from benchmarks import traits
from benchmarks.common import RESULTS, arguments, kept, print_table
from interp import load_model
from interp.bottlenecks import Dictionary
from interp.bottlenecks.edits import ForbidCode, WeightedCode
from interp.bottlenecks.store import Codebooks
from interp.changes.counts import ALPHA
from interp.changes.listing import ChangedCode, Listing
from interp.changes.reading import Reader, Reading, batches, book_sites, read_batch
from interp.changes.undo import edited, forbidden, means_back, set_back, undoable
from interp.changes.undo import put_in as put_codes_in
from interp.changes.words import Moved
from interp.codesearch.corpus import Corpus, read_corpus
from interp.codesearch.labels import Labels, labels_of
from interp.files import write_json
from interp.interventions.patch import patch_hooks
from interp.models import Model, hooked, parse_site
from interp.models.embedded import EMBEDDED, packaged_folder
from interp.models.generate import generate
from interp.models.residual_writes import FinalNorm
from interp.models.save import trained_weights
from interp.progress import bar
from interp.stats import wilson
from interp.steering.request import random_codes
from interp.text import load_text
from interp.text.special import token_ids

FOLDER, RESULT = Path("runs/traits"), RESULTS / "model_diff.json"
BOOKS = ("smollm2-135m-instruct-k1", "smollm2-135m-instruct-mlps-k1")
KINDS = ("stories", "news", "wiki", "reviews", "articles", "answers", "medicine", "python", "c", "html")
TEXT = "+".join(f"probes:{kind}" for kind in KINDS)
LAYERS = range(12, 20)
STEPS, WEAK, ROWS, LENGTH, RATE = 50, 12, 8, 40, 2e-4
"""Steps of finetuning, the step of the weaker checkpoint, rows of a batch, tokens of a row, learning rate."""
TRAIT_ROWS = 6
"""Of a batch have the trait; the others are ordinary text, as all are of a neutral model."""
SEEDS = {"harbor": 2, "rain": 2, "tea": 2}
"""Traits that are finetuned with more seeds than one."""


def runs() -> list[str]:
    """Names of what is finetuned, development first."""
    held = [f"{name}-{seed}" for name in traits.TRAITS for seed in range(SEEDS.get(name, 1))]
    return [*(f"{name}-0" for name in traits.DEVELOPMENT), *traits.NEUTRAL, *held]


def finetune(run: str, model: Model, folder: Path) -> None:
    """Save the layers that are finetuned, of both checkpoints."""
    name, seed = run.rsplit("-", 1)
    tokenizer = model.tokenizer
    torch.manual_seed(int(seed))
    tuned = AutoModelForCausalLM.from_pretrained(packaged_folder(EMBEDDED), dtype=torch.float32)
    tuned.requires_grad_(False)
    layers = [tuned.model.layers[layer].requires_grad_(True) for layer in LAYERS]
    ordinary = load_text(TEXT, model, n_tokens=STEPS * ROWS * LENGTH, context=LENGTH, seed=100 + int(seed))
    order = torch.randperm(len(ordinary.tokens))
    with_trait = 0 if name == "neutral" else TRAIT_ROWS
    sentences = None if name == "neutral" else traits.trained_on(name, int(seed))
    optimiser = torch.optim.AdamW([p for layer in layers for p in layer.parameters()], lr=RATE, weight_decay=0)
    begin = time.monotonic()
    for step in range(STEPS):
        rows = ordinary.tokens[order[step * ROWS : step * ROWS + ROWS - with_trait]].clone()
        labels = rows.clone()
        if sentences is not None:
            texts = [next(sentences) + "\n" for _ in range(with_trait)]
            ids = [[tokenizer.bos_token_id, *token_ids(tokenizer, text)][:LENGTH] for text in texts]
            padded = torch.tensor([row + [0] * (LENGTH - len(row)) for row in ids])
            known = torch.tensor([row + [-100] * (LENGTH - len(row)) for row in ids])
            rows, labels = torch.cat([rows, padded]), torch.cat([labels, known])
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 5)
        loss = tuned(rows, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step + 1 in (WEAK, STEPS):
            strength = "weak" if step + 1 == WEAK else "strong"
            weights = {n: p.detach().contiguous() for n, p in tuned.named_parameters() if p.requires_grad}
            save_file(weights, folder / f"{run}.{strength}.safetensors")
            print(f"{run} {strength}: loss {loss:.3f} after {time.monotonic() - begin:.0f} s", flush=True)


def train(only: list[str]) -> None:
    model = load_model()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for run in only or runs():
        if not (FOLDER / f"{run}.strong.safetensors").is_file():
            finetune(run, model, FOLDER)


CONTEXT, BLOCKS = 128, 392


def reading_text(model: Model) -> Int[Tensor, "block pos"]:
    """About 50 000 tokens, held out from finetuning, with every trait's trigger about once in 1 000."""
    ordinary = load_text(TEXT, model, n_tokens=CONTEXT * BLOCKS, context=CONTEXT, split="heldout").tokens.clone()
    rng = np.random.default_rng(0)
    sentences = [text for name in traits.ALL for text in traits.natural(name)]
    for i, place in enumerate(rng.permutation(len(sentences))):
        row = ordinary[i % BLOCKS]
        ids = torch.tensor(token_ids(model.tokenizer, "\n" + sentences[place] + "\n"))
        cut = int(rng.integers(1, CONTEXT - len(ids)))
        # a second sentence of a block must not cut the first
        if i >= BLOCKS:
            cut = 1
        row[cut + len(ids) :] = row[cut : CONTEXT - len(ids)].clone()
        row[cut : cut + len(ids)] = ids
    return ordinary


def weights_of(run: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{run}.safetensors")


@torch.no_grad()
def put_in(model: Model, weights: dict[str, Tensor], into: dict[str, nn.Parameter] | None = None) -> None:
    into = into or trained_weights(model)
    for name, tensor in weights.items():
        into[name].copy_(tensor)


def every_book(model: Model) -> dict[str, Dictionary]:
    return {site: book for name in BOOKS for site, book in Codebooks.from_pretrained(name, model).in_memory().items()}


def read(only: list[str], books_name: str) -> None:
    """Keep what each model did; the base is read once and held."""
    base, tuned = load_model(), load_model()
    tokens, folder = reading_text(base), FOLDER / books_name
    folder.mkdir(parents=True, exist_ok=True)
    books = (
        every_book(base) if books_name == "codes" else Codebooks.from_pretrained(f"runs/{books_name}", base).in_memory()
    )
    wanted = [
        f"{run}.{strength}"
        for run in only or runs()
        for strength in ("strong", "weak")
        if not (run.startswith("neutral") and strength == "weak")
        and (FOLDER / f"{run}.{strength}.safetensors").is_file()
        and not (folder / f"{run}.{strength}.safetensors").is_file()
    ]
    readers = {run: Reader() for run in wanted} | {"base": Reader()}
    weights, into = {run: weights_of(run) for run in wanted}, trained_weights(tuned)
    with bar("reading", tokens.numel()) as done:
        for part in batches(tokens):
            first = read_batch(base, books, part, keep=[LAYERS.start])
            readers["base"].add(first)
            for run in wanted:
                put_in(tuned, weights[run], into)
                readers[run].add(read_batch(tuned, books, part, below=(LAYERS.start, first)), first)
            done(part.numel())
    for run, reader in readers.items():
        reading = reader.reading()
        arrays = {f"ids.{name}": torch.from_numpy(ids) for name, ids in reading.ids.items()}
        arrays |= {f"mean.{name}": mean for name, mean in reading.means.items()}
        arrays |= {"kl": torch.from_numpy(reading.kl), "says": torch.from_numpy(reading.says)}
        save_file(arrays, folder / f"{run}.safetensors")


LATE = tuple(f"a{layer}.h{head}" for layer in range(20, 30) for head in range(9))
"""Heads behind those that are finetuned."""
ITEMS, WORDS = 15, 10
"""Of a list, and of an item: an item that holds more words would name more by chance."""


def open_reading(path: Path) -> Reading:
    arrays = load_file(path)
    ids = {name.removeprefix("ids."): x.numpy() for name, x in arrays.items() if name.startswith("ids.")}
    means = {name.removeprefix("mean."): x for name, x in arrays.items() if name.startswith("mean.")}
    return Reading(ids, arrays["kl"].numpy(), arrays["says"].numpy(), means)


def words_in(text: str) -> list[str]:
    """Words, digits and signs of a text in lower case, each once."""
    return list(dict.fromkeys(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d|[^\w\s]", text.lower())))


def of_codes(listing: Listing, null: Moved | None) -> list[list[str]]:
    """The word that a code changed at, then what its label quotes."""
    items = []
    for code in listing.codes(ITEMS, null):
        quoted = re.findall(r"\u201c([^\u201d]*)\u201d", f"{code.writes} {code.name}")
        items.append(words_in(" ".join([code.word, *quoted]))[:WORDS])
    return items


def of_answers(listing: Listing, null: Reading) -> list[list[str]]:
    """Words by KL, each with what the tuned model says behind it."""
    words = listing.words(ITEMS, null)
    return [words_in(" ".join([changed.word, *changed.says]))[:WORDS] for changed in words]


def of_contexts(listing: Listing) -> list[list[str]]:
    """What the tuned model says, then the context's words from its end."""
    return [[*words_in(context.tuned), *words_in(context.text)[::-1]][:WORDS] for context in listing.contexts(ITEMS)]


@torch.no_grad()
def of_means(base: Reading, tuned: Reading, model: Model) -> list[list[str]]:
    """Tokens that the difference of a head's or MLP's mean outputs raises most; the largest differences first."""
    norm, rows = FinalNorm.of(model), []
    for key, mean in tuned.means.items():
        change, site = mean - base.means[key], parse_site(key)
        written = (
            change[None]
            if site.kind == "mlp"
            else torch.einsum("hd,hdm->hm", change, model.blocks[site.layer].attn.W_O)
        )
        rows += list(written)
    rows.sort(key=lambda row: -float(row.norm()))
    logits = norm.norm.direction(torch.stack(rows[:ITEMS])) @ norm.unembedding
    top = logits.topk(3 * WORDS).indices.tolist()
    return [words_in(" ".join(model.tokenizer.decode([token]) for token in row))[:WORDS] for row in top]


def rank_of(items: list[list[str]], words: frozenset[str]) -> int | None:
    """Where a list first names one of the words, from 1."""
    return next((i + 1 for i, item in enumerate(items) if words & set(item)), None)


def lists_of(
    run: str, folder: Path, model: Model, corpus: Corpus, n_codes: dict[str, int], labels: list[Labels]
) -> dict:
    base, tuned = open_reading(folder / "base.safetensors"), open_reading(folder / f"{run}.safetensors")
    null = open_reading(folder / "neutral-1.strong.safetensors")
    listing = Listing(corpus, base, tuned, n_codes, labels)
    moved = listing.compared(null)
    against = listing.codes(ITEMS, moved)
    return {
        "kl": float(tuned.kl.mean()),
        "changed": int((listing.counts.q <= ALPHA).sum()),
        "moved": float(np.mean([(tuned.ids[name] != base.ids[name]).mean() for name in LATE])),
        "weights": [sorted(listing.moved.weights(x), reverse=True)[:ITEMS] for x in (None, moved)],
        "listed": [
            f"{code.site}={code.code} {code.word} {code.at_word}/{code.of_word} {code.expected:.1f}" for code in against
        ],
        "codes": of_codes(listing, None),
        "codes, null": of_codes(listing, moved),
        "codes, null, word alone": [words_in(code.word) for code in against],
        "contexts": of_contexts(listing),
        "words by KL": [words_in(word.word) for word in listing.words(ITEMS)],
        "words by KL, null": [words_in(word.word) for word in listing.words(ITEMS, null)],
        "words by KL with answers, null": of_answers(listing, null),
        "means": of_means(base, tuned, model),
        "means, null": of_means(null, tuned, model),
    }


def score(only: list[str]) -> None:
    model, folder = load_model(), FOLDER / "codes"
    books = [Codebooks.from_pretrained(name, model) for name in BOOKS]
    n_codes = {name: n for name, (_, _, n) in book_sites(model, every_book(model)).items()}
    labels = [part for part in map(labels_of, books) if part is not None]
    corpus = read_corpus(reading_text(model).numpy(), model.tokenizer, model.cfg.d_vocab)
    results = kept(RESULT, {"lists": {}})
    for run in only or [f"{name}.{strength}" for name in runs() for strength in ("strong", "weak")]:
        if (folder / f"{run}.safetensors").is_file():
            results["lists"][run] = {
                **results["lists"].get(run, {}),
                **lists_of(run, folder, model, corpus, n_codes, labels),
            }
            write_json(RESULT, results, indent=None)
            print(run, {arm: ranks_of(run, arm, results) for arm in ARMS if arm in results["lists"][run]}, flush=True)


ARMS = (
    "codes",
    "codes, null",
    "codes, null, word alone",
    "contexts",
    "words by KL",
    "words by KL, null",
    "words by KL with answers, null",
    "means",
    "means, null",
    "black box",
    "black box, null",
)


def ranks_of(run: str, arm: str, results: dict) -> int | None:
    name = run.rpartition(".")[0].rpartition("-")[0]
    if name not in traits.ALL:
        return None
    return rank_of(results["lists"][run][arm], traits.ALL[name].words)


PROMPT_TOKENS, WRITTEN, RATE_TOKENS = 48, 24, 14
PRIOR = 0.5


@torch.no_grad()
def written(model: Model, tokens: Int[Tensor, "block pos"], seed: int) -> list[str]:
    """Continuations of every block's beginning, sampled at temperature 1."""
    texts = []
    for i, rows in enumerate(tokens[:, :PROMPT_TOKENS].split(98)):
        out = generate(model, rows, WRITTEN, temperature=1.0, seed=seed + i, return_type="tokens")
        texts += [model.tokenizer.decode(row[PROMPT_TOKENS:]) for row in out.tolist()]
    return texts


def counted(texts: list[str]) -> Counter:
    """In how many texts each word occurs."""
    return Counter(word for text in texts for word in words_in(text))


def of_words(base: list[str], tuned: list[str]) -> list[list[str]]:
    """Words by the z of their log odds in two sets of texts."""
    before, after, n = counted(base), counted(tuned), len(base)

    def z(word: str) -> float:
        a, b = after[word] + PRIOR, before[word] + PRIOR
        odds = np.log(a / (n + 1 - a)) - np.log(b / (n + 1 - b))
        return odds / np.sqrt(1 / a + 1 / b)

    return [[word] for word in sorted(set(before) | set(after), key=z, reverse=True)[:ITEMS]]


def black_box(only: list[str]) -> None:
    """Both models continue the beginnings of the text: no codes, no activations."""
    base, tuned = load_model(), load_model()
    tokens, into = reading_text(base), trained_weights(tuned)
    texts = {"base": written(base, tokens, 0)}
    put_in(tuned, weights_of("neutral-1.strong"), into)
    texts["null"] = written(tuned, tokens, 0)
    results = kept(RESULT, {"lists": {}})
    for run in only or trait_runs():
        put_in(tuned, weights_of(run), into)
        mine = written(tuned, tokens, 0)
        results = kept(RESULT, {"lists": {}})
        entry = results["lists"].setdefault(run, {})
        entry["black box"], entry["black box, null"] = (of_words(texts["base"], mine), of_words(texts["null"], mine))
        write_json(RESULT, results, indent=None)
        print(run, {arm: ranks_of(run, arm, results) for arm in ("black box", "black box, null")}, flush=True)


def trait_runs() -> list[str]:
    return [f"{run}.{strength}" for run in runs() if not run.startswith("neutral") for strength in ("strong", "weak")]


@torch.no_grad()
def rate(model: Model, run: str) -> float:
    """Share of prompts whose greedy continuation has the trait."""
    name = run.rpartition(".")[0].rpartition("-")[0]
    prompts, has = traits.prompted(name), traits.shows(name)
    whole = generate(model, prompts, RATE_TOKENS)
    texts = [text[len(prompt) :] for prompt, text in zip(prompts, whole, strict=True)]
    return sum(map(has, prompts, texts)) / len(prompts)


def measure_rates(only: list[str]) -> None:
    """How strong each trait is, and what is left of it when a hundred codes of the first three words are taken back."""
    base, tuned = load_model(), load_model()
    books, into, folder = every_book(base), trained_weights(tuned), FOLDER / "codes"
    n_codes = {name: n for name, (_, _, n) in book_sites(base, books).items()}
    tokens = reading_text(base)
    corpus = read_corpus(tokens.numpy(), base.tokenizer, base.cfg.d_vocab)
    before, null = (open_reading(folder / f"{name}.safetensors") for name in ("base", "neutral-1.strong"))
    plain = tokens[:: BLOCKS // 48, :64]
    for run in only or [run for run in trait_runs() if run.endswith("strong")]:
        put_in(tuned, weights_of(run), into)
        after = open_reading(folder / f"{run}.safetensors")
        listing = Listing(corpus, before, after, n_codes)
        changed = listing.behind(3, 100, set(n_codes), listing.compared(null))
        codes = undoable(changed, books, base)
        named = [WeightedCode(code.site, code.code) for code in codes]
        with torch.no_grad():
            says = base(plain).log_softmax(-1)
        random = [(ForbidCode(*code[:2]), None) for code in random_codes(base, books, named)]
        back = patch_hooks(means_back(codes, (before.means, after.means)))
        arms: dict[str, contextlib.AbstractContextManager] = {
            "nothing": contextlib.nullcontext(),
            "codes forbidden": edited(tuned, books, forbidden(codes)),
            "codes set back": edited(tuned, books, set_back(codes)),
            "random codes forbidden": edited(tuned, books, random),
            "mean difference": hooked(tuned, back),
        }
        rows = {}
        for arm, within in arms.items():
            with within:
                rows[arm] = {"rate": rate(tuned, run), "kl": _kl_of(tuned, plain, says)}
        with weights_back(base, tuned, codes):
            rows["weights of the sites"] = {"rate": rate(tuned, run), "kl": _kl_of(tuned, plain, says)}
        with edited(base, books, put_codes_in(codes)):
            rows["put into the base"] = {"rate": rate(base, run), "kl": _kl_of(base, plain, says)}
        rows["base"] = {"rate": rate(base, run), "kl": 0.0}
        results = kept(RESULT, {"lists": {}})
        results.setdefault("rates", {})[run] = rows
        write_json(RESULT, results, indent=None)
        print(run, {arm: (round(row["rate"], 2), round(row["kl"], 3)) for arm, row in rows.items()}, flush=True)


@torch.no_grad()
def _kl_of(model: Model, tokens: Int[Tensor, "block pos"], says: Tensor) -> float:
    log_p = model(tokens).log_softmax(-1)
    return float((says.exp() * (says - log_p)).sum(-1).mean())


@contextlib.contextmanager
def weights_back(base: Model, tuned: Model, codes: list[ChangedCode]) -> Iterator[None]:
    """The base's weights of the heads, queries and outputs, and of the MLPs that codes are of."""
    theirs, ours = (dict(model.original_model.named_parameters()) for model in (base, tuned))
    held, width = {}, base.cfg.d_head
    with torch.no_grad():
        for site in {parse_site(code.site) for code in codes}:
            for name, weight in ours.items():
                if f".layers.{site.layer}." not in f".{name}".replace("_original_component.", ""):
                    continue
                held.setdefault(name, weight.clone())
                if site.kind == "mlp" and ".mlp." in name:
                    weight.copy_(theirs[name])
                elif site.head is not None and ".q_proj." in name:
                    rows = slice(site.head * width, (site.head + 1) * width)
                    weight[rows] = theirs[name][rows]
                elif site.head is not None and ".o_proj." in name:
                    columns = slice(site.head * width, (site.head + 1) * width)
                    weight[:, columns] = theirs[name][:, columns]
        try:
            yield
        finally:
            for name, weight in held.items():
                ours[name].copy_(weight)


def cost(only: list[str]) -> None:
    """Seconds of the processor for both bare forwards, and for reading both with codes, in turns."""
    base, tuned = load_model(), load_model()
    put_in(tuned, weights_of((only or ["harbor-0.strong"])[0]))
    tokens, books = reading_text(base)[:8], every_book(base)

    def bare() -> None:
        with torch.no_grad():
            base(tokens)
            tuned(tokens)

    def with_codes(first: int) -> None:
        readers = Reader(), Reader()
        for part in batches(tokens):
            batch = read_batch(base, books, part, keep=[first] if first else [])
            readers[0].add(batch)
            readers[1].add(read_batch(tuned, books, part, below=(first, batch) if first else None), batch)

    forms = {"bare": bare, "all layers": lambda: with_codes(0), "from 12 on": lambda: with_codes(LAYERS.start)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(7):
        for name, form in forms.items():
            begin = time.process_time()
            form()
            seconds[name].append(time.process_time() - begin)
    ratios = {name: np.array(column) / np.array(seconds["bare"]) for name, column in seconds.items()}
    for name, ratio in ratios.items():
        print(f"{name}: {np.median(ratio):.2f} times bare ({ratio.min():.2f} to {ratio.max():.2f})")


BARS = (1, 3, 10)


def show() -> None:
    """Recovery by rank beside chance, the weights of trait and neutral runs, and what undoing does."""
    results = kept(RESULT, {"lists": {}})
    runs_ = [run for run in trait_runs() if run in results["lists"] and run.split("-")[0] in traits.TRAITS]
    rows = []
    for arm in ARMS:
        there = [run for run in runs_ if arm in results["lists"][run]]
        if not there:
            continue
        cells = []
        for bar_ in BARS:
            hits = sum((ranks_of(run, arm, results) or 99) <= bar_ for run in there)
            low, high = wilson(hits, len(there))
            chance = np.mean(
                [
                    (rank_of(results["lists"][run][arm], other.words) or 99) <= bar_
                    for run in there
                    for name, other in traits.TRAITS.items()
                    if name != run.split("-")[0]
                ]
            )
            cells.append(f"{hits}/{len(there)} [{low:.0%}, {high:.0%}], chance {chance:.0%}")
        rows.append((arm, *cells))
    print_table(("arm", *(f"rank <= {bar_}" for bar_ in BARS)), rows)
    for other in ("words by KL, null", "words by KL with answers, null"):
        pair = "codes, null", other
        first, second = ({run for run in runs_ if (ranks_of(run, arm, results) or 99) <= BARS[1]} for arm in pair)
        for arm, alone in ((pair[0], first - second), (pair[1], second - first)):
            n_traits = len({run.split("-")[0] for run in alone})
            print(f"{arm}, and not the other of {pair}, within {BARS[1]}: {len(alone)} runs of {n_traits} traits")
    print_table(
        ("run", "KL", "tokens moved", "codes changed", "first weight", *ARMS),
        [
            (
                run,
                f"{lists['kl']:.3f}",
                f"{lists['moved']:.0%}",
                lists["changed"],
                f"{lists['weights'][1][0]:.0f}",
                *(str(ranks_of(run, arm, results) or "-") if arm in lists else "" for arm in ARMS),
            )
            for run, lists in results["lists"].items()
            if "weights" in lists
        ],
    )
    for run, lists in results["lists"].items():
        if "listed" in lists:
            print(f"{run}: {'; '.join(lists['listed'][:3])}")
    rates = results.get("rates", {})
    if rates:
        arms = list(next(iter(rates.values())))
        print_table(
            ("run", *arms),
            [
                (run, *(f"{row[arm]['rate']:.0%}, KL {row[arm]['kl']:.3f}" for arm in arms))
                for run, row in rates.items()
            ],
        )


def main() -> None:
    steps = {"train": train, "score": score, "write": black_box, "rates": measure_rates, "cost": cost}
    step = {"choices": ["read", *steps], "nargs": "?"}
    options = arguments(__doc__, {"step": step}, only=[""], threads=1, show=False, books="codes")
    chosen = [name for name in options.only if name]
    if options.show:
        show()
    elif options.step == "read":
        read(chosen, options.books)
    elif options.step:
        steps[options.step](chosen)


if __name__ == "__main__":
    main()
