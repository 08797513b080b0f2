"""What a server says of itself: models, health, its numbers, and its model's words."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from memfirst import __version__
from memfirst.errors import ConfigError
from memfirst.server.failures import failure
from memfirst.server.fields import Detokenize, Template, Tokenize
from memfirst.server.llama_cpp import Continued
from memfirst.server.prompt import plain, size_of, template_variables
from memfirst.server.service import Service, service
from memfirst.server.state import snapshot

router = APIRouter()


def _model(served: Service, name: str) -> dict[str, Any]:
    loaded = served.loaded
    return {
        "id": name, "object": "model", "created": served.started, "owned_by": "memfirst",
        "aliases": [name, *served.settings.aliases],
        "max_model_len": loaded.context,
        "meta": {
            "architecture": loaded.architecture, "codec": loaded.codec, "size": loaded.weights,
            "n_vocab": served.vocabulary, "n_ctx": loaded.context, "n_ctx_train": loaded.trained,
        },
    }  # fmt: skip


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> dict[str, Any]:
    """The model that is served."""
    served = service(request)
    return {"object": "list", "data": [_model(served, served.settings.name)]}


@router.get("/v1/models/{name:path}")
@router.get("/models/{name:path}", include_in_schema=False)
async def model(name: str, request: Request) -> Response:
    """One model."""
    served = service(request)
    if name not in (served.settings.name, *served.settings.aliases):
        said = f"there is no model {name[:100]!r}: {served.settings.name!r} is served"
        return failure(request.url.path, 404, said, "model", "model_not_found")
    return JSONResponse(_model(served, name))


@router.get("/health")
@router.get("/v1/health", include_in_schema=False)
async def health(request: Request) -> Response:
    """200 where requests are taken, else 503: while the model is loaded, or the engine started again."""
    link = service(request).link
    if link.state == "ready":
        return JSONResponse({"status": "ok"})
    return failure(request.url.path, 503, f"the engine is {link.state}", code="unavailable")


@router.get("/memfirst/stats")
async def stats(request: Request) -> dict[str, Any]:
    """How things are now: what the page shows."""
    return snapshot(service(request))


@router.get("/props")
async def props(request: Request) -> dict[str, Any]:
    """As llama.cpp's server: how much context, how many requests at once."""
    served = service(request)
    loaded = served.loaded
    try:
        template = served.prompts.template.source
    except Exception as error:  # a base model has none
        template = f"{type(error).__name__}: {error}"
    params = Continued(prompt="").completed(served.settings.defaults).settings(served.prompts.tokenizer)
    return {
        "default_generation_settings": {"n_ctx": loaded.context, "params": params},
        "total_slots": loaded.sequences,
        "model_path": served.settings.model_path, "model_alias": served.settings.name, "chat_template": template,
        "build_info": f"memfirst {__version__}", "endpoint_slots": True, "endpoint_metrics": True,
        "modalities": {"vision": False, "audio": False}, "is_sleeping": False,
    }  # fmt: skip


@router.get("/slots")
async def slots(request: Request) -> list[dict[str, Any]]:
    """As llama.cpp's server: who is worked on. Prompts are never shown."""
    served = service(request)
    requests = [r for r in (served.link.stats.requests if served.link.stats else []) if not r.waiting]
    free = max(0, served.loaded.sequences - len(requests))
    context = served.loaded.context
    busy = [
        {"id": i, "is_processing": True, "n_ctx": context, "n_prompt_tokens": r.prompt, "n_decoded": r.generated}
        for i, r in enumerate(requests)
    ]
    return busy + [{"id": len(busy) + i, "is_processing": False, "n_ctx": context} for i in range(free)]


@router.post("/tokenize")
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(body: Tokenize, request: Request) -> dict[str, Any]:
    """Token ids of a text, or of messages through the template."""
    served = service(request)
    tokenizer, away = served.prompts.tokenizer, served.prompts.away
    if body.messages is not None:
        messages = plain(body.messages)
        ids = await away(size_of(messages), served.prompts.template.encode, tokenizer, messages)
    else:
        text = body.content if body.content is not None else body.prompt
        if text is None:
            raise ConfigError("nothing to tokenize", "content: a text, or messages")
        special = body.add_special if body.add_special_tokens is None else body.add_special_tokens
        bos = None if special else False
        ids = await away(len(text), tokenizer.encode, text, special=body.parse_special, bos=bos)
    if not body.with_pieces:
        return {"tokens": ids, "count": len(ids), "max_model_len": served.loaded.context}
    pieces = [tokenizer.piece(id, special=True) for id in ids]
    return {"tokens": [{"id": id, "piece": _piece(piece)} for id, piece in zip(ids, pieces, strict=True)]}


def _piece(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes where they are part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


@router.post("/detokenize")
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(body: Detokenize, request: Request) -> dict[str, Any]:
    """The text of token ids."""
    served = service(request)
    over = next((id for id in body.tokens if id >= served.vocabulary), None)
    if over is not None:
        raise ConfigError(f"the token id {over}", f"0 to {served.vocabulary - 1}")
    prompts = served.prompts
    text = await prompts.away(len(body.tokens), prompts.tokenizer.decode, body.tokens, special=True)
    return {"content": text, "prompt": text}


@router.post("/apply-template")
async def apply_template(body: Template, request: Request) -> dict[str, Any]:
    """The text that a conversation becomes."""
    served, messages = service(request), plain(body.messages)
    prompts, kwargs = served.prompts, served.settings.defaults.get("chat_template_kwargs")
    body = body.model_copy(update={"chat_template_kwargs": kwargs}) if body.chat_template_kwargs is None else body
    render, variables = prompts.template.render, template_variables(body)
    return {"prompt": await prompts.away(size_of(messages), render, messages, **variables)}
