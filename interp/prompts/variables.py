"""What varies in a task's prompts: what the task says, and what the prompts show by themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.prompts.pairs import PromptPairs, Value


@dataclass(frozen=True)
class Variable:
    """One thing that varies.

    Attributes:
        values: those there are, ``None`` for prompts without one behind all others.
        ids: which value each prompt has; side 0 is clean, 1 corrupt.
        given: the task or the file says it; else it is derived.
    """

    name: str
    values: tuple[Value, ...]
    ids: Int[np.ndarray, "side pair"]
    given: bool

    @property
    def fault(self) -> str | None:
        """Why nothing can be told of it, if so."""
        _, counts = np.unique(self.ids, return_counts=True)
        if len(counts) < 2:
            return "it is the same in all prompts"
        return "every prompt has a value of its own" if counts.max() == 1 else None


def variables(pairs: PromptPairs, tokenizer: Any) -> list[Variable]:
    """The variables of pairs, given ones first.

    Derived are ``token at ROLE``, ``order of roles``, ``distance ROLE–ROLE`` between neighbours, and ``template``, each
    where it varies. One that tells prompts apart just as one before it does is left out.
    """
    table: dict[str, list[list[Value]]] = {}
    for name in pairs[0].variables.get("clean", {}):
        table[name] = [[pair.variables[side][name] for pair in pairs] for side in ("clean", "corrupt")]
    given = len(table)
    roles = [role for role in pairs[0].positions if all(role in pair.positions for pair in pairs)]
    for role in roles:
        table[f"token at {role}"] = [
            [
                tokenizer.decode([tokens[pair.positions[role]]])
                for pair, tokens in zip(pairs, side, strict=True)
            ]
            for side in ([p.clean_tokens for p in pairs], [p.corrupt_tokens for p in pairs])
        ]
    orders = [sorted(roles, key=pair.positions.__getitem__) for pair in pairs]
    table["order of roles"] = [[" ".join(order) for order in orders]] * 2
    for first, second in zip(orders[0], orders[0][1:], strict=False):
        apart: list[Value] = [pair.positions[second] - pair.positions[first] for pair in pairs]
        table[f"distance {first}–{second}"] = [apart] * 2
    table.setdefault("template", [[pair.template for pair in pairs]] * 2)
    found: list[Variable] = []
    for i, (name, sides) in enumerate(table.items()):
        everything = [value for side in sides for value in side]
        values = tuple(sorted(set(everything), key=lambda value: (value is None, str(value))))
        where = {value: k for k, value in enumerate(values)}
        ids = np.array([where[value] for value in everything]).reshape(2, len(pairs))
        if i < given or (len(values) > 1 and not any(_same(ids, known.ids) for known in found)):
            found.append(Variable(name, values, ids, i < given))
    return found


def _same(a: Int[np.ndarray, "side pair"], b: Int[np.ndarray, "side pair"]) -> bool:
    """Whether two variables tell the same prompts apart."""
    return len(set(zip(a.flat, b.flat, strict=True))) == len(np.unique(a)) == len(np.unique(b))
