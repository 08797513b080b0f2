"""Wrong formulas of single architectures: at least one for each of the registry, in what is its own where it has
anything that costs bytes."""

from __future__ import annotations

from tests.support.planting import Mutant

MODELS, OPS = "memfirst.models", "memfirst.graph.ops"

DENSE = (
    Mutant("granite's feed-forward has no biases", f"{MODELS}.granite:layer", "bias=c.mlp_bias", "bias=False",
           "granite", "weights parameters"),
    Mutant("layers without rotation keep a key for each query head", f"{MODELS}.smollm3:without_rope",
           "replace(h, rotation=None)", "replace(h, rotation=None, kv_heads=h.heads)", "smollm3",
           "kv_read held weights parameters"),
    Mutant("a norm too few behind rotation", f"{MODELS}.hunyuan_dense:read", "qk_norm=HEAD, ", "", "hunyuan dense",
           "weights parameters"),
    Mutant("ernie's biases are forgotten", f"{MODELS}.decoder:_biases", "else r.flag(flag)",
           "else r.flag(flag) and False", "ernie4.5", "weights parameters"),
    Mutant("no bias behind attention", f"{MODELS}.builder:Builder.attention", "h.output_bias, scale", "False, scale",
           "seed-oss", "weights parameters"),
    Mutant("exaone's heads are not normed", f"{MODELS}.exaone4:read", ".attention(qk_norm=HEAD)", "", "exaone4",
           "weights parameters"),
    Mutant("exaone's layers without a window come one early", f"{MODELS}.windows:periodic", "(layer + 1)",
           "(layer + 2)", "exaone4", "by_layer"),
    Mutant("stablelm's second norm has no bias", f"{MODELS}.stablelm:layer", 'b.layer_norm(f"{at}.ffn_norm", x)',
           'b.layer_norm(f"{at}.ffn_norm", x, bias=False)', "stablelm", "weights parameters"),
    Mutant("ministral's heads are as wide as hidden over heads", f"{MODELS}.decoder:read",
           "default=_head_dim(hidden, heads))", "default=_head_dim(hidden, heads)) and hidden // heads[0]",
           "ministral3", "kv_read weights parameters tensors"),
)  # fmt: skip

ROUTED = (
    Mutant("experts as wide as a dense part", f"{MODELS}.qwen3_moe:read",
           'r.integer("moe_intermediate_size", limits.MAX_WIDTH)',
           'r.integer("moe_intermediate_size", limits.MAX_WIDTH) and c.intermediate_size[0]', "qwen3-moe",
           "experts parameters"),
    Mutant("olmoe's heads are normed one by one", f"{MODELS}.olmoe:read", "qk_norm=ROW", "qk_norm='head'", "olmoe",
           "weights parameters tensors"),
    Mutant("granite's shared expert is forgotten", f"{MODELS}.granite_moe:read", "shared=shared", "shared=0",
           "granite-moe, shared", "weights parameters tensors"),
    Mutant("one shared expert of several", f"{MODELS}.hunyuan_moe:read", "shared * c.intermediate_size[0]",
           "c.intermediate_size[0]", "hunyuan-moe", "weights parameters"),
    Mutant("ernie's first layers route too", f"{MODELS}.ernie4_5_moe:read", "i < start or ", "", "ernie4.5-moe",
           "weights experts parameters"),
    Mutant("ernie's shared experts count once", f"{MODELS}.ernie4_5_moe:read", "width * r.integer(",
           "width + 0 * r.integer(", "ernie4.5-moe", "weights parameters"),
    Mutant("no gate of the shared expert", f"{MODELS}.delta_net:read", "shared_gate=True", "shared_gate=False",
           "qwen3-next", "weights parameters tensors"),
    Mutant("the shared expert is as wide as the others", f"{MODELS}.delta_net:read", "shared=shared", "shared=width",
           "qwen3.5-moe", "weights parameters"),
    Mutant("lfm2's experts are not corrected", f"{MODELS}.lfm2_moe:read", "correction=True", "correction=False",
           "lfm2-moe", "weights parameters tensors"),
    Mutant("one dense layer too many of lfm2's", f"{MODELS}.lfm2_moe:read", "frozenset(range(", "frozenset(range(1 + ",
           "lfm2-moe", "weights experts parameters"),
    Mutant("experts on the hidden state, not the latent", f"{MODELS}.nemotron_h:_routed",
           "b.linear(f\"{at}_latent_down\", x, c.latent) if c.latent else x", "x", "nemotron-h-moe",
           "experts parameters tensors"),
    Mutant("nemotron's shared expert is forgotten", f"{MODELS}.nemotron_h:_routed",
           'return b.residual(f"{at}_sum", routed, b.mlp(at, x, c.moe.shared, SQUARED_RELU, suffix="_shexp"))',
           "return routed", "nemotron-h-moe", "weights parameters tensors"),
    Mutant("the temperature's layers keep one key a chunk", f"{MODELS}.llama4:_as_stated", "kind == CHUNKED",
           "kind != CHUNKED", "llama4", "by_layer"),
)  # fmt: skip

HYBRID = (
    Mutant("lfm2's width as it is stated", f"{MODELS}.lfm2:_adjusted", "2 * stated / 3", "stated", "lfm2",
           "weights parameters"),
    Mutant("a tail as long as lfm2's convolution", f"{MODELS}.lfm2:convolution", "(kernel - 1) * hidden",
           "kernel * hidden", "lfm2", "state_read held"),
    Mutant("lfm2's projection has two parts' bytes", f"{OPS}.conv:CausalConv1d.traffic",
           "weights = (WeightTraffic(w) for w in self.weights)", "weights = ()", "lfm2", "weights"),
    Mutant("nemotron's feed-forward is gated", f"{MODELS}.nemotron_h:_mixed",
           'b.mlp(f"{at}.ffn", x, c.intermediate_size, SQUARED_RELU)', 'b.swiglu(f"{at}.ffn", x, c.intermediate_size)',
           "nemotron-h", "weights parameters tensors"),
    Mutant("nemotron's groups share B and C", f"{MODELS}.nemotron_h:_mixer", "limits.MAX_HEADS, default=8)",
           "limits.MAX_HEADS, default=8) and 1", "nemotron-h", "weights parameters state_read"),
)  # fmt: skip

OPERATIONS = (
    Mutant("norms are free", f"{OPS}.norm:RMSNorm.traffic", "WeightTraffic(self.weight, self.head), ", "*(), ", "llama",
           "weights head"),
    Mutant("the embedding is free", f"{OPS}.embed:Embed.traffic", "RowTraffic(self.weight, self.name), ", "*(), ",
           "llama", "embedding"),
    Mutant("a scan by channels keeps nothing", f"{OPS}.channel_scan:ChannelScan.traffic",
           "*state_traffic(self.cache), ", "", "falcon-mamba", "state_read state_write"),
    Mutant("A and D are free", f"{OPS}.channel_scan:ChannelScan.traffic", "*weights, ", "", "falcon-mamba", "weights"),
    Mutant("a scan by heads keeps nothing", f"{OPS}.scan:SelectiveScan.traffic", "*state_traffic(self.cache), ", "",
           "granite hybrid", "state_read state_write"),
    Mutant("rwkv 6 keeps nothing", f"{OPS}.wkv6:Wkv6.traffic", "*state_traffic(self.cache), ", "", "rwkv6",
           "state_read state_write"),
    Mutant("rwkv 6's first token is free", f"{OPS}.wkv6:Wkv6.traffic", "WeightTraffic(self.first), ", "*(), ", "rwkv6",
           "weights"),
    Mutant("rwkv 7 keeps nothing", f"{OPS}.wkv7:Wkv7.traffic", "*state_traffic(self.cache), ", "", "rwkv7",
           "state_read state_write"),
    Mutant("rwkv 7's bonus is free", f"{OPS}.wkv7:HeadBonus.traffic", "WeightTraffic(self.weight), ", "*(), ", "rwkv7",
           "weights"),
    Mutant("the scale of rwkv 7's keys is free", f"{OPS}.wkv7:ScaledKey.traffic", "WeightTraffic(self.weight), ",
           "*(), ", "rwkv7", "weights"),
    Mutant("rwkv 6's mixes of five are free", f"{OPS}.stacked_linear:StackedLinear.traffic",
           "WeightTraffic(self.weight), ", "*(), ", "rwkv6", "weights"),
    Mutant("shares of the token before are free", f"{OPS}.token_lerp:TokenLerp.traffic", "WeightTraffic(self.weight), ",
           "*(), ", "rwkv7", "weights"),
    Mutant("a delta net's gates are free", f"{OPS}.gated_delta:GatedDelta.traffic", "*weights, ", "", "qwen3-next",
           "weights"),
    Mutant("MLA's second halves are free", f"{OPS}.latent:LatentAttention.traffic",
           "*(WeightTraffic(w) for w in self.weights), ", "", "deepseek", "weights"),
)  # fmt: skip

MUTANTS = (*DENSE, *ROUTED, *HYBRID, *OPERATIONS)
