"""One request for steered texts: what the command line and the workbench ask for, and the program that repeats it.

The same prompts are continued under several conditions, in the same batches: without the codes, with them, with random
ones at the same sites, and under a control vector. What is compared differs in what is added or set alone.
"""

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from interp import DEFAULT_CODEBOOKS
from interp.bottlenecks.attach import attach, home_of
from interp.bottlenecks.base import Bottleneck, alternatives
from interp.bottlenecks.edits import CodeEdit, Operation, WeightedCode, code_edits, code_name, format_codes, parse_codes
from interp.bottlenecks.gates import LABEL, TOKEN
from interp.bottlenecks.store import Codebooks
from interp.codesearch.labels import Labels, labels_of
from interp.codesearch.layout import can_be_edited
from interp.codesearch.levels import fine_codes, has_levels
from interp.errors import InputError
from interp.models import Model, parse_site
from interp.models.embedded import EMBEDDED
from interp.progress import Stage, silent
from interp.steering.code_set import SCALE
from interp.steering.continuations import Continuation, continue_prompts
from interp.steering.control_vector import ControlVector

BASE, SPLICED, STEERED, RANDOM = "base", "on codes, unedited", "steered", "random codes"
VECTOR = "control vector"
ROWS = 96  # texts in one batch, of all conditions together
STRIDE = 1_000_003
"""From one batch's seed to the next one's: with 1 another ``seed`` would write the same texts in other batches."""


@dataclass(frozen=True)
class SteeringRequest:
    prompts: tuple[str, ...]
    # with their weights, which count where codes are added; none if a control vector is given
    codes: tuple[WeightedCode, ...]
    how: Operation = "set"  # what is done to the codes
    # of added codes, the factor of their weight times their difference from their codebook's mean
    scale: float | int = SCALE
    slots: int = 1  # of set codes, how many of a vector's k codes each replaces
    # positions, fraction, when: as of `edit`
    positions: str = "generated"
    fraction: float | int = 1.0
    when: str | None = None
    n_tokens: int = 60
    samples: int = 1  # texts of each prompt
    temperature: float | int = 0.7
    seed: int = 0  # of texts, fraction and random codes
    chat: bool = False  # put prompts into the model's chat template
    random_baseline: bool = False  # write texts with random codes of the same sites, too
    # a file; write texts under that control vector, too, added as other programs add it (`control_vector`)
    vector: str | None = None
    # as of `attach`. Without it texts of all conditions are written on codes, those without an edit as well.
    error_term: bool = True
    # model, device, dtype: as of `load_model`
    model: str = EMBEDDED
    codebooks: str = DEFAULT_CODEBOOKS  # a name of the package's, a folder, or a repository of the hub
    k: int | None = None  # codes a vector; None for as many as the codebooks were fitted with
    device: str | None = None
    dtype: str = "float32"

    def edits(self, codes: Sequence[WeightedCode], rows: Sequence[int]) -> list[CodeEdit]:
        """What is done to these codes in some rows of a batch."""
        return code_edits(codes, self.how, scale=self.scale, slots=self.slots, rows=rows)

    def conditions(self, model: Model, codebooks: Mapping[str, Bottleneck]) -> dict[str, Sequence[WeightedCode]]:
        """The codes of each condition, none for texts without an edit."""
        if not self.codes and self.vector is None:
            raise InputError("no codes: name some, such as a12.h3=417")
        # spliced, all rows are written by the model on codes, those without an edit as well
        conditions: dict[str, Sequence[WeightedCode]] = {BASE if self.error_term else SPLICED: ()}
        if self.codes:
            conditions[STEERED] = self.codes
        if self.codes and self.random_baseline:
            conditions[RANDOM] = random_codes(model, codebooks, self.codes, seed=self.seed)
        if self.vector is not None:
            conditions[VECTOR] = ()
        return conditions

    def control_vector(self, model: Model, codebooks: Mapping[str, Bottleneck]) -> ControlVector:
        """What other programs add to steer as this request does.

        :class:`InputError`: codes that are not added at every token, or heads that do not add to the residual stream.
        """
        if self.when is not None or self.fraction != 1 or self.positions not in ("generated", "all"):
            raise InputError(
                f"codes at positions {self.positions}, a fraction of {self.fraction} of them, when {self.when}: a "
                "control vector is added at every token, so give 'generated' or 'all', 1, and no gate"
            )
        edits = code_edits(self.codes, self.how, scale=self.scale)
        made_of = f"{self.scale} × ({format_codes(self.codes)}), {self.codebooks}"
        return ControlVector.from_edits(model, codebooks, edits, made_of=made_of)

    def run(
        self, model: Model, codebooks: Mapping[str, Bottleneck], *, stage: Stage = silent
    ) -> dict[str, list[Continuation]]:
        """The texts of each condition in the order of the prompts, all of them once, then once more for each sample.

        All conditions draw from one stream of random numbers, but not the same ones: texts are not paired.
        """
        if not self.prompts:
            raise InputError("no prompts: give at least one")
        conditions = self.conditions(model, codebooks)
        vector = None if self.vector is None else ControlVector.load(self.vector, model)
        texts: dict[str, list[Continuation]] = {name: [] for name in conditions}
        prompts, at_once = self.prompts * self.samples, max(1, ROWS // len(conditions))
        batches = [prompts[begin : begin + at_once] for begin in range(0, len(prompts), at_once)]
        with stage("writing", self.n_tokens * len(batches)) as tell:
            for number, batch in enumerate(batches):
                seed, size = self.seed + STRIDE * number, len(batch)
                rows = [range(i * size, (i + 1) * size) for i in range(len(conditions))]
                parts = zip(conditions.values(), rows, strict=True)
                edits = [edit for part in parts for edit in self.edits(*part)]
                of_vector = dict(zip(conditions, rows, strict=True)).get(VECTOR)
                written = continue_prompts(
                    model,
                    batch * len(conditions),
                    self.n_tokens,
                    within=self._within(model, codebooks, edits, seed, vector, of_vector),
                    temperature=self.temperature,
                    seed=seed,
                    chat=self.chat,
                    watch=lambda _tokens: tell(1),
                )
                for condition_texts, part in zip(texts.values(), rows, strict=True):
                    condition_texts += written[part.start : part.stop]
        return texts

    @contextlib.contextmanager
    def _within(
        self,
        model: Model,
        codebooks: Mapping[str, Bottleneck],
        edits: Sequence[CodeEdit],
        seed: int,
        vector: ControlVector | None,
        of_vector: range | None,
    ) -> Iterator[None]:
        """What one batch is written in; ``of_vector`` are the rows under the control vector."""
        with contextlib.ExitStack() as stack:
            if edits or not self.error_term:
                coded = attach(model, codebooks, error_term=self.error_term, read=False)
                if edits:
                    coded.edit(*edits, positions=self.positions, fraction=self.fraction, seed=seed, when=self.when)
                stack.enter_context(coded)
            if vector is not None:
                stack.enter_context(vector.attached(model, rows=of_vector))
            yield

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
        k = "" if self.k is None else f", k={self.k}"
        books = f"Codebooks.from_pretrained({self.codebooks!r}, model{k})"
        codes = f"tuple(parse_codes({format_codes(self.codes)!r}))" if self.codes else "()"
        return f"""from interp import Codebooks
from interp.models import load_model
from interp.steering import SteeringRequest, parse_codes

model = load_model({self.model!r}{loaded})
codebooks = {books if self.codes or not self.error_term else "{}"}
request = SteeringRequest(
    codes={codes},
{arguments})
for name, texts in request.run(model, codebooks).items():
    for text in texts:
        print(name, text.prompt, text.text, text.perplexity)"""

    def command(self) -> str:
        """The ``interp steer`` that makes the same texts."""
        options: list[tuple[bool, tuple]] = [
            (bool(self.codes), ("--codes", format_codes(self.codes))),
            (self.vector is not None, ("--vector", self.vector)),
            *((True, ("--prompt", prompt)) for prompt in self.prompts),
            (True, ("--tokens", self.n_tokens)),
            (self.how == "forbidden", ("--forbid",)),
            (self.how == "added", (f"--add={self.scale}",)),
            (self.how == "set" and self.slots != 1, ("--slots", self.slots)),
            (self.samples != 1, ("--samples", self.samples)),
            (True, ("--positions", self.positions)),
            (self.fraction != 1, ("--token-fraction", self.fraction)),
            (self.when is not None, (f"--when={self.when}",)),
            (True, ("--temperature", self.temperature, "--seed", self.seed)),
            (self.chat, ("--chat",)),
            (self.random_baseline, ("--random-baseline",)),
            (not self.error_term, ("--splice",)),
            (self.k is not None, ("--k", self.k)),
            (self.codebooks != DEFAULT_CODEBOOKS, ("--codebooks", self.codebooks)),
            (self.model != EMBEDDED, ("--model", self.model)),
            *((True, (f"--{key}", value)) for key, value in self._loaded_as().items()),
        ]
        words = [str(word) for given, option in options if given for word in option]
        return shlex.join(["interp", "steer", *words])

    def _loaded_as(self) -> dict[str, str]:
        """Dtype and device of the model where they are not the usual ones."""
        loading = {"device": self.device, "dtype": self.dtype}
        return {key: value for key, value in loading.items() if value not in (None, "float32")}


def gate_of(when: str | None, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode]) -> str | None:
    """A gate as :meth:`~interp.bottlenecks.attach.Attached.edit` reads it. ``label:TEXT`` stands for the code that
    this label of the codebooks tells best, of those that can be read before any of the codes acts; a coarse code, such
    as ``a9.h0=3.all``, for all of its codes.
    """
    if when is None or when.startswith(TOKEN) or not (when.startswith(LABEL) or has_levels(when)):
        return when
    labels = _labels_of(codebooks)
    if not when.startswith(LABEL):
        return fine_codes(when, labels)
    if labels is None:
        raise InputError(f"gate {when!r}: these codebooks have no labels, name a code (interp index label makes some)")
    first = min((parse_site(code.site).order for code in codes), default=(0, 0))
    for site, code in labels.codes(when.removeprefix(LABEL)):
        if can_be_edited(site) and parse_site(site).order <= first:
            return code_name(site, code)
    raise InputError(f"gate {when!r}: no code of that label is read at or before the first that acts")


def named_codes(text: str, codebooks: Mapping[str, Bottleneck], how: Operation) -> list[WeightedCode]:
    """Codes as :func:`~interp.bottlenecks.edits.parse_codes` reads them, or by their coarse ones, see
    :mod:`interp.codesearch.levels`."""
    return parse_codes(fine_codes(text, _labels_of(codebooks), how) if has_levels(text) else text)


def _labels_of(codebooks: Mapping[str, Bottleneck]) -> Labels | None:
    return labels_of(codebooks) if isinstance(codebooks, Codebooks) else None


def random_codes(
    model: Model, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], *, seed: int = 0
) -> list[WeightedCode]:
    """As many codes at the same sites with the same weights, drawn at random from those that are not named; none twice
    at a site. What a steered text is to be compared with.
    """
    generator, orders = torch.Generator().manual_seed(seed), dict[str, list[int]]()
    taken, baseline = {(site, code) for site, code, _ in codes}, []
    for site, code, weight in codes:
        config = codebooks[home_of(model, codebooks, site)[0]].config
        if site not in orders:
            orders[site] = torch.randperm(config.n_codes, generator=generator).tolist()[::-1]
        possible = alternatives(config, code)
        drawn = next((c for c in orders[site] if c in possible and (site, c) not in taken), None)
        if drawn is None:
            raise InputError(f"the codes at {site}: too few of its {config.n_codes} are left for a baseline")
        taken.add((site, drawn))
        baseline.append(WeightedCode(site, drawn, weight))
    return baseline
