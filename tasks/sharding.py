"""FSDP2 as a strategy of Lightning's: each process keeps a part of the weights and of the optimiser's state.

Source: torch's `fully_shard` (Zhao et al. 2023, arXiv:2304.11277, is its first version).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard

from modernbert.errors import ConfigError


class Sharded(ModelParallelStrategy):
    """Shards a task layer by layer; checkpoints are those of one process, with every tensor whole.

    Weights are gathered when a step begins and given back in the backward that exchanges gradients, not around each
    forward pass. Processes whose shares of a step make different numbers of micro-batches then still meet equally
    often, validation needs no equal numbers of batches, and a step that runs out of memory can be begun again. The
    price: while a step runs each process holds all weights once. What is shared out for good is the rest, three
    quarters of what AdamW needs beside gradients: the weights it moves and its two moments.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, task: nn.Module) -> None:
        """Shard a task with an `encoder`: a group a layer, one for its embeddings, one for all else.

        Raises:
            ConfigError: a parameter without a dimension, which cannot be cut.
        """
        if isinstance(task, FSDPModule):
            return
        if whole := [name for name, parameter in task.named_parameters() if parameter.ndim == 0]:
            raise ConfigError(
                f"trainer=fsdp cannot cut {', '.join(whole)}, a single number: use trainer=ddp for this kind of task."
            )
        mesh = self.device_mesh["data_parallel"]
        encoder: Any = task.encoder
        for part in (encoder.embeddings, *encoder.layers, task):
            fully_shard(part, mesh=mesh, reshard_after_forward=False)

    @property
    def root(self) -> Any:
        """The sharded task."""
        assert isinstance(self.model, FSDPModule)
        return self.model

    def gather(self) -> None:
        """Bring the weights together for a step; on every process, which then meet no more until they exchange."""
        for module in self.root.modules():
            if isinstance(module, FSDPModule):
                module.unshard()

    def begin_again(self) -> None:
        """Forget a step that broke off; on every process."""
        self.root.reset_iter_state()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Within it gradients stay where they are, and the weights too."""
        self._meet(False)
        try:
            yield
        finally:
            self._meet(True)

    def _meet(self, wanted: bool) -> None:
        self.root.set_requires_gradient_sync(wanted)
        self.root.set_reshard_after_backward(wanted)
        self.root.set_is_last_backward(wanted)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """That of the whole optimiser by the names of parameters, on the first process; on others nothing."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.root, optimizer, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint on every process; each takes its part of weights and optimiser."""
        held: dict[str, Any] = self.checkpoint_io.load_checkpoint(Path(self.broadcast(str(checkpoint_path))))
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.root, held["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, held.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(self.root, optimizer, state, options=options)
        return held

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing: `load_checkpoint` did it."""
