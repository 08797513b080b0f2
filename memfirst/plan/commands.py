"""A plan as a whole command of its framework: what to paste to run the model so.

Names of options are those of the versions in `tests/data/engine_options.json`, which a test holds them to.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from memfirst.catalog.models import find_model
from memfirst.predict.fitted import TENSOR
from memfirst.transform.sketched import HEAD_FULL

if TYPE_CHECKING:
    from memfirst.plan.result import Plan

NO_ROOM = 999
"""More layers than any model has: all of them on the GPUs."""


def llama_cpp(plan: Plan) -> str:
    """llama-server, of a file on the hub or on this disk."""
    words = ["llama-server", *_gguf(plan), *_llama_sizes(plan)]
    if plan.options.kv != "f16":
        keys, values = plan.options.codecs
        words += ["-fa", "on", "-ctk", keys, "-ctv", values]
    if plan.options.devices > 1:
        words += ["-ngl", str(NO_ROOM), "-sm", "row" if plan.options.parallel == TENSOR else "layer"]
    if by := plan.options.speculation:
        kind = "draft-simple" if by.draft else "ngram-simple"
        words += [*(_draft(by.draft, "-hfd", "-md") if by.draft else ()), "--spec-type", kind]
        words += ["--spec-draft-n-max" if by.draft else "--spec-ngram-simple-size-m", str(by.tokens)]
    return shlex.join(words)


def ik_llama_cpp(plan: Plan) -> str:
    """Its llama-server, which takes files of this disk."""
    words = ["llama-server", "-m", _file(plan), *_llama_sizes(plan)]
    if plan.options.kv != "f16":
        keys, values = plan.options.codecs
        words += ["-ctk", keys, "-ctv", values]
    if plan.options.devices > 1:
        words += ["-ngl", str(NO_ROOM), "-sm", "layer"]
    if (by := plan.options.speculation) and by.draft:
        words += ["-md", f"{_plain(by.draft)}.gguf", "--draft-max", str(by.tokens)]
    return shlex.join(words)


def requantized(plan: Plan) -> str:
    """A file of this disk in another mix, for llama.cpp; "" where the hub has files in many."""
    path = plan.subject.path
    if not path.endswith(".gguf"):
        return ""
    mix = plan.subject.codec.upper()
    made = f"{path.removesuffix('.gguf')}-{mix}.gguf"
    return shlex.join(["llama-quantize", "--allow-requantize", path, made, mix])


def vllm(plan: Plan) -> str:
    """`vllm serve` of the publisher's repository; "" where that is not known."""
    model, options = _served(plan), plan.options
    if not model:
        return ""
    words = ["vllm", "serve", model, "--max-model-len", str(plan.context)]
    words += _quantized(plan)
    words += ["--max-num-seqs", str(plan.asked)] * (plan.asked > 1)
    words += ["--kv-cache-dtype", "fp8"] * options.kv.startswith("f8")
    words += [f"--{options.parallel}-parallel-size", str(options.devices)] * (options.devices > 1)
    if by := options.speculation:
        drafter = find_model(by.draft) if by.draft else None
        if by.draft and drafter is None:
            return ""
        how: dict[str, str | int]
        how = {"model": drafter.publisher} if drafter else {"method": "ngram", "prompt_lookup_max": 4}
        words += [
            "--speculative-config",
            json.dumps(how | {"num_speculative_tokens": by.tokens}, separators=(",", ":")),
        ]
    return shlex.join(words)


QUANTIZED_AT_START = {"fp8": "fp8", "bnb-4bit": "bitsandbytes"}
"""Schemes that vLLM and SGLang make of a plain checkpoint as they load it; others need one that is published so."""


def _quantized(plan: Plan) -> list[str]:
    scheme = QUANTIZED_AT_START.get(plan.subject.codec)
    return ["--quantization", scheme] if scheme and plan.subject.graph is not plan.subject.origin else []


def _served(plan: Plan) -> str:
    """The publisher's repository, where the engine can serve it in the planned codec; else ""."""
    plain = plan.subject.graph is plan.subject.origin or plan.subject.codec in ("bf16", "f16", *QUANTIZED_AT_START)
    return _publisher(plan) if plain else ""


def sglang(plan: Plan) -> str:
    """SGLang's server; "" where no repository is known, and for speculation."""
    model, options = _served(plan), plan.options
    if not model or options.speculation:
        return ""
    words = ["python", "-m", "sglang.launch_server", "--model-path", model, "--context-length", str(plan.context)]
    words += _quantized(plan)
    words += ["--max-running-requests", str(plan.asked)] * (plan.asked > 1)
    words += ["--kv-cache-dtype", "fp8_e4m3"] * options.kv.startswith("f8")
    size = "--tp-size" if options.parallel == TENSOR else "--pp-size"
    words += [size, str(options.devices)] * (options.devices > 1)
    return shlex.join(words)


def tensorrt_llm(plan: Plan) -> str:
    """trtllm-serve of a checkpoint as it is published; "" for others."""
    model, options = _publisher(plan), plan.options
    plain = plan.subject.graph is plan.subject.origin or plan.subject.codec in ("bf16", "f16")
    if not model or not plain or options.speculation or options.kv != "f16":
        return ""
    words = ["trtllm-serve", model, "--max_seq_len", str(plan.context)]
    words += ["--max_batch_size", str(plan.asked)] * (plan.asked > 1)
    size = "--tp_size" if options.parallel == TENSOR else "--pp_size"
    words += [size, str(options.devices)] * (options.devices > 1)
    return shlex.join(words)


def mlx(plan: Plan) -> str:
    """mlx-lm: converted first where the weights are to be quantized; "" where no repository is known."""
    model, codec = _publisher(plan), plan.subject.codec
    if not model or plan.options.batch > 1 or plan.options.speculation or plan.options.devices > 1:
        return ""
    bits = codec.removeprefix("mlx-").removesuffix("bit")
    if not bits.isdecimal():
        plain = plan.subject.graph is plan.subject.origin or codec in ("bf16", "f16")
        return shlex.join(["mlx_lm.server", "--model", model]) if plain else ""
    made = f"{_plain(model)}-{bits}bit"
    convert = ["mlx_lm.convert", "--hf-path", model, "-q", "--q-bits", bits, "--mlx-path", made]
    return f"{shlex.join(convert)} && {shlex.join(['mlx_lm.server', '--model', made])}"


def lm_studio(plan: Plan) -> str:
    """LM Studio's own command, of a repository on the hub; "" where none is known, and for what its app alone sets."""
    repo, options = _repo(plan), plan.options
    if not repo or options.kv != "f16" or options.batch > 1 or options.speculation or options.context:
        return ""
    name, _, quant = repo.rpartition(":")
    get = ["lms", "get", f"https://huggingface.co/{name}@{quant.lower()}"]
    return f"{shlex.join(get)} && lms server start"


def ollama(plan: Plan) -> str:
    """A server with the variables that it is set by, and the model; "" where no repository is known."""
    repo = _repo(plan)
    if not repo:
        return ""
    options = plan.options
    said = {"OLLAMA_CONTEXT_LENGTH": str(plan.context)}
    said |= {"OLLAMA_NUM_PARALLEL": str(options.batch)} if options.batch > 1 else {}
    said |= {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": options.codecs[0]} if options.kv != "f16" else {}
    variables = " ".join(f"{name}={value}" for name, value in said.items())
    return f"{variables} ollama serve & sleep 3; ollama run {shlex.quote(f'hf.co/{repo}')}"


def memfirst(plan: Plan) -> str:
    """`memfirst run`; "" for several sequences, and where no weights are known."""
    options, name = plan.options, plan.subject.typed
    if options.batch > 1 or options.devices > 1:
        return ""
    draft = options.speculation.draft if options.speculation else ""
    if draft and find_model(draft) is None:
        return ""  # no weights of it are known
    if not plan.subject.path:
        entry = find_model(plan.subject.name)
        if entry is None:
            return ""
        quant = plan.subject.codec.upper()
        name = entry.name if quant == entry.quant else f"{entry.name}:{quant}"
    elif plan.subject.graph is not plan.subject.origin:
        return ""  # the file is in another mix
    words = ["memfirst", "run", name]
    words += ["--ctx", str(plan.context)] * bool(options.context)
    words += ["--kv", options.kv] * (options.kv != "f16")
    words += ["--threads", str(options.threads)] * bool(options.threads)
    words += ["--memory", str(options.memory)] * bool(options.memory)
    words += ["--temp", "0", "--head", options.head] * (options.head != HEAD_FULL)
    words += ["--draft", draft] * bool(draft)  # what the text suggests is drafted anyway
    return shlex.join(words)


def _llama_sizes(plan: Plan) -> list[str]:
    options = plan.options
    words = ["-c", str(plan.context * options.batch)]
    words += ["-np", str(options.batch)] * (options.batch > 1)
    return words + ["-t", str(options.threads)] * bool(options.threads)


def _gguf(plan: Plan) -> list[str]:
    repo = _repo(plan)
    return ["-hf", repo] if repo else ["-m", _file(plan)]


def _draft(name: str, hub: str, file: str) -> tuple[str, str]:
    entry = find_model(name)
    return (hub, f"{entry.repo}:{entry.quant}") if entry else (file, f"{_plain(name)}.gguf")


def _repo(plan: Plan) -> str:
    """ "owner/repo:QUANT" on the hub; "" for files of this disk, and where none is known."""
    if plan.subject.path:
        return ""
    quant, asked = plan.subject.codec.upper(), _asked(plan)
    if asked.lower().endswith("gguf"):
        return f"{asked}:{quant}"
    entry = find_model(plan.subject.name)
    return f"{entry.repo}:{quant}" if entry else ""


def _asked(plan: Plan) -> str:
    """ "owner/repo" where one was asked for, as an address or by name."""
    found = re.fullmatch(
        r"(?:hf:|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w.-]+/[\w.-]+)(?:[:/?#].*)?",
        plan.subject.asked or plan.subject.name,
    )
    return found[1] if found else ""


def _publisher(plan: Plan) -> str:
    if plan.subject.path and not plan.subject.path.endswith((".gguf", ".json")):
        return plan.subject.path
    asked = _asked(plan)
    if asked and not asked.lower().endswith("gguf"):
        return asked
    entry = find_model(plan.subject.name)
    return entry.publisher if entry else ""


def _file(plan: Plan) -> str:
    """The file's path, or its name as those who make them write it."""
    if plan.subject.path.endswith(".gguf"):
        return plan.subject.path
    repo = _repo(plan).rpartition(":")[0].rpartition("/")[2]
    stem = re.sub(r"[-_.]gguf$", "", repo, flags=re.IGNORECASE) or _plain(_called(plan))
    return f"{stem}-{plan.subject.codec.upper()}.gguf"


def _called(plan: Plan) -> str:
    """The model's name; of a config.json that of its folder, of another .json what it is called."""
    path = Path(plan.subject.path)
    if path.suffix != ".json":
        return plan.subject.name
    return path.stem if path.stem != "config" else path.resolve().parent.name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2])
