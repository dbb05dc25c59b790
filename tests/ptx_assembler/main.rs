//! What PTX instructions mean, asked of NVIDIA's own tools. `tests/data/ptx-instructions.txt` was written from the text
//! of the PTX ISA; where a tool computes one of its cases, it has to come to the same result. They do so in four ways:
//!
//! - ptxas folds: an instruction whose operands are constants becomes a constant in the machine code.
//! - ptxas makes the same machine code of an instruction and of a paraphrase, which it folds.
//! - nvcc folds C++ expressions.
//! - NVIDIA's headers have functions that are one instruction on a GPU, and C++ on a CPU.
//!
//! `cargo test --test ptx_assembler -- --nocapture` prints what was confirmed. `BLESS=1` rewrites
//! `tests/data/ptx-confirmed.txt`, which records it.

mod cxx;
mod host;
#[path = "../../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
mod paraphrase;
mod ptx;
mod sass;
#[path = "../shipped/mod.rs"]
mod shipped;
mod table;
#[path = "../compiled_code/tools.rs"]
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{self, Write},
    num::NonZero,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Mutex,
    thread,
};

use nvcc::Nvcc;
use sass::Stores;
use table::{Case, Expected};
use tools::{run, tool};

/// What was confirmed by which tool, and by which version.
const RECORD: &str = include_str!("../data/ptx-confirmed.txt");
const RECORD_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ptx-confirmed.txt");

/// Cases of a kernel. More would not stay in registers.
const CASES: usize = 24;

const WITNESSES: [&str; 4] =
    ["folded by ptxas", "the same code by ptxas", "folded by nvcc", "computed by NVIDIA's headers"];

/// Past the capture of the test harness, which shows the output of failing tests only.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The tools, and a folder for their files that goes when this does.
struct Tools {
    ptxas: PathBuf,
    nvdisasm: PathBuf,
    /// "13.0.88", of ptxas.
    version: String,
    nvcc: Result<Nvcc, String>,
    folder: PathBuf,
}

impl Tools {
    fn find() -> Result<Self, String> {
        let (ptxas, nvdisasm) = (tool("ptxas")?, tool("nvdisasm")?);
        let answer = run(Command::new(&ptxas).arg("--version"));
        let version: String = nvcc::version(&answer).ok_or(format!("no version in: {answer}"))?.into();
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()) < Some(12) {
            return Err(format!("ptxas {version} does not know PTX 8.0"));
        }
        let newest = |nvcc: Nvcc| match nvcc.knows.contains(&100) {
            true => Ok(nvcc),
            false => Err(format!("nvcc {} does not know compute_100", nvcc.version)),
        };
        let nvcc = nvcc::find(&variable).ok_or("there is no nvcc".into());
        let nvcc = nvcc.and_then(|path| Nvcc::ask(&path, &variable)).and_then(newest);
        let folder = env::temp_dir().join(format!("ptx-assembler-{}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        Ok(Self { ptxas, nvdisasm, version, nvcc, folder })
    }

    /// The machine code of PTX, as nvdisasm prints it.
    fn assemble(&self, name: &str, kernels: &str) -> String {
        let source = self.folder.join(name).with_extension("ptx");
        let cubin = source.with_extension("cubin");
        fs::write(&source, ptx::HEAD.to_owned() + kernels).expect("a temporary file");
        run(Command::new(&self.ptxas).args(["-O3", "-arch=sm_90", "-o"]).args([&cubin, &source]));
        run(Command::new(&self.nvdisasm).arg("-c").arg(&cubin))
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What the tools said to the cases, by their places in the table.
#[derive(Default)]
struct Answers {
    confirmed: [BTreeSet<usize>; WITNESSES.len()],
    contradicted: Vec<String>,
}

impl Answers {
    /// `None` stands for what a tool left to the GPU.
    fn hear(&mut self, witness: usize, place: usize, case: &Case, said: &[Option<u64>]) {
        let Some(said) = said.iter().copied().collect::<Option<Vec<_>>>() else { return };
        if case.results.iter().zip(&said).all(|(expected, bits)| expected.admits(*bits)) {
            self.confirmed[witness].insert(place);
        } else {
            let digits = |(expected, bits): (&Expected, &u64)| {
                format!("{bits:#0width$x}", width = 2 + expected.width() as usize / 4)
            };
            let said: Vec<_> = case.results.iter().zip(&said).map(digits).collect();
            self.contradicted.push(format!("{}, but {}: {}", case.line, WITNESSES[witness], said.join(" ")));
        }
    }
}

#[test]
fn nvidias_tools_compute_what_the_table_says() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(why) => return tell(&format!("SKIPPED: the meaning of PTX was not asked of ptxas: {why}\n")),
    };
    let cases = table::cases();
    let mut answers = Answers::default();
    folded_by_ptxas(&tools, &cases, &mut answers);
    same_code(&tools, &cases, &mut answers);
    let of_cxx = match &tools.nvcc {
        Ok(nvcc) => folded_by_nvcc(nvcc, &tools.folder, &cases, &mut answers)
            .and_then(|()| computed_by_headers(&tools.folder, &cases, &mut answers)),
        Err(why) => Err(why.clone()),
    };
    let contradicted = &answers.contradicted;
    assert!(contradicted.is_empty(), "{} contradicted:\n{}", contradicted.len(), contradicted.join("\n"));

    let record = record(&tools.version, &cases, &answers);
    println!("{record}");
    if let Err(why) = of_cxx {
        tell(&format!("SKIPPED: the meaning of PTX was asked of ptxas only: {why}\n"));
    } else if env::var_os("BLESS").is_some() {
        fs::write(RECORD_FILE, record).expect("the record is written");
    } else if RECORD.lines().next() != record.lines().next() {
        tell(&format!("SKIPPED: the record of what is confirmed is not of ptxas and nvcc {}\n", tools.version));
    } else {
        // A checkout may have given lines another end.
        let recorded = RECORD.replace('\r', "");
        assert!(recorded == record, "confirmed now, to compare with {RECORD_FILE} (BLESS=1 rewrites it):\n{record}");
    }
}

/// Every instruction of the kernels that computes has its cases.
#[test]
fn the_table_has_the_kernels_instructions() {
    // What moves data, synchronises or branches; and moves of constants, to which there is nothing to know.
    const OTHERS: [&str; 10] = ["bra", "ret", "ld", "st", "mov", "cvta", "shfl", "vote", "bar", "call"];
    let known: BTreeSet<_> = table::cases().iter().map(|case| case.instruction).collect();
    let mut missing = BTreeSet::new();
    for (_, text) in shipped::ptx() {
        for line in text.lines() {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with(['{', '@']));
            let Some(opcode) = words.next().filter(|_| line.contains(';')) else { continue };
            let base = opcode.split('.').next().unwrap_or_default();
            let is_opcode = base.starts_with(|c: char| c.is_ascii_lowercase());
            if is_opcode && !OTHERS.contains(&base.trim_end_matches(';')) && !known.contains(opcode) {
                missing.insert(opcode);
            }
        }
    }
    assert!(missing.is_empty(), "no cases of {missing:?}");
}

#[test]
fn the_table_is_what_the_script_writes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ptx-instructions");
    let answer = match Command::new("python3").arg(&script).arg("--check").output() {
        Ok(answer) if script.is_file() => answer,
        _ => return tell("SKIPPED: scripts/ptx-instructions was not run: it or python3 is missing\n"),
    };
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

/// What each tool confirmed of each instruction's cases.
fn record(version: &str, cases: &[Case], answers: &Answers) -> String {
    // All, those confirmed, and those by each witness.
    const COLUMNS: usize = 2 + WITNESSES.len();
    let mut counts = BTreeMap::<&str, [usize; COLUMNS]>::new();
    let mut sums = [0; COLUMNS];
    for (place, case) in cases.iter().enumerate() {
        let by = answers.confirmed.each_ref().map(|confirmed| usize::from(confirmed.contains(&place)));
        let any = by.into_iter().max().unwrap_or_default();
        let counted = counts.entry(case.instruction).or_default();
        for (i, one) in [1, any].into_iter().chain(by).enumerate() {
            counted[i] += one;
            sums[i] += one;
        }
    }
    let mut text = format!(
        "# What ptxas and nvcc {version} confirm of tests/data/ptx-instructions.txt; written by tests/ptx_assembler.\n\
         # Instruction, cases, confirmed; of these: {}.\n",
        WITNESSES.join(", ")
    );
    for (instruction, [all, any, by @ ..]) in counts.into_iter().chain([("all", sums)]) {
        let by = by.map(|count| count.to_string()).join(", ");
        let _ = writeln!(text, "{instruction}: {all}, {any}; {by}");
    }
    text
}

/// Does `work` to all items, one for each processor at a time, and gives what comes of them in order.
fn parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.iter().enumerate());
    let next = || queue.lock().unwrap().next();
    let worker = || {
        let mut done = Vec::new();
        while let Some((i, item)) = next() {
            done.push((i, work(i, item)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, done)| done).collect()
}

/// Constants of so many bits at consecutive places of a kernel's results.
fn results(stores: &Stores, place: &mut u64, case: &Case) -> Vec<Option<u64>> {
    let word = |offset| stores.get(&offset).copied().unwrap_or_else(|| panic!("no store at {offset:#x}"));
    let result = |expected: &Expected| {
        let low = word(*place).map(u64::from);
        let high = if expected.width() == 64 { word(*place + 4).map(u64::from) } else { Some(0) };
        *place += ptx::STRIDE;
        Some(high? << 32 | low?)
    };
    case.results.iter().map(result).collect()
}

fn folded_by_ptxas(tools: &Tools, cases: &[Case], answers: &mut Answers) {
    // Kernels of one instruction each, many to a process.
    const KERNELS: usize = 48;
    let mut groups = BTreeMap::<&str, Vec<(usize, &Case)>>::new();
    cases.iter().enumerate().for_each(|(place, case)| groups.entry(case.instruction).or_default().push((place, case)));
    let kernels: Vec<_> = groups.values().flat_map(|group| group.chunks(CASES)).collect();
    let parts: Vec<_> = kernels.chunks(KERNELS).collect();
    let stores = parallel(&parts, |part, kernels| {
        let one = |(i, cases): (usize, &&[(usize, &Case)])| {
            ptx::kernel(&format!("k{i}"), cases.iter().map(|(_, case)| *case))
        };
        let text: String = kernels.iter().enumerate().map(one).collect();
        sass::stores(&tools.assemble(&format!("folded{part}"), &text))
    });
    for (kernels, stores) in parts.iter().zip(&stores) {
        for (i, kernel) in kernels.iter().enumerate() {
            let mut offset = 0;
            for (place, case) in *kernel {
                answers.hear(0, *place, case, &results(&stores[&format!("k{i}")], &mut offset, case));
            }
        }
    }
}

/// Instruction and paraphrase are the same machine code where nothing is known of the sources; then the paraphrase is
/// folded with those of the case.
fn same_code(tools: &Tools, cases: &[Case], answers: &mut Answers) {
    let of_case = |(place, case)| paraphrase::of(case).into_iter().map(move |text| (place, case, text));
    let paraphrased: Vec<(usize, &Case, String)> = cases.iter().enumerate().flat_map(of_case).collect();
    let forms = paraphrased.iter().enumerate().map(|(i, (_, case, text))| {
        let immediate = paraphrase::has_immediate(case);
        let instruction = ptx::unknown_sources(&format!("i{i}"), case, immediate, None);
        instruction + &ptx::unknown_sources(&format!("p{i}"), case, immediate, Some(text))
    });
    let code = tools.assemble("unknown", &forms.collect::<String>());
    let code = sass::instructions(&code);
    let normal = |name: String| paraphrase::normal(&code[&name]);
    let same = |i: usize| normal(format!("i{i}")) == normal(format!("p{i}"));
    let same: Vec<_> = paraphrased.iter().enumerate().filter(|(i, _)| same(*i)).map(|(_, found)| found).collect();

    let kernels = same.chunks(CASES).enumerate().map(|(i, part)| {
        let all: Vec<_> = part.iter().map(|(_, case, text)| (*case, text.as_str())).collect();
        ptx::statements(&format!("k{i}"), &all)
    });
    let stores = sass::stores(&tools.assemble("paraphrased", &kernels.collect::<String>()));
    for (i, part) in same.chunks(CASES).enumerate() {
        let mut offset = 0;
        for (place, case, _) in part {
            answers.hear(1, *place, case, &results(&stores[&format!("k{i}")], &mut offset, case));
        }
    }
}

fn folded_by_nvcc(nvcc: &Nvcc, folder: &Path, cases: &[Case], answers: &mut Answers) -> Result<(), String> {
    let expressions: Vec<_> =
        cases.iter().enumerate().filter_map(|(i, case)| Some((i, cxx::expression(case)?))).collect();
    let groups: Vec<_> = expressions.chunks(CASES).map(<[_]>::to_vec).collect();
    let (source, ptx) = (folder.join("folded.cu"), folder.join("folded.ptx"));
    fs::write(&source, cxx::source(&groups)).expect("a temporary file");
    nvcc.ptx(&source, &ptx, 100, &[])?;
    let stores = cxx::stores(&fs::read_to_string(ptx).expect("what nvcc wrote"));
    for (kernel, group) in groups.iter().enumerate() {
        for (i, (place, _)) in group.iter().enumerate() {
            answers.hear(2, *place, &cases[*place], &[stores.get(&(kernel, i)).copied()]);
        }
    }
    Ok(())
}

fn computed_by_headers(folder: &Path, cases: &[Case], answers: &mut Answers) -> Result<(), String> {
    let nvcc = nvcc::find(&variable).ok_or("there is no nvcc")?;
    let home = nvcc.parent().and_then(Path::parent).ok_or("nvcc is in no folder")?;
    for (place, result) in host::computed(&home.join("include"), folder, cases)? {
        answers.hear(3, place, &cases[place], &[Some(result)]);
    }
    Ok(())
}
