"""How the package is built from its sources."""

import pathlib
import runpy
import sys
import types

import pytest

BUILD_LIBRARY = pathlib.Path(__file__).parents[1] / "build_library.py"


@pytest.mark.parametrize("version", ["editable", "standard"])
def test_an_editable_install_finds_the_library_beside_the_sources(version, tmp_path, monkeypatch):
    hooks = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    hooks.BuildHookInterface = object
    monkeypatch.setitem(sys.modules, hooks.__name__, hooks)
    build_library = runpy.run_path(str(BUILD_LIBRARY))
    hook = build_library["BuildLibrary"]()
    hook.root, library = tmp_path / "python", tmp_path / "libdrop_activation_c.so"
    (hook.root / "src" / "drop_activation").mkdir(parents=True)
    library.write_bytes(b"code")
    monkeypatch.setenv("DROP_ACTIVATION_LIBRARY", str(library))
    data = {"force_include": {}}
    hook.initialize(version, data)
    copied = hook.root / "src" / "drop_activation" / library.name
    assert copied.exists() == (version == "editable")
    assert data["force_include"] == ({} if version == "editable" else {str(library): f"drop_activation/{library.name}"})

    # Without cargo it says what is missing.
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "Cargo.toml").touch()
    monkeypatch.delenv("DROP_ACTIVATION_LIBRARY")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="cargo build.* failed; it needs Rust"):
        hook.initialize(version, data)
