//! Whose threads help a caller: those that it lends, else those of the rayon pool that it is a thread of, else those of
//! the global one.

use std::panic::catch_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lent::LentThreads;
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

/// A pool as seen from a thread.
pub(crate) struct Pool {
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The caller alone.
    None,
    /// rayon's current one, with so many threads.
    Current(usize),
    /// One of this module, with so many threads, because the global one could not be had.
    Spare(&'static ThreadPool, usize),
    Lent(LentThreads),
}

impl Pool {
    /// The one to ask for help with a call of this thread.
    pub(crate) fn of_caller() -> Self {
        let kind = if let Some(lent) = LentThreads::of_caller() {
            Kind::Lent(lent)
        } else if started_elsewhere() {
            Kind::None
        } else if rayon::current_thread_index().is_some() {
            Kind::Current(rayon::current_num_threads())
        } else {
            static OUTSIDE: OnceLock<Kind> = OnceLock::new();
            *OUTSIDE.get_or_init(start)
        };
        Self { kind }
    }

    /// The same for a call of so many tasks: nobody is asked to help with one.
    pub(crate) fn for_tasks(count: usize) -> Self {
        if count > 1 { Self::of_caller() } else { Self { kind: Kind::None } }
    }

    /// How many threads may work on a call, the caller among them; at least 1.
    pub(crate) fn threads(&self) -> usize {
        match self.kind {
            Kind::None => 1,
            Kind::Current(threads) => threads,
            Kind::Spare(_, helpers) => helpers + 1,
            Kind::Lent(lent) => lent.count.max(1),
        }
    }

    /// Those that the caller lends, if it is these.
    pub(super) fn lent(&self) -> Option<LentThreads> {
        if let Kind::Lent(lent) = self.kind { Some(lent) } else { None }
    }

    /// Has one of its threads run `job`, in time.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        match self.kind {
            Kind::None | Kind::Lent(_) => {}
            Kind::Current(_) => rayon::spawn(job),
            Kind::Spare(pool, _) => pool.spawn(job),
        }
    }
}

/// Whether another process than this one used pools first: one that this one was forked from. Its threads did not
/// come along, and any of their locks may have been held, so its pools are not touched.
fn started_elsewhere() -> bool {
    let process = std::process::id();
    static STARTED: AtomicU32 = AtomicU32::new(0);
    // Before anything else that a fork could find half-done.
    let started = STARTED.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
    started.is_err_and(|started| started != process)
}

/// Starts the global pool unless somebody has.
fn start() -> Kind {
    let mut begun = Vec::new();
    let spawn = |thread: ThreadBuilder| {
        begun.push(std::thread::Builder::new().spawn(|| thread.run())?);
        Ok(())
    };
    match ThreadPoolBuilder::new().spawn_handler(spawn).build_global() {
        Ok(()) => Kind::Current(rayon::current_num_threads()),
        // No thread, or fewer than it wanted: rayon gives up then, for good, and ends those that began.
        Err(error) if std::error::Error::source(&error).is_some() => {
            for thread in begun {
                let _ = thread.join();
            }
            spare()
        }
        // It was started before, or failed to; then it panics whenever it is asked for.
        Err(_) => catch_unwind(rayon::current_num_threads).map_or_else(|_| spare(), Kind::Current),
    }
}

/// A pool of the threads that can be had.
fn spare() -> Kind {
    let mut begun = 0;
    // A place in the pool for which there is no thread looks like one that is always busy.
    let spawn = |thread: ThreadBuilder| {
        match std::thread::Builder::new().spawn(|| thread.run()) {
            Ok(_) => begun += 1,
            Err(error) if begun == 0 => return Err(error),
            Err(_) => {}
        }
        Ok(())
    };
    match ThreadPoolBuilder::new().spawn_handler(spawn).build() {
        Ok(pool) => Kind::Spare(Box::leak(Box::new(pool)), begun),
        Err(_) => Kind::None,
    }
}

#[cfg(all(test, unix))]
#[allow(unsafe_code)] // the C library's functions
mod tests {
    use super::*;

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }

    #[test]
    fn a_forked_process_touches_no_pool() {
        Pool::of_caller();
        // SAFETY: the child asks for the pool, ends, and runs nothing of its parent's.
        let child = unsafe {
            match fork() {
                0 => _exit(if matches!(Pool::of_caller().kind, Kind::None) { 42 } else { 1 }),
                child => child,
            }
        };
        assert!(child > 0, "fork");
        let mut status = 0;
        // SAFETY: the child of this process, and the address of an integer.
        assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
        assert_eq!(status >> 8, 42);
    }
}
