"""memfirst: language-model inference that counts its bytes."""

__version__ = "0.1.0"
