"""Puts the shared library of the C interface into the wheel: built by cargo, or the file that
DROP_ACTIVATION_LIBRARY names. The wheel needs no particular Python, only the platform.

The sdist has what cargo needs for that in its folder rust/."""

import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: What the sdist takes of the repository: the library and the C interface, and what their manifests name.
RUST = (
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "README.md",
    "build.rs",
    "build",
    "kernels",
    "src",
    "c",
    "include",
    "tests",
    ":!tests/data",
    "benches/*.rs",
    "candle/Cargo.toml",
    "candle/src",
    "candle/README.md",
    "tools/*/Cargo.toml",
    "tools/*/src/*",
)


class BuildLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        root = pathlib.Path(self.root)
        in_sdist = (root / "rust").is_dir()
        if self.target_name == "sdist":
            if not in_sdist:
                build_data["force_include"].update(sources(root.parent))
            return
        library = os.environ.get("DROP_ACTIVATION_LIBRARY") or built(root / "rust" if in_sdist else root.parent)
        name = pathlib.Path(library).name
        if version == "editable":  # the sources are the package
            shutil.copy(library, root / "src" / "drop_activation" / name)
        else:
            build_data["force_include"][library] = f"drop_activation/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def sources(repository):
    """The files of the repository that the sdist needs, and where they lie in it."""
    listed = ["git", "ls-files", "-z", "--", *RUST]
    try:
        names = subprocess.run(listed, cwd=repository, stdout=subprocess.PIPE, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{repository} is not a checkout by git, which an sdist is made of ({error})") from None
    return {str(repository / name): f"rust/{name}" for name in names.split("\0") if name}


def built(repository):
    """The library, built by cargo in the repository that this folder is a part of."""
    if not (repository / "c" / "Cargo.toml").is_file():
        raise SystemExit(f"{repository} is not the repository of drop-activation: build from a checkout or an sdist")
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
