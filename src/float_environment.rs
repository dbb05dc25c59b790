//! The floating-point environment that results are computed in: rounding to nearest, subnormal numbers as they are, no
//! exception trapped.
//!
//! A thread may have been given another one: by `torch.set_flush_denormal(True)`, by a library that was compiled for
//! fast arithmetic, by C's `fesetround` or `feenableexcept`. A call that computed in it would give other numbers, and
//! other ones again for those tasks that another thread took. So whatever computes enters the default environment
//! first, and leaves the caller's behind as it was.
//!
//! Elsewhere than on x86 with SSE and on AArch64 this does nothing, and results are those of the thread's environment.
#![allow(unsafe_code)] // the control register; each block names the contract that makes it sound

use std::hint::black_box;

/// While it lives, this thread computes in the default environment. Then the environment is what it was before.
#[must_use = "the environment is the caller's again when this is dropped"]
pub(crate) struct DefaultEnvironment {
    /// What to put back, if anything was changed.
    callers: Option<control::Register>,
}

impl DefaultEnvironment {
    /// Reads the control register, and writes it only if it has to be changed.
    #[inline(always)]
    pub(crate) fn enter() -> Self {
        let callers = control::read();
        let changed = callers & control::MASK != control::DEFAULT;
        if changed {
            Self::set_default();
        }
        Self { callers: changed.then_some(callers) }
    }

    #[cold]
    fn set_default() {
        // SAFETY: the default environment is the one that compiled code expects.
        unsafe { control::write(control::DEFAULT) };
    }

    #[cold]
    fn put_back(callers: control::Register) {
        // SAFETY: the environment that the thread had before: the contract of `write` asks for no more.
        unsafe { control::write(callers) };
    }
}

impl Drop for DefaultEnvironment {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(callers) = self.callers {
            Self::put_back(callers);
        }
    }
}

/// `f(argument)`, computed in the default environment.
///
/// A compiler takes that environment for granted, so nothing but a dependence keeps it from computing a number before
/// the environment is entered or after it was left. Numbers in memory depend on the register's instructions, which may
/// read and write memory for all that the compiler knows; argument and result need not be in memory.
#[inline(always)]
pub(crate) fn in_default<A, R>(argument: A, f: impl FnOnce(A) -> R) -> R {
    let _environment = DefaultEnvironment::enter();
    black_box(f(black_box(argument)))
}

/// For callers outside of this crate whose work is more than a call of it.
pub fn in_default_environment<R>(f: impl FnOnce() -> R) -> R {
    in_default((), |()| f())
}

/// MXCSR.
#[cfg(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse")))]
mod control {
    use std::arch::asm;

    pub(super) type Register = u32;

    /// All but the lowest six bits, which tell of exceptions that there were.
    pub(super) const MASK: Register = !0x3F;
    /// All exceptions are masked.
    pub(super) const DEFAULT: Register = 0x1F80;

    #[inline(always)]
    pub(super) fn read() -> Register {
        let mut register = 0;
        // SAFETY: stores the register, 4 bytes, at the address of as many.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack, preserves_flags)) };
        register
    }

    /// # Safety
    /// `register` was read before, or is [`DEFAULT`]; between this and the next default environment nothing is computed
    /// with floating-point numbers but what the thread's owner wants to be.
    pub(super) unsafe fn write(register: Register) {
        // SAFETY: loads 4 bytes from the address of as many; of their bits none is reserved, by this function's
        // contract.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const register, options(nostack, preserves_flags)) };
    }
}

/// FPCR.
#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    pub(super) type Register = u64;

    /// The exceptions that there were are in a register of their own.
    pub(super) const MASK: Register = !0;
    /// No exception is trapped.
    pub(super) const DEFAULT: Register = 0;

    #[inline(always)]
    pub(super) fn read() -> Register {
        let register;
        // SAFETY: reads a register. May touch memory for all that the compiler knows, which keeps it in its place.
        unsafe { asm!("mrs {}, fpcr", out(reg) register, options(nostack, preserves_flags)) };
        register
    }

    /// # Safety
    /// `register` was read before, or is [`DEFAULT`]; between this and the next default environment nothing is computed
    /// with floating-point numbers but what the thread's owner wants to be.
    pub(super) unsafe fn write(register: Register) {
        // SAFETY: writes a register, no reserved bit of it, by this function's contract.
        unsafe { asm!("msr fpcr, {}", in(reg) register, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse"), target_arch = "aarch64")))]
mod control {
    pub(super) type Register = u32;

    pub(super) const MASK: Register = 0;
    pub(super) const DEFAULT: Register = 0;

    pub(super) fn read() -> Register {
        0
    }

    /// # Safety
    /// None.
    pub(super) unsafe fn write(_: Register) {}
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// Rounding upwards, subnormal numbers flushed, division by zero trapped.
    #[cfg(target_arch = "x86_64")]
    const ODD: control::Register = 0x8040 | 0x5F80 & !0x0200;
    #[cfg(target_arch = "aarch64")]
    const ODD: control::Register = 1 << 24 | 1 << 22;

    #[test]
    fn the_caller_s_environment_is_left_and_put_back() {
        let before = control::read();
        // SAFETY: nothing is computed with floating-point numbers until `before` is put back, but in `in_default`.
        unsafe { control::write(ODD) };
        let (inside, quotient) = in_default((1e-310_f64, 0.0), |(small, zero)| {
            (control::read(), ((small / 2.0_f64).to_bits(), (1.0_f64 / zero).to_bits()))
        });
        let after = control::read();
        // SAFETY: as it was.
        unsafe { control::write(before) };
        assert_eq!(inside & control::MASK, control::DEFAULT);
        assert_eq!(quotient, (0.5e-310_f64.to_bits(), f64::INFINITY.to_bits()));
        assert_eq!(after & control::MASK, ODD & control::MASK);
    }
}
