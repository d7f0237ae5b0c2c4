"""What is asked of a model: training on sequences of one shape, or answering requests of one size. ``account.cost`` counts it."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.account.execution import Execution
from groundup.account.layout import Layout
from groundup.config import ModelConfig
from groundup.errors import UsageError


@dataclass(frozen=True)
class Training:
    """Steps on sequences of one length, on one device or spread over many."""

    seq_len: int
    """T, tokens of a sequence."""
    batch_size: int = 1
    """B, sequences that go through the model, or a replica of it, at a time."""
    micro_batches: int = 1
    """m, so many times B sequences of each replica are a step; gradients accumulate between them."""
    document_lengths: tuple[int, ...] | None = None
    """Lengths of the documents packed into a sequence, a cut one with what is inside; attention never crosses them. None: one document."""
    run: Execution | None = None
    """How it is computed: precision, kernels, and what backward computes again. None: every tensor goes over memory once a component,
    and attention computes all T x T pairs; time and memory then take the decoder's own way on the device in question."""
    matrices: str = "muon"
    """Optimizer of the layers' matrices."""
    others: str = "adamw"
    """Optimizer of everything else."""
    prior_shape: tuple[int, int] | None = None
    """(experts, features) of the counts, as the decoder takes it; with it a config that has a prior gets its gate."""
    layout: Layout | None = None
    """How a step is spread over devices: what they then send is in the tree. None: one device, which sends nothing."""

    def check(self, config: ModelConfig) -> None:
        """UsageError for sizes that cannot be, or that the model's context does not hold."""
        block, documents = self.run.attention_block if self.run else None, self.document_lengths
        if self.seq_len < 1:
            raise UsageError(f"seq_len must be at least 1, not {self.seq_len}")
        if self.seq_len > config.context_length:
            raise UsageError(
                f"seq_len {self.seq_len} is longer than the model's context_length {config.context_length}; shorten it or raise that"
            )
        if self.batch_size < 1 or self.micro_batches < 1:
            raise UsageError(f"batch_size and micro_batches must be at least 1, not {self.batch_size} and {self.micro_batches}")
        if block is not None and block < 1:
            raise UsageError(f"attention_block must be at least 1, not {block}; None is an attention in one kernel")
        if documents is not None and (sum(documents) != self.seq_len or min(documents) < 1):
            raise UsageError(f"document_lengths must be at least 1 each and sum to seq_len {self.seq_len}; they sum to {sum(documents)}")
        if self.layout is not None:
            self.layout.check(config)

    def check_one_device(self, what: str) -> None:
        """UsageError where ``what``, such as "the memory of training", is asked of one device and the layout has more."""
        if self.layout is not None and self.layout.devices > 1:
            raise UsageError(f"{what} is that of one device here, and the layout is {self.layout}; see account.spread and account.cluster")

    @property
    def replicas(self) -> int:
        """d, models that see different sequences."""
        return 1 if self.layout is None else self.layout.data

    @property
    def tokens(self) -> int:
        """Tokens of a step, all replicas together: d m B T."""
        return self.replicas * self.micro_batches * self.batch_size * self.seq_len


@dataclass(frozen=True)
class Inference:
    """A batch of requests of one size."""

    prompt_tokens: int = 1000
    """T, tokens of each prompt."""
    new_tokens: int = 200
    """Tokens written for each; the first follows from prefill, each further one from a decoding step."""
    batch_size: int = 1
    """B, sequences side by side."""
    weight_bytes: float = 2.0
    """Bytes a number of the weights is held in."""
    cache_bytes: float = 2.0
    """Bytes a number of the cache is held in."""

    def check(self, config: ModelConfig) -> None:
        """UsageError for sizes that cannot be, or that the model's context does not hold."""
        for name in ("prompt_tokens", "new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.weight_bytes <= 0 or self.cache_bytes <= 0:
            raise UsageError("weight_bytes and cache_bytes must be above 0")
        if self.length > config.context_length:
            raise UsageError(
                f"prompt and answer take {self.length:,} tokens, more than the context's {config.context_length:,}: shorten one"
            )

    @property
    def length(self) -> int:
        """Tokens of a sequence that has ended: T + new tokens."""
        return self.prompt_tokens + self.new_tokens
