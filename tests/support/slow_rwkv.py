"""RWKV-6 and RWKV-7 as their papers write them: token by token, in float64, from GGUF's tensors.

A slow twin of `memfirst.models.rwkv6` and `rwkv7`: it shares no code with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.float32]]


def sigmoid(x: F64) -> F64:
    out: F64 = 1 / (1 + np.exp(-x))
    return out


class Rwkv:
    """What both have: norms, token shift, the residual stream. `run` gives the logits of every position."""

    def __init__(self, arrays: Arrays, head: int, layers: int, rescale: int = 0) -> None:
        self.a = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
        self.head, self.layers, self.rescale = head, layers, rescale
        width = self.a["token_embd.weight"].shape[1]
        self.heads = width // head
        self.before: dict[str, F64] = {}
        self.state = [np.zeros((self.heads, head, head)) for _ in range(layers)]
        self.first: F64 = np.zeros(width)

    def run(self, tokens: Any) -> F64:
        return np.stack([self.step(int(token)) for token in tokens])

    def step(self, token: int) -> F64:
        x = self.norm("token_embd_norm", self.a["token_embd.weight"][token])
        for i in range(self.layers):
            x = x + self.time_mix(i, self.norm(f"blk.{i}.attn_norm", x))
            x = x + self.channel_mix(i, self.norm(f"blk.{i}.attn_norm_2", x))
            if self.rescale and (i + 1) % self.rescale == 0:
                x = x / 2
        return self.w("output.weight") @ self.norm("output_norm", x)

    def w(self, name: str) -> F64:
        return self.a[name]

    def norm(self, name: str, x: F64, eps: float = 1e-5, groups: int = 1) -> F64:
        parts = [(p - p.mean()) / np.sqrt(p.var() + eps) for p in np.split(x, groups)]
        return np.concatenate(parts) * self.w(f"{name}.weight") + self.w(f"{name}.bias")

    def shifted(self, name: str, x: F64) -> F64:
        """The last token's value minus this one's; remembers this one's."""
        last = self.before.get(name, np.zeros_like(x))
        self.before[name] = x
        return last - x

    def by_head(self, x: F64) -> F64:
        return x.reshape(self.heads, self.head)

    def time_mix(self, i: int, x: F64) -> F64:
        raise NotImplementedError

    def channel_mix(self, i: int, x: F64) -> F64:
        raise NotImplementedError


class Rwkv6(Rwkv):
    """Finch (arXiv:2404.05892)."""

    def time_mix(self, i: int, x: F64) -> F64:
        at = f"blk.{i}.time_mix_"
        dx = self.shifted(at, x)
        low = np.tanh(self.w(at + "w1.weight") @ (x + dx * self.w(at + "lerp_x.weight"))).reshape(5, -1)
        mixes = [
            x + dx * (self.w(at + "lerp_fused.weight")[j, 0, 0] + self.w(at + "w2.weight")[j] @ low[j])
            for j in range(5)
        ]
        r, k, v = (
            self.by_head(self.w(f"{at}{n}.weight") @ mixes[j]) for n, j in (("receptance", 3), ("key", 1), ("value", 2))
        )
        gate = self.w(at + "gate.weight") @ mixes[4]
        d = self.w(at + "decay.weight")
        d = d + self.w(at + "decay_w2.weight") @ np.tanh(self.w(at + "decay_w1.weight") @ mixes[0])
        decay, u, out = self.by_head(np.exp(-np.exp(d))), self.w(at + "first.weight"), np.empty_like(r)
        for h in range(self.heads):
            kv = np.outer(k[h], v[h])
            out[h] = r[h] @ (self.state[i][h] + u[h][:, None] * kv)
            self.state[i][h] = decay[h][:, None] * self.state[i][h] + kv
        normed = self.norm(f"{at}ln", out.reshape(-1), 64e-5, self.heads)
        mixed: F64 = self.w(at + "output.weight") @ (normed * gate * sigmoid(gate))
        return mixed

    def channel_mix(self, i: int, x: F64) -> F64:
        at = f"blk.{i}.channel_mix_"
        dx = self.shifted(at, x)
        k = self.w(at + "key.weight") @ (x + dx * self.w(at + "lerp_k.weight"))
        r = self.w(at + "receptance.weight") @ (x + dx * self.w(at + "lerp_r.weight"))
        out: F64 = sigmoid(r) * (self.w(at + "value.weight") @ np.maximum(k, 0) ** 2)
        return out


class Rwkv7(Rwkv):
    """Goose (arXiv:2503.14456)."""

    def time_mix(self, i: int, x: F64) -> F64:
        at = f"blk.{i}.time_mix_"
        dx = self.shifted(at, x)
        xr, xw, xk, xv, xa, xg = (x + dx * share for share in self.w(at + "lerp_fused.weight")[:, 0, 0])
        r, k, v = (self.w(f"{at}{n}.weight") @ m for n, m in (("receptance", xr), ("key", xk), ("value", xv)))
        w = self.w(at + "w0.weight") + self.w(at + "w2.weight") @ np.tanh(self.w(at + "w1.weight") @ xw)
        a = sigmoid(self.w(at + "a0.weight") + self.w(at + "a2.weight") @ (self.w(at + "a1.weight") @ xa))
        gate = self.w(at + "g2.weight") @ sigmoid(self.w(at + "g1.weight") @ xg)
        if i == 0:
            self.first = v
        else:
            share = sigmoid(self.w(at + "v0.weight") + self.w(at + "v2.weight") @ (self.w(at + "v1.weight") @ xv))
            v = v + (self.first - v) * share
        kappa = self.by_head(k * self.w(at + "k_k.weight"))
        k = k * (1 + (a - 1) * self.w(at + "k_a.weight"))
        decay = self.by_head(np.exp(-np.exp(-0.5) * sigmoid(w)))
        rh, kh, vh, ah, out = *(self.by_head(n) for n in (r, k, v, a)), np.empty((self.heads, self.head))
        for h in range(self.heads):
            unit = kappa[h] / np.linalg.norm(kappa[h])
            s = self.state[i][h]  # [value, key]
            s = s @ (np.diag(decay[h]) - np.outer(unit, unit * ah[h])) + np.outer(vh[h], kh[h])
            self.state[i][h], out[h] = s, s @ rh[h]
        normed = self.by_head(self.norm(f"{at}ln", out.reshape(-1), 64e-5, self.heads))
        bonus = (rh * kh * self.by_head(self.w(at + "r_k.weight"))).sum(axis=1, keepdims=True) * vh
        mixed: F64 = self.w(at + "output.weight") @ ((normed + bonus).reshape(-1) * gate)
        return mixed

    def channel_mix(self, i: int, x: F64) -> F64:
        at = f"blk.{i}.channel_mix_"
        k = self.w(at + "key.weight") @ (x + self.shifted(at, x) * self.w(at + "lerp_k.weight"))
        out: F64 = self.w(at + "value.weight") @ np.maximum(k, 0) ** 2
        return out
