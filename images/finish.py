"""Makes a tree that pip and COPY left ready to be a layer: small, compiled, and the same bytes at every build.

usage: finish.py ROOT   (ROOT/opt/zen-runner/lib becomes /opt/zen-runner/lib in the image)

Runs in the builder stages, under the image's own Python, so that the byte code is that Python's.
"""

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path

# 1980-01-01: the earliest time that every archive format can hold.
MTIME = 315532800


def finish(root: Path) -> None:
    """Compile, prune and normalise everything under a layer's root.

    Args:
        root: Directory whose content is copied to / in the image.
    """
    lib = root / "opt/zen-runner/lib"
    # pip's console scripts (pygmentize, ...) start with the builder's interpreter and nothing calls them.
    shutil.rmtree(lib / "bin", ignore_errors=True)
    for cache in list(lib.rglob("__pycache__")):
        shutil.rmtree(cache)
    # Unchecked: a byte-code file holds no time of its source, so the layer is reproducible and works read-only.
    compiled = compileall.compile_dir(
        lib, quiet=1, maxlevels=50, stripdir=root, prependdir="/", invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    if not compiled:
        sys.exit("finish.py: not everything compiles; see above")
    for path in [root, *root.rglob("*")]:
        # The builder's checkout may have any umask. /job is the one place that group 0, so any user ID, may write to.
        if path.is_dir():
            path.chmod(0o775 if path == root / "job" else 0o755)
        else:
            path.chmod(0o755 if os.access(path, os.X_OK) and path.parent.name == "bin" else 0o644)
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)


finish(Path(sys.argv[1]))
