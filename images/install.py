"""Puts what is zen-runner's own, besides its modules, into a layer's root: the launcher, metadata and licence.

usage: install.py ROOT   (its modules are in ROOT/opt/zen-runner/lib; pyproject.toml and LICENSE lie beside this file)

Runs in a builder stage, so that the launcher names the image's own Python.
"""

import shutil
import sys
import tomllib
from pathlib import Path

here = Path(__file__).parent
root = Path(sys.argv[1])
lib = root / "opt/zen-runner/lib"
project = tomllib.loads((here / "pyproject.toml").read_text())["project"]
sys.path.insert(0, str(lib))
from backends import __version__  # noqa: E402

# -I: the user's PYTHON* variables and the working directory are not for the runner. -S: no site, a good part of
# Python's start. The interpreter's path is resolved: the compiled dependencies are for this version and no other.
# The launcher is this short because Python keeps no byte code of a script, and compiles it at each start.
launcher = root / "usr/bin/zen-runner"
launcher.parent.mkdir(parents=True)
launcher.write_text(
    f"#!{Path(sys.executable).resolve()} -IS\n"
    "import sys\n"
    "sys.path.append('/opt/zen-runner/lib')\n"
    "from entrypoint.__main__ import main\n"
    "sys.exit(main())\n"
)
launcher.chmod(0o755)

# What importlib.metadata and scanners read. Python's own format: core metadata 2.4, entry points as an INI file.
info = lib / f"zen_runner-{__version__}.dist-info"
(info / "licenses").mkdir(parents=True)
shutil.copy(here / "LICENSE", info / "licenses")
(info / "METADATA").write_text(
    f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {__version__}\nSummary: {project['description']}\n"
    f"License-Expression: {project['license']}\nLicense-File: LICENSE\n"
)
(info / "entry_points.txt").write_text(
    "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in sorted(points.items()))
        for group, points in sorted(project["entry-points"].items())
    )
)
