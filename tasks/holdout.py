"""Pairs of a task that are none of those already used."""

from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs, Task

HELD_OUT_SEED = 2000


def held_out_pairs(
    task: Task, tokenizer, n: int, pool: PromptPairs, counterfactual: str | None = None
) -> PromptPairs:
    """Up to ``n`` pairs, none of whose clean prompts is in the pool.

    Raises:
        InputError: the task has no others, as a short prompt file.
    """
    pairs = task.sample(tokenizer, n, HELD_OUT_SEED, counterfactual)
    seen = {pair.clean_tokens for pair in pool}
    fresh = [i for i, pair in enumerate(pairs) if pair.clean_tokens not in seen]
    if not fresh:
        raise InputError(
            f"task {task.name!r} has no pairs beyond the {len(pool)} used: none to hold out, take fewer"
        )
    return pairs.subset(fresh)
