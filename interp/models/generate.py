"""Generation: the bridge's own, greedy unless a temperature is given, and the same under hooks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import StoppingCriteria

from interp.errors import InputError, whole_number
from interp.models.hooks import check_model, generation_marked, hooked, model_device, model_lock
from interp.models.limits import check_texts, check_tokens

GREEDY = 1e-3
"""Temperature at and below which logits divided by it may overflow (in float16), and one token has nearly all the
probability."""


def generate(
    model: TransformerBridge,
    prompts: Int[Tensor, "batch pos"] | list[str] | str,
    max_new_tokens: int,
    *,
    return_type: Literal["input", "str", "tokens"] = "input",
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    seed: int = 0,
    temperature: float | int = 0.0,
    use_cache: bool = True,
    watch: Callable[[Tensor], None] | None = None,
) -> Any:
    """Continue prompts; returns what it is given, a text, several texts or tokens, with the new tokens at the end.

    >>> text = generate(model, "Once upon a time", 5)

    Prompts as strings may differ in length (they are padded on the left and masked). Tokens must be padded
    on the left if at all, and then need their ``attention_mask`` (1 for real tokens): without it pads are
    read as text. Generation goes on to ``max_new_tokens`` or until every row has ended; after its end a row
    is filled with the end or padding token. Temperature 0 is greedy; else tokens are sampled from the whole
    distribution, the same for the same seed. ``watch`` is called after every new token with all tokens so
    far, [batch, pos]; an exception that it raises ends the generation.

    Runs under :func:`interp.models.hooked`. With the cache (``use_cache``) a hook sees the whole prompt once and then
    one position at a time: one that edits must not count positions from the front. ``return_type``: ``tokens`` are
    those of prompt and text, [batch, pos], BOS and padding included; ``str`` texts. :class:`InputError`: a temperature
    that is negative or not finite, no prompts or an empty one, no new tokens, more tokens than the model's context, a
    token that is none of the model's, strings and a tokenizer without a padding token, or logits that are NaN or
    infinite, as of codes added too strongly for the model's dtype.
    """
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature {temperature}: use 0 for greedy, or a positive number")
    check_model(model)
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
    seed = whole_number("seed", seed, 0, 2**63)
    if attention_mask is not None and not bool(attention_mask.any(-1).all()):
        raise InputError("attention_mask: it leaves a row without any token")
    if isinstance(prompts, Tensor):
        if prompts.ndim != 2 or not prompts.numel() or prompts.is_floating_point():
            raise InputError(f"prompts {list(prompts.shape)} of {prompts.dtype}: give token ids [batch, pos]")
        check_tokens(model, (int(prompts.min()), int(prompts.max())), "a prompt")
        tokens, texts = prompts, None
    else:
        texts = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"prompts {prompts!r:.60}: give texts, or a tensor of tokens")
        if getattr(model.tokenizer, "pad_token_id", None) is None:
            raise InputError("the model's tokenizer has no padding token: give prompts as tokens")
        rows = [model.to_tokens(text, truncate=False)[0].tolist() for text in texts]
        if not rows or not min(map(len, rows)):
            raise InputError(f"prompts {prompts!r}: give at least one, and none that is empty")
        check_texts(model, texts, rows)
        tokens, attention_mask = pad_left(rows, model_device(model))
    if tokens.shape[1] + max_new_tokens > model.cfg.n_ctx:
        raise InputError(
            f"{tokens.shape[1]} tokens of prompt and {max_new_tokens} new ones: the model reads {model.cfg.n_ctx}"
        )
    sampled = temperature > GREEDY
    has_end = any(getattr(source, "eos_token_id", None) is not None for source in (model.tokenizer, model.cfg))
    device = model_device(model)
    seeded = torch.random.fork_rng([device] if device.type == "cuda" else [])
    # of a vocabulary of 262 144 the logits of 96 prompts of 15 tokens would be 1.5 GB, and the last of each are read
    last = hooked(model, {"unembed.hook_in": lambda x: x[:, -1:].contiguous()})
    with model_lock(model), generation_marked(model), last, _finite_logits(model), seeded, torch.no_grad():
        torch.manual_seed(seed)
        out = model.generate(
            tokens,
            max_new_tokens=max_new_tokens,
            do_sample=sampled,
            temperature=temperature if sampled else 1.0,
            use_past_kv_cache=use_cache,
            attention_mask=attention_mask,
            return_type="tokens",
            stop_at_eos=has_end,
            stopping_criteria=None if watch is None else _Watching(watch),
            verbose=False,
        )
    if return_type == "tokens" or (return_type == "input" and texts is None):
        return out
    decode = partial(model.tokenizer.decode, skip_special_tokens=True)
    if texts is None:
        return [decode(row) for row in out]
    longest = tokens.shape[1]
    continued = [
        # decoded behind its prompt: by itself a first token may lose its space
        text + decode(row[longest - len(prompt_ids) :]).removeprefix(decode(prompt_ids))
        for text, row, prompt_ids in zip(texts, out, rows, strict=True)
    ]
    return continued[0] if isinstance(prompts, str) else continued


def pad_left(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
    """Token ids as one batch, and its attention mask; None where nothing had to be padded."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[rows[0][0]] * (longest - len(row)) + [*row] for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return tokens, None if bool(mask.all()) else mask


@contextmanager
def _finite_logits(model: TransformerBridge) -> Iterator[None]:
    """Sampling from others is an error that tells nothing, and the likeliest of them a token like any other."""

    def check(_module: nn.Module, _inputs: Any, logits: Tensor) -> None:
        # the sum is far cheaper to look at
        if not torch.isfinite(logits[:, -1].sum()) and not torch.isfinite(logits[:, -1]).all():
            raise InputError(
                f"the model's logits are NaN or infinite in {logits.dtype}: what is added to it is too large "
                "(a smaller --add), or the dtype too narrow (--dtype float32)"
            )

    with model.unembed.register_forward_hook(check):
        yield


class _Watching(StoppingCriteria):
    """Stops nothing: the place at which the library hands out the tokens so far."""

    def __init__(self, watch: Callable[[Tensor], None]) -> None:
        self.watch = watch

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        self.watch(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
