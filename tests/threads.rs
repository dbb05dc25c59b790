//! A call ends with the right result whatever the pool's threads are doing, where there are none, and in a process that
//! was forked; and the stack that it needs is the one that the documentation states.
#![cfg(target_os = "linux")]

mod support;

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use drop_activation::half::{bf16, f16};
use drop_activation::{
    Activation, DropActivation, Element, MaskKey, MaskOrigin, PackedMask, Pass, RRelu, cpu, reference,
};

use support::calls::{self, HostCall, on_cpu};
use support::own_process::{command, limited, passes};

/// Enough for several tasks.
const LARGE: usize = 5 * (1 << 16) + 77;
const SMALL: usize = 5000;

/// Calls of both kinds, compared with the reference: a training step, one over a mask that is used again, and a
/// backward pass whose output takes the place of the saved tensor.
fn calls_are_right() {
    let (op, key) = (DropActivation::new(Activation::Silu, 0.7).unwrap(), MaskKey::new(1, 2));
    for len in [LARGE, SMALL] {
        let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let (expected, expected_mask) = reference::forward(&op, key, &x).unwrap();
        let mut y = x.clone();
        let mask = cpu::forward(&op, key, &mut y).unwrap();
        assert!(y == expected && mask == expected_mask, "forward, {len} elements");
        let mut again = PackedMask::from_words(mask.origin(), 32, vec![0]).unwrap();
        cpu::forward_into(&op, key, (&x, &mut y), &mut again).unwrap();
        assert!(y == expected && again == expected_mask, "forward into a mask, {len} elements");
        let expected = reference::backward(&op, &mask, Some(&x), &y).unwrap();
        let (dy, mut dx) = (y.clone(), x.clone());
        cpu::run_over_saved(&Pass::Backward { op }, Some(&dy), &mut dx, cpu::MaskWords::Read(mask.words())).unwrap();
        assert!(dx == expected, "backward over the saved tensor, {len} elements");
        assert!(cpu::keep_mask(&op, key, len).unwrap() == *mask.words(), "keep mask, {len} elements");
    }
}

// ---------------------------------------------------------------------------------------------------
// Forks

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
}

/// Makes the calls in a forked child.
fn calls_are_right_in_a_child() {
    // SAFETY: the child, with this one thread, allocates, which the C library's fork allows for, makes the calls, and
    // ends without running anything of the parent's.
    let child = unsafe { fork() };
    if child == 0 {
        let right = std::panic::catch_unwind(calls_are_right).is_ok();
        // SAFETY: as above.
        unsafe { _exit(if right { 0 } else { 1 }) };
    }
    assert!(child > 0, "fork");
    let mut status = 0;
    // SAFETY: the child of this process, and the address of an integer.
    assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child's status");
}

#[test]
#[ignore = "run by `forked_processes` in a process of its own"]
fn fork_after_calls() {
    calls_are_right();
    calls_are_right_in_a_child();
    calls_are_right();
}

/// By another thread than the one that made calls, while others make some.
#[test]
#[ignore = "run by `forked_processes` in a process of its own"]
fn fork_during_calls() {
    let (stop, stopped) = channel::<()>();
    let busy = thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            calls_are_right();
        }
    });
    thread::sleep(Duration::from_millis(100));
    (0..10).for_each(|_| calls_are_right_in_a_child());
    stop.send(()).unwrap();
    busy.join().unwrap();
}

#[test]
#[ignore = "run by `forked_processes` in a process of its own"]
fn fork_before_calls() {
    calls_are_right_in_a_child();
    calls_are_right();
}

/// The pool is alive in the parent, but not by this library.
#[test]
#[ignore = "run by `forked_processes` in a process of its own"]
fn fork_after_rayon_alone() {
    assert_eq!(rayon::join(|| 1, || 2), (1, 2));
    calls_are_right_in_a_child();
}

/// By a thread of a pool.
#[test]
#[ignore = "run by `forked_processes` in a process of its own"]
fn fork_in_a_pool() {
    rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(fork_after_calls);
}

#[test]
fn forked_processes() {
    for test in
        ["fork_after_calls", "fork_during_calls", "fork_before_calls", "fork_after_rayon_alone", "fork_in_a_pool"]
    {
        let mut command = command(test);
        command.env("RAYON_NUM_THREADS", "3");
        passes(command);
    }
}

// ---------------------------------------------------------------------------------------------------
// Threads that cannot be had

/// How many threads this process has.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[ignore = "run by `where_no_thread_can_be_started` in a process of its own"]
fn no_threads() {
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "a thread was started");
    (0..3).for_each(|_| calls_are_right());
    assert_eq!(threads(), 1);
}

#[test]
#[ignore = "run by `where_no_thread_can_be_started` in a process of its own"]
fn a_few_threads() {
    (0..3).for_each(|_| calls_are_right());
    let threads = threads();
    assert!((3..7).contains(&threads), "{threads} threads");
}

#[test]
fn where_no_thread_can_be_started() {
    let mut none = command("no_threads");
    passes({
        // No machine has as much memory for one.
        none.env("RUST_MIN_STACK", (1u64 << 60).to_string()).env("RAYON_NUM_THREADS", "8");
        none
    });
    // Room for five stacks of a gigabyte, and for what else there is.
    let mut few = limited(&format!("-v {}", (5 << 20) + (1 << 19)), "a_few_threads");
    few.env("RUST_MIN_STACK", (1 << 30).to_string()).env("RAYON_NUM_THREADS", "8").env("MALLOC_ARENA_MAX", "1");
    passes(few);
}

// ---------------------------------------------------------------------------------------------------
// Threads that do something else

/// Makes the current pool's other threads wait until the returned function is called.
fn block(others: usize) -> impl FnOnce() {
    let begun = Arc::new(Barrier::new(others + 1));
    let (release, wait) = channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    for _ in 0..others {
        let (begun, wait) = (begun.clone(), wait.clone());
        rayon::spawn(move || {
            begun.wait();
            let _ = wait.lock().unwrap().recv();
        });
    }
    begun.wait();
    move || drop(release)
}

/// The other threads wait for the caller, who must not wait for them.
#[test]
#[ignore = "run by `blocked_pools` in a process of its own"]
fn blocked_global_pool() {
    calls_are_right();
    let release = block(3);
    (0..50).for_each(|_| calls_are_right());
    release();
    calls_are_right();
}

#[test]
#[ignore = "run by `blocked_pools` in a process of its own"]
fn blocked_pool_of_the_caller() {
    rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| {
        let release = block(2);
        (0..50).for_each(|_| calls_are_right());
        release();
        calls_are_right();
    });
}

#[test]
fn blocked_pools() {
    for test in ["blocked_global_pool", "blocked_pool_of_the_caller"] {
        let mut command = command(test);
        command.env("RAYON_NUM_THREADS", "3");
        passes(command);
    }
}

// ---------------------------------------------------------------------------------------------------
// Stack

/// What `drop_activation::cpu` states, in KiB, of an optimised build, which tests are as well. Of others it states
/// more: they are tested with that in the environment variable STACK_KIB.
const STACK: usize = 64;

fn every_pass<T: Element>() {
    let key = MaskKey::new(3, 4);
    for len in [LARGE, SMALL, 33] {
        let (x, mut y) = (vec![T::default(); len], vec![T::default(); len]);
        let dy = x.clone();
        let mut refilled =
            PackedMask::from_words(MaskOrigin::DropActivation(DropActivation::default()), 0, vec![]).unwrap();
        let mut both_ways = |call: &HostCall<T>, input: &[T]| {
            on_cpu(call, (input, &mut y).into(), &mut refilled).unwrap();
            on_cpu(call, (&mut y).into(), &mut refilled).unwrap();
        };
        for activation in Activation::ALL {
            let op = DropActivation::new(activation, 0.7).unwrap();
            calls::each_of_drop_activation(op, key, (&x, &dy), &mut both_ways);
        }
        calls::each_of_the_others(RRelu::default(), key, (&x, &dy), &mut both_ways);
        for activation in Activation::ALL {
            let op = DropActivation::new(activation, 0.7).unwrap();
            let keep = cpu::keep_mask(&op, key, len).unwrap();
            let words = cpu::MaskWords::Read(&keep);
            cpu::run_over_saved(&Pass::Backward { op }, Some(&dy), &mut x.clone(), words).unwrap();
        }
    }
}

#[test]
#[ignore = "run by `little_stack` in a process of its own"]
fn in_little_stack() {
    println!("instructions: {}", cpu::instruction_set());
    let stack = std::env::var("STACK_KIB").map_or(STACK, |kib| kib.parse().unwrap()) << 10;
    let passes = || {
        every_pass::<f32>();
        every_pass::<f64>();
        every_pass::<f16>();
        every_pass::<bf16>();
    };
    thread::Builder::new().stack_size(stack).spawn(passes).unwrap().join().unwrap();
}

#[test]
fn little_stack() {
    for set in ["portable", "avx2", "avx512"] {
        let mut command = command("in_little_stack");
        command.env("DROP_ACTIVATION_CPU", set);
        if !passes(command).contains(&format!("instructions: {set}")) {
            return; // the machine has no better one
        }
    }
}
