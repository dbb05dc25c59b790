"""How the package is built from its sources."""

import importlib.metadata
import pathlib
import runpy
import subprocess
import sys
import types

import pytest

BUILD_LIBRARY = pathlib.Path(__file__).parents[1] / "build_library.py"


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """The build's hook, for a package in the folder python/ of a repository."""
    hooks = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    hooks.BuildHookInterface = object
    monkeypatch.setitem(sys.modules, hooks.__name__, hooks)
    hook = runpy.run_path(str(BUILD_LIBRARY))["BuildLibrary"]()
    hook.root, hook.target_name = tmp_path / "python", "wheel"
    (hook.root / "src" / "drop_activation").mkdir(parents=True)
    return hook


@pytest.mark.parametrize("version", ["editable", "standard"])
def test_an_editable_install_finds_the_library_beside_the_sources(version, hook, tmp_path, monkeypatch):
    library = tmp_path / "libdrop_activation_c.so"
    library.write_bytes(b"code")
    monkeypatch.setenv("DROP_ACTIVATION_LIBRARY", str(library))
    data = {"force_include": {}}
    hook.initialize(version, data)
    copied = hook.root / "src" / "drop_activation" / library.name
    assert copied.exists() == (version == "editable")
    assert data["force_include"] == ({} if version == "editable" else {str(library): f"drop_activation/{library.name}"})


@pytest.mark.parametrize("repository", [".", "python/rust"])
def test_without_cargo_it_says_what_is_missing(repository, hook, tmp_path, monkeypatch):
    monkeypatch.delenv("DROP_ACTIVATION_LIBRARY", raising=False)
    with pytest.raises(SystemExit, match="not the repository of drop-activation"):
        hook.initialize("standard", {})
    manifest = tmp_path / repository / "c" / "Cargo.toml"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="cargo build.* failed; it needs Rust"):
        hook.initialize("standard", {})


def test_an_sdist_takes_what_git_has(hook, tmp_path, monkeypatch):
    hook.target_name = "sdist"
    with pytest.raises(SystemExit, match="not a checkout by git"):
        hook.initialize("standard", {"force_include": {}})
    (tmp_path / "src").mkdir()
    for name in ("src/lib.rs", "src/left", "notes"):
        (tmp_path / name).touch()
    for command in (["init", "-q"], ["add", "src/lib.rs", "notes"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    data = {"force_include": {}}
    hook.initialize("standard", data)
    assert data["force_include"] == {str(tmp_path / "src" / "lib.rs"): "rust/src/lib.rs"}
    # An sdist that is made of an sdist has them already.
    (hook.root / "rust").mkdir()
    data = {"force_include": {}}
    hook.initialize("standard", data)
    assert data["force_include"] == {}


def installed():
    try:
        return importlib.metadata.distribution("drop-activation")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("SKIPPED: the package is not installed, but used where it lies")


@pytest.mark.parametrize("extra, package", [("torch", "torch"), ("jax", "jax-tvm-ffi"), ("bfloat16", "ml-dtypes")])
def test_an_extra_asks_for_what_it_is_called_by(extra, package):
    asked = [line for line in installed().requires if f"extra == '{extra}'" in line.replace('"', "'")]
    assert any(line.startswith(package) for line in asked), asked
    required = [line for line in installed().requires if "extra ==" not in line]
    assert [line.startswith("numpy") for line in required] == [True], required


def test_the_licences_are_installed_with_it():
    files = installed().metadata.get_all("License-File")
    assert sorted(files) == ["LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY.txt"]
    text = (installed().locate_file(".") / f"drop_activation-{installed().version}.dist-info/licenses").resolve()
    assert "rayon" in (text / "THIRD-PARTY.txt").read_text()
