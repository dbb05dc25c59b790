//! Holds `kernels/prebuilt` to the kernels it was made from: by a record of their contents always, by a fresh compile
//! where the nvcc that made it is at hand. `scripts/prebuilt-code` makes it anew. And the PTX is for old drivers: an
//! assembler of CUDA 12.0 takes it, which `scripts/get-old-ptxas` installs.

use std::{
    env,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

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

/// The nvcc that made the prebuilt code, or why it is not at hand.
fn pinned_nvcc() -> Result<Nvcc, String> {
    let path = nvcc::find(&variable).ok_or("there is no nvcc")?;
    let nvcc = Nvcc::ask(&path, &variable)?;
    match nvcc.version == prebuilt::NVCC {
        true => Ok(nvcc),
        false => Err(format!("it was made with nvcc {}, this is {}", prebuilt::NVCC, nvcc.version)),
    }
}

/// Where something compiled now goes.
fn scratch(source: &Path, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.with_extension(extension).file_name().unwrap())
}

/// PTX of one source, compiled now.
fn compile_ptx(nvcc: &Nvcc, source: &Path) -> String {
    let to = scratch(source, "ptx");
    nvcc.ptx(source, &to, prebuilt::CAPABILITY, &["-Werror=all-warnings"])
        .unwrap_or_else(|message| panic!("{}: {message}", source.display()));
    prebuilt::of_low_version(&fs::read_to_string(to).unwrap())
}

/// The fatbin of one source, compiled unless that was done before for the same sources: it takes a minute.
fn compile_fatbin(nvcc: &Nvcc, source: &Path) -> Vec<u8> {
    let mut hash = DefaultHasher::new();
    prebuilt::record(&kernels()).hash(&mut hash);
    let to = scratch(source, &format!("{:016x}.fatbin", hash.finish()));
    if !to.is_file() {
        let temporary = to.with_extension("tmp");
        nvcc.fatbin(source, &temporary, &prebuilt::targets(source), 1)
            .unwrap_or_else(|message| panic!("{}: {message}", source.display()));
        fs::rename(temporary, &to).unwrap();
    }
    read(&to)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn unpack(path: &Path) -> String {
    let mut text = String::new();
    GzDecoder::new(&read(path)[..]).read_to_string(&mut text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text
}

fn pack(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

/// Past the capture of the test harness, which shows the output of failing tests only.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn prebuilt_code_is_of_these_sources() {
    let kernels = kernels();
    if env::var_os("BLESS").is_some() {
        return; // another test writes
    }
    let record = String::from_utf8(read(&prebuilt::record_path(&kernels))).unwrap().replace('\r', "");
    assert_eq!(record, prebuilt::record(&kernels), "kernels/prebuilt is stale, scripts/prebuilt-code makes it anew");
}

#[test]
fn prebuilt_code_is_what_nvcc_makes() {
    let kernels = kernels();
    let bless = env::var_os("BLESS").is_some();
    let nvcc = match pinned_nvcc() {
        Ok(nvcc) => nvcc,
        Err(why) => {
            assert!(!bless, "cannot make kernels/prebuilt: {why}");
            return tell(&format!("SKIPPED: kernels/prebuilt was not compared: {why}"));
        }
    };
    for source in prebuilt::sources(&kernels) {
        let (ptx, fatbin) = (compile_ptx(&nvcc, &source), compile_fatbin(&nvcc, &source));
        let file = |extension| prebuilt::file(&kernels, &source, extension);
        if bless {
            fs::write(file("ptx.gz"), pack(&ptx)).unwrap();
            fs::write(file("fatbin"), fatbin).unwrap();
        } else {
            assert!(ptx == unpack(&file("ptx.gz")), "{} is not what nvcc makes", file("ptx.gz").display());
            assert!(fatbin == read(&file("fatbin")), "{} is not what nvcc makes", file("fatbin").display());
        }
    }
    if bless {
        fs::write(prebuilt::record_path(&kernels), prebuilt::record(&kernels)).unwrap();
    }
}

/// The compressed package of the crate has 10 MB on its registry, and half of that here, which the step `package` of
/// `scripts/test` looks at. The rest takes 1.16.
#[test]
fn prebuilt_code_is_small() {
    let files = fs::read_dir(kernels().join("prebuilt")).unwrap().map(|file| file.unwrap());
    let sizes: Vec<_> = files.map(|file| (file.file_name(), file.metadata().unwrap().len())).collect();
    let all: u64 = sizes.iter().map(|(_, size)| size).sum();
    assert!(all < 3_830_000, "{all} bytes: {sizes:?}");
}

// ---------------------------------------------------------------------------------------------------
// Old drivers

/// Has that assembler take a text; what it says where it does not.
fn assemble(ptxas: &Path, name: &str, text: &str) -> Result<(), String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("old-{name}"));
    fs::write(&file, text).unwrap();
    // Without optimisation: what is asked is whether the text is valid.
    let mut command = Command::new(ptxas);
    let capability = format!("-arch=sm_{}", prebuilt::CAPABILITY);
    let output = command.args([&capability, "-O0", "-o"]).arg(file.with_extension("cubin")).arg(&file).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}", ptxas.display()));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// A driver compiles PTX of its own version and of all older ones, so what an old assembler takes with a low version in
/// its head is fit for all drivers from that version on.
#[test]
fn the_ptx_is_valid_as_the_version_that_it_names() {
    if env::var_os("BLESS").is_some() {
        return tell("SKIPPED: the PTX is being written: once more without BLESS, and it is shown to an old ptxas");
    }
    let ptxas = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../ptxas-12.0/nvidia/cuda_nvcc/bin/ptxas");
    if !ptxas.is_file() {
        return tell("SKIPPED: the PTX was not shown to an old ptxas: scripts/get-old-ptxas installs one");
    }
    let version = format!(".version {}\n", prebuilt::PTX_VERSION);
    thread::scope(|scope| {
        for source in prebuilt::sources(&kernels()) {
            let (ptxas, version) = (&ptxas, &version);
            scope.spawn(move || {
                let name = source.file_stem().unwrap().to_string_lossy().into_owned();
                let text = unpack(&prebuilt::file(&kernels(), &source, "ptx.gz"));
                assert!(text.contains(version.as_str()), "{name} is of another version");
                assemble(ptxas, &name, &text).unwrap_or_else(|said| panic!("{name}: {said}"));
                if name == "relu" {
                    // It would notice: one version less does not do, and nvcc's own is too new.
                    let said = assemble(ptxas, "relu-6.4", &text.replace(version.as_str(), ".version 6.4\n"));
                    assert!(said.is_err_and(|said| said.contains("requires PTX ISA .version 6.5")));
                    let said = assemble(ptxas, "relu-9.0", &text.replace(version.as_str(), ".version 9.0\n"));
                    assert!(said.is_err_and(|said| said.contains("Unsupported .version 9.0")));
                }
            });
        }
    });
}
