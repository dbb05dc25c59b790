//! Work that threads take from a queue, the calling thread among them.
//!
//! The caller asks the threads of its pool to help and begins at once, without waiting for any. One that wakes late, as
//! it may by some tens of microseconds, finds less to do, or nothing; one that never wakes is not waited for. So a call
//! ends when its work is done, whatever else the pool's threads do or wait for, and it ends in a process that a fork
//! left without them. (rayon's `join` and `scope` wait for what they gave out, and run other work of the pool
//! meanwhile.) One that is taken off its core in the middle of a task has to be waited for: where that happens, calls
//! are not shared for a while (`ledger`).
//!
//! The caller takes tasks from the front and its helpers take them from the back: so two threads have the same part of a
//! tensor from call to call, which their caches may still hold.
#![allow(unsafe_code)] // a reference that outlives its lifetime in the types; see `Crew::work`

use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::pool::Pool;
use crate::float_environment::DefaultEnvironment;

/// Rounds of waiting that took about as long as a thread took to wake, some 20 microseconds, on the Xeon of
/// docs/performance.md. Elsewhere it may be a tenth of that: then the caller sleeps sooner. And a helper waits as long
/// for another call, which it then begins with at once.
const SPINS: usize = 500;

/// Runs all tasks, of which there are `count`, on as many threads as the pool has, or fewer. The pool is the caller's.
/// All tasks but the last one take about as long as each other.
pub(crate) fn share<T: Send>(
    pool: &Pool,
    tasks: impl DoubleEndedIterator<Item = T> + Send,
    count: usize,
    run: impl Fn(T) + Sync,
) {
    let tasks = Mutex::new(tasks);
    share_steps(pool, count, &|end| {
        let task = {
            // If a thread panicked while it held the lock, its panic is passed on.
            let Ok(mut tasks) = tasks.lock() else { return false };
            match end {
                End::Front => tasks.next(),
                End::Back => tasks.next_back(),
            }
        };
        task.map(&run).is_some()
    });
}

/// Where in the queue a task is taken from.
#[derive(Clone, Copy)]
pub(super) enum End {
    Front,
    Back,
}

/// [`share`] with tasks of which `step` takes one and runs it; false if none is left. There are a hundred kinds of tasks,
/// and one copy of this.
fn share_steps(pool: &Pool, count: usize, step: &(dyn Fn(End) -> bool + Sync)) {
    let all = |()| while step(End::Front) {};
    let helpers = count.min(pool.threads()).saturating_sub(1);
    if helpers == 0 {
        return all(());
    }
    if let Some(lent) = pool.lent() {
        return lent.share(step);
    }
    let Some(()) = alone_if_better(pool, (), all) else { return };
    let mut caller = Caller::of_this_thread();
    let start = Instant::now();
    let alone = share_with(&caller.crew, count, step, helpers, pool);
    caller.ledger.shared(start.elapsed(), alone);
    caller.keep();
}

/// Does the work if nobody would help the caller, or not so that it pays. Else gives it back.
pub(crate) fn alone_if_better<W>(pool: &Pool, work: W, run: impl FnOnce(W)) -> Option<W> {
    if pool.lent().is_some() {
        return Some(work);
    }
    let mut alone = None;
    if pool.threads() > 1 {
        alone = Alone::begin();
        if alone.is_none() {
            return Some(work);
        }
    }
    run(work);
    if let Some(alone) = alone {
        alone.end();
    }
    None
}

/// A call that is made alone because sharing does not pay.
struct Alone {
    caller: Caller,
    start: Instant,
}

impl Alone {
    /// None if it pays.
    fn begin() -> Option<Self> {
        let caller = Caller::of_this_thread();
        if caller.ledger.pays() {
            caller.keep();
            return None;
        }
        Some(Self { caller, start: Instant::now() })
    }

    fn end(mut self) {
        self.caller.ledger.alone(self.start.elapsed());
        self.caller.keep();
    }
}

/// Runs all tasks with so many helpers. Returns how long the caller would have taken alone, as far as it can tell.
fn share_with(
    crew: &Arc<Crew>,
    count: usize,
    step: &(dyn Fn(End) -> bool + Sync),
    helpers: usize,
    pool: &Pool,
) -> Duration {
    let help = || while step(End::Back) {};
    let (mut own, mut start, mut total, mut shortest) = (0, Instant::now(), Duration::ZERO, Duration::MAX);
    let work = || {
        while step(End::Front) {
            let end = Instant::now();
            let time = end - start;
            (start, own, total, shortest) = (end, own + 1, total + time, shortest.min(time));
        }
    };
    crew.work(work, &help, helpers, pool);
    // The last task, which may be shorter, is a helper's, if any is. A task that took longer than another was
    // interrupted, by something that one thread alone may be spared.
    if own == 0 || own == count { total } else { shortest * count as u32 }
}

/// A thread as one that calls.
struct Caller {
    crew: Arc<Crew>,
    ledger: Ledger,
}

/// A thread and those that help with its calls, one call after the other.
struct Crew {
    calls: Mutex<Calls>,
    /// Number of the latest call; changed with `calls` locked.
    latest: AtomicUsize,
    /// How many help; changed with `calls` locked.
    busy: AtomicUsize,
    /// Nobody helps any more.
    idle: Condvar,
}

struct Calls {
    /// What helpers do in the call that is being made.
    help: Option<&'static (dyn Fn() + Sync)>,
    /// How many were asked to help and have not begun. They may begin with a later call, so none is asked for again.
    asked: usize,
    panic: Option<Box<dyn Any + Send>>,
}

thread_local! {
    static KEPT: Cell<Option<Caller>> = const { Cell::new(None) };
}

impl Caller {
    /// This thread, or one like it if its crew is in use or the thread is ending.
    fn of_this_thread() -> Self {
        let kept = KEPT.try_with(Cell::take).ok().flatten();
        kept.unwrap_or_else(|| {
            let calls = Mutex::new(Calls { help: None, asked: 0, panic: None });
            let (latest, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let crew = Crew { calls, latest, busy, idle: Condvar::new() };
            Self { crew: Arc::new(crew), ledger: Ledger::default() }
        })
    }

    /// For the thread to keep.
    fn keep(self) {
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }
}

impl Crew {
    /// A panic in `work` is caught, so nobody leaves anything half-done.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work`, and has up to so many helpers call `help`. Returns when all have returned.
    fn work(self: &Arc<Self>, work: impl FnOnce(), help: &(dyn Fn() + Sync), helpers: usize, pool: &Pool) {
        // SAFETY: the reference is called while it is in `calls.help`, which `Closing` empties, or by a helper that is
        // counted in `busy`, which `Closing` waits for. It does so before this function is left, by a panic too. So it
        // is never called after its lifetime has ended.
        let lasting = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(help) };
        let missing = {
            let mut calls = self.calls();
            calls.help = Some(lasting);
            self.latest.fetch_add(1, Ordering::Relaxed);
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

    /// What a helper does when it wakes: it helps with the call that is being made, and with those that follow at once.
    fn help(&self) {
        let (mut calls, mut helped) = (self.calls(), None);
        loop {
            calls.asked -= 1;
            let latest = self.latest.load(Ordering::Relaxed);
            let Some(help) = calls.help.filter(|_| helped != Some(latest)) else { return };
            self.busy.fetch_add(1, Ordering::Relaxed);
            drop(calls);
            let result = {
                let _environment = DefaultEnvironment::enter();
                catch_unwind(AssertUnwindSafe(help))
            };
            calls = self.calls();
            if let Err(panic) = result {
                calls.panic.get_or_insert(panic);
            }
            if self.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.idle.notify_one();
            }
            helped = Some(latest);
            calls.asked += 1;
            drop(calls);
            for _ in 0..SPINS {
                if self.latest.load(Ordering::Relaxed) != latest {
                    break;
                }
                spin_loop();
            }
            calls = self.calls();
        }
    }
}

/// Ends a call: nobody begins to help any more, and who has begun is waited for.
struct Closing<'a>(&'a Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(crew) = self;
        crew.calls().help = None;
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
                let caller = KEPT.take().unwrap();
                let asked = caller.crew.calls().asked;
                caller.keep();
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

    /// A helper that is late in its task by so much that calls made alone could not make up for it soon.
    #[test]
    fn after_a_late_helper_calls_are_made_alone() {
        pool(2).install(|| {
            let caller = std::thread::current().id();
            let (helped, late) = (AtomicU32::new(0), Duration::from_millis(20));
            let call = || {
                let before = helped.load(Ordering::Relaxed);
                let start = Instant::now();
                share(&Pool::of_caller(), 0..4, 4, |i| {
                    if std::thread::current().id() != caller {
                        helped.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(late);
                    } else if i == 1 {
                        // In the first call, until somebody helps.
                        while helped.load(Ordering::Relaxed) == 0 {
                            assert!(start.elapsed() < Duration::from_secs(60), "nobody helps");
                        }
                    }
                });
                helped.load(Ordering::Relaxed) - before
            };
            assert!(call() > 0);
            let alone = Instant::now();
            while alone.elapsed() < late {
                assert_eq!(call(), 0, "{:?} after a helper was late", alone.elapsed());
            }
            while call() == 0 {
                assert!(alone.elapsed() < Duration::from_secs(60), "nobody is asked any more");
            }
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
