//! Whether it pays to share a call with other threads.
//!
//! A call ends when all of its tasks are done, and a task that a helper has begun nobody else can finish. If the
//! helper's thread is taken off its core, by another process or for threads that wait spinning, the caller waits for it,
//! some milliseconds where the call takes microseconds. That cannot be known beforehand. But what was lost so far can be
//! held against what was won, and calls be made alone until the loss is a small part of all the time. So sharing never
//! costs much more than not sharing, whatever else runs, and is tried again after a while.

use std::time::Duration;

use super::tuning::{LARGEST_CREDIT, LARGEST_DEBT, REPAID_PART};

/// What sharing has won for a thread's calls, less what it has lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    /// In nanoseconds.
    balance: i64,
}

impl Ledger {
    /// Whether to share the next call.
    pub(super) fn pays(self) -> bool {
        self.balance >= 0
    }

    /// After a shared call that took so long, and would have taken `alone`.
    pub(super) fn shared(&mut self, time: Duration, alone: Duration) {
        let balance = self.balance.saturating_add(nanoseconds(alone)).saturating_sub(nanoseconds(time));
        self.balance = balance.clamp(-nanoseconds(LARGEST_DEBT), nanoseconds(LARGEST_CREDIT));
    }

    /// After a call that was made alone because sharing does not pay: a part of its time goes towards what was lost.
    pub(super) fn alone(&mut self, time: Duration) {
        // At least something, so that there is an end to it.
        self.balance = self.balance.saturating_add(nanoseconds(time) / REPAID_PART + 1).min(0);
    }
}

fn nanoseconds(time: Duration) -> i64 {
    time.as_nanos().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call takes alone.
    const CALL: Duration = Duration::from_micros(50);

    /// Time of calls of which a shared one takes `shared`, beside that of calls made alone.
    fn ratio(shared: Duration) -> f64 {
        let mut ledger = Ledger::default();
        let (mut alone, mut taken) = (Duration::ZERO, Duration::ZERO);
        while alone < Duration::from_secs(10) {
            alone += CALL;
            if ledger.pays() {
                ledger.shared(shared, CALL);
                taken += shared;
            } else {
                ledger.alone(CALL);
                taken += CALL;
            }
        }
        taken.as_secs_f64() / alone.as_secs_f64()
    }

    #[test]
    fn sharing_costs_little_however_late_helpers_are() {
        for late in [Duration::from_micros(1), Duration::from_millis(3), LARGEST_DEBT] {
            let ratio = ratio(CALL + late);
            assert!(ratio < 1.11, "{ratio} if helpers are late by {late:?}");
        }
    }

    #[test]
    fn helpers_that_help_are_always_asked() {
        let ratio = ratio(CALL * 6 / 10);
        assert!((0.599..0.601).contains(&ratio), "{ratio}");
    }

    /// A long time of good calls does not pay for as long a time of bad ones, nor the other way round.
    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut ledger = Ledger::default();
        ledger.shared(Duration::ZERO, Duration::from_secs(100));
        ledger.shared(LARGEST_CREDIT + Duration::from_nanos(1), Duration::ZERO);
        assert!(!ledger.pays());
        ledger.shared(Duration::from_secs(100), Duration::ZERO);
        ledger.alone(LARGEST_DEBT * REPAID_PART as u32);
        assert!(ledger.pays());
        // What is paid beyond the debt is no credit.
        ledger.shared(Duration::from_nanos(1), Duration::ZERO);
        assert!(!ledger.pays());
    }
}
