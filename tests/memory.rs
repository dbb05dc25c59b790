//! Without memory for a mask a call returns an error, and changes nothing.
#![cfg(target_os = "linux")]

mod support;

use drop_activation::half::bf16;
use drop_activation::{DropActivation, Error, MaskKey, MaskOrigin, PackedMask, RRelu, cpu};

use support::own_process;

unsafe extern "C" {
    fn setrlimit(resource: i32, limit: *const [u64; 2]) -> i32;
}

/// Lets this process have so much more memory than it has.
fn allow_no_more_than(bytes: u64) {
    const RLIMIT_AS: i32 = 9;
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = pages * 4096 + bytes;
    // SAFETY: the address of the two numbers that make up a limit.
    assert_eq!(unsafe { setrlimit(RLIMIT_AS, &[limit, limit]) }, 0);
}

#[test]
#[ignore = "run by `no_memory_for_a_mask` in a process of its own"]
fn in_little_memory() {
    // Its mask has 64 MiB. Nothing touches its memory, which so takes none.
    const LEN: usize = 1 << 29;
    let mut x = vec![bf16::ZERO; LEN];
    let (op, rrelu, key) = (DropActivation::default(), RRelu::default(), MaskKey::new(1, 2));
    let origin = MaskOrigin::DropActivation(op);
    let mut small = PackedMask::from_words(origin, 40, vec![7, 5]).unwrap();
    let (before, no_memory) = (small.clone(), Error::MaskMemory { len: LEN });
    let large = PackedMask::from_words(origin, LEN, vec![0; LEN / 32]).unwrap();
    let stored = large.to_bytes().unwrap();
    allow_no_more_than(32 << 20);
    assert_eq!(cpu::forward(&op, key, &mut x), Err(no_memory.clone()));
    assert_eq!(cpu::forward_into(&op, key, &mut x, &mut small), Err(no_memory.clone()));
    assert_eq!(cpu::rrelu_forward(&rrelu, key, &mut x), Err(no_memory.clone()));
    assert_eq!(cpu::rrelu_forward_into(&rrelu, key, &mut x, &mut small), Err(no_memory.clone()));
    assert_eq!(cpu::keep_mask(&op, key, LEN), Err(no_memory.clone()));
    assert_eq!(large.to_bytes(), Err(no_memory.clone()));
    assert_eq!(PackedMask::from_bytes(&stored), Err(no_memory));
    assert_eq!(small, before);
}

#[test]
fn no_memory_for_a_mask() {
    own_process::passes(own_process::command("in_little_memory"));
}
