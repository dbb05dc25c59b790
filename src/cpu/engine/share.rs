//! Work that threads take from a queue, the calling thread among them.
//!
//! The caller asks the threads of its pool to help and begins at once, without waiting for any. One that wakes late, as
//! it may by some tens of microseconds, finds less to do, or nothing; one that never wakes is not waited for. So a call
//! ends when its work is done, whatever else the pool's threads do or wait for, and it ends in a process that a fork
//! left without them. (rayon's `join` and `scope` wait for what they gave out, and run other work of the pool
//! meanwhile.)
#![allow(unsafe_code)] // a reference that outlives its lifetime in the types; see `Crew::work`

use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::pool::Pool;
use crate::float_environment::DefaultEnvironment;

/// Rounds of waiting that took about as long as a thread took to wake, some 20 microseconds, on the Xeon of
/// docs/performance.md. Elsewhere it may be a tenth of that: then the caller sleeps sooner.
const SPINS: usize = 500;

/// Runs all tasks, of which there are `count`, on as many threads as the pool has, or fewer. The pool is the caller's.
pub(crate) fn share<T: Send>(pool: &Pool, tasks: impl Iterator<Item = T> + Send, count: usize, run: impl Fn(T) + Sync) {
    let helpers = count.min(pool.threads()).saturating_sub(1);
    if helpers == 0 {
        return tasks.for_each(run);
    }
    let tasks = Mutex::new(tasks);
    // If a thread panicked while it held the lock, its panic is passed on.
    let next = || tasks.lock().ok()?.next();
    let work = || {
        while let Some(task) = next() {
            run(task);
        }
    };
    let crew = Crew::of_this_thread(pool.process());
    crew.work(&work, helpers, pool);
    crew.keep();
}

/// A thread and those that help with its calls, one call after the other.
struct Crew {
    /// In which it was made. Its helpers are not in a process that was forked since.
    process: u32,
    calls: Mutex<Calls>,
    /// How many help; changed with `calls` locked.
    busy: AtomicUsize,
    /// Nobody helps any more.
    idle: Condvar,
}

struct Calls {
    /// The work of the call that is being made.
    work: Option<&'static (dyn Fn() + Sync)>,
    /// How many were asked to help and have not begun. They may begin with a later call, so none is asked for again.
    asked: usize,
    panic: Option<Box<dyn Any + Send>>,
}

thread_local! {
    static KEPT: Cell<Option<Arc<Crew>>> = const { Cell::new(None) };
}

impl Crew {
    /// The thread's, or a new one if that is in use, is of another process, or the thread is ending.
    fn of_this_thread(process: u32) -> Arc<Self> {
        let kept = KEPT.try_with(Cell::take).ok().flatten().filter(|crew| crew.process == process);
        kept.unwrap_or_else(|| {
            let calls = Mutex::new(Calls { work: None, asked: 0, panic: None });
            Arc::new(Self { process, calls, busy: AtomicUsize::new(0), idle: Condvar::new() })
        })
    }

    /// For the thread to keep.
    fn keep(self: Arc<Self>) {
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }

    /// A panic in `work` is caught, so nobody leaves anything half-done.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work`, and has up to so many helpers call it as well. Returns when all have returned.
    fn work(self: &Arc<Self>, work: &(dyn Fn() + Sync), helpers: usize, pool: &Pool) {
        // SAFETY: the reference is called while it is in `calls.work`, which `Closing` empties, or by a helper that is
        // counted in `busy`, which `Closing` waits for. It does so before this function is left, by a panic too. So it
        // is never called after its lifetime has ended.
        let lasting = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        let missing = {
            let mut calls = self.calls();
            calls.work = Some(lasting);
            let missing = helpers.saturating_sub(calls.asked);
            calls.asked += missing;
            missing
        };
        let closing = Closing(self);
        for _ in 0..missing {
            let crew = self.clone();
            pool.spawn(move || crew.help());
        }
        work();
        drop(closing);
        let panic = self.calls().panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// What a helper does when it wakes.
    fn help(&self) {
        let work = {
            let mut calls = self.calls();
            calls.asked -= 1;
            let Some(work) = calls.work else { return };
            self.busy.fetch_add(1, Ordering::Relaxed);
            work
        };
        let result = {
            let _environment = DefaultEnvironment::enter();
            catch_unwind(AssertUnwindSafe(work))
        };
        let mut calls = self.calls();
        if let Err(panic) = result {
            calls.panic.get_or_insert(panic);
        }
        if self.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle.notify_one();
        }
    }
}

/// Ends a call: nobody begins to help any more, and who has begun is waited for.
struct Closing<'a>(&'a Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(crew) = self;
        crew.calls().work = None;
        for _ in 0..SPINS {
            if crew.busy.load(Ordering::Relaxed) == 0 {
                break;
            }
            spin_loop();
        }
        // With the lock, so that all that helpers did has happened before.
        let mut calls = crew.calls();
        while crew.busy.load(Ordering::Relaxed) != 0 {
            calls = crew.idle.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
    }
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

    fn every_task_of(count: usize) {
        let runs: Vec<_> = (0..count).map(|_| AtomicU32::new(0)).collect();
        share(&Pool::of_caller(), runs.iter(), count, |run| {
            run.fetch_add(1, Ordering::Relaxed);
        });
        assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1), "{runs:?}");
    }

    /// Each task is run once, whoever calls.
    #[test]
    fn every_task_is_run_once() {
        let check = || {
            for count in [0, 1, 2, 3, 100] {
                every_task_of(count);
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
            share(&Pool::of_caller(), 0..2, 2, |_| {
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

    /// A pool whose other thread never has time gets no more to do with each call.
    #[test]
    fn who_has_not_begun_is_not_asked_again() {
        pool(2).install(|| {
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            let (begin, begun) = std::sync::mpsc::channel();
            rayon::spawn(move || {
                begin.send(()).unwrap();
                let _ = wait.recv();
            });
            begun.recv().unwrap();
            let asked = || {
                let crew = KEPT.take().unwrap();
                let asked = crew.calls().asked;
                crew.keep();
                asked
            };
            for _ in 0..100 {
                every_task_of(10);
                assert_eq!(asked(), 1);
            }
            drop(go_on);
            while asked() != 0 {
                std::thread::yield_now();
            }
            every_task_of(10);
        });
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let check = || {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                share(&Pool::of_caller(), 0..10, 10, |i| assert!(i != 5, "the sixth"));
            }));
            assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the sixth"));
        };
        check();
        for threads in [1, 3] {
            pool(threads).install(check);
        }
    }
}
