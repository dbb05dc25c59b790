//! What PTX instructions mean, asked of NVIDIA's own tools: `tests/data/ptx-instructions.txt` was written from the text
//! of the PTX ISA, and here ptxas computes the same cases, as it folds instructions whose operands are constants.

#[path = "../../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
mod ptx;
mod sass;
mod table;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    num::NonZero,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Mutex,
    thread,
};

use sass::Stores;
use table::Case;

/// Cases of a kernel. More would not stay in registers.
const CASES: usize = 24;

/// Past the capture of the test harness, which shows the output of failing tests only.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Beside nvcc, or else on PATH.
fn tool(name: &str) -> Result<PathBuf, String> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let beside = nvcc::find(&variable).and_then(|nvcc| Some(nvcc.parent()?.to_owned()));
    let path = variable("PATH").unwrap_or_default();
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    let places = beside.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(&file));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or(format!("there is no {name} beside nvcc or on PATH"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("code is printed in ASCII")
}

#[test]
fn ptxas_computes_what_the_table_says() {
    let (ptxas, nvdisasm) = match tool("ptxas").and_then(|ptxas| Ok((ptxas, tool("nvdisasm")?))) {
        Ok(tools) => tools,
        Err(why) => return tell(&format!("SKIPPED: the meaning of PTX was not asked of ptxas: {why}\n")),
    };
    let cases = table::cases();
    let mut groups = BTreeMap::<&str, Vec<&Case>>::new();
    cases.iter().for_each(|case| groups.entry(case.instruction).or_default().push(case));
    let kernels: Vec<&[&Case]> = groups.values().flat_map(|group| group.chunks(CASES)).collect();

    let folder = env::temp_dir().join(format!("ptx-assembler-{}", process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    let answers: Vec<Answer> = assembled(&ptxas, &nvdisasm, &folder, &kernels)
        .iter()
        .zip(&kernels)
        .flat_map(|(stores, kernel)| answers(stores, kernel))
        .collect();
    let _ = fs::remove_dir_all(&folder);

    let mut counts = BTreeMap::<&str, [usize; 2]>::new();
    for answer in &answers {
        let [confirmed, all] = counts.entry(answer.case.instruction).or_default();
        *confirmed += usize::from(answer.said == Said::Same);
        *all += 1;
    }
    for (instruction, [confirmed, all]) in &counts {
        println!("{instruction}: {confirmed} of {all}");
    }
    let contradicted: Vec<_> = answers
        .iter()
        .filter_map(|answer| match &answer.said {
            Said::Other(words) => Some(format!("{}, ptxas: {words}", answer.case.line)),
            _ => None,
        })
        .collect();
    assert!(contradicted.is_empty(), "{} contradicted:\n{}", contradicted.len(), contradicted.join("\n"));
}

/// What ptxas said to a case.
struct Answer<'a> {
    case: &'a Case,
    said: Said,
}

#[derive(PartialEq)]
enum Said {
    Same,
    /// Constants, but not those of the table.
    Other(String),
    /// It left the instruction to the GPU.
    Nothing,
}

fn answers<'a>(stores: &Stores, cases: &[&'a Case]) -> Vec<Answer<'a>> {
    let mut place = 0;
    let mut answer = |case: &'a Case| {
        let results = case.results.iter().map(|expected| {
            let word = |offset| stores.get(&offset).copied().unwrap_or_else(|| panic!("no store at {offset:#x}"));
            let low = word(place).map(u64::from);
            let high = if expected.width() == 64 { word(place + 4).map(u64::from) } else { Some(0) };
            place += ptx::STRIDE;
            Some((*expected, high? << 32 | low?))
        });
        let results: Vec<_> = results.collect();
        let said = match results.into_iter().collect::<Option<Vec<_>>>() {
            None => Said::Nothing,
            Some(results) if results.iter().all(|(expected, bits)| expected.admits(*bits)) => Said::Same,
            Some(results) => {
                let digits = |(expected, bits): &(table::Expected, u64)| {
                    format!("{bits:#0width$x}", width = 2 + expected.width() as usize / 4)
                };
                Said::Other(results.iter().map(digits).collect::<Vec<_>>().join(" "))
            }
        };
        Answer { case, said }
    };
    cases.iter().map(|case| answer(case)).collect()
}

/// What each kernel stores, once ptxas has assembled it.
fn assembled(ptxas: &Path, nvdisasm: &Path, folder: &Path, kernels: &[&[&Case]]) -> Vec<Stores> {
    // One process for many kernels, and one for each processor at a time.
    const KERNELS: usize = 64;
    let parts = kernels.chunks(KERNELS).enumerate().collect::<Vec<_>>();
    let queue = Mutex::new(parts.iter());
    let next = || queue.lock().unwrap().next();
    let worker = || {
        let mut found = Vec::new();
        while let Some((part, kernels)) = next() {
            let text = kernels.iter().enumerate().map(|(i, cases)| ptx::kernel(&format!("k{i}"), cases));
            let source = folder.join(format!("{part}.ptx"));
            let cubin = source.with_extension("cubin");
            fs::write(&source, ptx::HEAD.to_owned() + &text.collect::<String>()).expect("a temporary file");
            run(Command::new(ptxas).args(["-O3", "-arch=sm_90", "-o"]).args([&cubin, &source]));
            let mut stores = sass::stores(&run(Command::new(nvdisasm).arg("-c").arg(&cubin)));
            let in_order = (0..kernels.len()).map(|i| stores.remove(&format!("k{i}")).expect("the kernel's code"));
            found.push((*part, in_order.collect::<Vec<_>>()));
        }
        found
    };
    let mut found = thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    found.sort_by_key(|(part, _)| *part);
    found.into_iter().flat_map(|(_, stores)| stores).collect()
}
