"""What moves the model."""

import torch

from benchmarks.tokfsm.neox import NeoX

REST = 0.5
"""Rate of what is no matrix of a layer, as a share of Muon's, whose steps are scaled to be as long as Adam's."""


def optimizers_of(model: NeoX) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, Adam for all else.

    A group's ``of_rate`` is its share of the recipe's rate.
    """
    matrices = [p for name, p in model.named_parameters() if name.startswith("layers") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            [{"params": matrices, "of_rate": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW([{"params": rest, "of_rate": REST}], weight_decay=0.0, foreach=True),
    ]
