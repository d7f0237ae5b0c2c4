"""Which configurations a layout is predicted for: all that a run here can choose, and not yet all that an open model can be."""

from groundup.config import Attention, Dense, Layer, ModelConfig
from groundup.errors import UsageError


def check_predicted(config: ModelConfig, what: str) -> None:
    """UsageError naming the first field of a configuration that ``what``, such as "a layout", is not predicted for."""
    if config.learned_positions:
        raise UsageError(f"{what} is not predicted for a model with learned_positions")
    for i, layer in enumerate(config.layers):
        if reason := unpredicted(layer):
            raise UsageError(f"{what} is not predicted for a model whose layer {i} has {reason}")


def unpredicted(layer: Layer) -> str | None:
    """What of a layer layouts do not cover, or None."""
    a, mlp = layer.mixer, layer.mlp
    if not isinstance(a, Attention):
        return f"a mixer of kind {type(a).__name__}"
    if not isinstance(mlp, Dense):
        return f"an mlp of kind {type(mlp).__name__}"
    found = {
        "mixer.qk_norm_over": a.qk_norm_over != "head",
        "mixer.softcap": a.softcap is not None,
        "mixer.sinks": a.sinks,
        "mixer.output_gate": a.output_gate,
        "mixer.scale": a.scale is not None,
        f"mlp.activation {mlp.activation}": mlp.activation not in ("swiglu", "gelu", "relu2"),
        "placement after": layer.placement == "after",
    }
    return next((name for name, there in found.items() if there), None)
