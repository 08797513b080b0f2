"""Loading a model and talking to it: `memfirst.load(...)` gives a `Model`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from memfirst.backends.base import Backend, observed
from memfirst.codecs.base import F32
from memfirst.errors import CapacityError, ConfigError, UnsupportedError, suggesting
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, KVCache, Step, decode
from memfirst.ledger import Ledger, Memory, distinct_experts
from memfirst.models import build
from memfirst.progress import Progress, Silent, usual
from memfirst.runtime.arguments import (
    check_context,
    check_max_tokens,
    check_messages,
    check_stops,
    check_threads,
    is_list,
    sampling_params,
)
from memfirst.runtime.conversation import Conversation
from memfirst.runtime.engine import Engine
from memfirst.runtime.generation import Generation, Start
from memfirst.runtime.grammar import Constraint, Grammar, Grammars, grammar_of
from memfirst.runtime.loading import cached_as, make_backend, open_model
from memfirst.runtime.logprobs import check_logprobs
from memfirst.runtime.placing import PACK_AUTO, Limit, check_head, check_limit, check_pack
from memfirst.runtime.report import DiskUse, Report, drafts_of, sketch_use
from memfirst.runtime.request import MOST_AHEAD, Request, Timing
from memfirst.runtime.sampling import Sampler, SamplingParams
from memfirst.runtime.sharing import check_sequences, longest, sequences_of, sharing_of
from memfirst.runtime.speculation import AUTO, check_speculate
from memfirst.runtime.startup import Stages
from memfirst.text import Tokenizer
from memfirst.transform.sketched import HEAD_FULL
from memfirst.transform.twelve_bits import bits as twelve_bits

if TYPE_CHECKING:
    from memfirst.text.chat import ChatTemplate

Messages = Sequence[Mapping[str, Any]]


class GenerateOptions(TypedDict, total=False):
    """The keywords of `Model.generate`; its docstring says what they mean."""

    params: SamplingParams | None
    max_tokens: int | None
    stop: str | Sequence[str]
    logprobs: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    speculate: str | None
    prediction: str | None
    schema: object
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None


class Model:
    """A model ready to generate. Close it, or use it as a context manager, to end its threads at once."""

    speculate = AUTO
    """Whether answers are made with drafted tokens unless `generate` says otherwise: "auto" or "off"."""

    def __init__(self, checkpoint: Checkpoint, graph: Graph, backend: Backend, context: int, stages: Stages) -> None:
        self.checkpoint, self.graph, self.backend = checkpoint, graph, backend
        self.context, self.stages = context, stages
        self.whole = graph
        """The model of which `graph` is this process's part, or all."""
        self.longest = longest(graph, context, backend.blocks)
        """Positions of the longest sequence: the context, or what the KV cache holds where that is less."""
        self.engine = Engine(backend, self.longest)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<Model {self.name}: {facts}>"

    def _repr_html_(self) -> str:
        """For a notebook: what it is, and what a token reads after some context."""
        import html

        past = min(1024, self.context - 1)
        rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in self._facts().items())
        read = f"<p>A token after {past:,} positions reads:</p>{self.price(context=past)._repr_html_()}"
        return f"<b>{html.escape(self.name)}</b><table>{rows}</table>{read}"

    @property
    def name(self) -> str:
        """Its file or folder, without the path."""
        return Path(self.checkpoint.path).name or "synthetic"

    def _facts(self) -> dict[str, str]:
        stored = Counter[str]()
        for weight in self.graph.weights().values():
            stored[weight.codec] += weight.nbytes
        codec, _ = stored.most_common(1)[0]
        bits = twelve_bits(self.graph)
        kept = f" in {bits:.1f} bits" if bits and codec == "bf16" else ""
        return {
            "architecture": self.graph.architecture, "weights": f"{sum(stored.values()) / 1e6:,.0f} MB",
            "codec": codec.upper() + kept, "context": f"{self.context:,} of {self.graph.context:,}",
        }  # fmt: skip

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Rebuilt from the model's own metadata."""
        made = Tokenizer.of(self.checkpoint)
        self.stages.done("tokenizer")
        return made

    @property
    def notes(self) -> tuple[str, ...]:
        """What the model's files hold and memfirst ignores, one sentence each."""
        notes = self.tokenizer.rules.notes
        if self.checkpoint.kind != "hf":
            return notes
        from memfirst.formats.hf import text_alone  # of the other form, which most starts do not need

        found = text_alone(self.checkpoint)
        return (*notes, found) if found else notes

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's own; TemplateError where it has none."""
        from memfirst.text.chat import ChatTemplate

        made = ChatTemplate.of(self.tokenizer)
        self.stages.done("chat template")
        return made

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was made for chat; a base model continues texts."""
        from memfirst.text.chat import has_template

        return has_template(self.tokenizer)

    @overload  # a str is a list of texts to a type checker: the first that fits counts
    def generate(  # type: ignore[overload-overlap]
        self, prompt: str | Messages | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> Generation: ...

    @overload
    def generate(
        self, prompt: Sequence[str] | Sequence[Messages], **options: Unpack[GenerateOptions]
    ) -> list[Generation]: ...

    @suggesting
    def generate(
        self,
        prompt: str | Messages | Sequence[int] | Sequence[str] | Sequence[Messages],
        *,
        params: SamplingParams | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        speculate: str | None = None,
        prediction: str | None = None,
        schema: object = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Generation | list[Generation]:
        """Answer a conversation, or continue a text; or several, in steps that they share.

        What the prompt shares with an earlier one, whose cache is still there, is not computed again. Answers may be
        read at the same time, from several threads or by turns: each is what it would be alone.

        Args:
            prompt: A text, or messages with `role` and `content` (a text, or parts as in `[{"type": "text", "text":
                "…"}]`), or token ids. A list of texts or of conversations gives a list of answers: reading one computes
                those beside it, as many as fit a step.
            params: How tokens are chosen; the keywords of SamplingParams below go before it.
            max_tokens: Most tokens to generate; None: as many as the context holds.
            stop: A text, or several, before which the answer ends.
            logprobs: Give each token its `logprob`, and `top_logprobs` of as many of the likeliest (0 to 20).
            temperature: 0 always takes the likeliest token.
            top_k: Choose among so many of the likeliest; 0: among all.
            top_p: Choose among the fewest whose probabilities reach this.
            min_p: Choose among those with at least this share of the likeliest one's probability.
            repetition_penalty: Above 1, tokens that came before become less likely.
            seed: Same seed, same answer.
            speculate: "auto" checks tokens that the text suggests several to a step, where that is faster; the answer
                is the same to the bit. "off" does not. Default what the model was loaded with.
            prediction: A text that the answer may be like, as a file that is to be edited: it suggests tokens too.
            schema: A JSON schema, as a mapping or its JSON, or a pydantic model: the answer is JSON that is valid by it
                unless `max_tokens` or the context cut it off.
            regex: An expression that the whole answer matches, in the syntax of Rust's regex crate.
            choice: Texts, of which the answer is one.
            grammar: A grammar in llama.cpp's GBNF or in Lark's syntax. At most one of these four.

        Returns:
            An iterable of `Token`s with their ledgers; `str()` of it is the whole text. Nothing is computed before it
            is asked for. It ends with the model's own end token, after `max_tokens`, before a stop string, or when
            the context is full.

        Raises:
            ConfigError: An argument is out of range or of another type; a schema has a keyword that is not supported.
            CapacityError: The context cannot hold the prompt.
        """
        given = {
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "repetition_penalty": repetition_penalty, "seed": seed,
        }  # fmt: skip
        chosen = sampling_params(params, {name: value for name, value in given.items() if value is not None})
        several = is_list(prompt)
        prompts: Sequence[Any] = prompt if several else [prompt]
        limits = check_max_tokens(max_tokens), check_stops(stop), self.longest, check_logprobs(logprobs)
        ahead, fast = None if several else MOST_AHEAD, check_speculate(speculate or self.speculate) == AUTO
        constrain = self.constraint(grammar_of(schema, regex, choice, grammar))
        made = self.sampler(chosen), self.tokenizer, *limits, ahead
        hint = self.tokenizer.encode(prediction) if prediction else ()
        requests = [
            Request(self._prompt(one), *made, speculate=fast, prediction=hint, constrain=constrain) for one in prompts
        ]
        start = Start(self.engine, requests)
        answers = [Generation(self.engine, request, self._describe, start) for request in requests]
        return answers if several else answers[0]

    def chat(
        self, system: str | None = None, messages: Messages = (), **options: Unpack[GenerateOptions]
    ) -> Conversation:
        """Begin a conversation that remembers what was said: `chat.ask("…")` gives an answer.

        Args:
            system: A system message.
            messages: What was said before.
            options: For all answers, as for `generate`.
        """
        return Conversation(self, messages, options, system)

    def _prompt(self, prompt: str | Messages | Sequence[int]) -> list[int]:
        """Tokens of a prompt; CapacityError where the context has no room for another."""
        ids = self.encode(prompt)
        if not ids:
            raise ConfigError("the prompt has no tokens", "some text")
        if len(ids) >= self.longest:
            more = self.context < self.graph.context
            raise CapacityError(
                f"the prompt has {len(ids)} tokens", f"fewer than the context of {self.longest}",
                "load the model with a larger ctx" if more else "shorten the prompt: the model has no more",
                "raise --ctx" if more else "",
            )  # fmt: skip
        return ids

    def sampler(self, chosen: SamplingParams) -> Callable[[], Sampler]:
        """For a Request: makes the same sampler each time: without a seed one is drawn here."""
        if chosen.seed is None:
            chosen = replace(chosen, seed=int.from_bytes(os.urandom(8)))
        vocab, backend = self.graph.vocab_size, self.backend  # not the model: a request must not keep it alive
        return lambda: Sampler(chosen, vocab, top=backend.top())

    @cached_property
    def grammars(self) -> Grammars:
        """What compiles grammars for its vocabulary."""
        return Grammars(self.tokenizer, self.graph.vocab_size)

    def constraint(self, grammar: Grammar | None, end_ids: Sequence[int] = ()) -> Callable[[], Constraint] | None:
        """For a Request: begins with a grammar each time; it is compiled here, and refused here. None for none."""
        if grammar is None:
            return None
        grammars = self.grammars
        grammars.compile(grammar)
        return lambda: grammars.constraint(grammar, end_ids)

    def encode(self, prompt: str | Messages | Sequence[int]) -> list[int]:
        """Token ids of a text, or of a conversation through the chat template; token ids as they are."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if isinstance(prompt, list | tuple) and prompt and all(type(id) is int for id in prompt):
            return list(prompt)
        return self.chat_template.encode(self.tokenizer, check_messages(prompt))

    def logits(self, tokens: Sequence[int]) -> F32:
        """Logits f32 [len(tokens), vocab] of every position, from an empty cache."""
        return self.engine.logits(tokens)

    @cached_property
    def pooling(self) -> str:
        """How `embed` makes one vector of a text by default, as the model's file says: "mean", "cls", "last", or ""."""
        from memfirst.runtime.embedding import pooling_of

        return pooling_of(self.checkpoint)

    def embed(
        self, texts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]], *, pooling: str | None = None,
        normalize: bool = True, dimensions: int | None = None,
    ) -> F32:  # fmt: skip
        """Texts as vectors f32 [texts, hidden_size], many to a step; of one text f32 [hidden_size].

        Args:
            texts: A text or its token ids; or several.
            pooling: "mean" of the tokens' hidden rows, that of the first ("cls") or of the "last". Default what the
                model's file says; a model that says nothing was made for other things, and must be told.
            normalize: Make each of length 1.
            dimensions: Only so many of the first, for models that were trained for that.

        Raises:
            ConfigError: No pooling is known, or a text has no tokens.
            CapacityError: The context cannot hold a text.
        """
        from memfirst.runtime.embedding import embed

        return embed(self, texts, pooling or self.pooling, normalize, dimensions)

    def clear_cache(self) -> None:
        """Forget what is kept for prompts that begin like earlier ones."""
        self.engine.clear_cache()

    def price(self, step: Step | None = None, context: int = 0) -> Ledger:
        """Where a step's bytes go: of `step`, or of one decoded token after `context` positions."""
        return self.engine.predicted(step or decode(context))

    def close(self) -> None:
        """End all answers, the threads, and unmap the files."""
        self.engine.close()
        self.checkpoint.close()

    def memory(self, contexts: Iterable[int]) -> Memory:
        """What is held for sequences of these lengths."""
        return self.backend.memory(contexts)

    def _describe(self, generation: Generation) -> Report:
        request, graph = generation.request, self.graph
        ledger = recorded = experts = None
        if request.last_step is not None:
            ledger, recorded = self.engine.ledgers(request.last_step)
            experts = distinct_experts(graph, observed(self.backend, request.last_step.step, request.last_step.result))
        caches = [c for c in graph.caches if isinstance(c, KVCache)]
        return Report(
            generation, ledger, recorded, self.memory([request.cached]),
            sum(c.position_bytes for c in caches), self.backend.read_bandwidth, self.stages.seconds,
            self.stages.since_start(generation.first_token_at),
            {"model": self.checkpoint.path, "context": self.context, "notes": list(self.notes)}, experts,
            drafts_of(request, self.backend, self.context),
            self.disk_use(request.timing), sketch_use(request, self.backend),
        )  # fmt: skip

    def disk_use(self, timing: Timing) -> DiskUse | None:
        """What an answer's steps read from disk; None where all weights are in memory."""
        if not timing.disk_bytes or not timing.decode_steps:
            return None
        needed = timing.experts_found + timing.experts_missing
        found = timing.experts_found / needed if needed else None
        return DiskUse(timing.disk_bytes / timing.decode_steps, self.backend.disk_bandwidth, found)


@suggesting
def load(
    model: str | os.PathLike[str] | Checkpoint,
    *,
    threads: int | None = None,
    ctx: int | None = None,
    kv: str = "f16",
    backend: str = "cpu",
    progress: Progress | bool | None = None,
    sequences: int | None = None,
    kv_memory: int | Literal["auto"] | None = None,
    speculate: str = AUTO,
    spill: int | Literal["auto"] | None = None,
    keep_kv: bool = False,
    memory: Limit | None = None,
    draft: str | os.PathLike[str] | Checkpoint | None = None,
    pack: str = PACK_AUTO,
    head: str = HEAD_FULL,
    split: str = "",
) -> Model:
    """Load a model to run it.

    Args:
        model: A path, a catalogue name, hf:owner/repo[:QUANT], or a Checkpoint.
        threads: Worker threads; default the physical cores that this process may use. Any number gives the same bits.
        ctx: Positions of context; default 8192, or what the model was trained for if less.
        kv: Codec of the KV cache, or of keys and values apart: "q8_0", "q8_0/q4_0". Lossy but for f16 and f32.
        backend: "cpu", or "reference" (NumPy float32, slow: the definition).
        progress: False: show no progress of downloads, compilation and reading. By default stderr has a line that
            moves on a terminal or in a notebook, and elsewhere one when they begin. Or what they report to.
        sequences: Answers that share a step at most; default 8. More wait their turn.
        kv_memory: Bytes of KV cache that all answers share, snapshots of recurrent state among them; default one
            context. Less holds shorter answers. "auto": a context for each of `sequences`, within half of the memory
            that is free beside the weights.
        speculate: "auto" (exact: the same answers in fewer steps, see `Model.generate`) or "off".
        spill: Bytes of a file for pages of the KV cache that have to leave memory, to be read again instead of
            computed; "auto": as many as the KV cache has. Default none, or with `keep_kv` "auto".
        keep_kv: Keep that file, so that a later process with the same model goes on from prompts and conversations of
            this one.
        memory: Bytes that the process may take, "auto": most of what is free. Weights that do not fit stay in the
            file, and each step reads them from there: the same answers, at the disk's speed. Default: a model that
            does not fit is refused.
        draft: A model of the same vocabulary, named as `model` is, that proposes tokens where the text suggests none.
            Exact; it pays if the model reads eight times as much a token, and is left alone where it does not.
        pack: "auto": BF16 matrices are kept in 12 bits, without loss and to the same bits, a quarter smaller and faster
            to read; "plain": as in the file.
        head: "auto": an output head of Q8_0 that is a tenth of a token's bytes gets a sketch, 0.54 of its size. Greedy
            answers then read the sketch and a few rows instead of the head. Exact: the same tokens. It is made where
            there is memory for it, not for a split model or under a limit on memory. "full": no sketch.
        split: Of the processes that mpiexec started, each runs a part, this one the first: "pipeline", some layers, or
            "tensor", some rows of every matrix. Exact. The others call `memfirst.runtime.split.follow_model`.

    Returns:
        The model, ready to generate.

    Raises:
        MemfirstError: The model is not found, not whole, not supported, or too large for this machine.
    """
    stages = Stages()
    check_speculate(speculate)
    check_pack(pack)
    check_head(head)
    report = Silent() if progress is False else usual() if progress is None or progress is True else progress
    checkpoint = open_model(model, report)
    stages.done("open")
    if not checkpoint.has_bytes:
        raise UnsupportedError(f"{checkpoint.path} holds shapes but no weights", "a model with weights to run")
    graph = cached_as(build(checkpoint), kv, backend)
    if split and (backend != "cpu" or memory is not None or spill or keep_kv or draft is not None):
        found = "a split model with another backend, a model that drafts, a limit on memory, or pages in a file"
        raise ConfigError(found, "none of them")
    context = check_context(ctx, graph.context)
    workers, asked = check_threads(threads), check_sequences(sequences)
    whole = graph
    if split:
        from memfirst.runtime.split import part_of  # MPI, which most starts do without

        graph = part_of(graph, split)
    stages.done("graph")
    most = asked or sequences_of(graph)
    sharing = sharing_of(graph, context, most, kv_memory)
    words = small = None
    if draft is not None:
        from memfirst.runtime.draft import opened

        proposer = open_model(draft, report)
        small, words = opened(proposer, checkpoint, graph, context, sharing, workers, backend, speculate)
    name, limit = "leading" if split else backend, check_limit(memory)
    made = make_backend(name, graph, checkpoint, workers, context, sharing, report, stages, limit, pack, small, head)
    loaded = Model(checkpoint, made.graph, made, context, stages)
    loaded.speculate = speculate
    if split:
        loaded.whole = whole
    if small is not None and words is not None:
        loaded.tokenizer, loaded.engine.speculation.model = words, small.load(made, report)
    if spill or keep_kv:
        from memfirst.runtime.kept import open_page_file  # what most starts do not need

        nbytes = spill if isinstance(spill, int) else sharing.nbytes(graph)
        open_page_file(loaded.engine.scheduler.memory, made, checkpoint, nbytes, keep_kv, report)
    return loaded
