"""Puts the shared library of the C interface into the wheel: built by cargo, or the file that
DROP_ACTIVATION_LIBRARY names. The wheel needs no particular Python, only the platform."""

import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        library = os.environ.get("DROP_ACTIVATION_LIBRARY") or built(pathlib.Path(self.root).parent)
        name = pathlib.Path(library).name
        if version == "editable":  # the sources are the package
            shutil.copy(library, pathlib.Path(self.root) / "src" / "drop_activation" / name)
        else:
            build_data["force_include"][library] = f"drop_activation/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def built(repository):
    """The library, built by cargo in the repository that this folder is a part of."""
    if not (repository / "c" / "Cargo.toml").is_file():
        raise SystemExit(f"{repository} is not the repository of drop-activation: build from a checkout of it")
    command = ["cargo", "build", "--release", "--locked", "-p", "drop-activation-c"]
    needs = f"{' '.join(command)} failed; it needs Rust, https://rustup.rs"
    try:
        result = subprocess.run(
            [*command, "--message-format=json-render-diagnostics"],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    except OSError as error:
        raise SystemExit(f"{needs} ({error})") from None
    if result.returncode:
        raise SystemExit(needs)
    for line in result.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "drop_activation_c":
            for name in message["filenames"]:
                if name.endswith((".so", ".dylib", ".dll")):
                    return name
    raise SystemExit("cargo has built no shared library")
