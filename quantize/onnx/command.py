"""`uhlm-edge onnx`: what it takes and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...common.streams import emit


def onnx(
    src: Annotated[str, typer.Argument(help="Hugging Face folder, or a name to pull.")],
    out: Annotated[Path | None, typer.Option(help="New folder (default: NAME.TYPE.onnx).")] = None,
    type_: Annotated[str, typer.Option("--type", "-t", help="INT8 or F32.")] = "INT8",
) -> None:
    """Convert a model for `--engine onnx`: for devices where nothing can be compiled."""
    from ...common.errors import UsageError

    try:
        from ...common.text import human_bytes
        from ...models.resolve import model_source
        from .export import export_onnx

        path = model_source(src, "safetensors")
        folder = out or Path(f"{path.resolve().name}.{type_.upper()}.onnx")
        export_onnx(path, folder, type_)
    except ImportError as error:
        missing = f"{error.name} is missing; run: pip install 'uhlm-edge[quantize]'"
        raise UsageError(missing) from None
    emit(folder)
    total = sum(file.stat().st_size for file in folder.iterdir())
    emit(f"{human_bytes(total)}; run it with --engine onnx --model {folder}", err=True)
