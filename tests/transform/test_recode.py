"""A graph's cache in other codecs."""

from __future__ import annotations

import pytest

from memfirst.errors import ConfigError
from memfirst.graph import KVCache
from memfirst.transform.recode import parse_kv, with_kv
from tests.support.tiny_models import tiny


@pytest.mark.parametrize(
    ("text", "found"),
    [("q8_0", ("q8_0", "q8_0")), ("Q8_0/Q4_0", ("q8_0", "q4_0")), ("f16", ("f16", "f16")), ("f32/f16", ("f32", "f16"))],
)
def test_a_codec_or_two(text: str, found: tuple[str, str]) -> None:
    assert parse_kv(text) == found


@pytest.mark.parametrize("text", ["", "q5_1", "q8_0/", "q8_0/q4_0/f16", "f16 / f16", "fp8"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="KV cache of"):
        parse_kv(text)


@pytest.mark.parametrize(
    ("codecs", "rotate", "position"),
    [(("q8_0", "q4_0"), True, 2 * (34 + 18)), (("q8_0", "f16"), False, 2 * (34 + 64)), (("f16", "f16"), False, 256)],
)
def test_only_what_is_quantized_is_rotated(codecs: tuple[str, str], rotate: bool, position: int) -> None:
    graph = with_kv(tiny("llama", "q4_0", head_dim=32)[0], *codecs)
    caches = [c for c in graph.caches if isinstance(c, KVCache)]
    assert {(c.k_codec, c.v_codec, c.rotate, c.position_bytes) for c in caches} == {(*codecs, rotate, position)}
