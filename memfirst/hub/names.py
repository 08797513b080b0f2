"""What a MODEL argument means, and which files of a repository it asks for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from memfirst.catalog.configs import look_up, priced, refusal
from memfirst.catalog.models import License, ModelEntry, Pinned, Wheel, models, stated
from memfirst.catalog.paths import exists
from memfirst.errors import DownloadError, ModelNotFoundError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_QUANT = re.compile(
    r"(?:^|[-._/])((?:I?Q\d(?:_[A-Z0-9]+)*)|TQ[12]_0|MXFP4|NVFP4|BF16|F16|F32)(?=[-._/]|$)", re.IGNORECASE
)
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^?#]+)(?:[?#].*)?", re.IGNORECASE)
"""How a browser and other programs write a repository of the public hub."""
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0", "Q4_K_S", "Q5_K_M", "Q6_K", "Q5_0", "Q4_1", "IQ4_XS", "Q3_K_M", "Q2_K", "F16",
              "BF16")  # fmt: skip
_FOLDER = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
           "special_tokens_map.json", "tokenizer.model", "chat_template.jinja", "chat_template.json",
           "model.safetensors.index.json")  # fmt: skip
_NOT_MODELS = re.compile(r"mmproj|imatrix|(?:^|/)mtp-", re.IGNORECASE)
"""Files that end in .gguf but hold no language model: vision projectors, quantization statistics, layers that predict
further tokens, beside the model whose they are."""


@dataclass(frozen=True)
class Ref:
    """A model on the hub: `repo` "owner/name", `quant` upper case or "", or the name of one .gguf file."""

    repo: str
    quant: str
    pinned: Mapping[str, Pinned] = field(default_factory=dict)
    wheels: Mapping[str, tuple[Wheel, ...]] = field(default_factory=dict)
    license: License | None = None

    @property
    def label(self) -> str:
        """As it is typed: "hf:owner/name:Q4_K_M"."""
        return f"hf:{self.repo}:{self.quant}" if self.quant else f"hf:{self.repo}"


def check_repo(repo: str) -> str:
    """`repo` if it is a well-formed "owner/name"; ModelNotFoundError otherwise: it names a folder of ours."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ModelNotFoundError(f"{repo!r} is not a repository", "owner/name", "as in hf:Qwen/Qwen3-0.6B-GGUF")
    return repo


def check_file(name: str) -> str:
    """`name` if it stays inside its folder; DownloadError otherwise, for a listing is untrusted."""
    parts = PurePosixPath(name).parts
    bad = not parts or name.startswith("/") or "\\" in name or ":" in name or "\0" in name
    if bad or any(p in (".", "..") or p.startswith(".") for p in parts):
        raise DownloadError(f"the repository lists a file called {name!r}", "a plain relative path", "not fetched")
    return name


def _hub_ref(text: str) -> Ref:
    """OWNER/REPO[:QUANT], OWNER/REPO/FILE.gguf, or a page of a repository or of one of its files."""
    repo, _, quant = text.rstrip("/").partition(":")
    owner, _, rest = repo.partition("/")
    name, _, below = rest.partition("/")
    file = re.sub(r"^(?:tree|blob|resolve)/[^/]*/?", "", below)
    if not quant and (not file or file.lower().endswith(".gguf")):
        return _ref(f"{owner}/{name}", file)
    return _ref(f"{owner}/{name}" if below and not file else repo, quant)


def _ref(repo: str, quant: str) -> Ref:
    quant = quant if quant.lower().endswith(".gguf") else quant.upper()
    return Ref(check_repo(repo), quant)


def parse(name: str) -> Path | Ref:
    """A local path (which exists) or a reference into the hub; ModelNotFoundError with suggestions."""
    if name.startswith("hf:"):
        return _hub_ref(name[3:])
    if address := _ADDRESS.fullmatch(name):
        return _hub_ref(address[1])
    if name and "\0" not in name and exists(path := Path(name).expanduser()):
        return path
    if is_repo(name):
        return _hub_ref(name)
    if "/" not in name and (found := stated(name)):
        return _entry_ref(*found)
    raise _unknown(name)


def is_repo(name: str) -> bool:
    """Whether it reads as OWNER/REPO[:QUANT or /FILE.gguf] on the hub, and not as a path that is not there."""
    owner, _, rest = name.partition("/")
    repo, _, below = rest.partition("/")
    path = repo.endswith((".gguf", ".json", ".safetensors")) or (below and not below.lower().endswith(".gguf"))
    if path:
        return False
    return bool(_REPO.fullmatch(f"{owner}/{repo.partition(':')[0]}")) and not exists(Path(owner))


def _entry_ref(entry: ModelEntry, quant: str) -> Ref:
    return Ref(entry.repo, quant or entry.quant, entry.pinned, entry.wheels, entry.license)


def _unknown(name: str) -> ModelNotFoundError:
    """Why `name` is nothing we know, with the closest names."""
    if name.endswith((".gguf", ".json", ".safetensors")) or name.startswith((".", "~")) or "/" in name:
        return ModelNotFoundError(f"no file or folder {name!r}", "a GGUF file, a model folder or a config.json")
    if refused := refusal(name):
        return refused
    if row := look_up(name):
        if row[0] in priced():
            found = f"{row[0].name} is priced only: nothing here runs its architecture"
            do = f"memfirst plan {row[0].name} prices it"
            return ModelNotFoundError(found, "a model that runs: memfirst list", do)
        found = f"{row[0].name} is known to plan, but no repository of it is"
        return ModelNotFoundError(found, "a path, or hf:owner/repo of one that has it")
    close = difflib.get_close_matches(name.lower(), [m.name for m in models()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "see the names with: memfirst list --catalogue"
    return ModelNotFoundError(f"no model is called {name[:100]!r}", "a path, a catalogue name or hf:owner/repo", hint)


def quant_of(file: str) -> str:
    """The quantization that a file's name states, upper case ("Q4_K_M"), or ""."""
    found = _QUANT.findall(PurePosixPath(file).name)
    return found[-1].upper() if found else ""


def choose(ref: Ref, listing: Iterable[str]) -> list[str]:
    """The files of `ref` in `listing`: one GGUF, all parts of a split one, or a safetensors folder."""
    listing = list(listing)
    ggufs = [f for f in listing if f.lower().endswith(".gguf") and not _NOT_MODELS.search(f)]
    if not ggufs:
        return _folder(ref, listing)
    return _complete(ref, _one_model(ref, ggufs), ggufs)


def _one_model(ref: Ref, ggufs: list[str]) -> str:
    """One file of the model that `ref` names (any part of a split one)."""
    if ref.quant.lower().endswith(".gguf"):
        found = [f for f in ggufs if f.lower() == ref.quant.lower()]
        if not found:
            raise ModelNotFoundError(f"hf:{ref.repo} has no {ref.quant}", f"one of {', '.join(sorted(ggufs))}")
        return found[0]
    by_quant: dict[str, dict[str, str]] = {}
    for f in ggufs:
        split = _SPLIT.fullmatch(f)
        by_quant.setdefault(quant_of(f), {}).setdefault(split["stem"] if split else f, f)
    return _unambiguous(ref, _wanted(ref, by_quant))


def _wanted(ref: Ref, by_quant: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """The models of the asked quantization; without one, of the first of `_PREFERRED` that is there."""
    quant = ref.quant or next((q for q in _PREFERRED if q in by_quant), min(by_quant))
    if quant not in by_quant and (tagged := _tagged(quant, by_quant)):
        return tagged
    if quant not in by_quant:
        there = ", ".join(sorted(q for q in by_quant if q)) or "no file with a known quantization"
        raise ModelNotFoundError(f"hf:{ref.repo} has no {quant}", there)
    return by_quant[quant]


def _tagged(tag: str, by_quant: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """The models whose files have a publisher's own tag in their names as it stands: UD-Q4_K_XL."""
    whole = re.compile(rf"(?:^|[-._/]){re.escape(tag)}(?=[-./]|$)", re.IGNORECASE)
    return {stem: file for models in by_quant.values() for stem, file in models.items() if whole.search(file)}


def _unambiguous(ref: Ref, found: Mapping[str, str]) -> str:
    if len(found) > 1:
        several = ", ".join(sorted(found.values()))
        raise ModelNotFoundError(
            f"{ref.label} could be {several}", "one model", f"name the file: hf:{ref.repo}:FILE.gguf"
        )
    return next(iter(found.values()))


def _complete(ref: Ref, file: str, ggufs: list[str]) -> list[str]:
    """`file` alone, or every part of the split model that it belongs to, in order."""
    split = _SPLIT.fullmatch(file)
    if not split:
        return [file]
    n = int(split["parts"])
    parts = [f"{split['stem']}-{i:05d}-of-{n:05d}.gguf" for i in range(1, n + 1)] if n <= len(ggufs) else []
    missing = [p for p in parts if p not in ggufs]
    if not parts or missing:
        raise DownloadError(f"hf:{ref.repo} lacks parts of {file}", f"{n} parts", "try another quantization")
    return parts


def _folder(ref: Ref, listing: list[str]) -> list[str]:
    """Config, tokenizer and weights of a safetensors repository; the top folder only."""
    top = [f for f in listing if "/" not in f]
    weights = [f for f in top if f.endswith(".safetensors") and not f.startswith("consolidated")]
    if ref.quant:
        raise ModelNotFoundError(f"hf:{ref.repo} has no GGUF file, so no {ref.quant}", do=f"try hf:{ref.repo}")
    if not weights or "config.json" not in top:
        raise ModelNotFoundError(f"hf:{ref.repo} holds no model", "GGUF files, or config.json and safetensors")
    return [f for f in _FOLDER if f in top] + sorted(weights)
