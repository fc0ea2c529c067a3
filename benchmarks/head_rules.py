"""A rule for every head: where it looks, told from the tokens alone.

The attention of a head from a token q to a token k is the softmax of a sum of what can be read off the text: how far k
stands before q; the class of k, the token itself if it is a common one, and the class of what stands before it; which
class q's class looks for; whether k is q's own token seen earlier, or follows that; and how much q looks at the first
token, or at itself, by its class, by the token and by its place. Nothing else of the model is in it. It is fitted to
the model's attention by gradient descent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.models import Model, hooked
from interp.progress import Stage, silent

COMMON = 1500
"""Tokens that a rule knows by themselves; of the others it knows the class."""
STEPS, BLOCKS, RATE = 250, 8, 0.1
DECAY = 1e-5


@dataclass(frozen=True)
class Reading:
    """What rules read of a text.

    Attributes:
        number: of common tokens from 0, :data:`COMMON` of others.
        word_class: of each token.
        same, after: whether k is q's token earlier, and whether it follows that; never the first token.
    """

    number: Int[Tensor, "block pos"]
    word_class: Int[Tensor, "block pos"]
    same: Float[Tensor, "block q k"]
    after: Float[Tensor, "block q k"]

    @classmethod
    def of(
        cls, tokens: Int[Tensor, "block pos"], classes: Int[Tensor, " d_vocab"], common: Int[Tensor, " n"]
    ) -> "Reading":
        """
        Args:
            classes: of every token of the vocabulary.
            common: tokens that are known by themselves.
        """
        number = torch.full_like(classes, COMMON)
        number[common] = torch.arange(len(common), device=classes.device)
        before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)
        same, after = tokens[:, :, None] == tokens[:, None], tokens[:, :, None] == before[:, None]
        same = same & ~torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        same[:, :, 0] = after[:, :, 0] = False
        return cls(number[tokens], classes[tokens], same.float(), after.float())


class HeadRules(nn.Module):
    """The rules of the heads of one layer, all together."""

    def __init__(self, n_heads: int, context: int, n_classes: int) -> None:
        super().__init__()

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(n_heads, *shape))

        self.distance, self.first_by_place = zeros(context), zeros(context)
        self.key_class, self.behind_class, self.itself = (zeros(n_classes) for _ in range(3))
        self.first_by_class, self.first_by_number, self.key_number = (
            zeros(n_classes),
            zeros(COMMON + 1),
            zeros(COMMON + 1),
        )
        self.sought = zeros(n_classes, n_classes)
        self.same, self.after = zeros(1 + n_classes), zeros(1 + n_classes)

    def forward(self, text: Reading) -> Float[Tensor, "head block q k"]:
        """Logarithms of the attention."""
        word_class, number = text.word_class, text.number
        place = torch.arange(word_class.shape[1], device=word_class.device)
        back = place[:, None] - place
        behind = torch.cat([word_class[:, :1], word_class[:, :-1]], 1)
        key = self.key_number[:, number] + self.key_class[:, word_class] + self.behind_class[:, behind]
        score = self.distance[:, back.clamp(min=0)][:, None] + key[:, :, None]
        score = score + self.sought[:, word_class[:, :, None], word_class[:, None]]
        for weight, holds in ((self.same, text.same), (self.after, text.after)):
            score = score + (weight[:, :1, None] + weight[:, 1:][:, word_class])[..., None] * holds
        score = score + torch.diag_embed(self.itself[:, word_class])
        first = self.first_by_number[:, number] + self.first_by_class[:, word_class] + self.first_by_place[:, None]
        score = torch.cat([score[..., :1] + first[..., None], score[..., 1:]], -1)
        return score.masked_fill(back < 0, -1e9).log_softmax(-1)


@torch.no_grad()
def read_patterns(
    model: Model, tokens: Int[Tensor, "block pos"], stage: Stage = silent
) -> list[Float[Tensor, "head block q k"]]:
    """The attention of every head, by layer, in half precision."""
    patterns: list[list[Tensor]] = [[] for _ in range(model.cfg.n_layers)]

    def keep(layer: int, pattern: Tensor) -> None:
        patterns[layer].append(pattern.half().transpose(0, 1))

    hooks = {
        f"blocks.{layer}.attn.hook_pattern": lambda x, layer=layer: keep(layer, x)
        for layer in range(model.cfg.n_layers)
    }
    with stage("reading attention", len(tokens)) as advance, hooked(model, hooks):
        for blocks in tokens.split(BLOCKS):
            model(blocks)
            advance(len(blocks))
    return [torch.cat(layer, 1) for layer in patterns]


def fit_rules(
    patterns: Sequence[Float[Tensor, "head block q k"]],
    tokens: Int[Tensor, "block pos"],
    classes: Int[Tensor, " d_vocab"],
    common: Int[Tensor, " n"],
    *,
    steps: int = STEPS,
    seed: int = 0,
    stage: Stage = silent,
) -> list[HeadRules]:
    """A layer's rules for each layer's attention, by the cross entropy from it."""
    fitted = []
    with stage("fitting rules", len(patterns)) as advance:
        for pattern in patterns:
            rules = HeadRules(len(pattern), tokens.shape[1], int(classes.max()) + 1).to(pattern.device)
            several = [rules.key_number, rules.first_by_number, rules.sought, rules.same, rules.after]
            others = [p for p in rules.parameters() if all(p is not parameter for parameter in several)]
            optimizer = torch.optim.Adam([{"params": others, "lr": RATE}, {"params": several, "lr": RATE / 2}])
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
            generator = torch.Generator().manual_seed(seed)
            seen = torch.tril(torch.ones(pattern.shape[-2:], dtype=torch.bool, device=pattern.device))
            for _ in range(steps):
                blocks = torch.randint(len(tokens), (BLOCKS,), generator=generator)
                log_rule = rules(Reading.of(tokens[blocks], classes, common)).masked_fill(~seen, 0)
                # the mean over all but heads: each is fitted as if it were alone
                loss = -(pattern[:, blocks].float() * log_rule).sum(-1).mean((1, 2)).sum()
                loss = loss + DECAY * sum(parameter.square().sum() for parameter in several)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            fitted.append(rules.requires_grad_(False))
            advance(1)
    return fitted


def common_tokens(tokens: Int[Tensor, "block pos"], d_vocab: int) -> Int[Tensor, " n"]:
    """The commonest tokens of a text, those that a rule knows by themselves."""
    return torch.bincount(tokens.reshape(-1), minlength=d_vocab).topk(min(COMMON, d_vocab)).indices
