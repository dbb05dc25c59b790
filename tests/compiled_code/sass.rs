//! The machine code of the embedded images: cuobjdump takes it out, nvdisasm prints it, and here it is read.

use std::{
    collections::HashMap,
    env, fs,
    num::NonZero,
    path::Path,
    process::{self, Command},
    sync::Mutex,
    thread,
};

use crate::tools::{run, tool};

/// One entry point for one capability.
pub struct Kernel {
    pub name: &'static str,
    pub capability: u32,
    pub resources: Resources,
    pub code: Vec<Instruction>,
    /// Where each label stands: the index of the instruction that follows it.
    pub labels: HashMap<&'static str, usize>,
}

/// What ptxas reserves: registers of a thread, bytes of its stack and its local memory, bytes of a block's
/// shared memory. A register that is spilled has its place in the stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resources {
    pub registers: u32,
    pub stack: u32,
    pub local: u32,
    pub shared: u32,
}

/// `@!P0 BRA.U !UP1, (.L_x_7)` is guard `!P0`, opcode `BRA.U`, operands the rest.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub guard: Option<&'static str>,
    pub opcode: &'static str,
    pub operands: &'static str,
}

impl Instruction {
    fn parse(text: &'static str) -> Self {
        let text = text.trim_end_matches([';', ' ']);
        let (guard, text) = match text.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
            Some((guard, rest)) => (Some(guard), rest.trim_start()),
            None => (None, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        Self { guard, opcode, operands: operands.trim() }
    }

    /// The opcode without its modifiers.
    pub fn base(&self) -> &'static str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').any(|part| part == modifier)
    }

    /// Whether it loads an offset's base, which it does past the first-level cache as nothing else, or stores 64 bits,
    /// of which a full tile has none but an offset.
    pub fn is_offset(&self) -> bool {
        self.has("64") && (self.base() == "STG" || (self.base() == "LDG" && self.has("STRONG")))
    }

    /// Whether it adds the first of Philox's two increments to a key, which the host has done but where a generator in
    /// device memory draws the offset.
    pub fn makes_round_key(&self) -> bool {
        ["-0x61c88647", "0x9e3779b9"].iter().any(|increment| self.operands.contains(increment))
    }

    /// The label it names, and what stands before that.
    pub fn target(&self) -> Option<(&'static str, &'static str)> {
        let (before, rest) = self.operands.split_once("`(")?;
        Some((before, rest.split_once(')')?.0))
    }
}

/// The code of these images, all entries for all capabilities, or why it can't be shown on this machine.
///
/// Texts live as long as the test: they are leaked.
pub fn kernels(images: &[(&str, &[u8])]) -> Result<Vec<Kernel>, String> {
    let cuobjdump = tool("cuobjdump")?;
    let nvdisasm = tool("nvdisasm")?;
    let folder = env::temp_dir().join(format!("compiled-code-{}", process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    for (name, image) in images {
        fs::write(folder.join(name), image).expect("a temporary file");
        run(Command::new(&cuobjdump).current_dir(&folder).args(["-xelf", "all", name]));
    }
    let files = fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let cubins: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "cubin")).collect();

    let queue = Mutex::new(cubins.iter());
    let next = || queue.lock().unwrap().next();
    let worker = || {
        let mut found = Vec::new();
        while let Some(cubin) = next() {
            let code = run(Command::new(&nvdisasm).arg("-c").arg(cubin));
            let resources = run(Command::new(&cuobjdump).arg("-res-usage").arg(cubin));
            found.extend(parse(code.leak(), &resources, capability(cubin)));
        }
        found
    };
    let mut found = thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let _ = fs::remove_dir_all(&folder);
    found.sort_by_key(|kernel| (kernel.capability, kernel.name));
    Ok(found)
}

/// 90 for `train.5.sm_90.cubin`.
fn capability(cubin: &Path) -> u32 {
    let name = cubin.file_name().unwrap().to_string_lossy();
    let number = name.split('.').find_map(|part| part.strip_prefix("sm_")?.parse().ok());
    number.unwrap_or_else(|| panic!("{name} names no capability"))
}

fn parse(code: &'static str, resources: &str, capability: u32) -> Vec<Kernel> {
    let resources = parse_resources(resources);
    let mut kernels = Vec::<Kernel>::new();
    let mut inside = false;
    for line in code.lines() {
        if let Some(section) = line.split_once(".section\t").map(|(_, rest)| rest) {
            inside = section.starts_with(".text.");
        } else if !inside {
        } else if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            let resources = *resources.get(name).unwrap_or_else(|| panic!("no resources of {name}"));
            kernels.push(Kernel { name, capability, resources, code: Vec::new(), labels: HashMap::new() });
        } else if let Some(kernel) = kernels.last_mut() {
            if let Some(label) = line.strip_suffix(':') {
                kernel.labels.insert(label, kernel.code.len());
            } else if let Some((_, text)) = line.trim_start().strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
            {
                kernel.code.push(Instruction::parse(text.trim()));
            }
        }
    }
    kernels
}

/// `Function NAME:` and below it `REG:38 STACK:0 SHARED:0 LOCAL:0 ...`.
fn parse_resources(text: &str) -> HashMap<&str, Resources> {
    let mut found = HashMap::new();
    let mut name = "";
    for line in text.lines().map(str::trim) {
        if let Some(function) = line.strip_prefix("Function ") {
            name = function.trim_end_matches(':');
        } else if line.starts_with("REG:") {
            let field = |wanted: &str| {
                let fields = line.split_whitespace().filter_map(|field| field.split_once(':'));
                let mut values = fields.filter(|(key, _)| *key == wanted).map(|(_, value)| value.parse().unwrap());
                values.next().unwrap_or_else(|| panic!("no {wanted} in {line}"))
            };
            let resources = Resources {
                registers: field("REG"),
                stack: field("STACK"),
                local: field("LOCAL"),
                shared: field("SHARED"),
            };
            found.insert(name, resources);
        }
    }
    found
}
