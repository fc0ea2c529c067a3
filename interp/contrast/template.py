"""A pair of prompts as a template file: the way from one question to a task with a circuit and a program.

The word in which A and B differ becomes a variable whose two values bring their answers along. Other content words
become variables that the answer does not depend on, with what else the model finds likely there. Read the file before
you use it: some of these words may fit badly.
"""

from typing import Any

import torch

from interp.contrast.explanation import Why
from interp.contrast.proposals import WORD, exchanged_word, is_content, likely_words
from interp.errors import InputError
from interp.models import Model
from interp.prompts.encoding import PromptEncoder

MOST_WORDS, MOST_VALUES = 4, 8  # words that become variables beside the one that differs, and values of each


@torch.no_grad()
def template_of(model: Model, explanation: Why) -> dict[str, Any]:
    """What :class:`~interp.prompts.template_file.TemplateFile` reads, as JSON. :class:`InputError`: the prompts differ
    in more than one word, or stand in a chat template."""
    a, b = explanation.a, explanation.b
    if explanation.chat:
        raise InputError("a template file holds plain prompts: leave the chat template out")
    exchanged = exchanged_word(a, b)
    if exchanged is None or {"{", "}"} & set(a + b):
        raise InputError(f"{b!r:.60}: a template needs prompts without braces that differ in one word")
    word, other = exchanged
    encoder = PromptEncoder(model.tokenizer, bos=True)
    ids = encoder.bos + encoder.encode(a)
    likely = likely_words(model, encoder, a, ids)
    answers = [explanation.answers[name]["token"] for name in ("answer", "instead")]
    spaced = all(text.startswith(" ") for text in answers)
    values: dict[str, Any] = {
        "word": [
            {"text": text, "answer": answer[1:] if spaced else answer}
            for text, answer in zip((word.group(), other), answers, strict=True)
        ]
    }
    places = {word.start(): (word, "word")}
    for place, match in sorted((match.start(), match) for match in WORD.finditer(a)):
        length = len(encoder.continuation(a[:place].rstrip(" "), f" {match.group()}"))
        texts = [
            text
            for text in dict.fromkeys([match.group(), *likely.get(place, [])])
            if text not in (word.group(), other)
            and len(encoder.continuation(a[:place].rstrip(" "), f" {text}")) == length
        ]
        free = match.group().islower() and is_content(match.group()) and place not in places
        if free and len(texts) > 1 and len(values) <= MOST_WORDS:
            name = f"word{len(values) + 1}"
            values[name] = texts[:MOST_VALUES]
            places[place] = match, name
    template, end = "", 0
    for place in sorted(places):
        match, name = places[place]
        template += a[end:place] + "{" + name + "}"
        end = match.end()
    form = {"templates": [template + a[end:]], "values": values, "answer": "{word.answer}"}
    return form | {"corrupt": [{"word": "*"}]} | ({} if spaced else {"space": False})
