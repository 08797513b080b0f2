"""Names of models as people and publishers write them, and the closest ones to those that mean nothing."""

from __future__ import annotations

import pytest

from memfirst.catalog.configs import find_config, look_up
from memfirst.errors import ModelNotFoundError

MEANT = {
    "llama-3.1:8b": [
        "llama-3.1:8b", "Llama3.1", "llama3.1:8b", "llama3.1:8b-instruct-q8_0",
        "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
        "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct",
        "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct/tree/main",
        "hf:unsloth/Llama-3.1-8B-Instruct-GGUF", "llama3.1:8b-instruct-fp16", "Llama 3.1 8B",
    ],
    "llama-3:8b": ["Meta-Llama-3-8B", "llama3"],
    "llama-3:70b": ["llama3:70b"],
    "llama-3.3:70b": ["llama3.3", "llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct"],
    "llama-3.2:1b": ["llama3.2:1b"],
    "llama-3.2:3b": ["llama-3.2-3b-instruct"],
    "llama-2:13b": ["llama2:13b"],
    "llama-2:7b": ["Llama-2-7b-chat-hf"],
    "llama-2:70b": ["meta-llama/Llama-2-70b-chat-hf"],
    "codellama:13b": ["codellama:13b-instruct"],
    "tinyllama:1.1b": ["tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"],
    "deepseek-r1:7b": ["deepseek-r1:7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"],
    "deepseek-r1:1.5b": ["deepseek-r1:1.5b"],
    "deepseek-r1:8b": ["deepseek-r1:8b"],
    "deepseek-r1-distill-qwen:14b": ["deepseek-r1:14b"],
    "deepseek-r1:32b": ["deepseek-r1:32b"],
    "deepseek-r1:70b": ["deepseek-r1:70b"],
    "deepseek-r1:671b": ["deepseek-r1", "deepseek-ai/DeepSeek-R1-0528"],
    "deepseek-r1-distill-llama:8b": ["deepseek-ai/DeepSeek-R1-Distill-Llama-8B"],
    "deepseek-v3:671b": ["deepseek-ai/DeepSeek-V3-0324"],
    "deepseek-v3.1:671b": ["DeepSeek-V3.1"],
    "kimi-k2.5:1t": ["kimi-k2.5", "moonshotai/Kimi-K2-Thinking"],
    "glm-4.7-flash:30b-a3b": ["glm-4.7-flash", "zai-org/GLM-4.7-Flash"],
    "ministral-3:3b": ["ministral-3:3b", "mistralai/Ministral-3-3B-Instruct-2512"],
    "ministral-3:14b": ["mistralai/Ministral-3-14B-Instruct-2512"],
    "devstral-small-2:24b": ["devstral-small-2", "mistralai/Devstral-Small-2-24B-Instruct-2512"],
    "granite-4.0-h:small": ["ibm-granite/granite-4.0-h-small"],
    "olmo-3:32b": ["allenai/Olmo-3.1-32B-Instruct"],
    "kimi-k2:1t": ["moonshotai/Kimi-K2-Instruct-0905"],
    "qwen3-vl:8b": ["qwen3-vl", "Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl:8b-thinking-q4_K_M"],
    "qwen3-vl:30b-a3b": ["Qwen/Qwen3-VL-30B-A3B-Instruct"],
    "qwen2.5-vl:7b": ["qwen2.5vl", "Qwen/Qwen2.5-VL-7B-Instruct"],
    "mistral-large-3:675b": ["mistral-large-3", "mistralai/Mistral-Large-3-675B-Instruct-2512"],
    "mistral-medium-3.5:128b": ["mistral-medium-3.5", "unsloth/Mistral-Medium-3.5-128B-GGUF:Q4_K_M"],
    "mimo-v2-flash:309b-a15b": ["mimo-v2", "XiaomiMiMo/MiMo-V2-Flash"],
    "trinity-mini:26b-a3b": ["afmoe", "arcee-ai/Trinity-Mini-GGUF"],
    "apertus:8b": ["apertus", "swiss-ai/Apertus-8B-Instruct-2509"],
    "command-r:35b": ["command-r", "CohereForAI/c4ai-command-r-v01"],
    "command-r-plus:104b": ["command-r-plus", "Command R+", "CohereLabs/c4ai-command-r-plus-08-2024"],
    "command-a:111b": ["command-a", "CohereLabs/c4ai-command-a-03-2025"],
    "longcat-flash:560b-a27b": ["longcat-flash", "meituan-longcat/LongCat-Flash-Chat"],
    "ling-mini-2.0:16b-a1.4b": ["inclusionAI/Ling-mini-2.0", "ring-mini-2.0"],
    "nemotron-3-ultra:550b-a55b": ["nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", "nemotron-3-ultra"],
    "gemma-3:27b": ["gemma3:27b", "google/gemma-3-27b-it", "unsloth/gemma-3-27b-it-GGUF:UD-Q4_K_XL"],
    "gemma-3:4b": ["gemma3:4b-it-qat", "gemma3"],
    "gemma-3:12b": ["google/gemma-3-12b-it-qat-q4_0-gguf"],
    "gemma-2:9b": ["gemma2:9b"],
    "gemma-2:27b": ["google/gemma-2-27b-it"],
    "gemma-3:270m": ["gemma3:270m"],
    "gemma-4:12b": ["gemma4:12b", "google/gemma-4-12B-it"],
    "gemma-4:31b": ["gemma4:31b", "unsloth/gemma-4-31B-it-GGUF:UD-Q4_K_XL"],
    "gemma-4:26b-a4b": ["gemma4:26b", "google/gemma-4-26B-A4B-it"],
    "gemma-4:e4b": ["gemma4", "gemma4:e4b"],
    "gemma-4:e2b": ["gemma4:e2b", "google/gemma-4-E2B-it"],
    "qwen3:8b": ["qwen3", "qwen3:latest", "Qwen3 8B Q8_0"],
    "qwen3:30b-a3b": ["qwen3:30b", "qwen3:30b-a3b"],
    "qwen3:30b-a3b-2507": ["Qwen/Qwen3-30B-A3B-Instruct-2507"],
    "qwen3:235b-a22b": ["Qwen/Qwen3-235B-A22B"],
    "qwen3-coder:30b-a3b": [
        "qwen3-coder", "qwen3-coder:30b", "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M",
    ],
    "qwen3.5:0.8b": ["Qwen/Qwen3.5-0.8B-Base"],
    "qwen3.5:9b": ["qwen3.5", "qwen3.5:9b", "Qwen/Qwen3.5-9B", "unsloth/Qwen3.5-9B-GGUF:Q4_K_M"],
    "qwen3.5:27b": ["Qwen/Qwen3.5-27B", "unsloth/Qwen3.5-27B-GGUF:UD-Q4_K_XL"],
    "qwen3.6:27b": ["Qwen3.6-27B", "Qwen/Qwen3.6-27B"],
    "qwen3.8:27b": ["qwen3.8-27b", "unsloth/Qwen3.8-27B-GGUF:UD-Q4_K_XL"],
    "qwen3.5:35b-a3b": ["qwen3.5:35b"],
    "qwen3.6:35b-a3b": ["qwen3.6:35b", "Qwen/Qwen3.6-35B-A3B", "hf.co/unsloth/Qwen3.6-35B-A3B-GGUF:Q4_K_M"],
    "qwen3.5:397b-a17b": ["Qwen/Qwen3.5-397B-A17B"],
    "qwen3-next:80b-a3b": ["qwen3-next-80b-a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct"],
    "qwen3-coder-next:80b-a3b": ["qwen3-coder-next", "Qwen/Qwen3-Coder-Next"],
    "qwen1.5-moe:a2.7b": ["Qwen/Qwen1.5-MoE-A2.7B-Chat"],
    "olmoe:1b-7b": ["allenai/OLMoE-1B-7B-0125-Instruct"],
    "glm-4.5-air:106b-a12b": ["glm-4.5-air", "zai-org/GLM-4.5-Air", "unsloth/GLM-4.5-Air-GGUF:Q4_K_M"],
    "glm-4.6:355b-a32b": ["glm-4.6", "zai-org/GLM-4.7"],
    "minimax-m2:230b-a10b": ["minimax-m2", "MiniMaxAI/MiniMax-M2.5"],
    "ernie-4.5:21b-a3b": ["baidu/ERNIE-4.5-21B-A3B-PT"],
    "granite-3.1-moe:3b": ["granite3.1-moe:3b"],
    "hunyuan-a13b:80b": ["tencent/Hunyuan-A13B-Instruct"],
    "qwen2.5:7b": ["qwen2.5:7b-instruct"],
    "qwen2.5:72b": ["Qwen/Qwen2.5-72B-Instruct"],
    "qwen2.5-coder:32b": ["qwen2.5-coder:32b"],
    "qwen2.5-coder:7b": ["Qwen/Qwen2.5-Coder-7B-Instruct"],
    "qwq:32b": ["qwq", "Qwen/QwQ-32B"],
    "qwen2:7b": ["qwen2:7b"],
    "phi-4:14b": ["phi4", "microsoft/phi-4"],
    "phi-4:mini": ["phi4-mini", "microsoft/Phi-4-mini-instruct"],
    "phi-3.5:mini": ["microsoft/Phi-3.5-mini-instruct"],
    "phi-3:mini-4k": ["phi3:mini"],
    "mistral:7b-v0.3": [
        "mistral", "mistral:7b", "mistral:7b-instruct-v0.3-q4_K_M", "mistralai/Mistral-7B-Instruct-v0.3",
    ],
    "mistral-nemo:12b": ["mistral-nemo", "mistralai/Mistral-Nemo-Instruct-2407"],
    "mistral-small-3:24b": ["mistral-small"],
    "mistral-small-3.1:24b": ["mistral-small3.1", "mistralai/Mistral-Small-3.1-24B-Instruct-2503"],
    "mistral-small-3.2:24b": ["mistralai/Mistral-Small-3.2-24B-Instruct-2506"],
    "mixtral:8x7b": ["mixtral:8x7b", "mistralai/Mixtral-8x7B-Instruct-v0.1"],
    "mixtral:8x22b": ["mixtral:8x22b"],
    "codestral:22b": ["codestral"],
    "devstral:24b": ["devstral"],
    "gpt-oss:20b": ["gpt-oss:20b", "gpt-oss", "gpt-oss-20b", "ggml-org/gpt-oss-20b-GGUF"],
    "gpt-oss:120b": ["openai/gpt-oss-120b"],
    "smollm2:1.7b": ["smollm2:1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"],
    "smollm3:3b": ["SmolLM3-3B"],
    "granite-3.3:8b": ["granite3.3:8b"],
    "granite-4.0-h:tiny": ["ibm-granite/granite-4.0-h-tiny"],
    "granite-4.0:micro": ["granite4"],
    "olmo-2:7b": ["olmo2:7b", "allenai/OLMo-2-1124-7B-Instruct"],
    "olmo-3:7b": ["allenai/Olmo-3-7B-Instruct"],
    "command-r:7b": ["command-r7b", "CohereForAI/c4ai-command-r7b-12-2024"],
    "starcoder2:15b": ["starcoder2:15b"],
    "yi:34b": ["yi:34b"],
    "falcon-3:7b": ["falcon3:7b"],
    "mamba:2.8b": ["state-spaces/mamba-2.8b"],
    "seed-oss:36b": ["ByteDance-Seed/Seed-OSS-36B-Instruct"],
    "exaone-4.0:32b": ["LGAI-EXAONE/EXAONE-4.0-32B"],
    "glm-4:9b": ["THUDM/GLM-4-9B-0414"],
    "ministral-3:8b": ["mistralai/Ministral-3-8B-Instruct-2512"],
    "zephyr:7b": ["zephyr"],
    "deepseek-coder:6.7b": ["deepseek-coder:6.7b"],
    "deepseek-coder-v2:16b": ["deepseek-coder-v2"],
    "deepseek-v2:236b": ["deepseek-v2"],
    "llama-3.1:405b": ["llama3.1:405b"],
    "nemotron:70b": ["nvidia/Llama-3.1-Nemotron-70B-Instruct-HF"],
    "hermes-3:8b": ["NousResearch/Hermes-3-Llama-3.1-8B"],
    "mistral-large:123b": ["mistral-large"],
    "phi-2:2.7b": ["microsoft/phi-2"],
    "qwen3:4b-2507": ["Qwen/Qwen3-4B-Instruct-2507"],
}  # fmt: skip
"""By row of the catalogue: publishers' repositories, Ollama's tags, addresses, file names of llama.cpp's users."""

TYPED = {
    "llama-3.1:8b": ["llama3.1", "llama 3.1 8b"],
    "llama-3:8b": ["llama3:8b"],
    "llama-3.3:70b": ["llama3.3:70b-instruct-q4_K_M", "bartowski/meta-llama_Llama-3.3-70B-Instruct-GGUF"],
    "gpt-oss:120b": ["gpt-oss-120b"],
    "gpt-oss:20b": ["openai/gpt-oss-20b"],
    "qwen3-coder:480b-a35b": ["Qwen3-Coder-480B-A35B-Instruct"],
    "qwen3-coder-next:80b-a3b": ["unsloth/Qwen3-Coder-Next-GGUF"],
    "qwen2.5-coder:7b": ["qwen2.5-coder:7b"],
    "qwen2.5:0.5b": ["qwen2.5:0.5b"],
    "mistral-small-3.2:24b": ["mistral-small3.2"],
    "deepseek-v3.1:671b": ["deepseek-ai/DeepSeek-V3.1"],
    "deepseek-r1:32b": ["deepseek-r1-distill-qwen-32b"],
    "deepseek-r1:671b": ["DeepSeek-R1-0528"],
    "kimi-k2.5:1t": ["kimi-k2-thinking"],
    "minimax-m2:230b-a10b": ["MiniMaxAI/MiniMax-M2"],
    "smollm3:3b": ["smollm3"],
    "granite-4.0-h:tiny": ["granite4:tiny-h"],
    "nemotron-3-nano:30b-a3b": ["nemotron-3-nano"],
    "nemotron-nano:9b-v2": ["nvidia/NVIDIA-Nemotron-Nano-9B-v2"],
    "codellama:13b": ["codellama:13b"],
    "lfm2:8b-a1b": ["LiquidAI/LFM2-8B-A1B"],
    "olmo-3:7b": ["olmo-3-7b-think"],
    "qwen3.5:27b": ["qwen3.5:27b"],
    "gemma-4:31b": ["google/gemma-4-31B-it"],
    "ministral-3:8b": ["ministral-3:8b"],
    "exaone-4.0:32b": ["exaone4"],
    "starcoder2:7b": ["starcoder2:7b"],
    "llama-3.2:3b": ["meta-llama/Llama-3.2-3B-Instruct"],
    "gemma-3:4b": ["https://ollama.com/library/gemma3"],
    "mistral:7b-v0.2": ["TheBloke/Mistral-7B-Instruct-v0.2-GGUF"],
    "hermes-3:8b": ["hermes3:8b"],
    "gemma-3:27b": ["google_gemma-3-27b-it", "bartowski/google_gemma-3-27b-it-GGUF:Q4_K_M"],
    "qwen3:8b": ["bartowski/Qwen_Qwen3-8B-GGUF"],
    "phi-4:mini": ["microsoft/Phi-4-mini-reasoning"],
    "qwen3:4b-thinking-2507": ["Qwen/Qwen3-4B-Thinking-2507"],
}
"""Others, written down before the catalogue was looked at."""

NEWEST = {
    "DeepSeek-V4-Flash": "deepseek-v4-flash:284b", "deepseek-ai/DeepSeek-V4-Pro": "deepseek-v4-pro:1.6t",
    "unsloth/DeepSeek-V3.2-GGUF:Q2_K": "deepseek-v3.2:671b", "deepseek-v3.2-exp": "deepseek-v3.2:671b",
    "zai-org/GLM-5": "glm-5:744b", "glm-5.2": "glm-5.2:744b", "glm5.3": "glm-5.2:744b",
    "moonshotai/Kimi-K3": "kimi-k3:2.8t", "kimi_k3": "kimi-k3:2.8t",
    "moonshotai/Kimi-Linear-48B-A3B-Instruct": "kimi-linear:48b-a3b", "kimi-linear": "kimi-linear:48b-a3b",
    "MiniMaxAI/MiniMax-M3": "minimax-m3:428b-a23b", "minimax m3": "minimax-m3:428b-a23b",
    "poolside/Laguna-XS.2": "laguna-xs:33b-a3b", "laguna-xs": "laguna-xs:33b-a3b", "laguna": "laguna-xs:33b-a3b",
    "Laguna-XS-2.1-Q4_K_M": "laguna-xs:33b-a3b", "poolside/Laguna-S-2.1": "laguna-s-2.1:118b-a8b",
    "laguna-m.1": "laguna-m:230b-a10b", "stepfun-ai/Step-3.7-Flash": "step-3.7-flash:197b-a11b",
    "step3.5-flash": "step-3.7-flash:197b-a11b", "step-3.7": "step-3.7-flash:197b-a11b",
    "mistralai/Mistral-Small-4-119B-2603": "mistral-small-4:119b", "mistral-small4": "mistral-small-4:119b",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "nemotron-3-super:120b-a12b",
    "nemotron-3-super:120b": "nemotron-3-super:120b-a12b", "inclusionAI/Ling-3.0-flash": "ling-3.0-flash:124b-a5.1b",
    "ling-3": "ling-3.0-flash:124b-a5.1b", "muse-glimmer": "muse-glimmer:30b",
    "meta-models/Muse-Glimmer-30B": "muse-glimmer:30b", "Qwen/Qwen3.8-Flash-Next": "qwen3.8-flash-next:177b",
    "google/gemma-3n-E4B-it": "gemma-3n:e4b", "gemma3n:e2b": "gemma-3n:e2b", "gemma3n": "gemma-3n:e4b",
    "gemma-3n-E2B-it-Q8_0": "gemma-3n:e2b", "ibm-granite/granite-4.1-8b": "granite-4.1:8b",
}  # fmt: skip
"""What is priced and not run, or new in November 2026: written down before the catalogue had them."""


@pytest.mark.parametrize(("name", "row"), NEWEST.items())
def test_the_newest_are_found_as_people_type_them(name: str, row: str) -> None:
    assert find_config(name).name == row


ELSEWHERE = [
    "deepseek-v3.9",
    "llama4:behemoth",
    "mlx-community/Qwen3-8B-4bit",
    "Qwen/Qwen2.5-7B-Instruct-AWQ",
    "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
]
"""Of the same list: no shape of them is known, or the hub says their bytes."""

STATED = {
    "llama3.1:8b-instruct-q8_0": "q8_0", "qwen3:8b-q4_K_M": "q4_k_m", "llama-3:8b:Q6_K": "q6_k",
    "Qwen3 8B Q8_0": "q8_0",
    "llama3.1:8b-instruct-fp16": "f16", "hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:IQ4_XS": "iq4_xs",
    "unsloth/gemma-3-27b-it-GGUF:UD-Q4_K_XL": "ud-q4_k_xl", "google/gemma-3-12b-it-qat-q4_0-gguf": "q4_0",
    "gpt-oss-20b-MXFP4": "mxfp4", "meta-llama/Llama-3.1-8B": "", "qwen3:latest": "", "mixtral:8x7b": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for table in (MEANT, TYPED) for row, names in table.items() for name in names]
)
def test_what_a_name_means(row: str, name: str) -> None:
    assert find_config(name).name == row


@pytest.mark.parametrize(("name", "mix"), STATED.items())
def test_the_quantization_that_a_name_states(name: str, mix: str) -> None:
    found = look_up(name)
    assert found is not None and found[1] == mix


@pytest.mark.parametrize(
    ("name", "close"),
    [("lama-3.1:8b", "llama-3.1:8b"), ("qwen3:9b", "qwen3:"), ("gemma3:28b", "gemma-3:"), ("mistrall", "mistral"),
     ("meta-llama/Llama-5-Scout", "llama"), ("smollm2:137m", "smollm2:135m")],
)  # fmt: skip
def test_a_name_that_means_nothing_gets_the_closest(name: str, close: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"something like .*{close}"):
        find_config(name)


@pytest.mark.parametrize(
    "name",
    ["./llama-3.1-8b", "/models/qwen3-8b",
     "~/gemma-3-27b", "Qwen3-8B-Q4_K_M.gguf", "llama-3.1-8b/config.json", "", "8b", "llama-3.1:9b",
     "someone/Llama-3.1-8B-Uncensored-Merge", "Qwen/Qwen3-8B-AWQ", "nvidia/Llama-3.1-8B-Instruct-FP8"],
)  # fmt: skip
def test_paths_and_other_models_are_no_names(name: str) -> None:
    """A fine-tune may have another shape, and AWQ or FP8 other bytes: the hub says, not the catalogue."""
    assert look_up(name) is None


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_the_catalogue_has_not_gets_the_closest_names(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="something like "):
        find_config(name)
