"""The controls of interchange, and its accuracy: does a set variable give the answer of the task's high-level model?

A value comes from a *source*, another judging prompt, drawn evenly over values. What the model should then answer is
what the task expects of the base prompt's variables with those values. *Accuracy*: of the prompts where this is not
already the unedited model's top token, the share where it becomes the top token over the vocabulary. *Isolation*: of
those where the expected answer stays the same, the share whose top token stays, too. Prompts of which nothing is
expected count for neither.

Beside codes: the unedited model on the source prompts (*ceiling*), whole z of the source, class means, random codes,
and a rotation learned on training prompts: distributed alignment search (Geiger et al. 2023).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.interventions.clean_run import CleanRun
from interp.interventions.patch import Patch
from interp.programs.codes import ids, same_partition, variables
from interp.programs.proof import HeadCodebook, NamedVariable, changes_of, set_variables, stacked
from interp.programs.schema import Interchange, Program
from interp.programs.slots import Edit, HeadAtRole, SlotRunner, read_slots
from interp.prompts.pairs import HighLevelModel, PromptPairs, Task, Value

RANKS = 1, 4
TRAIN_PAIRS, BATCH, STEPS, RATE = 64, 8, 30, 0.1
"""Of the rotation."""


class Judge:
    """A program on prompts that did not make it. ``runner``: of the prompts that judge. ``fitted``: those that its
    codes were fitted to."""

    def __init__(
        self, program: Program, task: Task, runner: SlotRunner, fitted: PromptPairs, seed: int = 0
    ) -> None:
        self.program, self.runner, self.fitted, self.seed = program, runner, fitted, seed
        self.task = task if isinstance(task, HighLevelModel) else None
        model, judged = runner.model, runner.pairs
        coded = [said for said in program.slots if said.variable is not None]
        self.fit_z, _ = read_slots(model, fitted, [said.slot for said in coded])
        everything = fitted.subset(range(len(fitted)))
        everything += [*judged]
        varying = {v.name: v for v in variables(everything, model.tokenizer)}
        # on clean prompts the token at S2 is S: what the task knows under another name
        given = [variable for variable in varying.values() if variable.given]
        self._known_as = {
            name: next((each.name for each in given if same_partition(variable.ids[0], each.ids[0])), name)
            for name, variable in varying.items()
        }
        self.named: dict[str, NamedVariable] = {}
        for said in coded:
            if (variable := varying.get(said.variable or "")) is None:
                continue  # it tells no two of these prompts apart
            book = program.books[str(said.slot)]
            codebook = HeadCodebook(
                book, ids(book, self.fit_z[said.slot]), ids(book, runner.z(said.slot)), np.arange(said.codes)
            )
            known = self.named[variable.name].coded if variable.name in self.named else {}
            self.named[variable.name] = NamedVariable(variable, {**known, said.slot: codebook})
        self._clean_top = runner.run(
            np.arange(len(judged)),
            [Edit(coded[0].slot, runner.z(coded[0].slot)[0], np.zeros(len(judged), bool))],
            every_token=True,
        ).top

    def entry(self, entry: Interchange) -> Interchange:
        """One entry with its controls and accuracies."""
        sites, names = {*entry.sites}, entry.variable.split(" + ")
        if not {*names} <= self.named.keys():
            return entry
        named = [
            NamedVariable(
                self.named[name].variable,
                {slot: codebook for slot, codebook in self.named[name].coded.items() if str(slot) in sites},
            )
            for name in names
        ]
        outcome = set_variables(self.runner, named, self.fit_z, self.seed)
        if outcome is None:
            return entry
        update: dict[str, Any] = {
            f"{of}_{how}".removesuffix("_set") if of != "metric" else f"metric_{how}": getattr(answers, of)
            for how, answers in outcome.by.items()
            for of in ("metric", "flipped", "off_target")
        }
        return entry.model_copy(update={"n": outcome.n} | update | self._accuracies(named))

    def _accuracies(self, variables_set: Sequence[NamedVariable]) -> dict[str, Any]:
        if self.task is None:
            return {}
        rng, n = np.random.default_rng(self.seed), len(self.runner.pairs)
        now = np.stack([named.variable.ids[0, len(self.fitted) :] for named in variables_set])
        sources = _drawn(now, now, rng)
        names = [self._known_as[named.variable.name] for named in variables_set]
        clean = [pair.variables.get("clean", {}) for pair in self.runner.pairs]
        after = getattr(self.task, "after", lambda base, values: {**base, **values})
        expected = [
            self._tokens(after(clean[i], {name: clean[j][name] for name in names}))
            if all(name in clean[j] for name in names)
            else frozenset()
            for i, j in enumerate(sources)
        ]
        before = [self._tokens(each) for each in clean]
        counted = np.array(
            [bool(to) and top not in to for to, top in zip(expected, self._clean_top, strict=True)]
        )
        stays = np.array([bool(to) and to == own for to, own in zip(expected, before, strict=True)])
        right = np.array([top in own for top, own in zip(self._clean_top, before, strict=True)])
        counted &= ~stays
        if not (counted.any() or stays.any()):
            return {}
        arms: dict[str, dict[HeadAtRole, Tensor]] = {}
        for named in variables_set:
            new = named.variable.ids[0, len(self.fitted) + sources]
            changes = changes_of(self.runner, named, self.fit_z, rng, True, new)
            assert changes is not None
            for how in ("set", "means", "codes"):
                arms.setdefault(how, {}).update(changes[how])
        slots = list(arms["set"])
        whole = {slot: self.runner.z(slot)[0] for slot in slots}
        arms["whole"] = {slot: z[torch.from_numpy(sources)] - z for slot, z in whole.items()}
        if counted.any():
            for rank, rotation in self._rotations(variables_set, after).items():
                arms[f"rotation {rank}"] = {slot: arms["whole"][slot] @ rotation[slot] for slot in slots}
        edits = stacked(
            [[Edit(slot, whole[slot] + by) for slot, by in changes.items()] for changes in arms.values()], n
        )
        top = self.runner.run(np.tile(np.arange(n), len(arms)), edits, every_token=True).top.reshape(-1, n)
        hit = {
            how: np.array([token in to for token, to in zip(row, expected, strict=True)])
            for how, row in zip(arms, top, strict=True)
        }

        def share(of: np.ndarray, among: np.ndarray) -> float | None:
            return float(of[among].mean()) if among.any() else None

        rotations = [share(hit[how], counted) for how in arms if how.startswith("rotation")]
        return {
            "n_accuracy": int(counted.sum()),
            "accuracy": share(hit["set"], counted),
            "accuracy_right": share(hit["set"], counted & right & right[sources]),
            "accuracy_ceiling": share(right[sources], counted),
            "accuracy_whole": share(hit["whole"], counted),
            "accuracy_means": share(hit["means"], counted),
            "accuracy_codes": share(hit["codes"], counted),
            "accuracy_rotation": max((each for each in rotations if each is not None), default=None),
            "isolation": share(top[0] == self._clean_top, stays),
        }

    def _tokens(self, values: Mapping[str, Value]) -> frozenset[int]:
        """First tokens of what is expected."""
        assert self.task is not None
        texts = self.task.expected(values) or ()
        encode = self.runner.model.tokenizer.encode
        return frozenset(encode(text, add_special_tokens=False)[0] for text in texts)

    @cached_property
    def _training(self) -> CleanRun:
        pairs = self.fitted.subset(range(min(TRAIN_PAIRS, len(self.fitted))))
        return CleanRun.of(self.runner.model, pairs)

    def _rotations(
        self, variables_set: Sequence[NamedVariable], after: Any
    ) -> dict[int, dict[HeadAtRole, Float[Tensor, "d d"]]]:
        """Of each rank the projection at every slot by which a source's part gives the expected answer most often."""
        assert self.task is not None
        clean, rng = self._training, np.random.default_rng(self.seed)
        pairs = clean.pairs
        names = [self._known_as[named.variable.name] for named in variables_set]
        now = np.stack([named.variable.ids[0, : len(pairs)] for named in variables_set])
        values = [pair.variables["clean"] for pair in pairs]
        z = {slot: self.fit_z[slot][0, : len(pairs)] for named in variables_set for slot in named.coded}
        generator = torch.Generator().manual_seed(self.seed)
        raw = {
            rank: {
                s: torch.randn(x.shape[1], rank, generator=generator).requires_grad_() for s, x in z.items()
            }
            for rank in RANKS
        }
        parameters = [x for of in raw.values() for x in of.values()]
        adam = torch.optim.Adam(parameters, RATE)
        for _ in range(STEPS):
            base = rng.choice(len(pairs), min(BATCH, len(pairs)), replace=False)
            source = _drawn(now[:, base], now, rng)
            to = [
                self._tokens(after(values[i], {name: values[j][name] for name in names}))
                for i, j in zip(base, source, strict=True)
            ]
            rows = np.tile(base, len(RANKS))
            prompts = [pairs[row] for row in rows]
            patches = [
                Patch(
                    slot.site,
                    torch.cat(
                        [x[base] + (x[source] - x[base]) @ _projection(of[slot]) for of in raw.values()]
                    ),
                    slot.positions(prompts),
                )
                for slot, x in z.items()
            ]
            loss = torch.zeros(())
            for part, logits in clean.patched(rows, patches, every_token=True):
                for row, log_p in zip(part, logits.float().log_softmax(-1), strict=True):
                    if tokens := to[row % len(base)]:
                        loss = loss - log_p[list(tokens)].logsumexp(0)
            if loss.requires_grad:  # of the directions alone, not of the model's weights
                for x, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    x.grad = gradient
                adam.step()
        return {rank: {slot: _projection(x).detach() for slot, x in of.items()} for rank, of in raw.items()}


def _projection(directions: Float[Tensor, "d rank"]) -> Float[Tensor, "d d"]:
    basis = torch.linalg.qr(directions).Q
    return basis @ basis.mT


def _drawn(
    now: Int[np.ndarray, "variable row"], of: Int[np.ndarray, "variable pair"], rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """For every row a pair that differs in all variables, if there is one, else in any; evenly over values."""
    drawn = []
    for row in now.T:
        differs = of != row[:, None]
        pool = np.flatnonzero(differs.all(0) if differs.all(0).any() else differs.any(0))
        _, value = np.unique(of[:, pool], axis=1, return_inverse=True)
        drawn.append(rng.choice(pool[value.ravel() == rng.integers(value.max() + 1)]))
    return np.array(drawn)
