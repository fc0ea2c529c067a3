"""One request for steered texts: what the command line and the workbench ask for, and the program that repeats it.

The same prompts are continued under several conditions, in the same batches: without the codes, with them, and with
random ones at the same sites. What is compared differs in its codes alone.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from interp import DEFAULT_CODEBOOKS
from interp.bottlenecks.attach import attach, home_of
from interp.bottlenecks.base import Bottleneck, alternatives
from interp.bottlenecks.edits import CodeEdit, How, WeightedCode, code_edits, code_name, format_codes
from interp.bottlenecks.gates import LABEL
from interp.bottlenecks.store import Codebooks
from interp.codesearch.labels import labels_of
from interp.codesearch.layout import can_be_edited
from interp.errors import InputError
from interp.models import Model, parse_site
from interp.models.embedded import EMBEDDED
from interp.progress import Stage, silent
from interp.steering.code_set import SCALE
from interp.steering.continuations import Continuation, continue_prompts

BASE, SPLICED, STEERED, RANDOM = "base", "on codes, unedited", "steered", "random codes"
ROWS = 96
"""Texts in one batch, of all conditions together."""
STRIDE = 1_000_003
"""From one batch's seed to the next one's: with 1 another ``seed`` would write the same texts in other batches."""


@dataclass(frozen=True)
class SteeringRequest:
    """
    Attributes:
        codes: with their weights, which count where codes are added.
        how: what is done to the codes.
        scale: of added codes, the factor of their weight times their difference from their codebook's mean.
        slots: of set codes, how many of a vector's k codes each replaces.
        positions, fraction, when: as of :meth:`~interp.bottlenecks.attach.Attached.edit`.
        samples: texts of each prompt.
        seed: of texts, fraction and random codes.
        chat: put prompts into the model's chat template.
        random_baseline: write texts with random codes of the same sites, too.
        error_term: as of :func:`~interp.bottlenecks.attach.attach`. Without it texts of all conditions are written on
            codes, those without an edit as well.
        model, device, dtype: as of :func:`~interp.models.load_model`.
        codebooks: a name of the package's, a folder, or a repository of the hub.
        k: codes a vector; None for as many as the codebooks were fitted with.
    """

    prompts: tuple[str, ...]
    codes: tuple[WeightedCode, ...]
    how: How = "set"
    scale: float | int = SCALE
    slots: int = 1
    positions: str = "generated"
    fraction: float | int = 1.0
    when: str | None = None
    n_tokens: int = 60
    samples: int = 1
    temperature: float | int = 0.7
    seed: int = 0
    chat: bool = False
    random_baseline: bool = False
    error_term: bool = True
    model: str = EMBEDDED
    codebooks: str = DEFAULT_CODEBOOKS
    k: int | None = None
    device: str | None = None
    dtype: str = "float32"

    def edits(self, codes: Sequence[WeightedCode], rows: Sequence[int]) -> list[CodeEdit]:
        """What is done to these codes in some rows of a batch."""
        return code_edits(codes, self.how, scale=self.scale, slots=self.slots, rows=rows)

    def conditions(
        self, model: Model, codebooks: Mapping[str, Bottleneck]
    ) -> dict[str, Sequence[WeightedCode]]:
        """The codes of each condition, none for texts without an edit.

        Raises:
            InputError: no codes, or as :func:`random_codes`.
        """
        if not self.codes:
            raise InputError("no codes: name some, such as a12.h3=417")
        # spliced, all rows are written by the model on codes, those without an edit as well
        found: dict[str, Sequence[WeightedCode]] = {BASE if self.error_term else SPLICED: ()}
        found[STEERED] = self.codes
        if self.random_baseline:
            found[RANDOM] = random_codes(model, codebooks, self.codes, seed=self.seed)
        return found

    def run(
        self, model: Model, codebooks: Mapping[str, Bottleneck], *, stage: Stage = silent
    ) -> dict[str, list[Continuation]]:
        """The texts of each condition in the order of the prompts, all of them once, then once more for each sample.

        All conditions draw from one stream of random numbers, but not the same ones: texts are not paired.

        Raises:
            InputError: no prompts or codes, or as :meth:`~interp.bottlenecks.attach.Attached.edit` and
                :func:`~interp.steering.continuations.continue_prompts`.
        """
        if not self.prompts:
            raise InputError("no prompts: give at least one")
        conditions = self.conditions(model, codebooks)
        texts: dict[str, list[Continuation]] = {name: [] for name in conditions}
        prompts, at_once = self.prompts * self.samples, max(1, ROWS // len(conditions))
        batches = [prompts[begin : begin + at_once] for begin in range(0, len(prompts), at_once)]
        with stage("writing", self.n_tokens * len(batches)) as tell:
            for number, some in enumerate(batches):
                edits = [
                    edit
                    for i, codes in enumerate(conditions.values())
                    for edit in self.edits(codes, range(i * len(some), (i + 1) * len(some)))
                ]
                seed = self.seed + STRIDE * number
                written = continue_prompts(
                    model,
                    some * len(conditions),
                    self.n_tokens,
                    within=attach(model, codebooks, error_term=self.error_term, read=False).edit(
                        *edits, positions=self.positions, fraction=self.fraction, seed=seed, when=self.when
                    ),
                    temperature=self.temperature,
                    seed=seed,
                    chat=self.chat,
                    watch=lambda _tokens: tell(1),
                )
                for i, own in enumerate(texts.values()):
                    own += written[i * len(some) : (i + 1) * len(some)]
        return texts

    def program(self) -> str:
        """Python that makes the same texts."""
        loaded = "".join(f", {key}={value!r}" for key, value in self._loaded_as().items())
        chosen = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("codes", "model", "codebooks", "k", "device", "dtype")
            and getattr(self, field.name) != field.default
        }
        arguments = "".join(f"    {name}={value!r},\n" for name, value in chosen.items())
        return f"""from interp import Codebooks
from interp.models import load_model
from interp.steering import SteeringRequest, parse_codes

model = load_model({self.model!r}{loaded})
codebooks = Codebooks.from_pretrained({self.codebooks!r}, model{"" if self.k is None else f", k={self.k}"})
request = SteeringRequest(
    codes=tuple(parse_codes({format_codes(self.codes)!r})),
{arguments})
for name, texts in request.run(model, codebooks).items():
    for text in texts:
        print(name, text.prompt, text.text, text.perplexity)"""

    def command(self) -> str:
        """The ``interp steer`` that makes the same texts."""
        words = ["interp", "steer", "--codes", format_codes(self.codes)]
        for prompt in self.prompts:
            words += ["--prompt", prompt]
        words += ["--tokens", str(self.n_tokens)]
        if self.how == "forbidden":
            words.append("--forbid")
        elif self.how == "added":
            words.append(f"--add={self.scale}")
        elif self.slots != 1:
            words += ["--slots", str(self.slots)]
        words += ["--samples", str(self.samples)] if self.samples != 1 else []
        words += ["--positions", self.positions]
        words += ["--token-fraction", str(self.fraction)] if self.fraction != 1 else []
        words += [f"--when={self.when}"] if self.when is not None else []
        words += ["--temperature", str(self.temperature), "--seed", str(self.seed)]
        words += ["--chat"] if self.chat else []
        words += ["--random-baseline"] if self.random_baseline else []
        words += [] if self.error_term else ["--splice"]
        words += ["--k", str(self.k)] if self.k is not None else []
        words += ["--codebooks", self.codebooks] if self.codebooks != DEFAULT_CODEBOOKS else []
        words += ["--model", self.model] if self.model != EMBEDDED else []
        for key, value in self._loaded_as().items():
            words += [f"--{key}", value]
        return shlex.join(words)

    def _loaded_as(self) -> dict[str, str]:
        """Dtype and device of the model where they are not the usual ones."""
        asked = {"device": self.device, "dtype": self.dtype}
        return {key: value for key, value in asked.items() if value not in (None, "float32")}


def gate_of(
    when: str | None, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode]
) -> str | None:
    """A gate as :meth:`~interp.bottlenecks.attach.Attached.edit` reads it. ``label:TEXT`` stands for the code that
    this label of the codebooks tells best, of those that can be read before any of the codes acts.

    Raises:
        InputError: codebooks without labels, or without such a code.
    """
    if when is None or not when.startswith(LABEL):
        return when
    labels = labels_of(codebooks) if isinstance(codebooks, Codebooks) else None
    if labels is None:
        raise InputError(
            f"gate {when!r}: these codebooks have no labels, name a code (interp index label makes some)"
        )
    first = min(parse_site(code.site).order for code in codes) if codes else (0, 0)
    told = (code for code in labels.codes(when.removeprefix(LABEL)) if can_be_edited(code[0]))
    known = (code for code in told if parse_site(code[0]).order <= first)
    if (found := next(known, None)) is None:
        raise InputError(f"gate {when!r}: no code of that label is read at or before the first that acts")
    return code_name(*found)


def random_codes(
    model: Model, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], *, seed: int = 0
) -> list[WeightedCode]:
    """As many codes at the same sites with the same weights, drawn at random from those that are not named; none twice
    at a site. What a steered text is to be compared with.

    Raises:
        InputError: a site without a codebook, or one of which no other codes are left.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    left: dict[str, list[int]] = {}
    for site, code, weight in codes:
        config = codebooks[home_of(model, codebooks, site)[0]].config
        if site not in left:
            named = [one.code for one in codes if one.site == site]
            order = torch.randperm(config.n_codes, generator=generator).tolist()
            left[site] = [other for other in reversed(order) if other not in named]
        drawn = next((other for other in left[site] if other in alternatives(config, code)), None)
        if drawn is None:
            raise InputError(f"the codes at {site}: too few of its {config.n_codes} are left for a baseline")
        left[site].remove(drawn)
        found.append(WeightedCode(site, drawn, weight))
    return found
