"""Which of the codes found should steer: by their effect on outputs, or as they are? On the topics of development.

    python -m benchmarks.steering_selection [--tokens 12] [--topics horse,rain]

Half of the codes are taken by output score (:func:`output_scores`), by first-order effect on the target, and at
random. All and each half are added, at doses, to texts that the plain model wrote. What is told is by how many nats
the probability of the topic's words rises at the same KL(steered ‖ plain), in the mean over tokens.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import arguments, interval, print_table
from benchmarks.steering import output_scores
from interp import Codebooks, attach, generate
from interp.activations.metric import kl_divergence
from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.edits import WeightedCode, code_edits
from interp.models import Model, load_model
from interp.steering import Topic, load_topic, topic_names
from interp.steering.cache import find_or_recall
from interp.steering.continuations import encode_prompts

DOSES = (0.6, 1.2, 2.4, 4.8, 9.6)
AT = (0.3, 1.0)
"""Nats of KL a token at which rises are compared."""
DRAWS = 1000


@torch.no_grad()
def curve(
    model: Model, books: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], texts: Sequence[Tensor], words: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """KL and rise of the words' log probability of each text, [dose, text], in the mean over its new tokens."""
    curves = np.zeros((2, 1 + len(DOSES), len(texts)))
    for number, (begin, tokens) in enumerate(texts):
        plain = model(tokens[None])[0, begin - 1 :].log_softmax(-1)
        # doses are rows
        edits = [edit for row, dose in enumerate(DOSES) for edit in code_edits(codes, "added", scale=dose, rows=[row])]
        with attach(model, books, read=False).edit(*edits, positions=slice(begin - 1, None)):
            steered = model(tokens.expand(len(DOSES), -1))[:, begin - 1 :].log_softmax(-1)
        rise = steered[..., words].logsumexp(-1) - plain[:, words].logsumexp(-1)
        curves[0, 1:, number] = kl_divergence(steered, plain.expand_as(steered)).mean(-1)
        curves[1, 1:, number] = rise.mean(-1)
    return curves[0], curves[1]


def rise_at(kl: np.ndarray, rise: np.ndarray, at: float, rows: np.ndarray) -> float:
    return float(np.interp(at, kl[:, rows].mean(1), rise[:, rows].mean(1), right=np.nan))


def main() -> None:
    given = arguments(__doc__, tokens=12, topics=str)
    model = load_model()
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1", model)
    names = given.topics.split(",") if given.topics else topic_names("development")
    rng, texts = np.random.default_rng(0), []
    for ids in encode_prompts(model, load_topic(names[0]).prompts[::2]):
        new = generate(model, torch.tensor([ids]), given.tokens, temperature=0.7, seed=len(texts))
        texts.append((len(ids), new[0, :-1]))
    draws = rng.integers(len(texts), size=(DRAWS, len(texts)))
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name in names:
        for rule, codes in chosen(model, books, load_topic(name), rng).items():
            curves.setdefault(rule, []).append(curve(model, books, codes, texts, tokens_of(model, load_topic(name))))
            rises = [rise_at(*curves[rule][-1], at, np.arange(len(texts))) for at in AT]
            print(f"{name}: {rule}, {len(codes)} codes, {', '.join(f'{x:.2f}' for x in rises)}")

    def told(rise: Callable[[np.ndarray], float], sign: str = "") -> str:
        low, high = np.quantile([rise(rows) for rows in draws], [0.025, 0.975])
        return interval(rise(np.arange(len(texts))), low, high, f"{sign}.2f")

    def mean(rule: str, rows: np.ndarray, at: float) -> float:
        return float(np.mean([rise_at(*each, at, rows) for each in curves[rule]]))

    table = []
    for rule in curves:
        cells = [told(lambda rows, at=at, rule=rule: mean(rule, rows, at)) for at in AT]
        cells += [told(lambda rows, at=at, rule=rule: mean(rule, rows, at) - mean("all", rows, at), "+") for at in AT]
        table.append((rule, *cells))
    columns = (*(f"rise at KL {at:g}, nats" for at in AT), *(f"less all, at {at:g}" for at in AT))
    print_table(("codes", *columns), table)


def chosen(
    model: Model, books: Mapping[str, Bottleneck], topic: Topic, rng: np.random.Generator
) -> dict[str, list[WeightedCode]]:
    code_set = find_or_recall(model, books, topic.positive, topic.negative)
    codes, half = code_set.named(None, "added"), len(code_set) // 2
    scores = output_scores(model, books, codes, topic.prompts[1:9:2])
    by_output = [codes[i] for i in np.argsort(-scores)[:half]]
    at_random = [codes[i] for i in rng.permutation(len(codes))[:half]]
    # they come by falling effect
    return {
        "all": codes,
        "half by output score": by_output,
        "half by effect": codes[:half],
        "half at random": at_random,
    }


def tokens_of(model: Model, topic: Topic) -> Tensor:
    """Those of the topic's words that are one token, with a space in front."""
    ids = (model.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in topic.words)
    return torch.tensor([word_ids[0] for word_ids in ids if len(word_ids) == 1])


if __name__ == "__main__":
    main()
