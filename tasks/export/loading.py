"""Three lines of Python that load an export and ask it something, for its card and for the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.export.gate import is_vectors
from tasks.export.openvino_ir import FULL
from tasks.export.padded import ARCHITECTURES, input_names
from tasks.run import Run

#: What is asked; of pairs, and of vectors, about the second.
EXAMPLE, DOCUMENT = "Where is my order?", "The courier left it with a neighbour."

TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("{folder}")'
OPENING = {
    "onnx": f'{TOKENIZER}; model = InferenceSession("{{folder}}/model.onnx")  # of transformers, onnxruntime',
    "openvino": f'{TOKENIZER}; model = Core().compile_model("{{folder}}/model.xml", "CPU", {{precision}})'
    "  # of transformers, openvino",
    "torch": f'{TOKENIZER}; model = torch.export.load("{{folder}}/model.pt2").module()  # of transformers, torch',
    "transformers": f'{TOKENIZER}; model = {{auto}}.from_pretrained("{{folder}}")  # of transformers',
}
CALLS = {
    "onnx": "model.run(None, {{node.name: inputs[node.name] for node in model.get_inputs()}})[0]",
    "openvino": "model({{node.any_name: inputs[node.any_name] for node in model.inputs}})[0]",
    "torch": "model({tensors})",
    "transformers": "model({tensors})",
}
PIPELINE = """import transformers
ask = transformers.pipeline("{pipeline}", model="{folder}"{options})
print(ask({asked}))"""
HEAD = """encoder = load_encoder("{model}")  # from modernbert
task = load_head("{folder}", encoder)  # from tasks.export
logits = task(pack([tokenizer({words})["input_ids"]]))  # from modernbert, AutoTokenizer of transformers"""
SENTENCES = """model = SentenceTransformer("{folder}")  # of sentence_transformers
queries, documents = model.encode_query([{question!r}]), model.encode_document([{answer!r}])
print(model.similarity(queries, documents))"""
CROSS = """from sentence_transformers import CrossEncoder
model = CrossEncoder("{folder}")
print(model.predict([({question!r}, {answer!r})]))"""


def load_lines(run: Run, name: str, folder: Path | str, model: Path | str = "<the run>/model") -> str:
    """Three lines of Python that load a format; `model` is where the head finds its encoder."""
    family = "onnx" if name.startswith("onnx") else name
    words = {
        "folder": folder,
        "model": model,
        "pipeline": run.task.pipeline,
        "options": run.task.pipeline_options,
        "auto": ARCHITECTURES[run.task.pipeline].auto_class,
        "precision": json.dumps(FULL),
        "question": EXAMPLE,
        "answer": DOCUMENT,
        "words": ", ".join(map(repr, texts(run))),
        "tensors": ", ".join(f'inputs["{tensor}"]' for tensor in input_names(run.task.encoder.config.family)),
    }
    if family == "transformers":
        named = ", ".join(f'{n}=inputs["{n}"]' for n in input_names(run.task.encoder.config.family))
        words["tensors"] = named
    if name == "head":
        return HEAD.format(**words)
    if name == "sentence-transformers":
        return (SENTENCES if is_vectors(run) else CROSS).format(**words)
    if name == "transformers" and not is_vectors(run) and not is_windowed(run):
        first, *second = texts(run)
        asked = repr({"text": first, "text_pair": second[0]}) if second else repr(first)
        return PIPELINE.format(**words, asked=asked)
    asked = f"inputs = tokenizer({words['words']}, {truncation(run)}, return_tensors={kind(family)!r})"
    call = CALLS[family].format(**words) + last_step(run, family)
    return "\n".join((OPENING[family].format(**words), asked, f"{ARCHITECTURES[run.task.pipeline].output} = {call}"))


def texts(run: Run) -> list[str]:
    """What is asked: a text, a pair of them, or a query with its prefix."""
    if is_vectors(run):
        return [run.schema.query_prefix + EXAMPLE]
    return [EXAMPLE, DOCUMENT][: len(run.schema.text_columns())]


def kind(family: str) -> str:
    """Of which package the tensors are."""
    return "np" if family in ("onnx", "openvino") else "pt"


def is_windowed(run: Run) -> bool:
    """Whether a long text is read in windows whose answers are merged."""
    return getattr(run.schema, "long", None) == "window"


def truncation(run: Run) -> str:
    """What makes a tokenizer cut a long text, or, where this run reads it so, into windows."""
    if not is_windowed(run):
        return "truncation=True"
    cut = '"only_second"' if len(texts(run)) > 1 else "True"  # each window of a document stands behind the whole query
    return f"truncation={cut}, stride={run.schema.overlap}, return_overflowing_tokens=True, padding=True"


def merging(run: Run) -> str:
    """How windows are merged; a reranker's best window counts."""
    return getattr(run.schema, "merging", "max")


def last_step(run: Run, family: str) -> str:
    """What the caller does with the output: merge windows, or pool what transformers' bare encoder gives."""
    if is_windowed(run):
        logits = ".logits" if family == "transformers" else ""
        return f"{logits}.mean(0)" if merging(run) == "mean" else f"{logits}.{most(family)}(0)"
    if family == "transformers":
        return ".last_hidden_state  # of tokens; pooling, projection and length 1 as modules.json says"
    return ""


def most(family: str) -> str:
    return "max" if kind(family) == "np" else "amax"
