"""Weights in other formats: mixes of codecs, quantization, synthetic models, GGUF files written."""
