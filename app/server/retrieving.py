"""`/embed`, `/rerank` and `/search`: vectors of texts, the order of documents, documents of an index."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.server import schemas
from app.server.answers import REFUSALS, answers_of, reply, rows_through_run
from app.server.context import Context, Served

#: Hits that a reranking run looks at, as `modernbert search` does by default.
RERANKED = 100


def add_retrieving(router: APIRouter, context: Context) -> None:
    """The routes of retrieval and reranking."""
    add_embedding(router, context)
    add_reranking(router, context)
    add_searching(router, context)


def add_embedding(router: APIRouter, context: Context) -> None:
    """Vectors of texts, a route a kind of vector."""

    async def vectors(route: str, request: Request, body: schemas.EmbedRequest) -> tuple[list[Any], int]:
        served = context.serving(route, request.path_params.get("run"))
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        return await vectors_of(context, served, texts, body.prompt_name or "document", body.truncate)

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


def add_reranking(router: APIRouter, context: Context) -> None:
    """The order of texts for a query."""

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


def add_searching(router: APIRouter, context: Context) -> None:
    """Documents of the index, in the order of the retriever or of a reranking run."""

    @router.post("/search", response_model=list[schemas.Found], responses=REFUSALS)
    async def search(request: Request, body: schemas.SearchRequest) -> Response:
        """The documents of the index that answer the query best."""
        served = context.serving("/search", request.path_params.get("run"))
        reranking = context.serving("/rerank", None) if body.rerank else None
        assert context.finder is not None
        found, cut = await vectors_of(context, served, [body.query], "query", body.truncate)
        wanted = max(body.k, RERANKED) if reranking else body.k
        hits = await asyncio.to_thread(context.finder.find, body.query, found[0], wanted, body.mode)
        if reranking and hits:
            hits = await reranked(context, reranking, body.query, hits)
        return reply(hits[: body.k], cut=cut)


async def vectors_of(
    context: Context, served: Served, texts: list[str], role: str, truncate: bool | None
) -> tuple[list[Any], int]:
    """Vectors of texts of a role ("query" or "document"), and how many texts were cut short."""
    from app.server.engines import RoleLengths, TextVectors

    assert served.embedder is not None
    engine = TextVectors(served.name, served.embedder, role, served.run.tokens_per_batch)
    lengths = RoleLengths(served.embedder, role)
    return await answers_of(context, served, engine, lengths, [(text,) for text in texts], truncate)


async def reranked(context: Context, served: Served, query: str, hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hits with the scores of a reranking run, the best first."""
    run, rows = served.run, [(query, hit["text"]) for hit in hits]
    scores = await context.compute(run.engine(run.schema.text_columns()), rows, run.lengths(rows).lengths)
    found = [hit | {"score": score.value} for hit, score in zip(hits, scores, strict=True) if score is not None]
    return sorted(found, key=lambda hit: -hit["score"])


def weights(vectors: Any) -> list[dict[str, Any]]:
    """The one sparse vector of a text as {index, value}, by index."""
    values = vectors.values.to_dense()[0]
    places = values.nonzero().squeeze(1)
    return [{"index": i, "value": value} for i, value in zip(places.tolist(), values[places].tolist(), strict=True)]
