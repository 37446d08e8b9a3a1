//! When the next transaction is due.

use std::time::{Duration, Instant};

/// What a pause may be caught up with. After a longer one (a full queue, a laptop that slept) the
/// rest is let go: whoever asked for 50 a second did not ask for 100,000 at once.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// A steady number of transactions a second. Due times are counted from one moment and not from each
/// other, so that what a timer is late by is not added up.
#[derive(Debug)]
pub struct Pace {
    /// Transactions a second; 0 for as fast as it goes.
    rate: f64,
    /// When the first one was due, of those that are counted.
    origin: Instant,
    /// How many since.
    told: u64,
}

impl Pace {
    /// The first transaction is due at once. `rate` is in transactions a second, finite and not
    /// negative; at 0 all of them are due at once.
    #[must_use]
    pub fn new(rate: f64, now: Instant) -> Pace {
        Pace { rate, origin: now, told: 0 }
    }

    /// How long to wait for the next one. Counts it as told.
    pub fn next(&mut self, now: Instant) -> Duration {
        if self.rate == 0.0 {
            return Duration::ZERO;
        }
        let mut due = self.due();
        if due.is_some_and(|due| now.saturating_duration_since(due) > CATCH_UP_MAX) {
            self.origin = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
            self.told = 0;
            due = Some(self.origin);
        }
        self.told += 1;
        due.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    /// `None` for a time that no clock of ours gets to.
    fn due(&self) -> Option<Instant> {
        #[expect(clippy::cast_precision_loss, reason = "exact for the first 285 years of a million a second")]
        let seconds = self.told as f64 / self.rate;
        self.origin.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are told up to a moment by somebody who is always `late`.
    fn told_until(pace: &mut Pace, mut now: Instant, end: Instant, late: Duration) -> u32 {
        let mut told = 0;
        loop {
            now += pace.next(now) + late;
            if now >= end {
                return told;
            }
            told += 1;
        }
    }

    #[test]
    fn timers_that_are_late_do_not_add_up() {
        let start = Instant::now();
        let mut pace = Pace::new(3.0, start);
        let told = told_until(&mut pace, start, start + Duration::from_secs(1000), Duration::from_millis(2));
        assert!((2999..=3001).contains(&told), "{told}");
    }

    #[test]
    fn after_a_pause_a_second_is_caught_up_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(50.0, start);
        assert_eq!(pace.next(start), Duration::ZERO);
        let short = start + Duration::from_millis(500);
        let at_once = (0..100).take_while(|_| pace.next(short) == Duration::ZERO).count();
        assert_eq!(at_once, 25);
        let long = start + Duration::from_secs(3600);
        let at_once = (0..1000).take_while(|_| pace.next(long) == Duration::ZERO).count();
        assert_eq!(at_once, 51, "those of the second that ends now, with both its ends");
        assert_eq!(pace.next(long), Duration::from_millis(40), "and steady from there");
    }

    #[test]
    fn a_rate_may_be_a_fraction_or_next_to_nothing_or_as_fast_as_it_goes() {
        let start = Instant::now();
        let mut pace = Pace::new(0.5, start);
        assert_eq!([pace.next(start), pace.next(start)], [Duration::ZERO, Duration::from_secs(2)]);
        let mut pace = Pace::new(f64::MIN_POSITIVE, start);
        assert_eq!([pace.next(start), pace.next(start)], [Duration::ZERO, Duration::MAX]);
        let mut pace = Pace::new(0.0, start);
        assert!((0..1000).all(|_| pace.next(start) == Duration::ZERO));
    }
}
