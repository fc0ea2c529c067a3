"""What moves the model and its codes."""

import torch

from interp.models.neox import NeoX
from interp.tokfsm.coded import Books
from interp.tokfsm.recipe import Recipe

REST = 0.5
"""Rate of what is no matrix of a layer, as a share of Muon's, whose steps are scaled to be as long as Adam's."""


def optimizers_of(recipe: Recipe, model: NeoX, books: Books) -> list[torch.optim.Optimizer]:
    """Those of the model, then of the codes if they take a gradient; each group's ``of_rate`` is its share of the
    recipe's rate.

    Not fused: that writes past the version counters by which codebooks know that they have changed.
    """
    if recipe.optimizer == "muon":
        matrices = [p for name, p in model.named_parameters() if name.startswith("layers") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        found = [
            torch.optim.Muon(
                [{"params": matrices, "of_rate": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            _adam(rest, REST),
        ]
    else:
        found = [_adam(list(model.parameters()), 1.0)]
    if recipe.memory is None:
        found.append(_adam(list(books.parameters()), recipe.lr_codes / recipe.lr_coded))
    return found


def _adam(parameters: list[torch.nn.Parameter], of_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": parameters, "of_rate": of_rate}], weight_decay=0.0, foreach=True)
