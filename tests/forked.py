"""The command line in processes of its own, forks of one that has imported what it needs.

What a command adds to tables, for good, stays in its process.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

_PRELOADED = ["numpy", "pyarrow.parquet", "plotly.graph_objects", "sim.cli.app", "sim.run"]


def podscope(*args: str, cwd: Path, path: Path) -> CompletedProcess[str]:
    """`podscope ARGS` in the folder `cwd`, with `path` among those of packages."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_run, args=(args, cwd, path, files))
        process.start()
        process.join()
        assert process.exitcode is not None
        out, err = (file.read_text(encoding="utf-8") for file in files)
    return CompletedProcess(args, process.exitcode, out, err)


def _run(args: tuple[str, ...], cwd: Path, path: Path, files: tuple[Path, Path]) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    sys.path.append(str(path))
    sys.argv = ["podscope", *args]
    from sim.cli import main

    main()
