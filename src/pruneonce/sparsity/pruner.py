"""The one stateful part of pruning: masks on a model's linear layers, recomputed on schedule or locked.

Latent weights live on while masks are still being recomputed, as in the original: a pruned weight keeps its value,
its gradient is exactly zero, but weight decay and leftover Adam momentum still move it, and it may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pruneonce.errors import PruneonceError
from pruneonce.formats.model_folder import mask_digest_of_array
from pruneonce.sparsity.allocation import Allocation, uniform
from pruneonce.sparsity.criteria import CRITERIA, Criterion, CriterionName
from pruneonce.sparsity.layers import Dense, Form, Kept, Masked, Sparse, WorkingLinear, finish, working
from pruneonce.sparsity.masks import nonzero_mask, pack_mask, unpack_mask
from pruneonce.sparsity.patterns import PATTERNS, PatternName
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.sparsity.sensitivity import Sensitivity
from pruneonce.sparsity.training_kernel import few_left

UPDATES_PER_MEASURE = 5  # curvature changes slowly; measuring takes as long as some steps
CRITERION_STATE = "criterion:"  # begins the names of the criterion's part of `Pruner.state`


class Pruner:
    """Masks for the named linear layers of `model`.

    With a schedule, `update(step)` recomputes them: what weights are worth says the criterion, how many zeros each
    matrix gets the allocation, which weights stay the pattern. Without one they are locked at construction to the zeros
    that the weights have. `compute_sparse` lets layers compute their non-zeros alone. `bake()` ends it: zeros are
    written into the weights, the layers are plain again, and the pruner has none. TypeError for a layer that is not
    linear, or has a mask already.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        schedule: PruningSchedule | None = None,
        pattern: PatternName = "unstructured",
        criterion: CriterionName = "magnitude",
        allocation: Allocation = uniform,
    ) -> None:
        self.schedule, self._pattern, self._allocation = schedule, PATTERNS[pattern], allocation
        self.criterion: Criterion = CRITERIA[criterion]()
        self.on_change: Callable[[], None] = _nobody  # after any change of how layers compute; of `CpuTraining`
        # Computes masks by name, or takes those that another process has computed; of whoever trains on several.
        self.share: Callable[[Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = _computed_here
        self._sparse: set[str] = set()  # layers that may compute their non-zeros alone
        self.layers: dict[str, WorkingLinear] = {name: _unmasked(name, model) for name in names}
        for name, layer in self.layers.items():
            locked = schedule is None
            mask = nonzero_mask(layer.weight) if locked else torch.ones_like(layer.weight, dtype=torch.bool)
            layer.take_form(self._form_of(name, mask))

    def measures_at(self, step: int) -> bool:
        """Whether the criterion has to be shown the model before the update at `step`; a function of the step alone."""
        if self.schedule is None or not isinstance(self.criterion, Sensitivity):
            return False
        return (
            self.schedule.updates_masks_at(step)
            and (step - self.schedule.begin_step) // self.schedule.frequency_steps % UPDATES_PER_MEASURE == 0
        )

    def update(self, step: int) -> bool:
        """Recompute the masks if the schedule asks for it after `step` optimizer steps; True if it did."""
        if self.schedule is None or not self.schedule.updates_masks_at(step):
            return False
        for name, mask in self.share(lambda: self._masks_at(step)).items():
            self.layers[name].take_form(self._form_of(name, mask))
        self.on_change()
        return True

    def _masks_at(self, step: int) -> dict[str, Tensor]:
        """Layer -> bool mask of its weight's shape, of the weights as they are and the sparsity of `step`."""
        assert self.schedule is not None
        sparsity = self.schedule.sparsity_at(step)
        scores = {name: self.criterion.scores(name, layer.weight) for name, layer in self.layers.items()}
        try:
            sparsities = self._allocation(scores, sparsity)
        except ValueError as error:
            raise PruneonceError(f"the weights at step {step}: {error}. Lower the learning rate.") from error
        masks = {}
        for name in self.layers:
            try:
                masks[name] = self._pattern.select(scores.pop(name), sparsities[name])
            except ValueError as error:
                raise PruneonceError(f"{name}.weight at step {step}: {error}. Lower the learning rate.") from error
        return masks

    def lock(self) -> None:
        """Recompute masks no more: they stay as they are now, and layers may keep their non-zeros alone."""
        self.schedule = None
        self.compute_sparse(list(self._sparse))

    def observe(self) -> None:
        """Let the criterion see the gradients of an optimizer step that is about to be made."""
        if self.schedule is not None:
            self.criterion.observe(self.layers)

    def sparsity(self) -> float:
        """Fraction of masked weights over all pruned matrices."""
        size = sum(layer.out_features * layer.in_features for layer in self.layers.values())
        kept = sum(layer.kept for layer in self.layers.values())
        return 1 - kept / size if size else 0.0

    def digests(self) -> dict[str, str]:
        """Mask digest of every layer, by module name."""
        return {name: mask_digest_of_array(layer.mask.cpu().numpy()) for name, layer in self.layers.items()}

    def compute_sparse(self, names: Iterable[str]) -> None:
        """These layers multiply their non-zeros alone, on CPUs.

        With locked masks they also keep and train no other weights, from now on. With a schedule they do it from the
        update on that leaves few of them, and keep the latent weights.
        """
        for name in names:
            self._sparse.add(name)
            if not isinstance(self.layers[name].form, Sparse):
                self.layers[name].take_form(self._form_of(name, self.layers[name].mask))
        self.on_change()

    def compute_dense(self) -> None:
        """Undo `compute_sparse`; the parameters of layers that kept their non-zeros alone are new objects."""
        self._sparse.clear()
        for layer in self.layers.values():
            layer.take_form(Masked(layer.mask))
        self.on_change()

    @property
    def computes_sparse(self) -> bool:
        """True if any layer multiplies its non-zeros alone."""
        return any(layer.computes_sparse for layer in self.layers.values())

    def _form_of(self, name: str, mask: Tensor) -> Form:
        """How a layer computes with a mask: the only place that says so."""
        if name not in self._sparse:
            return Masked(mask)
        if self.schedule is None:
            return Sparse(mask)
        return Kept(mask) if few_left(int(mask.sum()) / mask.numel()) else Masked(mask)

    def masked_state(self, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """`state` with the masks multiplied in: what a reader of the model should see. Other tensors are shared."""
        masked = dict(state)
        for name, layer in self.layers.items():
            if not isinstance(layer.form, Sparse):  # the state of those has their zeros
                # Not a product: -w * 0 would leave -0.0, which sign-sensitive readers tell from 0.
                masked[f"{prefix}{name}.weight"] = layer.weight.detach().masked_fill(~layer.mask, 0.0)
        return masked

    def state(self) -> dict[str, Tensor]:
        """What `masked_state` loses: packed masks, how layers compute, and with a schedule the latent values behind the
        zeros (1-D, row-major), those of locked masks being 0; and what the criterion knows."""
        state = {}
        for name, layer in self.layers.items():
            state[f"{name}.mask"] = pack_mask(layer.mask)
            state[f"{name}.sparse"] = torch.tensor(name in self._sparse)
            if self.schedule is not None:
                state[f"{name}.latent"] = layer.weight.detach()[~layer.mask].cpu()
        return state | {f"{CRITERION_STATE}{name}": value for name, value in self.criterion.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()` over weights that `masked_state` was loaded into: bit for bit what they were.

        Layers then compute as they did: the optimizer's moments have the shapes of their parameters.
        """
        self.compute_dense()
        for name, layer in self.layers.items():
            mask = unpack_mask(state[f"{name}.mask"], layer.weight.shape).to(layer.weight.device)
            latent = state.get(f"{name}.latent")
            with torch.no_grad():
                layer.weight[~mask] = 0.0 if latent is None else latent.to(layer.weight)
            layer.take_form(Masked(mask))
        start = len(CRITERION_STATE)
        known = {name[start:]: value for name, value in state.items() if name.startswith(CRITERION_STATE)}
        self.criterion.load_state(known)
        self.compute_sparse(name for name in self.layers if bool(state.get(f"{name}.sparse", False)))

    def bake(self) -> None:
        """Write the zeros into the weights and turn every layer back into a plain `nn.Linear`."""
        for layer in self.layers.values():
            layer.bake()
            finish(layer)
        self.layers = {}
        self.on_change()


def _nobody() -> None:
    """Nobody needs to know."""


def _computed_here(compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return compute()


def _unmasked(name: str, model: nn.Module) -> WorkingLinear:
    layer = model.get_submodule(name)
    if type(layer) is not nn.Linear and not (isinstance(layer, WorkingLinear) and type(layer.form) is Dense):
        raise TypeError(f"only linear layers without a mask can be masked, {name} is {layer}")
    assert isinstance(layer, nn.Linear)
    return working(layer)
