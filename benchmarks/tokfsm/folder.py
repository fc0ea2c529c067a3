"""What a reproduction leaves: the result, and the model with its books in the forms that other tools read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.tokfsm.data import BASE
from benchmarks.tokfsm.reproduce import FORMAT
from benchmarks.tokfsm.training import Training
from interp.files import write_json
from interp.models.provenance import versions

RESULT = "result.json"


def save(training: Training, measured: dict[str, Any], folder: Path, command: str) -> dict[str, Any]:
    """Write everything; the result comes last. ``command`` makes it again."""
    recipe = training.recipe
    result = {
        "format": FORMAT,
        "recipe": asdict(recipe),
        "tokens": training.step * recipe.per_step,
        "plain_tokens": recipe.plain_steps * recipe.per_step,
        "command": command,
        "versions": versions(),
        **measured,
    }
    training.model.save(folder / "model", digit_tokenizer())
    for site, book in training.books.items():
        book._save_pretrained(folder / "codebooks" / site)
    write_json(folder / RESULT, result)
    return result


def digit_tokenizer():
    """Ten digits and ``<|endoftext|>``, ids 0 to 10, which begins, ends and pads."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {str(digit): digit for digit in range(BASE)} | {"<|endoftext|>": BASE}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", BASE)]
    )
    special = {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
