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
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.interventions.clean_run import CleanRun
from interp.interventions.patch import Patch
from interp.programs.codes import ids, same_partition, variables
from interp.programs.proof import HeadCodebook, NamedVariable, answers_by_field, changes_of, set_variables, stacked
from interp.programs.schema import Interchange, Program
from interp.programs.slots import Edit, HeadAtRole, SlotRunner, read_slots
from interp.prompts.pairs import HighLevelModel, PromptPairs, Task, Value

RANKS = 1, 4
TRAIN_PAIRS, BATCH, STEPS, RATE = 64, 8, 30, 0.1  # of the rotation


class Judge:
    """A program on prompts that did not make it. ``runner``: of the prompts that judge. ``fitted``: those that its
    codes were fitted to."""

    def __init__(self, program: Program, task: Task, runner: SlotRunner, fitted: PromptPairs, seed: int = 0) -> None:
        self.program, self.runner, self.fitted, self.seed = program, runner, fitted, seed
        self.task = task if isinstance(task, HighLevelModel) else None
        model, judged = runner.model, runner.pairs
        coded = [codes for codes in program.slots if codes.variable is not None]
        self.fit_z, _ = read_slots(model, fitted, [codes.slot for codes in coded])
        whole = fitted.subset(range(len(fitted)))
        whole += [*judged]
        varying = {v.name: v for v in variables(whole, model.tokenizer)}
        # on clean prompts the token at S2 is S: what the task knows under another name
        given = [variable for variable in varying.values() if variable.given]
        self._known_as = {
            name: next((known.name for known in given if same_partition(variable.ids[0], known.ids[0])), name)
            for name, variable in varying.items()
        }
        by_variable: dict[str, dict[HeadAtRole, HeadCodebook]] = {}
        for codes in coded:
            if codes.variable in varying:  # else it tells no two of these prompts apart
                slot, book = codes.slot, program.books[str(codes.slot)]
                prompts = ids(book, self.fit_z[slot]), ids(book, runner.z(slot))
                codebook = HeadCodebook(book, *prompts, np.arange(codes.codes))
                by_variable.setdefault(codes.variable, {})[slot] = codebook
        self.named = {name: NamedVariable(varying[name], coded) for name, coded in by_variable.items()}
        slot = coded[0].slot
        unchanged = Edit(slot, runner.z(slot)[0], np.zeros(len(judged), bool))
        self._clean_top = runner.run(np.arange(len(judged)), [unchanged], every_token=True).top

    def entry(self, entry: Interchange) -> Interchange:
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
        answers = {"n": outcome.n, **answers_by_field(outcome)}
        return entry.model_copy(update=answers | self._accuracies(named))

    def _accuracies(self, variables_set: Sequence[NamedVariable]) -> dict[str, Any]:
        if self.task is None:
            return {}
        rng, n = np.random.default_rng(self.seed), len(self.runner.pairs)
        current = np.stack([named.variable.ids[0, len(self.fitted) :] for named in variables_set])
        sources = _drawn(current, current, rng)
        names = [self._known_as[named.variable.name] for named in variables_set]
        clean = [pair.variables.get("clean", {}) for pair in self.runner.pairs]
        after = getattr(self.task, "after", lambda base, values: {**base, **values})
        expected = [
            self._tokens(after(clean[i], {name: clean[j][name] for name in names}))
            if all(name in clean[j] for name in names)
            else frozenset()
            for i, j in enumerate(sources)
        ]
        before = [self._tokens(values) for values in clean]
        stays = np.array([bool(to) and to == was for to, was in zip(expected, before, strict=True)])
        right = _among(self._clean_top, before)
        counted = np.array(list(map(bool, expected))) & ~_among(self._clean_top, expected) & ~stays
        if not (counted.any() or stays.any()):
            return {}
        arms: dict[str, dict[HeadAtRole, Tensor]] = {"set": {}, "means": {}, "codes": {}}
        for named in variables_set:
            new = named.variable.ids[0, len(self.fitted) + sources]
            changes = changes_of(self.runner, named, self.fit_z, rng, True, new)
            assert changes is not None
            for name, arm in arms.items():
                arm |= changes[name]
        z = {slot: self.runner.z(slot)[0] for slot in arms["set"]}
        arms["whole"] = {slot: values[torch.from_numpy(sources)] - values for slot, values in z.items()}
        if counted.any():
            for rank, rotation in self._rotations(variables_set, after).items():
                arms[f"rotation {rank}"] = {slot: arms["whole"][slot] @ rotation[slot] for slot in z}
        edits = [[Edit(slot, z[slot] + by) for slot, by in arm.items()] for arm in arms.values()]
        rows = np.tile(np.arange(n), len(arms))
        top = self.runner.run(rows, stacked(edits, n), every_token=True).top.reshape(-1, n)
        hit = {name: _among(row, expected) for name, row in zip(arms, top, strict=True)}

        def share(values: np.ndarray, among: np.ndarray) -> float | None:
            return float(values[among].mean()) if among.any() else None

        rotations = [share(hit[name], counted) for name in arms if name.startswith("rotation")]
        return {
            "n_accuracy": int(counted.sum()),
            "accuracy": share(hit["set"], counted),
            "accuracy_right": share(hit["set"], counted & right & right[sources]),
            "accuracy_ceiling": share(right[sources], counted),
            **{f"accuracy_{name}": share(hit[name], counted) for name in ("whole", "means", "codes")},
            "accuracy_rotation": max((value for value in rotations if value is not None), default=None),
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
        return CleanRun.of(self.runner.model, self.fitted.subset(range(min(TRAIN_PAIRS, len(self.fitted)))))

    def _rotations(
        self, variables_set: Sequence[NamedVariable], after: Any
    ) -> dict[int, dict[HeadAtRole, Float[Tensor, "d d"]]]:
        """Of each rank the projection at every slot by which a source's part gives the expected answer most often."""
        assert self.task is not None
        clean, rng = self._training, np.random.default_rng(self.seed)
        pairs = clean.pairs
        names = [self._known_as[named.variable.name] for named in variables_set]
        current = np.stack([named.variable.ids[0, : len(pairs)] for named in variables_set])
        values = [pair.variables["clean"] for pair in pairs]
        z = {slot: self.fit_z[slot][0, : len(pairs)] for named in variables_set for slot in named.coded}
        generator = torch.Generator().manual_seed(self.seed)
        drawn = partial(torch.randn, generator=generator, requires_grad=True)
        directions = {rank: {slot: drawn(x.shape[1], rank) for slot, x in z.items()} for rank in RANKS}
        parameters = [x for by_slot in directions.values() for x in by_slot.values()]
        adam = torch.optim.Adam(parameters, RATE)
        for _ in range(STEPS):
            base = rng.choice(len(pairs), min(BATCH, len(pairs)), replace=False)
            source = _drawn(current[:, base], current, rng)
            to = [
                self._tokens(after(values[i], {name: values[j][name] for name in names}))
                for i, j in zip(base, source, strict=True)
            ]
            rows = np.tile(base, len(RANKS))
            prompts, patches = [pairs[row] for row in rows], []
            for slot, x in z.items():
                projections = [_projection(by_slot[slot]) for by_slot in directions.values()]
                changed = [x[base] + (x[source] - x[base]) @ projection for projection in projections]
                patches.append(Patch(slot.site, torch.cat(changed), slot.positions(prompts)))
            loss = torch.zeros(())
            for part, logits in clean.patched(rows, patches, every_token=True):
                for row, log_p in zip(part, logits.float().log_softmax(-1), strict=True):
                    if tokens := to[row % len(base)]:
                        loss = loss - log_p[list(tokens)].logsumexp(0)
            if loss.requires_grad:  # of the directions alone, not of the model's weights
                for x, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    x.grad = gradient
                adam.step()
        return {
            rank: {slot: _projection(x).detach() for slot, x in by_slot.items()} for rank, by_slot in directions.items()
        }


def _among(tokens: Int[np.ndarray, " row"], accepted: Sequence[frozenset[int]]) -> Bool[np.ndarray, " row"]:
    return np.array([token in row for token, row in zip(tokens, accepted, strict=True)])


def _projection(directions: Float[Tensor, "d rank"]) -> Float[Tensor, "d d"]:
    basis = torch.linalg.qr(directions).Q
    return basis @ basis.mT


def _drawn(
    current: Int[np.ndarray, "variable row"], pool: Int[np.ndarray, "variable pair"], rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """For every row a pair that differs in all variables, if there is one, else in any; evenly over values."""
    drawn = []
    for row in current.T:
        differs = pool != row[:, None]
        pairs = np.flatnonzero(differs.all(0) if differs.all(0).any() else differs.any(0))
        _, value = np.unique(pool[:, pairs], axis=1, return_inverse=True)
        drawn.append(rng.choice(pairs[value.ravel() == rng.integers(value.max() + 1)]))
    return np.array(drawn)
