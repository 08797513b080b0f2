"""Text to token ids and back: vocabularies, pre-tokenizers, byte-exact streaming."""

from memfirst.text.stream import StopStrings, StreamDecoder
from memfirst.text.tokenizer import Tokenizer

__all__ = ["StopStrings", "StreamDecoder", "Tokenizer"]
