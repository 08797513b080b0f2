"""Every line of advice of 68 plans: a whole command with the model in it, of options that its engine has today."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from memfirst.catalog.configs import find_config
from memfirst.catalog.models import models
from memfirst.cli.app import command
from memfirst.cli.plan_page import page
from memfirst.hardware.machines import find_machine
from memfirst.plan import Options, Plan, Speculation, make, place, subject
from memfirst.plan.advice import Advice, advise, best
from memfirst.plan.advice import change as changes
from memfirst.plan.framework import FRAMEWORKS

KNOWN = json.loads((Path(__file__).parent.parent / "data" / "engine_options.json").read_text())

MODELS = ("llama3.1:8b", "llama3.3:70b", "qwen3:30b-a3b", "gemma3:27b", "gpt-oss:120b")
MACHINES = ("rtx 4090", "rtx 4060", "macbook pro m3 max 36gb", "epyc genoa", "2x3090", "laptop-ddr5 16gb")
MORE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama3.1:8b", "h100", {"engine": "vllm", "batch": 64, "context": 16384}),
    ("llama3.1:8b", "rtx 4060", {"engine": "vllm"}),
    ("llama3.3:70b", "8xh100", {"engine": "vllm", "batch": 32}),
    ("qwen3:8b", "rtx 4070", {"engine": "vllm", "codec": "f16"}),
    ("gemma3:4b", "h100", {"engine": "vllm", "context": 32768, "batch": 8}),
    ("llama3.1:8b", "rtx 3060 12gb", {"engine": "ollama", "context": 32768}),
    ("gpt-oss:120b", "rtx 5090", {"engine": "ollama"}),
    ("llama3.1:8b", "macbook air m2 16gb", {"engine": "ollama", "batch": 4}),
    ("llama3.1:8b", "epyc genoa", {"engine": "memfirst"}),
    ("llama3.1:405b", "epyc milan 256gb", {"engine": "memfirst", "codec": "q8_0"}),
    ("qwen3:32b", "rtx 4090", {"engine": "ik_llama.cpp"}),
    ("deepseek-v3", "epyc turin 384gb", {"engine": "ik_llama.cpp"}),
    ("mamba:2.8b", "rtx 4060", {}),
    ("smollm2:135m", "rtx 5090", {}),
    ("llama3.1:8b", "rtx 4090", {"context": 131072, "kv": "q8_0/q4_0"}),
    ("llama3:70b", "h100", {"speculation": Speculation(4, 0.7, "llama-3.2:1b")}),
    ("meta-llama/Llama-3.1-8B-Instruct", "rtx 4090", {"codec": "f16"}),
    ("llama3.1:8b", "rtx 4090", {"engine": "sglang"}),
    ("llama3.3:70b", "8xh100", {"engine": "sglang", "codec": "fp8", "batch": 16}),
    ("qwen3:8b", "h100", {"engine": "tensorrt-llm"}),
    ("llama3.1:8b", "m3 max", {"engine": "mlx", "codec": "mlx-8bit"}),
    ("qwen3:32b", "m4 pro", {"codec": "mlx-4bit"}),
    ("qwen3:8b", "rtx 3090", {"codec": "awq"}),
    ("qwen3:8b", "rtx 3090", {"engine": "exllama", "codec": "gptq-int4"}),
    ("qwen3:8b", "rtx 4070", {"engine": "lm-studio"}),
    ("smollm2:135m", "laptop-ddr5 16gb", {"engine": "memfirst"}),
    ("qwen3:4b", "raspberry pi 5 8gb", {"engine": "memfirst"}),
    ("gpt-oss:20b", "ryzen 9 7950x", {"engine": "memfirst", "context": 32768}),
    ("gpt-oss:120b", "laptop-ddr5 32gb", {"engine": "memfirst"}),
    ("qwen3:30b-a3b", "ryzen 9 7950x", {"engine": "memfirst", "batch": 4}),
    ("gemma3:27b", "intel n150 16gb", {"engine": "memfirst", "threads": 2}),
    ("mistral:7b", "ryzen 9 7950x", {"engine": "memfirst", "speculation": Speculation(4, 0.7, "llama-3.2:1b")}),
    ("llama3.2:3b", "core i9 14900k", {"engine": "memfirst", "kv": "q4_0"}),
    ("granite-4.0-h:tiny", "xeon 8480", {"engine": "memfirst"}),
    ("deepseek-r1:7b", "g5.xlarge", {}),
    ("mistral-small3.2", "framework desktop", {}),
    ("qwen3-coder:30b", "dgx spark", {"context": 65536}),
    ("llama3.3:70b", "mac studio m3 ultra", {"engine": "mlx"}),
)
CASES = [*((model, machine, {}) for model, machine in product(MODELS, MACHINES)), *MORE]


@cache
def planned(index: int) -> tuple[Plan, tuple[Advice, ...]]:
    model, machine, options = CASES[index]
    plan = make(subject(model, options.get("codec", ""), options.get("engine", "")), place(machine), Options(**options))
    return plan, advise(plan)


def options_of(words: list[str]) -> list[str]:
    """Those words that are options."""
    return [w for w in words if re.fullmatch(r"--?[A-Za-z][\w-]*", w)]


def check_llama_server(words: list[str], plan: Plan) -> None:
    known = KNOWN["ik_llama.cpp" if plan.engine == "ik_llama.cpp" else "llama-server"]
    assert set(options_of(words)) <= set(known["options"])
    pairs = dict(pairwise(words))
    where = pairs.get("-hf") or pairs["-m"]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+:[A-Z0-9_]+", where) or where.endswith(".gguf")
    assert int(pairs["-c"]) >= 256 and pairs.get("-sm", "layer") in known["-sm"]
    assert {pairs.get("-ctk", "f16"), pairs.get("-ctv", "f16")} <= set(KNOWN["llama-server"]["cache types"])
    if "--spec-type" in pairs:
        assert pairs["--spec-type"] in known["--spec-type"]
        assert ("-hfd" in pairs) == pairs["--spec-type"].startswith("draft")


def check_vllm(words: list[str]) -> None:
    assert words[:2] == ["vllm", "serve"] and re.fullmatch(r"[\w.-]+/[\w.-]+", words[2])
    assert set(options_of(words)) <= set(KNOWN["vllm"]["options"])
    pairs = dict(pairwise(words))
    assert pairs.get("--kv-cache-dtype", "fp8") in KNOWN["vllm"]["--kv-cache-dtype"]
    if said := pairs.get("--speculative-config"):
        config = json.loads(said)
        assert config["num_speculative_tokens"] > 0 and ("/" in config.get("model", "/"))


def check_known(words: list[str], plan: Plan) -> None:
    """Of engines whose lines are simple: options of theirs, and a repository or a folder that the line itself makes."""
    name = "sglang" if "sglang.launch_server" in words else words[0]
    assert set(options_of(words)) <= set(KNOWN[name]["options"])
    pairs = dict(pairwise(words))
    where = pairs.get("--model-path") or pairs.get("--hf-path") or pairs.get("--model") or words[1]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+|[\w.-]+-\dbit", where)
    assert pairs.get("--kv-cache-dtype", "auto") in KNOWN["sglang"]["--kv-cache-dtype"]
    assert pairs.get("--quantization", "fp8") in KNOWN["sglang"]["--quantization"]


def check_ollama(line: str) -> None:
    serve, run = re.fullmatch(r"(.*) ollama serve & sleep \d+; (ollama run .*)", line).groups()  # type: ignore[union-attr]
    said = dict(word.split("=") for word in serve.split())
    assert said.keys() <= set(KNOWN["ollama"]["variables"])
    assert said.get("OLLAMA_KV_CACHE_TYPE", "f16") in KNOWN["ollama"]["OLLAMA_KV_CACHE_TYPE"]
    assert re.fullmatch(r"ollama run hf\.co/[\w.-]+/[\w.-]+:[A-Z0-9_]+", run)


def check_memfirst(words: list[str]) -> None:
    """memfirst's own parser takes it: the command, each option and its value."""
    there = command().commands[words[1]]
    with there.make_context(words[1], words[2:]) as context:
        assert find_config(str((context.params.get("models") or [context.params.get("model")])[0]))


def check(line: str, plan: Plan) -> None:
    words = shlex.split(line)
    if line.startswith("mlx_lm.convert"):
        made, served = line.split(" && ")
        check_known(shlex.split(made), plan)
        check_known(shlex.split(served), plan)
        assert shlex.split(made)[-1] == shlex.split(served)[-1]
    elif line.startswith("lms get"):
        assert re.fullmatch(r"lms get https://huggingface\.co/[\w.-]+/[\w.-]+@[a-z0-9_]+ && lms server start", line)
    elif words[0] in ("trtllm-serve", "mlx_lm.server") or "sglang.launch_server" in words:
        check_known(words, plan)
    elif "ollama serve" in line:
        check_ollama(line)
    elif words[0] == "llama-server":
        check_llama_server(words, plan)
    elif words[0] == "vllm":
        check_vllm(words)
    else:
        assert words[0] == "memfirst"
        check_memfirst(words)


def test_these_are_sixty_plans_and_more() -> None:
    assert len(CASES) >= 60 and {planned(i)[0].fits for i in range(len(CASES))} == {True, False}
    assert sum(len(planned(i)[1]) for i in range(len(CASES))) > 150
    assert {planned(i)[0].engine for i in range(len(CASES))} >= FRAMEWORKS.keys() - {"vllm-hybrid"}


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0]} on {CASES[i][1]}")
def test_every_line_is_a_whole_command_of_today(index: int) -> None:
    plan, found = planned(index)
    mine = changes.command(plan)
    for advice in found:
        line = advice.flags or advice.command
        check(line, plan)
        assert line != mine, "nobody is told to do what he just did"
        if advice.flags and advice.after:
            context = advice.after.context * (advice.after.options.batch if "llama-server" in line else 1)
            assert str(context) in line or advice.after.engine in ("memfirst", "mlx", "lm-studio")


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0]} on {CASES[i][1]}")
def test_no_advice_leaves_the_memory_or_the_engines_machines(index: int) -> None:
    plan, found = planned(index)
    for advice in found:
        if advice.after:
            where = advice.after.place
            assert advice.after.fits and advice.after.memory.spare >= 0
            assert advice.after.framework.runs_on(where.machine) or where is plan.place
            more = advice.after.options.devices > plan.options.devices
            assert not more or where.machine.link, "nothing is shared over nothing"
        elif plan.available:
            assert advice.memory <= plan.available


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0]} on {CASES[i][1]}")
def test_no_speed_is_printed_as_nothing(index: int) -> None:
    plan, found = planned(index)
    text = page(plan, best(found, 6), 0)
    assert not re.search(r"(?<![\d.,])0(?:\.0+)? tok/s", text) and "tok/s, not 0" not in text
    assert not re.search(r"\de[+-]\d", text), "no exponents"


def test_what_engines_have_removed_is_used_nowhere() -> None:
    for i in range(len(CASES)):
        for advice in planned(i)[1]:
            if planned(i)[0].engine == "llama.cpp":
                assert not set(KNOWN["llama-server"]["removed"]) & set(shlex.split(advice.flags))


def test_the_recorded_options_are_those_of_a_real_llama_server() -> None:
    """What is pasted works with the program that is installed: each option of our lines is in its help, and none of
    those is described as removed."""
    server = os.environ.get("MEMFIRST_LLAMA_SERVER") or which("llama-server")
    if not server:
        pytest.skip("no llama-server: put it on the PATH, or name it in MEMFIRST_LLAMA_SERVER")
    text = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    there: set[str] = set()
    for block in re.split(r"\n(?=-)", text):
        names = re.split(r"\s{2,}", re.sub(r"(?<=,)\s+", " ", block.partition("\n")[0]))[0]
        there |= set() if "has been removed" in block else set(re.findall(r"(?:^|, )(--?[A-Za-z][\w-]*)", names))
    lines = [a.flags for i in range(len(CASES)) if planned(i)[0].engine == "llama.cpp" for a in planned(i)[1]]
    used = {o for line in lines if line.startswith("llama-server") for o in options_of(shlex.split(line))}
    assert len(used) >= 8 and used <= there, sorted(used - there)
    assert used <= set(KNOWN["llama-server"]["options"])


def test_files_of_this_disk_are_named_and_requantized(tmp_path: Path) -> None:
    from memfirst.convert.synthetic import synthetic, write

    path = tmp_path / "tiny.gguf"
    write(synthetic("tiny-llama", "q8_0"), path)
    plan = make(subject(str(path)), place("rtx-4090"), Options())
    lines = {a.kind: a.flags for a in advise(plan)}
    words = shlex.split(lines["codec"])
    made = str(tmp_path / "tiny-Q4_K_M.gguf")
    assert words == ["llama-quantize", "--allow-requantize", str(path), made, "Q4_K_M"]
    assert words[1] in KNOWN["llama-quantize"]["options"] and words[-1] in KNOWN["llama-quantize"]["types"]
    assert shlex.split(lines["kv"])[:3] == ["llama-server", "-m", str(path)]


def test_a_repository_that_was_asked_for_is_the_one_that_is_run() -> None:
    for asked, engine, said in (
        ("unsloth/Qwen3-8B-GGUF:Q6_K", "llama.cpp", "-hf unsloth/Qwen3-8B-GGUF:Q6_K"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "vllm", "vllm serve Qwen/Qwen3-8B "),
    ):
        plan = make(subject(asked, engine=engine), place("h100"), Options(engine=engine))
        kv = next(a for a in advise(plan) if a.kind == "kv")
        assert said in kv.flags


def test_every_repository_has_its_publisher() -> None:
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", m.publisher) and m.publisher != m.repo for m in models())


def test_engines_run_where_they_can() -> None:
    vllm, ours, llama = FRAMEWORKS["vllm"], FRAMEWORKS["memfirst"], FRAMEWORKS["llama.cpp"]
    assert vllm.runs_on(find_machine("rtx 3060")) and not vllm.runs_on(find_machine("epyc genoa"))
    assert not vllm.runs_on(find_machine("p40")) and not vllm.runs_on(find_machine("m3 max"))
    assert ours.runs_on(find_machine("raspberry pi 5")) and not ours.runs_on(find_machine("4090"))
    assert llama.runs_on(find_machine("m3 max")) and llama.runs_on(find_machine("mi60"))
    mlx, trt = FRAMEWORKS["mlx"], FRAMEWORKS["tensorrt-llm"]
    assert mlx.runs_on(find_machine("m3 max")) and not mlx.runs_on(find_machine("dgx spark"))
    assert trt.runs_on(find_machine("h100")) and not trt.runs_on(find_machine("mi300x"))


def test_weights_that_no_gguf_file_holds_are_run_by_an_engine_that_does(tmp_path: Path) -> None:
    """A config.json that states AWQ: vLLM by default; for llama.cpp it is priced, no file of it is made up."""
    config = dict(find_config("qwen3:8b").config) | {
        "architectures": ["Qwen3ForCausalLM"],
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    }
    path = tmp_path / "Qwen3-8B-AWQ" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    usual = make(subject(str(path)), place("rtx-4090"), Options())
    assert usual.engine == "vllm" and usual.subject.codec == "awq"
    other = make(subject(str(path)), place("rtx-4090"), Options(engine="llama.cpp"))
    assert other.engine == "llama.cpp" and not any("AWQ.gguf" in a.flags or ":AWQ" in a.flags for a in advise(other))
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
    plain = advise(make(subject(str(path)), place("rtx-4090"), Options()))
    assert any("-m Qwen3-8B-AWQ-Q4_K_M.gguf" in a.flags for a in plain), "the folder's name, not config.json's"
