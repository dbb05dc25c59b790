//! Callers that give the parts of a tensor to threads of their own, as PyTorch does, and run a pass over each.

use std::cell::Cell;

thread_local! {
    /// Bytes of the tensor that this thread's passes see a part of; 0 where they see it whole.
    static WHOLE: Cell<usize> = const { Cell::new(0) };
}

/// Calls `run`, whose passes treat their tensors as parts of one of so many bytes.
pub fn as_part_of<R>(bytes: usize, run: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            WHOLE.set(self.0);
        }
    }
    let _restore = Restore(WHOLE.replace(bytes));
    run()
}

/// Bytes of the whole tensor, where `bytes` are given to a pass.
pub(crate) fn whole_bytes(bytes: usize) -> usize {
    bytes.max(WHOLE.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_as_large_as_its_tensor_while_it_runs() {
        assert_eq!(whole_bytes(5), 5);
        as_part_of(100, || {
            assert_eq!(whole_bytes(5), 100);
            assert_eq!(as_part_of(7, || whole_bytes(5)), 7);
            assert_eq!(whole_bytes(500), 500);
            std::thread::spawn(|| assert_eq!(whole_bytes(5), 5)).join().expect("another thread's passes are their own");
        });
        assert!(std::panic::catch_unwind(|| as_part_of(100, || panic!("a pass"))).is_err());
        assert_eq!(whole_bytes(5), 5);
    }
}
