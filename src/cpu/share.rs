//! Work that threads take from a queue, the calling thread among them.
//!
//! One that wakes late, as it may by some tens of microseconds, finds less to do, or nothing. rayon's `join` would hand
//! all of the work to its pool first, and sleep, if the caller is not a thread of that pool.

use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds of waiting that took about as long as a thread took to wake, some 20 microseconds, on the Xeon of
/// docs/performance.md. Elsewhere it may be a tenth of that: then the caller sleeps sooner.
const SPINS: usize = 500;

/// Runs all tasks, of which there are `count`, on as many threads as rayon's pool has, or fewer.
pub(crate) fn share<T: Send>(tasks: impl Iterator<Item = T> + Send, count: usize, run: impl Fn(T) + Sync) {
    if count <= 1 {
        return tasks.for_each(run);
    }
    let helpers = count.min(rayon::current_num_threads()) - 1;
    let tasks = Mutex::new(tasks);
    // If a thread panicked while it held the lock, the scope passes its panic on.
    let next = || tasks.lock().ok()?.next();
    let work = || {
        while let Some(task) = next() {
            run(task);
        }
    };
    let busy = AtomicUsize::new(helpers);
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| {
                work();
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
        work();
        // A thread of the pool finds in its own queue what no other has begun. Any other thread would be put to sleep
        // until the last helper is done, and have to be woken.
        if rayon::current_thread_index().is_none() {
            for _ in 0..SPINS {
                if busy.load(Ordering::Relaxed) == 0 {
                    break;
                }
                spin_loop();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Each task is run once, whoever calls.
    #[test]
    fn every_task_is_run_once() {
        let check = || {
            for count in [0, 1, 2, 3, 100] {
                let runs: Vec<_> = (0..count).map(|_| AtomicU32::new(0)).collect();
                share(runs.iter(), count, |run| {
                    run.fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1), "{runs:?}");
            }
        };
        check();
        for threads in [1, 2, 5] {
            pool(threads).install(check);
        }
    }

    /// Two tasks of which each waits until the other has begun.
    #[test]
    fn tasks_run_side_by_side() {
        let check = || {
            let (begun, start) = (AtomicU32::new(0), Instant::now());
            share(0..2, 2, |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                while begun.load(Ordering::SeqCst) < 2 {
                    assert!(start.elapsed() < Duration::from_secs(60), "the other task did not begin");
                }
            });
        };
        pool(2).install(check);
        if rayon::current_num_threads() > 1 {
            check();
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let check = || {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                share(0..10, 10, |i| assert!(i != 5, "the sixth"));
            }));
            assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the sixth"));
        };
        check();
        for threads in [1, 3] {
            pool(threads).install(check);
        }
    }
}
