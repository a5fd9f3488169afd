"""A packed file as a model: token ids in, logits out, computed by native kernels; neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce import _native
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import PackedModel, read_packed
from pruneonce.formats.stored_tensors import Array
from pruneonce.models.sentence import POOLINGS, EmbeddingPlan, Pooling, RankingPlan
from pruneonce.run.encoder import Embeddings, Encoder, Layer
from pruneonce.run.heads import Head, HiddenStates, classes_of, head_of
from pruneonce.run.relative_bias import distance_biases
from pruneonce.run.sentence import pooled, projection_layers, tokens_read, unit
from pruneonce.run.tensors import Tensors
from pruneonce.run.weights import KERNELS, Int8Weight, Kernels
from pruneonce.run.workspace import Workspaces
from pruneonce.tasks.recipe_data import recorded_tokens

# Of one pass, per thread: activations then stay in the caches, and weights are read seldom enough. docs/kernels.md has
# the figures.
PASS_TOKENS = 128
INT8_PASS_TOKENS = 256  # codes take a quarter of the space


class Model:
    """A model ready to run. Several threads may call it at once; `load_model` makes it."""

    def __init__(self, packed: PackedModel, *, isa: str | None = None, kernels: Kernels = "measured") -> None:
        self.isa = isa or _native.choose_isa()
        self.kernels = kernels
        self.file: Path | None = None  # that it was loaded from
        tensors = Tensors(packed, self.isa, kernels)
        self.family = tensors.family
        self.config = packed.config
        self.tokenizer = packed.tokenizer
        self.provenance = packed.provenance
        self.task = self.family.task_of(packed.config)
        self.labels = _labels(packed, classes_of(self.task, tensors))
        given = packed.sentence
        self.embedding = given if isinstance(given, EmbeddingPlan) else EmbeddingPlan()  # of `embed`
        self.ranking = given if isinstance(given, RankingPlan) else None
        if self.ranking is not None and not self.ranks:
            raise ValueError("sentence.json is that of a ranking, which needs a classifier of one label")
        # What a pipeline is made for when nobody says: a task of run.pipelines.PIPELINES.
        self.use = self.task if given is None else "text-ranking" if self.ranking is not None else "embeddings"
        self.encoder = _encoder(tensors)
        self.hidden_size = self.encoder.plan.hidden_size
        quantized = all(isinstance(layer.down.weight, Int8Weight) for layer in self.encoder.layers)
        self._pass_tokens = INT8_PASS_TOKENS if quantized else PASS_TOKENS  # per thread
        table, first = self.encoder.embeddings.positions, self.encoder.plan.first_position or 0
        self.max_tokens = self.encoder.plan.max_tokens if table is None else len(table) - first
        trained = recorded_tokens(packed.provenance)
        # What texts are cut to where nobody says; by the record, the length that the model was trained and scored with.
        self.usual_tokens = self.max_tokens if trained is None else min(trained, self.max_tokens)
        self.vocabulary_size = self.encoder.embeddings.words.shape[0]
        self._head = head_of(self.task, tensors)
        self._projections = projection_layers(self.embedding, tensors)
        self._workspaces = Workspaces(self.isa)

    def __call__(
        self,
        token_ids: Sequence[Array],
        token_types: Sequence[Array] | None = None,
        *,
        positions: Sequence[Array] | None = None,
    ) -> Any:
        """Logits of a batch; nothing is padded, so sequences of any lengths cost what they hold.

        token_ids: one array of integers [tokens] per sequence, 1 to `max_tokens` each. token_types: likewise, segments
        (None: all 0). positions (fill-mask only): the tokens of each sequence whose logits are wanted, rising.

        Returns by task: text-classification float32 [sequences, labels]; else one float32 array per sequence:
        question-answering [tokens, 2] (start, end), token-classification [tokens, labels], fill-mask [tokens or
        positions, vocabulary], feature-extraction [tokens, hidden].
        UsageError if a sequence is empty or too long, or a number is none of the vocabulary's.
        """
        if positions is not None and self.task != "fill-mask":
            raise UsageError(f"positions are for fill-mask; this is a model for {self.task}")
        if self.task == "text-classification" and self.encoder.plan.classifier_pooling == "mean":
            return self._classes_of_means(token_ids, token_types)
        first_only = self.task == "text-classification"
        if first_only:
            positions = [np.zeros(1, np.int64)] * len(token_ids)
        outputs = self._run(self._head, token_ids, token_types, positions)
        if first_only:
            return np.concatenate(outputs) if outputs else np.zeros((0, len(self.labels)), np.float32)
        return outputs

    def _classes_of_means(self, token_ids: Sequence[Array], token_types: Sequence[Array] | None) -> Array:
        """float32 [sequences, labels]: the head reads the mean of a text's states."""
        states = self._run(HiddenStates(), token_ids, token_types, None)
        if not states:
            return np.zeros((0, len(self.labels)), np.float32)
        with self._workspaces.borrowed() as space:
            means = space.activations("means", self.hidden_size)
            means.load(np.stack([pooled(each, ("mean",)) for each in states]))
            return self._head(means, space)

    @property
    def pass_tokens(self) -> int:
        """Tokens that are computed at once, by all threads together; of more, passes follow each other."""
        return self._pass_tokens * _native.num_threads()

    @property
    def ranks(self) -> bool:
        """Whether its answer to a pair is one number, by which texts can be ranked."""
        return self.task == "text-classification" and len(self.labels) == 1

    @property
    def embedding_size(self) -> int:
        """Numbers of a vector of `embed`."""
        if self._projections:
            return self._projections[-1].linear.weight.rows
        return self.hidden_size * len(self.embedding.pooling)

    def embed(
        self,
        token_ids: Sequence[Array],
        token_types: Sequence[Array] | None = None,
        *,
        pooling: Pooling | Sequence[Pooling] | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        skipped_tokens: int = 0,
    ) -> Array:
        """One vector per sequence, as the file's `embedding` plan says: float32 [sequences, size].

        token_ids, token_types: as above, nothing is padded, and a vector has the same bits in any company. pooling,
        normalize: instead of the plan's. dimensions: the first so many numbers, which models trained for it
        (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147) put most into; made of length 1 again where vectors are.
        skipped_tokens: at the beginning of each, which are not pooled. UsageError as above, and for a choice that the
        model has not.
        """
        modes = self._modes(pooling)
        size = self.embedding_size if pooling is None else self.hidden_size * len(modes)
        if dimensions is not None and (type(dimensions) is not int or not 1 <= dimensions <= size):
            raise UsageError(f"dimensions is {dimensions!r}: a number of 1 to {size} is expected")
        lengths = [len(sequence) for sequence in token_ids]
        read = [tokens_read(length, modes, skipped_tokens) for length in lengths]
        kept = None if any(each is None for each in read) else [each for each in read if each is not None]
        if 0 in lengths:
            kept = None  # an error, which names the sequence
        states = self._run(HiddenStates(), token_ids, token_types, kept)
        skipped = skipped_tokens if kept is None else 0
        vectors = np.array([pooled(each, modes, skipped) for each in states], np.float32)
        vectors = vectors.reshape(len(states), self.hidden_size * len(modes))
        if len(vectors):
            with self._workspaces.borrowed() as space:
                for layer in self._projections:
                    vectors = layer(vectors, space)
        vectors = vectors.reshape(len(states), size)[:, :dimensions]
        return unit(vectors) if (self.embedding.normalize if normalize is None else normalize) else vectors

    def _modes(self, pooling: Pooling | Sequence[Pooling] | None) -> Sequence[Pooling]:
        if pooling is None:
            return self.embedding.pooling
        modes: Sequence[Pooling] = (pooling,) if isinstance(pooling, str) else pooling
        if not isinstance(modes, list | tuple) or not modes or any(mode not in POOLINGS for mode in modes):
            raise UsageError(f"pooling is {pooling!r}: one of {', '.join(POOLINGS)} is expected, or a list of these")
        if self._projections and tuple(modes) != tuple(self.embedding.pooling):
            raise UsageError("pooling is not free here: this model's projections were trained for the one it has")
        return modes

    def hidden_states(self, token_ids: Sequence[Array], token_types: Sequence[Array] | None = None) -> list[Array]:
        """Last hidden states, whatever the task: one float32 [tokens, hidden] per sequence."""
        return self._run(HiddenStates(), token_ids, token_types, None)

    def _run(
        self,
        head: Head,
        token_ids: Sequence[Array],
        token_types: Sequence[Array] | None,
        positions: Sequence[Array] | None,
    ) -> list[Array]:
        ids = [self._checked(sequence, self.vocabulary_size, "token ids", i) for i, sequence in enumerate(token_ids)]
        for i, sequence in enumerate(ids):
            if not 1 <= len(sequence) <= self.max_tokens:
                raise UsageError(
                    f"sequence {i} has {len(sequence):,} tokens, this model takes 1 to {self.max_tokens}: "
                    "cut it, or share it out among windows"
                )
        types = self._checked_like(ids, token_types)
        kept = None
        if positions is not None:
            if len(positions) != len(ids):
                raise UsageError(f"positions are those of {len(positions)} sequences, token ids of {len(ids)}")
            kept = [self._checked(each, len(ids[i]), "positions", i) for i, each in enumerate(positions)]
            if any((np.diff(each) <= 0).any() for each in kept):
                raise UsageError("positions must rise within a sequence")
        outputs: list[Array] = []
        first = 0
        with self._workspaces.borrowed() as space:  # the head reads hidden states that lie in it
            while first < len(ids):
                end = self._end_of_pass(ids, first)
                starts = np.cumsum([0, *(len(sequence) for sequence in ids[first:end])], dtype=np.int64)
                lengths, wanted = np.diff(starts), None
                if kept is not None:
                    wanted = np.concatenate(
                        [each + start for each, start in zip(kept[first:end], starts, strict=False)]
                    )
                    lengths = np.array([len(each) for each in kept[first:end]])
                if wanted is not None and not len(wanted):
                    outputs += [np.zeros((0, self.vocabulary_size), np.float32)] * (end - first)
                else:
                    batch = np.concatenate(ids[first:end]), np.concatenate(types[first:end])
                    hidden = self.encoder(*batch, starts, space, wanted)
                    outputs += np.split(head(hidden, space), np.cumsum(lengths)[:-1])
                first = end
        return outputs

    def _end_of_pass(self, ids: list[Array], first: int) -> int:
        at_once = self.pass_tokens
        tokens, end = len(ids[first]), first + 1
        while end < len(ids) and tokens + len(ids[end]) <= at_once:
            tokens += len(ids[end])
            end += 1
        return end

    def _checked_like(self, ids: list[Array], token_types: Sequence[Array] | None) -> list[Array]:
        if token_types is None or self.encoder.embeddings.types is None or not self.family.token_types:
            return [np.zeros(len(sequence), np.int64) for sequence in ids]
        kinds = len(self.encoder.embeddings.types)
        types = [self._checked(sequence, kinds, "token types", i) for i, sequence in enumerate(token_types)]
        if [len(each) for each in types] != [len(each) for each in ids]:
            raise UsageError("token types must have the lengths of the token ids, sequence by sequence")
        return types

    def _checked(self, numbers: Array, limit: int, what: str, sequence: int) -> Array:
        """int64 [n], each 0 <= number < limit."""
        numbers = np.asarray(numbers)
        if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) or not numbers.size):
            raise UsageError(f"{what} of sequence {sequence} must be whole numbers in one dimension")
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit:
            raise UsageError(
                f"{what} of sequence {sequence} are {int(numbers.min())} to {int(numbers.max())}, "
                f"expected 0 to {limit - 1}"
            )
        return numbers.astype(np.int64)


def load_model(path: str | Path, *, isa: str | None = None, kernels: Kernels = "measured") -> Model:
    """The model of a packed file (docs/format.md), checked and packed for this processor.

    isa: "scalar", "avx2", "avx512", "avx512_vnni", "amx", "neon", "neon_dotprod" or "neon_i8mm" instead of
    $PRUNEONCE_ISA or the best. kernels: "measured" times the kernels here and takes the fastest for each matrix. Where
    floats have few zeros that may be another one after a restart, and answers then differ in their last bits; "sparse"
    (for every matrix that is stored without its zeros) and "dense" measure nothing of the kind, and two starts on one
    instruction set give the same bits.
    PruneonceError names the file and what is wrong with it; UsageError if the processor lacks the instruction set.
    """
    if kernels not in KERNELS:
        raise UsageError(f"kernels is {kernels!r}: one of {', '.join(KERNELS)} is expected")
    path = Path(path)
    if path.is_dir():
        raise UsageError(
            f"'{path}' is a model folder: make a packed file of it with `pruneonce export {path} --to packed`"
        )
    try:
        isa = _native.choose_isa(isa)
        _native.num_threads()  # may be one of $PRUNEONCE_THREADS that means nothing
    except ValueError as error:
        raise UsageError(str(error)) from error
    packed = read_packed(path)
    try:
        model = Model(packed, isa=isa, kernels=kernels)
    except ValueError as error:
        raise PruneonceError(f"{path}: {error}") from error
    model.file = path
    return model


def _labels(packed: PackedModel, classes: tuple[str, int] | None) -> list[str]:
    """Class names, one for each of the classifier's rows; ValueError if the config has more or fewer."""
    if classes is None:
        return packed.labels
    name, rows = classes
    labels = packed.labels or [f"LABEL_{number}" for number in range(rows)]  # as transformers does
    if len(labels) != rows or not rows:
        raise ValueError(f"config.json: id2label names {len(labels)} classes, {name} has {rows} rows")
    return labels


def _encoder(tensors: Tensors) -> Encoder:
    family, plan, name = tensors.family, tensors.plan, tensors.in_encoder
    width = plan.embedding_size or plan.hidden_size
    hidden, tables, parts = plan.hidden_size, family.embeddings, family.layer
    positions = None if plan.first_position is None else tables.positions
    types = None if tables.types is None else name(f"{tables.types}.weight")
    embeddings = Embeddings(
        words=tensors.table(name(f"{tables.words}.weight"), width),
        positions=None if positions is None else tensors.table(name(f"{positions}.weight"), width).to_dense(),
        types=tensors.table(types, width).to_dense() if types is not None and tensors.has(types) else None,
        norm=tensors.norm(name(tables.norm), plan.norm_epsilon, width),
        projection=None if width == hidden else tensors.linear([name(str(tables.projection))], hidden, width),
    )
    others = [len(table) for table in (embeddings.positions, embeddings.types) if table is not None]
    if 0 in (embeddings.words.shape[0], *others):
        raise ValueError("the embeddings are empty: words, positions and types need a row at least")
    layers = []
    for number in range(plan.layers):
        layer = name(f"{family.layers}.{number}.")
        up = tensors.linear([layer + part for part in parts.widening], None, hidden, biases=plan.feed_forward_biases)
        between, odd = divmod(up.weight.rows, 2) if plan.gated else (up.weight.rows, 0)
        if odd:
            raise ValueError(
                f"tensor {layer + parts.widening[0]}.weight: {up.weight.rows} rows are not gates and as many"
            )
        reading = [layer + part for part in parts.reading_states]
        live = tensors.live_features(reading)
        normed = number > 0 or plan.norm_placement == "post" or plan.first_attention_norm
        layers.append(
            Layer(
                query_key_value=tensors.linear(
                    reading,
                    3 * hidden // len(reading),
                    hidden,
                    biases=plan.attention_biases,
                    row_order=None if live is None else live.stacked_order,
                ),
                attention_output=tensors.linear(
                    [layer + parts.attention_output],
                    hidden,
                    hidden,
                    biases=plan.attention_biases,
                    column_order=None if live is None else live.value_order,
                ),
                attention_norm=tensors.norm(layer + parts.attention_norm, plan.norm_epsilon) if normed else None,
                up=up,
                down=tensors.linear([layer + parts.down], hidden, between, biases=plan.feed_forward_biases),
                output_norm=tensors.norm(layer + parts.output_norm, plan.norm_epsilon),
                attention_codes=tensors.attention_codes(reading),
                live=live,
            )
        )
    tensors.require_attention_codes_of_all([layer.attention_codes for layer in layers])
    final_norm = None
    if plan.final_norm:
        assert family.final_norm is not None  # a plan of a family that has it
        final_norm = tensors.norm(name(family.final_norm), plan.norm_epsilon)
    biases = None
    if plan.relative_buckets:
        table = tensors.get(name(f"{family.relative_bias}.weight"), (plan.relative_buckets, plan.heads))
        biases = distance_biases(table.to_dense(), plan.relative_max_distance)
    return Encoder(embeddings, layers, plan, final_norm, biases)
