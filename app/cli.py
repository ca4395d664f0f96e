"""`modernbert <verb> key=value …`: find the verb, compose its configuration, call it, say what went wrong.

Nothing here imports torch: a verb's module is imported when the verb runs, so help and `--cfg job` are quick.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from omegaconf import DictConfig

from app.failures import MISUSED, OK, STOPPED, TRY_AGAIN, report


class Verb(NamedTuple):
    module: str  # has `main(cfg) -> int`
    config: str  # its YAML in conf/
    help: str
    bare: str | None = None  # the key of a text that may stand alone, without `key=`


VERBS = {
    "train": Verb("app.train", "train", "fine-tune an encoder on labelled text"),
    "evaluate": Verb("app.evaluate", "evaluate", "score a saved run on labelled rows"),
    "predict": Verb("app.predict", "predict", "add a saved run's predictions to a file"),
    "rerun": Verb("app.rerun", "rerun", "train a saved run again and tell whether the same comes out"),
    "compare": Verb("app.compare", "compare", "tell whether one saved run is better than another"),
    "index": Verb("app.index", "index", "make documents searchable with a saved run"),
    "search": Verb("app.search", "search", "ask an index, in a sentence", bare="query"),
    "mine": Verb("app.mine", "mine", "find hard negatives to train retrieval with"),
    "circle": Verb("app.circle.main", "circle", "let a reranker and a retriever teach each other"),
    "export": Verb("app.export", "export", "write a saved run for other software"),
    "push": Verb("app.push", "push", "publish a saved run on the Hugging Face hub"),
    "check": Verb("app.check", "check", "list what is wrong with the data, before any training"),
    "pretrain": Verb("app.pretrain", "pretrain", "teach an encoder a language or a domain from raw text"),
    "distil": Verb("app.distil", "distil", "train a small encoder on the vectors of a larger one"),
    "soup": Verb("app.soup", "soup", "average the weights of saved runs"),
    "vector": Verb("app.vector", "vector", "add what trainings changed in a base, scaled"),
    "ui": Verb("app.serve", "ui", "try a saved run in the browser"),
    "serve": Verb("app.server.main", "serve", "serve saved runs over HTTP, with the page"),
    "bench encoder": Verb("app.bench.encoder_suite", "bench_encoder", "time the encoder beside transformers"),
    "bench long": Verb("app.bench.long_suite", "bench_long", "time long texts beside transformers"),
    "bench encode": Verb("app.bench.encode_suite", "bench_encode", "time vectors beside sentence-transformers"),
    "bench faults": Verb("app.bench.faults_suite", "bench_faults", "cut trainings short in every way and resume them"),
    "bench folds": Verb("app.bench.folds_suite", "bench_folds", "cross-validate a recipe"),
    "bench pretrained": Verb("app.bench.pretrained_suite", "bench_pretrained", "compare encoders after fine-tuning"),
    "bench ranking": Verb("app.bench.ranking_suite", "bench_ranking", "memory and time of measuring a large ranking"),
    "bench score": Verb("app.bench.score_suite", "bench_score", "time scores of pairs beside CrossEncoder"),
    "bench twostage": Verb("app.bench.twostage_suite", "bench_twostage", "retrieve, rerank: quality and latency"),
    "bench train": Verb("app.bench.train_suite", "bench_train", "time training beside transformers' Trainer"),
    "bench export": Verb("app.bench.export_suite", "bench_export", "compare runs with their exports in size and speed"),
    "bench serve": Verb("app.bench.serve_suite", "bench_serve", "time the server with batching beside without"),
}


#: What a word that is no sentence begins with.
KEY = re.compile(r"[+~]*[\w.]+=")


@dataclass
class Arguments:
    """The command line after the verb, flags and `key=value` words apart."""

    words: list[str] = field(default_factory=list)
    help: bool = False
    show_config: bool = False
    resolve: bool = False
    multirun: bool = False
    config_dir: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status and prints every error itself."""
    from app import console
    from app.usage import UsageError

    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except UsageError as error:
        console.error(str(error))
        return MISUSED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; without this, Python complains again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _run(argv: list[str]) -> int:
    from app import manual
    from app.usage import UsageError, closest

    if not argv or argv[0] in ("--help", "-h", "help"):
        manual.print_verbs({name: verb.help for name, verb in VERBS.items()})
        return OK
    name, rest = find_verb(argv)
    suites = {verb: VERBS[verb].help for verb in VERBS if verb.startswith(f"{name} ")}
    if suites and rest in ([], ["--help"], ["-h"]):
        manual.print_verbs(suites)
        return OK
    if name not in VERBS:
        meant = " ".join(argv[:2]) if suites else name
        best = closest(meant, list(VERBS))
        hint = f"Did you mean modernbert {best}?" if best else f"Verbs: {', '.join(VERBS)}."
        raise UsageError(f"'{meant}' is not a verb. {hint}")
    verb = VERBS[name]
    arguments = _arguments(rest, verb.bare)
    if arguments.help:
        manual.print_help(name, verb.config, arguments.words, arguments.config_dir)
        return OK
    if not rest and verb.config == "train":
        manual.print_tasks(name)
        return OK
    return _compose_and_call(verb, arguments)


def find_verb(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, of one word or (`bench encoder`) two, and the words after it."""
    words = 2 if " ".join(argv[:2]) in VERBS else 1
    return " ".join(argv[:words]), list(argv[words:])


def _arguments(rest: Sequence[str], bare: str | None = None) -> Arguments:
    from app.usage import UsageError

    parsed, words = Arguments(), iter(rest)
    sentence: list[str] = []
    for word in words:
        flag, _, attached = word.partition("=") if word.startswith("--") else (word, "", "")
        if flag in ("--help", "-h"):
            parsed.help = True
        elif flag in ("--cfg", "-c"):
            if (attached or next(words, "")) != "job":
                raise UsageError("--cfg job prints the composed configuration; it prints nothing else.")
            parsed.show_config = True
        elif flag == "--resolve":
            parsed.resolve = True
        elif flag in ("--multirun", "-m"):
            parsed.multirun = True
        elif flag in ("--config-dir", "-cd"):
            folder = attached or next(words, "")
            if not folder:
                raise UsageError("--config-dir needs a folder: --config-dir my_conf")
            parsed.config_dir = Path(folder)
        elif flag == "--json":
            parsed.words.append("json=true")
        elif bare is not None and not word.startswith("-") and not KEY.match(word):
            sentence.append(word)
        elif bare is not None and word.startswith(f"{bare}="):
            parsed.words.append(f"{bare}={quoted(word.removeprefix(f'{bare}='))}")
        else:
            parsed.words.append(word)
    if sentence:
        parsed.words.append(f"{bare}={quoted(' '.join(sentence))}")
    return parsed


def quoted(text: str) -> str:
    """A sentence as Hydra reads it back whole, with commas, brackets and quotes: the shell has taken its own away."""
    if text == "null" or (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text.replace("${", "\\${"))  # backslashes before a quote are doubled
    return f"'{escaped}{escaped[len(escaped.rstrip(chr(92))) :]}'"


def _compose_and_call(verb: Verb, arguments: Arguments) -> int:
    from omegaconf import OmegaConf

    from app import quiet, resume
    from app.compose import compose, expand, parse

    runs = expand(parse(arguments.words)) if arguments.multirun else [arguments.words]
    if verb.config in resume.KEYS and resume.asked(arguments.words):
        cfgs = [resume.configuration(words, verb.config) for words in runs]
    else:
        complete = not arguments.show_config
        cfgs = [compose(verb.config, words, arguments.config_dir, complete) for words in runs]
    if arguments.show_config:
        for cfg in cfgs:
            print(OmegaConf.to_yaml(cfg, resolve=arguments.resolve), end="")
        return OK
    quiet.silence()
    if len(cfgs) == 1:
        return _guarded(verb, "main", cfgs[0])
    _check_sweep(cfgs)
    return _sweep(verb, runs, cfgs)


def _check_sweep(cfgs: list[DictConfig]) -> None:
    from app.usage import UsageError

    folders = [str(cfg.run_dir) for cfg in cfgs if cfg.get("run_dir") is not None]
    if len(set(folders)) < len(folders):
        raise UsageError(f"run_dir={folders[0]}: {len(cfgs)} runs would write it; leave it out of a sweep.")
    if any("trainer" in cfg and cfg.trainer.devices not in (1, "auto") for cfg in cfgs):
        # Each further device starts this command line anew, and would begin with the first run of the sweep.
        raise UsageError("--multirun works with trainer.devices=1; start runs on several devices one by one.")


def _sweep(verb: Verb, runs: list[list[str]], cfgs: list[DictConfig]) -> int:
    """One run after the other, also past one that fails. Returns the first status that is not 0."""
    from app import console

    jobs: list[tuple[list[str], DictConfig, int]] = []
    for number, (words, cfg) in enumerate(zip(runs, cfgs, strict=True), start=1):
        console.note(f"run {number} of {len(cfgs)}: {' '.join(words)}")
        jobs.append((words, cfg, _guarded(verb, "main", cfg)))
        if jobs[-1][2] in (STOPPED, TRY_AGAIN):
            return jobs[-1][2]
    statuses = [status for _, _, status in jobs]
    if hasattr(sys.modules.get(verb.module), "after_sweep"):
        statuses.append(_guarded(verb, "after_sweep", jobs))
    return next((status for status in statuses if status != OK), OK)


def _guarded(verb: Verb, function: str, argument: Any) -> int:
    """Call a function of the verb's module; turn what it raises into a message and an exit status."""
    from app import console
    from app.imports import import_heavy

    try:
        return int(getattr(import_heavy(verb.module), function)(argument) or OK)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns an interrupt into sys.exit(1), raised while handling it.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        console.error("stopped", mark="")
        return STOPPED
    except BrokenPipeError:
        raise
    except Exception as error:
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
