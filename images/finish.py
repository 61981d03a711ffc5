"""Makes a tree that pip and COPY left ready to be a layer: small, compiled, and the same bytes at every build.

usage: finish.py ROOT   (ROOT/opt/zen-runner/lib becomes /opt/zen-runner/lib in the image)

Runs in the builder stages, under the image's own Python, so that the byte code is that Python's.
"""

import compileall
import os
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

# 1980-01-01: the earliest time that every archive format can hold.
MTIME = 315532800


def compile_all(root: Path, lib: Path) -> None:
    """Compile every module below a directory for the place that it has in the image.

    Args:
        root: directory whose content is copied to / in the image.
        lib: directory below it.
    """
    for cache in list(lib.rglob("__pycache__")):
        shutil.rmtree(cache)
    # Unchecked: a byte-code file holds no time of its source, so the layer is reproducible and works read-only.
    compiled = compileall.compile_dir(
        lib,
        quiet=1,
        maxlevels=50,
        stripdir=root,
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        workers=0,
    )
    if not compiled:
        sys.exit("finish.py: not everything compiles; see above")


def finish(root: Path) -> None:
    """Compile, prune and normalise everything under a layer's root.

    Args:
        root: Directory whose content is copied to / in the image.
    """
    own = root / "opt/zen-runner"
    # pip's console scripts (pygmentize, ...) start with the builder's interpreter and nothing calls them.
    shutil.rmtree(own / "lib/bin", ignore_errors=True)
    # The runner's modules, and what is for the user's Python, which knows where it keeps packages.
    for lib in (own / "lib", root / sysconfig.get_path("purelib").lstrip("/")):
        if lib.is_dir():
            compile_all(root, lib)
    for path in [root, *root.rglob("*")]:
        # The builder's checkout may have any umask. /job is the one place that group 0, so any user ID, may write to.
        if path.is_symlink():
            pass
        elif path.is_dir():
            path.chmod(0o775 if path == root / "job" else 0o755)
        else:
            program = path.parent.name == "bin" or not path.is_relative_to(own)
            path.chmod(0o755 if program and os.access(path, os.X_OK) else 0o644)
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)


# From 3.12 on, compileall's processes import this file.
if __name__ == "__main__":
    finish(Path(sys.argv[1]))
