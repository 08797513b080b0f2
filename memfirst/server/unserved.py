"""What clients of other servers ask for and this one cannot do: answered by 501 and a sentence, not by 404."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from memfirst.server.failures import failure

router = APIRouter(include_in_schema=False)

INFILL = "there is nothing to fill in here: the model's tokens for that are not known to this server"
RERANK = "documents are not ranked here: that takes a model trained for it"
WHY = {"/infill": INFILL, "/v1/rerank": RERANK, "/rerank": RERANK,
       "/v1/reranking": RERANK, "/reranking": RERANK}  # fmt: skip
"""By path."""


async def unserved(request: Request) -> JSONResponse:
    """Say why not."""
    path = request.url.path
    return failure(path, 501, WHY[path], code="not_supported")


for _path in WHY:
    router.add_api_route(_path, unserved, methods=["POST"])
