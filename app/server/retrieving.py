"""`/embed`, `/rerank` and `/search`: vectors of texts, the order of documents, documents of an index."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.server import schemas
from app.server.answers import REFUSALS, answers_of, reply, rows_through_run
from app.server.context import Context


def add_retrieving(router: APIRouter, context: Context) -> None:
    """The routes of retrieval and reranking."""

    async def vectors(route: str, request: Request, body: schemas.EmbedRequest) -> tuple[list[Any], int]:
        from app.server.engines import RoleLengths, TextVectors

        served = context.serving(route, request.path_params.get("run"))
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        role = body.prompt_name or "document"
        assert served.embedder is not None
        engine = TextVectors(served.name, served.embedder, role, served.run.tokens_per_batch)
        lengths = RoleLengths(served.embedder, role)
        return await answers_of(context, served, engine, lengths, [(text,) for text in texts], body.truncate)

    @router.post("/embed", response_model=list[list[float]], responses=REFUSALS)
    async def embed(request: Request, body: schemas.EmbedRequest) -> Response:
        """A vector of length 1 for each text."""
        found, cut = await vectors("/embed", request, body)
        return reply([each.values[0].numpy() for each in found], cut=cut)

    @router.post("/embed_all", response_model=list[list[list[float]]], responses=REFUSALS)
    async def embed_all(request: Request, body: schemas.EmbedRequest) -> Response:
        """A vector for each token, of a late-interaction run."""
        found, cut = await vectors("/embed_all", request, body)
        return reply([each.values.numpy() for each in found], cut=cut)

    @router.post("/embed_sparse", response_model=list[list[schemas.SparseValue]], responses=REFUSALS)
    async def embed_sparse(request: Request, body: schemas.EmbedRequest) -> Response:
        """Weights of the vocabulary that are not 0, of a sparse run."""
        found, cut = await vectors("/embed_sparse", request, body)
        return reply([weights(each) for each in found], cut=cut)

    @router.post("/rerank", response_model=list[schemas.Rank], response_model_exclude_unset=True, responses=REFUSALS)
    async def rerank(request: Request, body: schemas.RerankRequest) -> Response:
        """The texts by how well they answer the query, the best first."""
        served = context.serving("/rerank", request.path_params.get("run"))
        rows = [(body.query, text) for text in body.texts]
        answers, cut = await rows_through_run(context, served, rows, body.truncate)
        order = sorted(range(len(rows)), key=lambda i: -answers[i].value)
        ranks: list[dict[str, Any]] = [{"index": i, "score": answers[i].value} for i in order]
        if body.return_text:
            ranks = [rank | {"text": body.texts[rank["index"]]} for rank in ranks]
        return reply(ranks, cut=cut)

    @router.post("/search", response_model=list[schemas.Found], responses=REFUSALS)
    async def search(request: Request, body: schemas.SearchRequest) -> Response:
        """The documents of the index that answer the query best."""
        from app.server.engines import RoleLengths, TextVectors

        served = context.serving("/search", request.path_params.get("run"))
        reranking = context.serving("/rerank", None) if body.rerank else None
        assert served.embedder is not None
        assert context.finder is not None
        engine = TextVectors(served.name, served.embedder, "query", served.run.tokens_per_batch)
        found, cut = await answers_of(
            context, served, engine, RoleLengths(served.embedder, "query"), [(body.query,)], body.truncate
        )
        wanted = max(body.k, RERANKED) if reranking else body.k
        hits = await asyncio.to_thread(context.finder.find, body.query, found[0], wanted, body.mode)
        if reranking and hits:
            rows = [(body.query, hit["text"]) for hit in hits]
            run = reranking.run
            lengths = run.lengths(rows).lengths
            scores = await context.compute(run.engine(run.schema.text_columns()), rows, lengths)
            hits = [hit | {"score": score.value} for hit, score in zip(hits, scores, strict=True) if score is not None]
            hits.sort(key=lambda hit: -hit["score"])
        return reply(hits[: body.k], cut=cut)


#: Hits that a reranking run looks at, as `modernbert search` does by default.
RERANKED = 100


def weights(vectors: Any) -> list[dict[str, Any]]:
    """The one sparse vector of a text as {index, value}, by index."""
    values = vectors.values.to_dense()[0]
    places = values.nonzero().squeeze(1)
    return [{"index": i, "value": value} for i, value in zip(places.tolist(), values[places].tolist(), strict=True)]
