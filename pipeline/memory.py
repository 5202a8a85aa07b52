"""Bytes that one process of a training step needs, part by part: states, activations, head, cache.

What autograd keeps was counted from the code of transformers' decoders and of TRL's fused head, tensor by tensor, and
tests/test_memory.py compares it with what a real step allocates. Per token of one layer, with h the hidden size, q and
k the widths of queries and keys, f that of the feed-forward layer:

    fp32               24 h + 4 a + 16 f      norms: input, normalised, scaled; gate, its SiLU, up, product
    autocast to bf16   26 h + 2 a +  8 f      norms in fp32, a half copy for each of the five matrices behind
    half weights       16 h + 2 a +  8 f      DeepSpeed and FSDP: the stream is half, its copy inside a norm is fp32

where a = 2 q + 2 k, or 4 q where padding needs a mask, for then keys and values are repeated to the heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.setting import Setting, module_numbers
from pipeline.sharding import LIVE

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Tile of logits of TRL's fused head, which never holds all logits of a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Bytes that lie on one process from step to step."""

    weights: float
    gradients: float
    optimiser: float
    """Two moments, and the fp32 masters where the weights are half."""
    reference: float
    scorer: float
    buffers: float
    """For communication, and weights gathered from the other processes."""
    host: float
    """What was moved to the memory of the host, per process."""

    @property
    def total(self) -> float:
        """On the accelerator."""
        return self.weights + self.gradients + self.optimiser + self.reference + self.scorer + self.buffers


def states(s: Setting) -> States:
    """Weights, gradients, AdamW and what goes with them.

    DeepSpeed, mixed: 2 bytes of weights, 2 of gradients and 4 more for them in fp32 (4 in all with stage 3), 4 of
    masters, 8 of moments, as its own estimators count. Everything else keeps fp32 weights as its only copy: 4, 4 and 8.
    """
    zero, shards = s.sharding.engine == "deepspeed", s.processes
    half = zero and s.mixed
    share = [1 / shards if s.sharding.stage >= stage else 1.0 for stage in (0, 1, 2, 3)]
    weights = s.weights * (2 if half else 4) * share[3]
    optimiser = s.trainable * (12 if zero else 8) * share[1]
    low = s.trainable * (2 if half else 4) * share[2]
    if half and s.sharding.stage == 3 and not s.sharding.offload_optimiser:
        low = 0.0  # they become fp32 a part at a time: 4 bytes for both
    full = s.trainable * 4 * share[1] if half else 0.0
    host = 0.0
    if s.sharding.offload_optimiser:
        host += optimiser + (full if zero else low)
        optimiser, full = 0.0, 0.0
        low = low if zero else 0.0
    if s.sharding.offload_weights:
        host += weights
        weights = 0.0
    # Adapters are compared with adapters, on the same model.
    referred = s.sizes.parameters if s.reference_below or not s.adapters else s.adapters
    reference = referred * (2 if half else 4) * share[3] if s.reference else 0.0
    held = s.trainable - s.ahead * module_numbers(s.sizes)  # modules are no part of the old task
    reference += 8.0 * held if s.anchored else 0.0  # fp32, and never shared out
    return States(
        weights=weights,
        gradients=low + full,
        optimiser=optimiser,
        reference=reference,
        scorer=s.scorer * 4.0,
        buffers=_buffers(s),
        host=host,
    )


def _buffers(s: Setting) -> float:
    sizes, sharding = s.sizes, s.sharding
    if s.processes == 1 and not sharding.offload_weights:
        return 0.0
    match sharding.engine:
        case "ddp":
            return 4.0 * s.trainable  # the buckets are copies of the gradients
        case "deepspeed" if sharding.stage:
            bucket = min(sizes.hidden**2 if sharding.bucket is None else sharding.bucket, s.trainable)
            largest = max(sizes.layer, sizes.embedding)
            gathered = max(min(s.weights, LIVE), largest) if sharding.stage == 3 else 0
            return float(s.width) * (bucket * (2 if sharding.overlap else 1) + gathered)
        case "fsdp":
            ends = sizes.embedding * (1 if sizes.tied else 2)
            return float(s.width) * (ends + 2 * sizes.layer)  # the layer at work, and the next one
    return 0.0


def layer_bytes(s: Setting) -> float:
    """What one layer keeps of one forward pass for its backward pass."""
    sizes, width = s.sizes, s.width
    h, q, f = sizes.hidden, sizes.queries, sizes.ffn
    attention = width * (4 * q if s.masked or s.eager else 2 * q + 2 * sizes.keys)
    norms = {"fp32": 24, "autocast": 26, "half": 16}[s.precision] * h
    kept = norms + attention + 4 * width * f + 4 * sizes.heads + 8
    if s.eager:
        kept += (6 if s.mixed else 4) * sizes.heads * s.length  # a softmax in fp32, and its half copy
    elif s.masked:
        kept += width * s.length
    return float(s.tokens * kept)


def _stream_bytes(s: Setting) -> float:
    """The hidden states between two layers."""
    return float(s.tokens * s.sizes.hidden * (2 if s.precision == "half" else 4))


def _casts(s: Setting) -> float:
    """Half copies of fp32 weights that autocast makes and keeps."""
    if s.precision != "autocast":
        return 0.0
    return 2.0 * ((s.sizes.layers + s.ahead) * s.sizes.layer_matrices + s.ahead * 2 * s.sizes.hidden**2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Bytes of forward and backward pass at their fullest moment."""

    activations: float
    logits: float
    """Tiles of logits, and gradients of the head."""


def passes(s: Setting) -> Passes:
    """What is alive at the fullest moment of forward and backward pass, beside the states; 0 where nothing is known."""
    if not s.sizes.known:
        return Passes(activations=0.0, logits=0.0)
    sizes, tokens = s.sizes, s.tokens
    layers = sizes.layers + s.ahead
    final = tokens * sizes.hidden * (12.0 if s.precision == "fp32" else 10.0)
    final += s.ahead * (final + _module_bytes(s))
    mask = float(s.sequences * s.length**2) if s.masked else 0.0
    widest = max(sizes.hidden + sizes.ffn, sizes.heads * s.length if s.eager else 0)
    temporary = 4.0 * tokens * widest  # gradients of what a layer keeps, a few at a time
    layer, head = layer_bytes(s), _head(s)
    if s.checkpointing:
        kept = layers * _stream_bytes(s) + final + mask
        in_layer = kept + layer + temporary + _casts(s) / layers
        moments = [(kept + _casts(s), _tile(s)), (kept, head), (in_layer, 0.0)]
    else:
        kept = layers * layer + final + mask + _casts(s)
        moments = [(kept, head), (kept + temporary, 0.0)]
    activations, logits = max(moments, key=sum)
    return Passes(activations=activations, logits=logits)


def _module_bytes(s: Setting) -> float:
    """What a module of multi-token prediction keeps beside its layer and final norm: embeddings, normed and joined."""
    return float(s.tokens * s.sizes.hidden * 32)


def _tile(s: Setting) -> float:
    """The tile of logits of the forward pass."""
    if not s.head:
        return 0.0
    rows = min(s.tokens * (1 + s.ahead), TILE_TOKENS)
    tile = rows * TILE_VOCABULARY * s.width
    if s.on_cpu:  # without Triton, seven more tiles in fp32, as wide as the vocabulary is
        tile += 7 * 4 * rows * min(s.sizes.vocabulary, TILE_VOCABULARY)
    return float(tile)


def _head(s: Setting) -> float:
    """The head in the backward pass: the tile again, fp32 gradients of hidden states and head, the head gathered."""
    if not s.head:
        return 0.0
    own = 4.0 * s.tokens * (1 + s.ahead) * s.sizes.hidden
    learns = s.adapters == 0
    gradient = 4.0 * s.sizes.embedding if learns else 0.0
    gathered = 4.0 * s.sizes.embedding if s.sharding.engine == "fsdp" and s.sharding.stage == 3 else 0.0
    chunk = float(s.width) * min(s.sizes.vocabulary, TILE_VOCABULARY) * s.sizes.hidden if s.mixed else 0.0
    return _tile(s) + own + gradient + gathered + chunk
