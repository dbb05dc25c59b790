//! Holds `kernels/prebuilt` to the kernels it was made from: by a record of their contents always, by a
//! fresh compile where the nvcc that made it is at hand. `scripts/prebuilt-ptx` makes it anew.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

#[path = "../build/fingerprint.rs"]
mod fingerprint;
#[path = "../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
#[path = "../build/prebuilt.rs"]
#[allow(dead_code)]
mod prebuilt;

use nvcc::Nvcc;

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The nvcc that made the prebuilt PTX, or why it is not at hand.
fn pinned_nvcc() -> Result<Nvcc, String> {
    let path = nvcc::find(&variable).ok_or("there is no nvcc")?;
    let nvcc = Nvcc::ask(&path, &variable)?;
    match nvcc.version == prebuilt::NVCC {
        true => Ok(nvcc),
        false => Err(format!("it was made with nvcc {}, this is {}", prebuilt::NVCC, nvcc.version)),
    }
}

/// PTX of one source, compiled now.
fn compile(nvcc: &Nvcc, source: &Path) -> String {
    let name = source.with_extension("ptx");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.file_name().unwrap());
    nvcc.ptx(source, &to, prebuilt::CAPABILITY, &["-Werror=all-warnings"])
        .unwrap_or_else(|message| panic!("{}: {message}", source.display()));
    fs::read_to_string(to).unwrap()
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.replace('\r', "")
}

#[test]
fn prebuilt_ptx_is_of_these_sources() {
    let kernels = kernels();
    if env::var_os("BLESS").is_some() {
        return; // the next test writes
    }
    assert_eq!(
        read(&prebuilt::record_path(&kernels)),
        prebuilt::record(&kernels),
        "kernels/prebuilt is stale, scripts/prebuilt-ptx makes it anew"
    );
}

#[test]
fn prebuilt_ptx_is_what_nvcc_makes() {
    let kernels = kernels();
    let bless = env::var_os("BLESS").is_some();
    let nvcc = match pinned_nvcc() {
        Ok(nvcc) => nvcc,
        Err(why) => {
            assert!(!bless, "cannot make kernels/prebuilt: {why}");
            // Not by eprintln!, whose output is shown for failing tests only.
            let line = format!("SKIPPED: kernels/prebuilt was not compared: {why}\n");
            let _ = io::stderr().write_all(line.as_bytes());
            return;
        }
    };
    for source in prebuilt::sources(&kernels) {
        let made = compile(&nvcc, &source);
        let file = prebuilt::ptx(&kernels, &source);
        if bless {
            fs::write(&file, made).unwrap();
        } else {
            assert!(made == read(&file), "{} is not what nvcc makes", file.display());
        }
    }
    if bless {
        fs::write(prebuilt::record_path(&kernels), prebuilt::record(&kernels)).unwrap();
    }
}
