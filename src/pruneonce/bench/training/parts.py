"""Which parts of a model a training step's time goes to, by hooks on its modules.

Time belongs to the innermost part that is open; each opens when its module is called, or when the gradient of its
output arrives, and closes when its output, or the gradient of its input, is there.
- attention linears: query, key, value and output, with their bias and, in the backward pass, their weight gradients
- feed-forward linears: both of each layer
- attention: scores, softmax and their product with the values, and the rearranging between (the attention module
  without its linear layers)
- activation: the feed-forward's nonlinearity (GELU in BERT)
- layer norm: all of them
- embeddings: looking up and adding; in the backward pass all that is left once their gradient is there
- rest: residual sums, dropout, pooler, head, loss, and what is between modules
The hooks themselves cost microseconds per module, which a step of some milliseconds does not notice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from pruneonce.models import Family
from pruneonce.models.family import ATTENTION_ROLES, FEED_FORWARD_ROLES

ATTENTION_LINEARS, FEED_FORWARD_LINEARS = "attention linears", "feed-forward linears"
ATTENTION, ACTIVATION, LAYER_NORM, EMBEDDINGS = "attention", "activation", "layer norm", "embeddings"
REST = "rest"
PARTS = (ATTENTION_LINEARS, FEED_FORWARD_LINEARS, ATTENTION, ACTIVATION, LAYER_NORM, EMBEDDINGS, REST)


class PartClock:
    """Seconds of each part; what is open when another opens is interrupted, not charged twice."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begin()

    def enter(self, part: str) -> None:
        """Open a part within the one that is open."""
        self._charge()
        self._open.append(part)

    def leave(self, part: str) -> None:
        """Close a part, and what was left open within it."""
        self._charge()
        if part in self._open[1:]:
            while self._open.pop() != part:
                pass

    def lap(self) -> dict[str, float]:
        """Seconds of each part since the last lap or the beginning; whatever was open is closed."""
        self._charge()
        seconds = self._seconds
        self._begin()
        return seconds

    def _begin(self) -> None:
        self._seconds, self._open, self._since = dict.fromkeys(PARTS, 0.0), [REST], self._clock()

    def _charge(self) -> None:
        now = self._clock()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def part_clock(model: nn.Module, family: Family) -> Iterator[PartClock]:
    """A clock that the modules of `model` drive while it is open."""
    clock = PartClock()
    handles = []
    for name, module in model.named_modules():
        part = part_of(name, module, family)
        if part is None:
            continue
        handles.append(module.register_forward_pre_hook(_enter(clock, part)))
        if part == EMBEDDINGS:
            handles.append(module.register_forward_hook(_leave_embeddings(clock)))
            continue
        handles += [
            module.register_forward_hook(_leave(clock, part)),
            module.register_full_backward_pre_hook(_enter(clock, part)),
            module.register_full_backward_hook(_leave(clock, part)),
        ]
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


def part_of(name: str, module: nn.Module, family: Family) -> str | None:
    """The part that a module is, by its name; None: it belongs to what is around it."""
    if family.encoder_name(name) == EMBEDDINGS:
        return EMBEDDINGS
    if isinstance(module, nn.LayerNorm):
        return LAYER_NORM
    inner, role = family.name_in_layer(name), family.role_of(name)
    if inner is None:
        return None
    if role in (*ATTENTION_ROLES, *FEED_FORWARD_ROLES):
        return ATTENTION_LINEARS if role in ATTENTION_ROLES else FEED_FORWARD_LINEARS
    if inner == family.layer.attention:
        return ATTENTION
    if isinstance(module, nn.GELU) or type(module).__module__ == "transformers.activations":
        return ACTIVATION
    return None


def _enter(clock: PartClock, part: str) -> Callable[..., None]:
    return lambda *_: clock.enter(part)


def _leave(clock: PartClock, part: str) -> Callable[..., None]:
    return lambda *_: clock.leave(part)


def _leave_embeddings(clock: PartClock) -> Callable[..., None]:
    """Token ids have no gradient: nothing says when that of the tables is there, and nothing comes after it."""

    def leave(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        clock.leave(EMBEDDINGS)
        if output.requires_grad:
            output.register_hook(lambda _: clock.enter(EMBEDDINGS))

    return leave
