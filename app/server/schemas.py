"""What requests and answers look like: the types of the OpenAPI description.

The shapes of `/predict`, `/embed`, `/embed_sparse`, `/embed_all`, `/rerank` and errors are those of Hugging Face's
text-embeddings-inference, so that its clients work.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Truncate = Annotated[
    bool | None,
    Field(
        description="false refuses a text that is longer than the run reads (413); true, or nothing, reads its "
        "beginning: the header X-Truncated says how many."
    ),
]
#: Clients of text-embeddings-inference send it; a run is cut where it was cut in training.
Right = Annotated[Literal["Right", "right"], Field(description="Long texts lose their end.")]


class Request(BaseModel):
    """A key that is not known is refused: it may be a slip."""

    model_config = ConfigDict(extra="forbid")


class PredictRequest(Request):
    inputs: Annotated[
        str | list[str] | list[list[str]],
        Field(
            description="A text; a list of texts; or, for a run that reads two texts, [first, second] or a list of "
            "such pairs. A list of lists always is a batch.",
            examples=["Where is my parcel?"],
        ),
    ]
    truncate: Truncate = None
    truncation_direction: Right = "Right"
    raw_scores: Annotated[Literal[False], Field(description="Answers are probabilities.")] = False


class Prediction(BaseModel):
    label: Annotated[str, Field(description='Of the run; "value" for a regression.')]
    score: Annotated[float, Field(description="Its probability; the value of a regression.")]


class EntitiesRequest(Request):
    inputs: Annotated[str | list[str], Field(examples=["Anna moved to Oslo."])]


class Entity(BaseModel):
    start: Annotated[int, Field(description="First character (code point) of the text as given.")]
    end: Annotated[int, Field(description="Behind the last one.")]
    label: str
    text: str
    score: float


class EmbedRequest(Request):
    inputs: Annotated[str | list[str], Field(examples=["What is deep learning?"])]
    prompt_name: Annotated[
        Literal["query", "document"] | None,
        Field(description="What the texts are: the run's own prefix is put before them. Nothing means document."),
    ] = None
    truncate: Truncate = None
    truncation_direction: Right = "Right"
    normalize: Annotated[Literal[True], Field(description="Vectors have length 1.")] = True


class SparseValue(BaseModel):
    index: Annotated[int, Field(description="Token id.")]
    value: float


class RerankRequest(Request):
    query: Annotated[str, Field(examples=["What is deep learning?"])]
    texts: Annotated[list[str], Field(examples=[["Deep learning is …", "Cheese is …"]])]
    truncate: Truncate = None
    truncation_direction: Right = "Right"
    raw_scores: Annotated[Literal[False], Field(description="Scores are those of the run.")] = False
    return_text: bool = False


class Rank(BaseModel):
    index: Annotated[int, Field(description="Place in `texts`.")]
    score: float
    text: str | None = None


class SearchRequest(Request):
    query: Annotated[str, Field(examples=["how to return shoes"])]
    k: Annotated[int, Field(ge=1, le=1000, description="Documents wanted.")] = 10
    mode: Annotated[
        Literal["dense", "text", "hybrid"], Field(description="By vectors, by words (BM25), or by both.")
    ] = "dense"
    rerank: Annotated[bool, Field(description="Order the best 100 anew with the reranking run of this server.")] = False
    truncate: Truncate = None


class Found(BaseModel):
    """A hit; `passage` is characters [start, end) of `text`, of runs that split documents."""

    id: str
    text: str
    score: float
    start: int | None = None
    end: int | None = None
    passage: str | None = None


class RunInfo(BaseModel):
    """A run as its folder describes it; no path of this machine."""

    name: str
    task: str
    about: str
    routes: list[str]
    encoder: str | None
    parameters: int
    max_length: int
    labels: list[str]


class Info(BaseModel):
    version: str
    device: str
    threads: int
    tokens_per_batch: int
    limits: dict[str, float]
    documents: Annotated[int | None, Field(description="Of the index, where there is one.")]
    runs: list[RunInfo]


class Health(BaseModel):
    status: Literal["loading", "ready", "stopping"]


class Problem(BaseModel):
    """Every answer that is not a success."""

    error: Annotated[str, Field(description="What was given, what is allowed, what to do.")]
    error_type: Literal["validation", "overloaded", "unavailable", "unauthorized", "timeout", "internal"]
