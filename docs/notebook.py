"""Makes docs/tour.ipynb: `make docs` runs its cells in a kernel of their own and keeps what they show."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parent / "tour.ipynb"

CELLS = [
    "# memfirst in a notebook\n\nA model, an answer and a ledger show themselves. This notebook is made by `make docs`;"
    " the API is described in [python.md](python.md).",
    'import memfirst\n\nmodel = memfirst.load("smollm2:135m", ctx=2048)\nmodel',
    "Decoding reads weights, head and KV cache for each token. The bar is a token after 1,024 positions: what it will read"
    " is known before anything runs.\n\nAn answer is computed when it is asked for; shown as a cell's value, it comes with"
    " its speed, the measured read bandwidth of this minute, and the bytes of its last token.",
    'question = {"role": "user", "content": "Why is the sky blue?"}\nmodel.generate([question], max_tokens=48, temperature=0)',
    "As it comes, with each token's bytes as the kernels counted them:",
    "for token in model.generate([question], max_tokens=12, temperature=0):\n"
    '    print(f"{token.text!r:<14} {int(token.recorded.streamed):,} bytes")',
    "The weights are the same for every token; the KV cache grows with each position:",
    "for context in (0, 512, 1024, 2047):\n"
    "    ledger = model.price(context=context)\n"
    '    shares = {purpose: f"{int(a) / 1e6:.1f} MB" for purpose, a in ledger.by_purpose().items()}\n'
    '    print(f"{context:>5}", shares["weights"], shares["head"], shares.get("kv_read", "0.0 MB"))',
    "A conversation keeps what was said; a question costs its own tokens only.",
    'chat = model.chat(system="You answer in one short sentence.", temperature=0, max_tokens=40)\n'
    'print(chat.ask("What is the capital of Italy?"))\nanswer = chat.ask("And of Spain?")\nprint(answer)\n'
    'print(answer.timing.reused_tokens, "of", answer.timing.prompt_tokens, "tokens of the prompt were in the cache")',
    "Several prompts share one read of the weights:",
    'prompts = ["The capital of Italy is", "The capital of Spain is", "The capital of Japan is"]\n'
    "[str(answer) for answer in model.generate(prompts, max_tokens=1, temperature=0)]",
    "And which tokens could have come instead:",
    'token = next(iter(model.generate("The capital of France is", max_tokens=1, temperature=0, logprobs=4)))\n'
    "for one in token.top_logprobs:\n    print(one)",
]
"""Text and code in turns, text first."""


def main() -> None:
    """Run the cells and write the file."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for i, source in enumerate(CELLS):
        made = nbformat.v4.new_code_cell(source) if i % 2 else nbformat.v4.new_markdown_cell(source)
        made["id"] = f"cell-{i}"  # nbformat draws it at random: the file would differ each time
        book.cells.append(made)
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    for cell in book.cells:
        cell.metadata.clear()  # times of execution
    book.metadata.pop("language_info", None)
    nbformat.write(book, FILE)


if __name__ == "__main__":
    main()
