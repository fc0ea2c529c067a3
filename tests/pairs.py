"""Prompt pairs for models without a task of their own: random tokens, random answers."""

from dataclasses import replace

import torch

from interp.prompts.pairs import PromptPair, PromptPairs


def random_pairs(
    d_vocab: int, n: int = 6, lengths: tuple[int, ...] = (9,), metric: str = "logit_diff", seed: int = 0
) -> PromptPairs:
    """Pairs that differ in two tokens; lengths are taken in turn."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int, high: int = d_vocab) -> list[int]:
        return torch.randint(3, high, (size,), generator=generator).tolist()

    pairs = []
    for i in range(n):
        length = lengths[i % len(lengths)]
        clean = draw(length)
        corrupt = list(clean)
        corrupt[2], corrupt[4] = draw(2)
        answer, *wrong = torch.randperm(d_vocab, generator=generator)[:4].tolist()
        pairs.append(PromptPair("", "", tuple(clean), tuple(corrupt), (answer,), tuple(wrong), {"END": length - 1}))
    return PromptPairs(pairs, task="random", metric=metric, counterfactual="two tokens", seed=seed, bos=False)


def alike(pairs: PromptPairs) -> PromptPairs:
    """The same, with the clean prompt on both sides."""
    same = pairs.subset(range(len(pairs)))
    same[:] = [replace(pair, corrupt_tokens=pair.clean_tokens) for pair in pairs]
    return same
