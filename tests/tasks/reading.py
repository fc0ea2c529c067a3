"""Reading pairs back as words."""

from interp.tasks import PromptPair


def at(tokenizer, pair: PromptPair, role: str, side: str = "clean") -> str:
    """The token at a role, without its space."""
    return tokenizer.decode([getattr(pair, f"{side}_tokens")[pair.positions[role]]]).strip()


def decoded(tokenizer, tokens) -> list[str]:
    return [tokenizer.decode([token]).strip() for token in tokens]


def changed_roles(pair: PromptPair) -> set[str]:
    """Roles at whose positions the prompts differ; END where nothing else is there; "?" for a position without role."""
    roles = {position: role for role, position in reversed(pair.positions.items())}
    tokens = zip(pair.clean_tokens, pair.corrupt_tokens, strict=True)
    return {roles.get(i, "?") for i, (clean, corrupt) in enumerate(tokens) if clean != corrupt}


class ShortSighted:
    """GPT-2's tokenizer, to which some words are several tokens."""

    bos_token_id = None

    def __init__(self, tokenizer, *words):
        self.tokenizer, self.words = tokenizer, words

    def __call__(self, text, **options):
        for word in self.words:
            text = text.replace(word, f"{word}xq")
        return self.tokenizer(text, **options)
