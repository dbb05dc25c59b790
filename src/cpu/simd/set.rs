//! The choice of an instruction set at run time.

use std::sync::OnceLock;

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

impl Set {
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) const ALL: &[Self] = &[Self::Portable];
    #[cfg(target_arch = "x86_64")]
    pub(crate) const ALL: &[Self] = &[Self::Portable, Self::Avx2, Self::Avx512];

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

    /// The one to use: see [`instruction_set`](crate::cpu::instruction_set).
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Set> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::best(std::env::var("DROP_ACTIVATION_CPU").ok().as_deref()))
    }

    /// The best that the machine has, up to the one of that name if there is one.
    fn best(limit: Option<&str>) -> Self {
        let end = Self::ALL.iter().position(|set| Some(set.name()) == limit).map_or(Self::ALL.len(), |at| at + 1);
        Self::ALL[..end].iter().copied().rfind(|set| set.available()).unwrap_or(Self::Portable)
    }

    /// Runs the task, with [`Set::Portable`] instead where the machine lacks the instructions.
    pub(super) fn run(self, task: impl Task) {
        match self {
            // SAFETY: the machine has the instructions: `available` has just said so.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if self.available() => unsafe { avx512::run(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.available() => unsafe { avx2::run(task) },
            _ => task.run(portable::Portable),
        }
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
        for (i, set) in Set::ALL.iter().enumerate() {
            let limited = Set::best(Some(set.name()));
            assert!(limited.available());
            assert!(Set::ALL[..=i].contains(&limited), "{limited:?} is beyond {set:?}");
            assert!(!set.available() || limited == *set, "{limited:?} though {set:?} is there");
        }
    }
}
