"""Multi-head latent attention (MLA) as a layer's first half: q, the cached latent, attention over it."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.graph import KVCache, Op
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.slice import Slice
from memfirst.models import decoder


@dataclass(frozen=True)
class Config(decoder.Config):
    """Besides Llama's, named as in config.json. `head_dim` is qk_nope_head_dim + qk_rope_head_dim.

    q_lora_rank  0: q is one projection (V2-Lite)
    """

    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0


@dataclass(frozen=True)
class Layers(decoder.Layers):
    """Latent attention, and the feed-forward of Llama."""

    c: Config

    def caches(self) -> tuple[KVCache, ...]:
        """The latent and the turned part of the key, once for all heads."""
        width = self.c.kv_lora_rank + self.c.qk_rope_head_dim
        return tuple(KVCache(f"blk.{i}.kv", 1, width, 0) for i in range(self.c.num_hidden_layers))

    def attention(self, at: str, cache: KVCache, x: str) -> list[Op]:
        """Norm, q, latent, RoPE, attention, output, residual."""
        c, width = self.c, self.c.num_attention_heads * self.c.v_head_dim
        q, turn = self.query(at), self.rope
        q_rope = turn(f"{at}_q_rope", (q[-1].output,), f"{at}_q_rope", c.num_attention_heads, start=c.qk_nope_head_dim)
        inputs = (q_rope.output, f"{at}_kv_a_norm", f"{at}_k_rope")
        output = self.linear(f"{at}_output", at, c.hidden_size, columns=width)
        ops = [self.norm(f"{at}_norm", x), *q, q_rope, *self.latent(at), self.latent_attention(at, inputs, cache)]
        return [*ops, output, *self.added(at, x, output.output)]

    def query(self, at: str) -> list[Op]:
        """q in one projection, or down to q_lora_rank, normed, and up."""
        width, rank = self.c.num_attention_heads * self.c.head_dim, self.c.q_lora_rank
        if not rank:
            return [self.linear(f"{at}_q", f"{at}_norm", width)]
        down = self.linear(f"{at}_q_a", f"{at}_norm", rank)
        norm = self.narrow_norm(f"{at}_q_a_norm", down.output, rank)
        return [down, norm, self.linear(f"{at}_q_b", norm.output, width, columns=rank)]

    def latent(self, at: str) -> list[Op]:
        """What is cached of a token: the normed latent, and the part of its key that turns."""
        rank, turned = self.c.kv_lora_rank, self.c.qk_rope_head_dim
        both = self.linear(f"{at}_kv_a_mqa", f"{at}_norm", rank + turned)
        latent = Slice(f"{at}_latent", (both.output,), f"{at}_latent", 0, rank)
        k_pe = Slice(f"{at}_k_pe", (both.output,), f"{at}_k_pe", rank, turned)
        norm = self.narrow_norm(f"{at}_kv_a_norm", latent.output, rank)
        return [both, latent, k_pe, norm, self.rope(f"{at}_k_rope", (k_pe.output,), f"{at}_k_rope", 1, head_dim=turned)]

    def latent_attention(self, at: str, inputs: tuple[str, ...], cache: KVCache) -> Op:
        """Attention over the latent, with `kv_b` as the file has it: as trained, or cut in two and k_b turned."""
        c, heads, rank = self.c, self.c.num_attention_heads, self.c.kv_lora_rank
        if self.w.has(f"{at}_kv_b.weight"):
            both = self.w(f"{at}_kv_b.weight", (heads * (c.qk_nope_head_dim + c.v_head_dim), rank))
            return LatentAttention(at, inputs, at, cache, heads, both, None, c.scale, c.v_head_dim)
        k_b = self.w(f"{at}_k_b.weight", (heads, rank, c.qk_nope_head_dim))
        v_b = self.w(f"{at}_v_b.weight", (heads, c.v_head_dim, rank))
        return LatentAttention(at, inputs, at, cache, heads, k_b, v_b, c.scale)

    def narrow_norm(self, name: str, x: str, width: int) -> Op:
        """RMS norm of `width` values."""
        return RMSNorm(name, (x,), name, self.w(f"{name}.weight", (width,)), self.c.rms_norm_eps)
