"""The model that a plan is about: from a file, a folder, a config.json or a name, as a graph in some codecs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from memfirst import models
from memfirst.catalog.configs import catalog_checkpoint, find_config, look_up
from memfirst.catalog.models import find_model
from memfirst.catalog.paths import exists
from memfirst.catalog.spelling import key
from memfirst.convert.mixes import PRICED
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.hf import text_alone
from memfirst.graph import Graph
from memfirst.models import quantized
from memfirst.plan.framework import framework
from memfirst.plan.priced import Priced
from memfirst.transform.recode import mixed, with_kv
from memfirst.transform.sketched import where_worth_it
from memfirst.transform.twelve_bits import expected
from memfirst.transform.weight_formats import NAMES, codecs_of, format_name

Local = Callable[[str], Path | None]
"""Finds the files of a name on this disk; None where there are none."""

USUAL = "q4_k_m"
"""What llama.cpp's users run: without a file, unless the model is published in blocks of its own."""


DYNAMIC_SPREAD = 1.1
DYNAMIC_NOTE = "its makers choose codecs tensor by tensor: priced by the mix of about its size, exact from its file"
"""Of Unsloth's UD files."""


@dataclass(frozen=True)
class Subject:
    """A model in a codec.

    name     of the catalogue, else as it was asked for; path: of its files, "" where only its config is known
    graph    with the weights in `codec`; origin: as its file or its config has them
    codec    a name of `memfirst.transform.weight_formats`, or what the file or the config says
    assumed  nobody said so: it is what is usually run
    unknown  hyperparameters that memfirst does not know were to be ignored
    notes    what of the model is not priced, or not known, one sentence each
    spread   how many times wider a speed's interval is, at both ends: above 1 where the architecture is not known
    asked    what was typed, where that is not the name
    """

    name: str
    path: str
    graph: Graph
    origin: Graph
    codec: str
    assumed: bool = False
    unknown: bool = False
    notes: tuple[str, ...] = ()
    spread: float = 1.0
    asked: str = ""
    _priced: dict[tuple[str, bool, bool], Priced] = field(default_factory=dict, compare=False, repr=False)

    @property
    def typed(self) -> str:
        """What finds it again: a name of the catalogue or the hub, or a path."""
        return self.asked or self.name

    def recoded(self, mix: str) -> Subject:
        """The same model in another format; UnsupportedError with the nearest names."""
        name = format_name(mix)
        dynamic = name in PRICED and PRICED[name].dynamic
        notes = tuple(n for n in self.notes if n != DYNAMIC_NOTE) + (DYNAMIC_NOTE,) * dynamic
        return replace(self, graph=mixed(self.origin, name), codec=name, assumed=False, notes=notes, _priced={})

    def priced(self, kv: str, twelve_bits: bool = False, sketched: bool = False) -> Priced:
        """To be priced with keys and values in that codec, or in two as in "q8_0/q4_0"; `twelve_bits`: with its BF16
        matrices as memfirst keeps them; `sketched`: with a sketch of the output head, where memfirst makes one."""
        key = kv, twelve_bits, sketched
        if key not in self._priced:
            keys, _, values = kv.partition("/")
            plain = keys == "f16" and values in ("", "f16")
            graph = expected(self.graph) if twelve_bits else self.graph
            graph = where_worth_it(graph) if sketched else graph
            self._priced[key] = Priced(graph if plain else with_kv(graph, keys, values or keys))
        return self._priced[key]

    @property
    def widening(self) -> float:
        """Factor on a speed's interval, at both ends, for what is not known of the weights."""
        return self.spread * (DYNAMIC_SPREAD if DYNAMIC_NOTE in self.notes else 1.0)

    @cached_property
    def parameters(self) -> int:
        """Weights, a tied head counted once."""
        total = 0
        for kind in self.priced("f16").kinds:
            for weight in kind.op.weights:
                if not weight.alias:
                    total += kind.count * weight.matrices * weight.rows * weight.columns
        return total


def subject(
    name: str, codec: str = "", engine: str = "", allow_unknown: bool = False, local: Local | None = None
) -> Subject:
    """The model called `name`: files that `local` finds (or a path), else a row of the catalogue, "row:mix" too.

    engine  whose usual codec is taken where there are no weights

    An architecture that is not known is priced by its tensors, or by what its config.json says: see `Subject.spread`.
    Raises ModelNotFoundError, FormatError, ConfigError, UnsupportedError.
    """
    path = local(name) if local else Path(name) if exists(Path(name)) else None
    asked = name
    if path is None:
        name, stated = _row(name)
        codec = codec or stated
    checkpoint = _opened(path) if path else catalog_checkpoint(name)
    try:
        if codec and not checkpoint.tensors:  # whatever the config says it was quantized to
            checkpoint.metadata = quantized.without(checkpoint.metadata)
        origin, spread, notes = _built(checkpoint, allow_unknown)
    finally:
        checkpoint.close()
    codec_of_it = _stated(checkpoint, origin)
    found = Subject(name, str(path or ""), origin, origin, codec_of_it, False, allow_unknown, notes, spread)
    found = found if same_name(asked, name) else replace(found, asked=asked)
    if codec:
        return found.recoded(codec)
    usual = "" if checkpoint.tensors else _usual(checkpoint, name, engine, catalogued=path is None)
    return replace(found.recoded(usual), assumed=True) if usual else found


def mix_bytes(graph: Graph, mix: str) -> int:
    """Bytes of all weights in a mix, without making the graph."""
    codec_of, sizes, total = codecs_of(mix, graph), dict[tuple[tuple[int, ...], str], int](), 0
    for weight in graph.weights().values():
        key = weight.shape, codec_of(weight.name, weight.shape)
        if key not in sizes:  # layers are alike
            sizes[key] = replace(weight, codec=key[1]).nbytes
        total += sizes[key]
    return total


def same_name(one: str, other: str) -> bool:
    """Whether two names differ in nothing but case and separators."""
    return key(one) == key(other)


def _row(name: str) -> tuple[str, str]:
    """The catalogue's name for it, and the mix that it states; says what is not there of a path."""
    found = look_up(name)
    if found is None and ("/" in name or name.endswith((".gguf", ".json"))):
        _opened(name)  # says what is not there
    row, mix = found or (find_config(name), "")
    if mix:
        try:
            mix = format_name(mix)
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {mix.upper()} without its file", f"one of {', '.join(NAMES)}") from error
    return row.name, mix


def _opened(path: Path | str) -> Checkpoint:
    from memfirst.formats.open import open_checkpoint  # most plans name a row of the catalogue

    return open_checkpoint(path)


def _built(checkpoint: Checkpoint, allow_unknown: bool) -> tuple[Graph, float, tuple[str, ...]]:
    """The graph, how many times wider its interval is, and what is said of it."""
    alone = tuple(filter(None, (text_alone(checkpoint),)))
    if checkpoint.architecture in models.ARCHITECTURES:
        return models.build(checkpoint, allow_unknown, header=True), 1.0, alone
    from memfirst.models.unknown import unknown  # most are known

    found = unknown(checkpoint)
    return found.graph, found.spread, alone + found.notes


def _stated(checkpoint: Checkpoint, graph: Graph) -> str:
    """The mix that a GGUF file says it is in, the method that a config names, else the codec of most bytes."""
    stated = checkpoint.metadata.get("general.file_type") if checkpoint.kind == "gguf" else None
    if checkpoint.kind == "hf" and not checkpoint.tensors and (scheme := quantized.scheme_of(checkpoint.metadata)):
        return scheme.method
    by_type = {mix.file_type: name for name, mix in PRICED.items() if not mix.dynamic}
    if isinstance(stated, int) and stated in by_type:
        return by_type[stated]
    nbytes: Counter[str] = Counter()
    for weight in graph.weights().values():
        nbytes[weight.codec] += weight.nbytes
    return nbytes.most_common(1)[0][0]


def _usual(checkpoint: Checkpoint, name: str, engine: str, catalogued: bool) -> str:
    """A mix, or "" for the weights as published: by vLLM, as gpt-oss is, or of a config that says how they are."""
    scheme = quantized.scheme_of(checkpoint.metadata) if checkpoint.kind == "hf" else None
    if (engine and not framework(engine).gguf) or (scheme and (not catalogued or scheme.codec == quantized.MXFP4)):
        return ""
    entry = find_model(name)
    return entry.quant.lower() if entry and entry.quant.lower() in PRICED else USUAL
