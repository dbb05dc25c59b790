//! Threads that a caller lends to its passes, as PyTorch's are: beside them, those of a pool of rayon's would compete for
//! the same cores.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use super::share::End;
use crate::float_environment::DefaultEnvironment;

/// Threads of a caller's.
#[derive(Clone, Copy)]
pub struct LentThreads {
    /// How many there are, the caller among them.
    pub count: usize,
    /// Calls the function on no more than so many threads at once, at least once, and returns when all calls have
    /// returned. The function does not unwind.
    pub run: fn(usize, &(dyn Fn() + Sync)),
}

thread_local! {
    static LENT: Cell<Option<LentThreads>> = const { Cell::new(None) };
}

/// Calls `run`, whose passes share their tensors by these threads.
pub fn with_threads<R>(threads: LentThreads, run: impl FnOnce() -> R) -> R {
    struct Restore(Option<LentThreads>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LENT.set(self.0);
        }
    }
    let _restore = Restore(LENT.replace(Some(threads)));
    run()
}

impl LentThreads {
    pub(super) fn of_caller() -> Option<Self> {
        LENT.get()
    }

    /// Runs all tasks, of which `step` runs one: the caller takes them from the front and others from the back, as in
    /// `share`.
    pub(super) fn share(self, step: &(dyn Fn(End) -> bool + Sync)) {
        let caller = std::thread::current().id();
        let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        let work = || {
            let _environment = DefaultEnvironment::enter();
            let end = if std::thread::current().id() == caller { End::Front } else { End::Back };
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| while step(end) {})) {
                panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(caught);
            }
        };
        (self.run)(self.count, &work);
        if let Some(panic) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::pool::Pool;
    use super::super::share::share;
    use super::*;

    static CALLS: AtomicU32 = AtomicU32::new(0);

    /// As threads of somebody else's.
    fn scoped(count: usize, work: &(dyn Fn() + Sync)) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(work);
            }
        });
    }

    fn one_after_the_other(count: usize, work: &(dyn Fn() + Sync)) {
        (0..count).for_each(|_| work());
    }

    #[test]
    fn every_task_is_run_once_by_the_threads_that_are_lent() {
        let caller = std::thread::current().id();
        for run in [scoped as fn(usize, &(dyn Fn() + Sync)), one_after_the_other] {
            for tasks in [2, 3, 100] {
                let runs: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                let before = CALLS.load(Ordering::Relaxed);
                with_threads(LentThreads { count: 3, run }, || {
                    share(&Pool::of_caller(), runs.iter(), tasks, |run: &AtomicU32| {
                        assert!(std::thread::current().id() != caller || CALLS.load(Ordering::Relaxed) == before);
                        run.fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1), "{runs:?}");
            }
        }
        assert_eq!(CALLS.load(Ordering::Relaxed), 3);
        assert!(LentThreads::of_caller().is_none());
    }

    #[test]
    fn a_panic_reaches_the_caller_who_lent_them() {
        let panic = catch_unwind(|| {
            with_threads(LentThreads { count: 2, run: scoped_twice }, || {
                share(&Pool::of_caller(), 0..10, 10, |i| assert!(i != 5, "the sixth"));
            });
        });
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the sixth"));
        assert!(LentThreads::of_caller().is_none());
    }

    fn scoped_twice(_: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    }
}
