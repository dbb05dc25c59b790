//! The choice of an instruction set at run time.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{Task, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Instructions that tasks are compiled for, from the least to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// What [`Set::choose`] came to, which is available: one more than its number; 0 at first. Not a lock, which a fork could
/// find held.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Set {
    /// What the compiler was told that every machine has, by `-C target-cpu` or `-C target-feature`. There is no code for
    /// less.
    #[cfg(not(target_arch = "x86_64"))]
    const LEAST: Self = Self::Portable;
    #[cfg(target_arch = "x86_64")]
    const LEAST: Self = if avx512::Avx512::COMPILED_FOR {
        Self::Avx512
    } else if avx2::Avx2::COMPILED_FOR {
        Self::Avx2
    } else {
        Self::Portable
    };

    #[cfg(not(target_arch = "x86_64"))]
    const KNOWN: &[Self] = &[Self::Portable];
    #[cfg(target_arch = "x86_64")]
    const KNOWN: &[Self] = &[Self::Portable, Self::Avx2, Self::Avx512];

    /// Those that there is code for.
    pub(crate) const ALL: &[Self] = Self::KNOWN.split_at(Self::LEAST as usize).1;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }

    pub(crate) fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::available(),
        }
    }

    /// The one to use: see [`instruction_set`](crate::cpu::instruction_set). The machine has its instructions.
    #[inline(always)]
    pub(crate) fn chosen() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => Self::choose(),
            #[cfg(target_arch = "x86_64")]
            2 => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            3 => Self::Avx512,
            _ => Self::LEAST,
        }
    }

    /// Threads that come here at once come to the same.
    #[cold]
    fn choose() -> Self {
        let best = Self::best(std::env::var("DROP_ACTIVATION_CPU").ok().as_deref());
        CHOSEN.store(1 + best as u8, Ordering::Relaxed);
        best
    }

    /// The best that the machine has, up to the one of that name if there is one; the least where that is less.
    fn best(limit: Option<&str>) -> Self {
        let end = Self::KNOWN.iter().position(|set| Some(set.name()) == limit).map_or(Self::KNOWN.len(), |at| at + 1);
        let mut allowed = Self::KNOWN[..end].iter().copied().filter(|set| Self::ALL.contains(set));
        allowed.rfind(|set| set.available()).unwrap_or(Self::LEAST)
    }

    /// Runs the task with the one to use.
    #[inline(always)]
    pub(super) fn run_chosen(task: impl Task) {
        // SAFETY: the machine has the instructions, by `chosen`.
        unsafe { Self::chosen().run_unchecked(task) }
    }

    /// Runs the task, with the least set instead where the machine lacks the instructions.
    #[cfg(test)]
    pub(super) fn run(self, task: impl Task) {
        let set = if self.available() { self } else { Self::LEAST };
        // SAFETY: the machine has the instructions: `available` has just said so.
        unsafe { set.run_unchecked(task) }
    }

    /// A constant comes first where it decides what is compiled.
    ///
    /// # Safety
    /// The set is [`Set::available`].
    #[inline(always)]
    unsafe fn run_unchecked(self, task: impl Task) {
        #[cfg(target_arch = "x86_64")]
        if const { matches!(Self::LEAST, Self::Avx512) } || self == Self::Avx512 {
            // SAFETY: the machine has the instructions, by this function's contract or as the compiler was told.
            return unsafe { avx512::run(task) };
        }
        #[cfg(target_arch = "x86_64")]
        if const { matches!(Self::LEAST, Self::Avx2) } || self == Self::Avx2 {
            // SAFETY: as above.
            return unsafe { avx2::run(task) };
        }
        portable::run(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_limits_the_choice() {
        let best = Set::ALL.iter().copied().rfind(|set| set.available()).unwrap();
        for no_name in [None, Some(""), Some("AVX2"), Some("sse9")] {
            assert_eq!(Set::best(no_name), best);
        }
        for less in Set::KNOWN.iter().filter(|set| !Set::ALL.contains(set)) {
            assert_eq!(Set::best(Some(less.name())), Set::LEAST, "{less:?}");
        }
        for (i, set) in Set::ALL.iter().enumerate() {
            let limited = Set::best(Some(set.name()));
            assert!(limited.available());
            assert!(Set::ALL[..=i].contains(&limited), "{limited:?} is beyond {set:?}");
            assert!(!set.available() || limited == *set, "{limited:?} though {set:?} is there");
        }
    }
}
