"""The one place where warnings of libraries are silenced, each by category, module or text, with its reason.

Only what a person who runs `modernbert` can do nothing about belongs here; everything else stays visible.
"""

from __future__ import annotations

import logging
import warnings


class Silence:
    """A logging filter that drops records whose message starts with one of `texts`."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.texts)


# (start of the message as a regular expression, category, module as a regular expression, why)
WARNINGS: tuple[tuple[str, type[Warning], str, str], ...] = (
    (
        r".*does not have many workers",
        UserWarning,
        r"lightning\.",
        "rows are tokenised before training; a worker process would only copy them",
    ),
    (
        r".*is smaller than the logging interval",
        UserWarning,
        r"lightning\.",
        "a training of few steps has its curve from the validations, and the bar shows each step",
    ),
    (
        r".*sync_dist=True",
        UserWarning,
        r"lightning\.",
        "validation metrics are those of all processes already: reports add their states up",
    ),
    (
        r".*treespec, LeafSpec.*deprecated",
        FutureWarning,
        r"lightning\.",
        "Lightning 2.6 calls a name that torch is retiring",
    ),
    (
        r"Sparse (CSR tensor support is in beta|invariant checks are implicitly disabled)",
        UserWarning,
        r"tasks\.",
        "torch says so at the first sparse matrix; ours are made by torch itself or from checked ends",
    ),
    (
        r"Couldn't find ff\w+ or av\w+",
        RuntimeWarning,
        r"pydub\.",
        "gradio brings it for sound, and the page has none",
    ),
)

# Logger -> starts of messages to drop. Lightning's chatter: the device is in our summary, the tips advertise,
# an interrupt is reported by us. transformers: rows over the limit are cut, counted and reported by us.
LOGGERS = {
    "lightning.pytorch.utilities.rank_zero": (
        "GPU available",
        "TPU available",
        "💡 Tip",
        "`Trainer.fit` stopped",
        "Loading `train_dataloader` to estimate",
        "\nDetected KeyboardInterrupt",
        "Restoring states from",
        "Using bfloat16 Automatic Mixed Precision",
        "Using 16bit Automatic Mixed Precision",
        "Restored all states",
        "-" * 100 + "\ndistributed_backend",
    ),
    "lightning.pytorch.accelerators.cuda": ("LOCAL_RANK",),
    "lightning.fabric.utilities.distributed": ("Initializing distributed",),
    "lightning.fabric.utilities.seed": ("Seed set to",),
    "transformers.tokenization_utils_base": ("Token indices sequence length is longer than",),
}


def silence() -> None:
    """Install the filters; a second call changes nothing."""
    for message, category, module, _ in WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    for name, texts in LOGGERS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(f, Silence) for f in logger.filters):
            logger.addFilter(Silence(*texts))
