"""Pairs of a task that are none of those already used."""

from .errors import InputError
from .pairs import PromptPairs, Task
from .sampling import as_many_as_there_are, sample_pairs

HELD_OUT_SEED = 2000
STALE = 20
"""Times the pairs that are wanted or used which, without a new one in the last half of them, are all that there are."""


def held_out_pairs(
    task: Task,
    tokenizer,
    n: int,
    pool: PromptPairs,
    counterfactual: str | None = None,
    *,
    seed: int = HELD_OUT_SEED,
) -> PromptPairs:
    """``n`` pairs, none of whose clean prompts is in the pool; as many as there are where the task has fewer.

    Raises:
        InputError: the task has no others, as a short prompt file.
    """
    seen = {pair.clean_tokens for pair in pool}

    def sample(asked: int) -> PromptPairs:
        return sample_pairs(task, tokenizer, asked, asked, seed, counterfactual)

    def fresh(pairs: PromptPairs) -> list[int]:
        return [i for i, pair in enumerate(pairs) if pair.clean_tokens not in seen][:n]

    asked, before = n, -1
    pairs = as_many_as_there_are(sample, asked)
    while (missing := n - len(fresh(pairs))) and len(pairs) == asked:
        if missing != before:
            asked += missing
        elif asked < STALE * (n + len(pool)):
            asked *= 2
        else:  # a task that repeats itself, as a class of one's own may, never says that it has no more
            break
        before = missing
        pairs = as_many_as_there_are(sample, asked, least=len(pairs))
    if not fresh(pairs):
        raise InputError(
            f"task {task.name!r} has no pairs beyond the {len(pool)} used: none to hold out, use fewer"
        )
    return pairs.subset(fresh(pairs))
