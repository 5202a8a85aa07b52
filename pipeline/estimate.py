"""One step on paper: bytes by part at its fullest moment, tokens, FLOPs, hours.

    estimate = Estimate(name="cold_start", ..., setting=setting, work=workload, gpu=gpu)
    estimate.total <= estimate.limit

`replace` with another setting is how remedies.py finds out what would fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from pipeline import decoding
from pipeline.architecture import Architecture
from pipeline.decoding import Decoder
from pipeline.flops import sampling_flops, training_flops
from pipeline.hardware import GIB, Gpu
from pipeline.memory import passes, states
from pipeline.setting import Setting
from pipeline.workload import Drawing, Workload

USABLE = 0.95
"""Share of the memory that a step may fill: the rest goes to fragments of the allocator."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A step and what it is planned on. Bytes are those of one accelerator."""

    name: str
    stage: str
    model: str
    """Name of the given model that its weights come from."""
    work: Workload
    gpu: Gpu
    accelerators: int
    setting: Setting | None = None
    """How it trains; None where it only samples."""
    sampled: Architecture | None = None
    """Sizes of the model that it samples, if it does."""
    sampled_bytes: int = 4
    """Of one stored weight of that model."""
    mfu: float = 0.35
    """Share of the peak that training reaches, recomputed passes counted as work."""
    rate: float | None = None
    """Tokens per second that one accelerator samples; None: a roofline."""

    @property
    def limit(self) -> float:
        """Bytes that may be filled."""
        return (self.gpu.memory * USABLE - self.gpu.overhead) * GIB

    @property
    def fits(self) -> bool:
        """Whether it does, as far as paper can tell."""
        return self.total <= self.limit

    @property
    def total(self) -> float:
        """Bytes at the fullest moment."""
        return max(sum(moment.values()) for moment in self.moments.values())

    @property
    def fullest(self) -> str:
        """The moment that needs most: training or sampling."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by part; those of one moment only are not there in the other."""
        merged: dict[str, float] = {}
        for moment in self.moments.values():
            merged |= {name: size for name, size in moment.items() if size}
        return merged

    @cached_property
    def moments(self) -> dict[str, dict[str, float]]:
        """Parts of each moment: a step that trains and samples does one after the other."""
        found: dict[str, dict[str, float]] = {}
        lasting: dict[str, float] = {}
        if self.setting is not None:
            s, made = states(self.setting), passes(self.setting)
            lasting = {
                "weights": s.weights,
                "gradients": s.gradients,
                "optimiser": s.optimiser,
                "reference": s.reference,
                "preference model": s.scorer,
                "buffers": s.buffers,
            }
            found["training"] = lasting | {"activations": made.activations, "logits": made.logits}
        work, decoder = self.work.drawing, self.decoder
        if self.sampled is not None and not self.sampled.known:
            return found | {"sampling": {"weights": float(self.sampled_bytes * self.sampled.parameters)}}
        if work is None or decoder is None or work.engine == "vllm_server":
            return found or {"nothing": {}}
        if work.in_trainer and work.engine == "vllm":
            # It takes its share when it starts and keeps it; the share must hold at least one sequence.
            least = decoder.weights + work.width * decoder.cache
            own = max(work.share * self.gpu.memory * GIB, least)
            return {"training": found["training"] | {"vLLM": own}}
        if not work.in_trainer:
            lasting = {"weights": decoder.weights / decoder.accelerators}
        if work.engine == "vllm":
            positions = max(work.width, decoder.at_once * (work.prompt + work.mean))
            found["sampling"] = lasting | {"KV cache": positions * decoder.cache / decoder.accelerators}
        else:
            working = decoder.working(work) + (self._gathered() if work.in_trainer else 0.0)
            cache = decoder.at_once * work.width * decoder.cache
            found["sampling"] = lasting | {"KV cache": cache, "sampler": working}
        return found

    @property
    def other_activations(self) -> float:
        """Activations with gradient checkpointing where it is off, without it where it is on."""
        if self.setting is None:
            return 0.0
        return passes(replace(self.setting, checkpointing=not self.setting.checkpointing)).activations

    @property
    def host(self) -> float:
        """Bytes in the memory of the host, for one process."""
        return states(self.setting).host if self.setting else 0.0

    @cached_property
    def decoder(self) -> Decoder | None:
        """The sampler, if there is one whose layers are known."""
        work, sizes = self.work.drawing, self.sampled
        if work is None or sizes is None or not sizes.known:
            return None
        if work.engine != "transformers":
            return decoding.vllm(sizes, work, self.gpu)
        return decoding.transformers(sizes, work, self.sampled_bytes, self.setting if work.in_trainer else None)

    def _gathered(self) -> float:
        """Whole weights beside the trainer's while it samples: gathered shards, or the copies that autocast keeps."""
        s = self.setting
        if s is None:
            return 0.0
        if s.sharding.stage == 3 or s.sharding.offload_weights:
            return float(s.width) * s.weights
        return 2.0 * s.sizes.layers * s.sizes.layer_matrices if s.precision == "autocast" else 0.0

    @cached_property
    def flops(self) -> float:
        """Of everything that the step does, sampling included."""
        total = 0.0
        if self.work.training is not None and self.setting is not None:
            total += training_flops(self.work.training, self.setting)
        if self.work.drawing is not None and self.sampled is not None:
            total += sampling_flops(self.work.drawing, self.sampled)
        return total

    @property
    def training_hours(self) -> float:
        """At the share of the peak `mfu`, on all accelerators."""
        if self.work.training is None or self.setting is None:
            return 0.0
        peak = self.gpu.half if self.setting.mixed else self.gpu.single
        return training_flops(self.work.training, self.setting) / (self.accelerators * peak * self.mfu) / 3600

    @property
    def rate_of_one(self) -> float | None:
        """Tokens per second that one accelerator samples; None where nothing is sampled here."""
        if self.rate is not None:
            return self.rate
        if self.decoder is None or self.work.drawing is None:
            return None
        inside = self.setting is not None and self.work.drawing.in_trainer
        mixed = (
            self.setting.mixed if self.setting and inside else self.decoder.weights <= 2 * self.decoder.sizes.parameters
        )
        return self.decoder.tokens_per_second(self.work.drawing, self.gpu, mixed) / self.decoder.accelerators

    @property
    def sampling_hours(self) -> float:
        """All samplers at once."""
        work, rate = self.work.drawing, self.rate_of_one
        if work is None or rate is None:
            return 0.0
        return work.tokens / (rate * self._samplers(work)) / 3600

    def _samplers(self, work: Drawing) -> int:
        """Accelerators that sample."""
        if work.engine == "vllm_server":
            return max(1, len(work.options.get("urls", ())))
        return self.accelerators if work.in_trainer else work.shards
