//! Thread-local scratch buffers for the keep stream, some kilobytes, which a thread keeps from call to call: clearing
//! them would take a forward pass of a thousand elements a fifth of its time.

use std::cell::Cell;

use super::keep_stream::{BATCH, Batch};

/// A batch, and the words of two. Whoever takes it finds anything in it.
pub(super) struct Scratch {
    pub(super) batch: Batch,
    pub(super) words: [[u32; BATCH]; 2],
}

thread_local! {
    static KEPT: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// The thread's, or a new one if that is in use or the thread is ending.
    pub(super) fn take() -> Box<Self> {
        let kept = KEPT.try_with(Cell::take).ok().flatten();
        kept.unwrap_or_else(|| Box::new(Self { batch: Batch::new(), words: [[0; BATCH]; 2] }))
    }

    /// For the thread to keep; what is not given back is freed.
    pub(super) fn give_back(self: Box<Self>) {
        // If the thread is ending, it is freed too.
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_one() {
        let mut first = Scratch::take();
        first.words[1][7] = 42;
        let second = Scratch::take();
        assert_eq!(second.words[1][7], 0);
        second.give_back();
        first.give_back();
        assert_eq!(Scratch::take().words[1][7], 42);
        let other = std::thread::spawn(|| Scratch::take().words[1][7]);
        assert_eq!(other.join().unwrap(), 0);
    }
}
