"""Devices that share layers compute what one device computes: the reference in lockstep, sums and gathers exchanged."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.errors import UnsupportedError
from memfirst.formats.hf import HFCheckpoint
from memfirst.graph import Graph
from memfirst.transform.shard import shard
from tests.support.toy import F32, one, random_checkpoint

BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8,
        "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": False,
        "torch_dtype": "float32"}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 16, "truncate": False}  # fmt: skip
MLA = {"head_dim": None, "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
       "v_head_dim": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 16, "n_routed_experts": 8,
       "n_shared_experts": 2, "num_experts_per_tok": 3}  # fmt: skip
CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "gemma2": {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
               "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 4,
               "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", "original_max_position_embeddings": 64},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
                  "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
                "attention_bias": True, "swiglu_limit": 7.0, "layer_types": ["sliding_attention", "full_attention"],
                "rope_scaling": YARN},
    "deepseek_v2": {"model_type": "deepseek_v2", "num_key_value_heads": 8, **MLA, "topk_method": "greedy",
                    "rope_scaling": {k: v for k, v in YARN.items() if k != "truncate"},
                    "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0},
}  # fmt: skip


class Meeting:
    """Devices' values met at each collective: all wait for all."""

    def __init__(self, degree: int) -> None:
        self.barrier, self.values = threading.Barrier(degree, timeout=20), [np.zeros((0, 0), np.float32)] * degree

    def meet(self, index: int, value: F32) -> list[F32]:
        self.values[index] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


def build(name: str) -> Graph:
    return models.build(HFCheckpoint("", BASE | CONFIGS[name], []))


def shared(graph: Graph, degree: int, tokens: np.ndarray[Any, Any]) -> list[F32]:
    """Each device's logits."""
    meeting, checkpoint = Meeting(degree), random_checkpoint(graph)

    def device(index: int) -> F32:
        backend = ReferenceBackend(
            shard(graph, index, degree),
            checkpoint,
            all_reduce=lambda value: sum(meeting.meet(index, value)),  # type: ignore[arg-type,return-value]
            all_gather=lambda value: np.concatenate(meeting.meet(index, value), axis=1),
        )
        try:
            return backend.step(one(0, len(tokens)), tokens)
        except BaseException:
            meeting.barrier.abort()  # nobody waits for a device that failed
            raise

    with ThreadPoolExecutor(degree) as pool:
        return list(pool.map(device, range(degree)))


@pytest.mark.parametrize("degree", [2, 8])
@pytest.mark.parametrize("name", CONFIGS)
def test_devices_agree_with_one(name: str, degree: int) -> None:
    graph, tokens = build(name), np.arange(3, 12, dtype=np.int32)
    alone = ReferenceBackend(graph, random_checkpoint(graph)).step(one(0, len(tokens)), tokens)
    for logits in shared(graph, degree, tokens):
        np.testing.assert_allclose(logits, alone, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_are_cut_and_the_rest_is_copied(name: str) -> None:
    """Over two devices, every matrix but the embedding, routers and MLA's down projections is halved."""
    graph = build(name)
    whole = {
        n for n, w in shard(graph, 0, 2).weights().items() if w.shape == graph.weights()[n].shape and len(w.shape) > 1
    }
    roles = {n.split(".")[-2] for n in whole}
    assert roles <= {"token_embd", "ffn_gate_inp", "attn_kv_a_mqa", "attn_q_a", "ffn_down_exps"}
    assert {n.rsplit(".")[-1] for n in whole if "ffn_down_exps" in n} <= {"bias"}


def test_biases_after_a_sum_are_on_the_first_device() -> None:
    names = [set(shard(build("gpt_oss"), i, 2).weights()) for i in range(2)]
    assert names[0] - names[1] == {f"blk.{i}.{n}.bias" for i in range(2) for n in ("attn_output", "ffn_down_exps")}
    assert names[1] <= names[0]


def test_recurrent_layers_are_not_shared_yet() -> None:
    config = {"model_type": "mamba", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "vocab_size": 64, "state_size": 4, "conv_kernel": 4, "time_step_rank": 2, "layer_norm_epsilon": 1e-5,
              "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True}  # fmt: skip
    with pytest.raises(UnsupportedError, match="split it by layers"):
        shard(models.build(HFCheckpoint("", config, [])), 0, 2)
