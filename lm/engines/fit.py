"""Threads, context and layers on the GPU that fit machine and model, where none are given."""

from __future__ import annotations

from ...common.machine import Machine
from ..gguf.header import Header
from .memory import need, trained_context
from .options import EngineOptions

LONGEST_CONTEXT = 8192
"""Ids. Models trained for 131,072 would take gigabytes for a chat that never gets so long."""

_SHORTEST_CONTEXT = 512
_PER_THREAD = 16 << 20
"""Bytes of weights from which one more thread pays: below, threads wait for each other longer than
they read. Measured with the demo pair: 3.4 MB is fastest on one, 22 MB equal on one and two."""

_MOST_THREADS = 16
"""For single ids: they wait for memory. 667 MB gain up to 16 of 16 cores (docs/boards.md); more
were not measured."""

_SHARE_OF_MEMORY = 0.7


def fit(
    options: EngineOptions, header: Header, machine: Machine, gpu: bool = False, contexts: int = 1
) -> EngineOptions:
    """`options` with every 0 and None replaced by a choice. What is given stays.

    Args:
        options: as configured; `processes` of them share the cores.
        header: of the model.
        machine: it runs on.
        gpu: whether llama.cpp has a GPU to put layers on.
        contexts: how many full contexts are to be held.
    """
    cores = max(1, machine.cores // options.processes)
    useful = -(-header.file_size // _PER_THREAD)
    layers = options.n_gpu_layers
    layers = (-1 if gpu else 0) if layers is None else layers
    on_gpu = layers != 0
    trained = trained_context(header)
    wanted = options.n_ctx or LONGEST_CONTEXT
    n_ctx = min(wanted, trained) if trained else wanted
    if not options.n_ctx and machine.available is not None and not on_gpu:
        room = _SHARE_OF_MEMORY * machine.available
        while n_ctx > _SHORTEST_CONTEXT and (need(header, options, n_ctx, contexts) or 0) > room:
            n_ctx //= 2
    return options.model_copy(
        update={
            "n_threads": options.n_threads or min(cores, useful, _MOST_THREADS),
            "n_threads_batch": options.n_threads_batch or min(cores, useful),
            "n_ctx": n_ctx,
            "n_gpu_layers": layers,
        }
    )


def alone(options: EngineOptions) -> EngineOptions:
    """`options` of a context with one sequence: no flash attention on a processor, unless given.

    There llama.cpp's takes twice as long for a token, and five to seven times as long for 44 of
    them, with 900 before (docs/results/costs.md). With several sequences in a context it is no
    slower, since it leaves out what the others wrote. A cache of whole numbers needs it.
    """
    floats = options.cache_type_v in ("f32", "f16", "bf16")
    if options.flash_attention == "auto" and not options.n_gpu_layers and floats:
        return options.model_copy(update={"flash_attention": "off"})
    return options


def chosen(options: EngineOptions) -> str:
    """What `fit` chose, in a few words for the user."""
    threads, batch = options.n_threads, options.n_threads_batch
    text = f"{threads} thread{'s' if threads != 1 else ''}"
    if batch != threads:
        text += f" ({batch} for the prompt)"
    return f"{text}, context of {options.n_ctx:,}"
