"""The engine: requests, their KV cache, sampling, and what a step cost. Imports everything below, no command."""
