"""GET /openapi.json: what FastAPI knows of the bodies that come in, and what it cannot know of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from memfirst.server.stream import EVENTS, LINES

SENTENCE = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
BODY = {
    "type": "object", "required": ["message", "type", "param", "code"],
    "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
    },
}  # fmt: skip
OBJECT = {"type": "object", "required": ["error"], "properties": {"error": BODY}}
TYPED = {"type": "object", "required": ["type", "error"], "properties": {"type": {"const": "error"}, "error": {
    "type": "object", "required": ["type", "message"],
    "properties": {"type": {"type": "string"}, "message": {"type": "string"}}}}}  # fmt: skip
ERRORS = {"OllamaError": SENTENCE, "AnthropicError": TYPED, "OpenAIError": OBJECT}

STREAMED = {"/v1/chat/completions": EVENTS, "/v1/completions": EVENTS, "/v1/messages": EVENTS, "/v1/responses": EVENTS,
            "/completion": EVENTS, "/api/chat": LINES, "/api/generate": LINES}  # fmt: skip
"""Paths whose answers are streams where a request says so."""

KEYS = {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}


class Described(FastAPI):
    """A FastAPI whose description names every answer that it gives."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document."""
        if self.openapi_schema is None:
            made = get_openapi(title=self.title, version=self.version, description=self.description, routes=self.routes)
            settings = self.state.service.settings
            self.openapi_schema = completed(made, (settings.name, *settings.aliases), bool(settings.keys))
        return self.openapi_schema


def completed(made: dict[str, Any], names: Sequence[str], keyed: bool) -> dict[str, Any]:
    """The document with errors in the form of each path, streams, the model's names, and keys where they are asked
    for."""
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas |= ERRORS
    for schema in schemas.values():
        model = schema.get("properties", {}).get("model")
        if model is not None:
            nullable = {"type": "null"} in model.get("anyOf", ())
            schema["properties"]["model"] = {"title": "Model", "enum": [*names, *([None] if nullable else [])]}
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are not sent
        schemas.pop(name, None)
    if keyed:
        components["securitySchemes"] = KEYS
        made["security"] = [{name: []} for name in KEYS]
    for path, methods in made["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            responses.pop("422", None)
            if path in STREAMED:
                responses["200"]["content"][STREAMED[path]] = {}
            responses |= {"4XX": _error(path, "The request is refused"), "5XX": _error(path, "It cannot be answered")}
    made["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return made


def _error(path: str, description: str) -> dict[str, Any]:
    name = "OllamaError" if path.startswith("/api/") else "AnthropicError" if "/messages" in path else "OpenAIError"
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }
