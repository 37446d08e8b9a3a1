//! When keys are asked for again. Decides, and has no clock: the moment is an argument.
//!
//! Three things bring keys up for a fetch: their age; a token of a key that nobody knows; a fetch that
//! failed. The second is in the hands of whoever sends tokens, so it is heard at most once in
//! [`Pace::asked_pause`], counted from the last attempt, whatever came of that.

use std::time::{Duration, Instant};

/// How often keys are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Age at which keys are asked for again, where the server does not say.
    pub age: Duration,
    /// The bounds of what a server may say.
    pub age_bounds: (Duration, Duration),
    /// Time between two attempts, at least, when tokens of unknown keys come.
    pub asked_pause: Duration,
    /// Time to the next attempt after a failure; doubles with each up to the second.
    pub retry: (Duration, Duration),
}

impl Pace {
    /// For an address: others pay for each request.
    pub const ADDRESS: Pace = Pace {
        age: Duration::from_secs(600),
        age_bounds: (Duration::from_secs(60), Duration::from_secs(3600)),
        asked_pause: Duration::from_secs(10),
        retry: (Duration::from_secs(1), Duration::from_secs(60)),
    };

    /// For a file, which costs nothing to look at.
    pub const FILE: Pace = Pace {
        age: Duration::from_secs(5),
        age_bounds: (Duration::from_secs(5), Duration::from_secs(5)),
        asked_pause: Duration::from_secs(1),
        retry: (Duration::from_secs(5), Duration::from_secs(5)),
    };
}

/// When the next attempt is due.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    last_attempt: Option<Instant>,
    due: Instant,
    failures: u32,
}

impl Schedule {
    /// Nothing has been fetched: an attempt is due at once.
    #[must_use]
    pub fn new(pace: Pace, now: Instant) -> Schedule {
        Schedule { pace, last_attempt: None, due: now, failures: 0 }
    }

    /// When the next attempt is to be made.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Somebody came with a token of an unknown key.
    pub fn asked(&mut self, now: Instant) {
        let allowed = self.last_attempt.map_or(now, |last| last + self.pace.asked_pause);
        self.due = self.due.min(allowed.max(now));
    }

    /// An attempt succeeded; the server may have said how long its answer is fresh.
    pub fn succeeded(&mut self, now: Instant, max_age: Option<Duration>) {
        let (least, most) = self.pace.age_bounds;
        self.last_attempt = Some(now);
        self.failures = 0;
        self.due = now + max_age.map_or(self.pace.age, |age| age.clamp(least, most));
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant) {
        let (first, most) = self.pace.retry;
        self.last_attempt = Some(now);
        // 2^16 seconds are beyond any bound.
        self.due = now + most.min(first * (1 << self.failures.min(16)));
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds from now until an attempt is due.
    fn wait(schedule: &Schedule, now: Instant) -> u64 {
        schedule.due().saturating_duration_since(now).as_secs()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keys_are_asked_for_by_age_within_bounds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::ADDRESS, start);
        assert_eq!(wait(&schedule, start), 0, "nothing is known yet");
        for (said, expected) in [(None, 600), (Some(0), 60), (Some(900), 900), (Some(86_400), 3600)] {
            schedule.succeeded(start, said.map(Duration::from_secs));
            assert_eq!(wait(&schedule, start), expected, "{said:?}");
        }
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::ADDRESS, start);
        let mut waits = Vec::new();
        for _ in 0..20 {
            schedule.failed(start);
            waits.push(wait(&schedule, start));
        }
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[19], 60);
        schedule.succeeded(start, None);
        schedule.failed(start);
        assert_eq!(wait(&schedule, start), 1, "a success is a new start");
    }

    /// Whoever sends tokens of keys that nobody knows brings about an attempt in ten seconds and no
    /// more, however many tokens, and whether the attempts succeed or not.
    #[test]
    fn unknown_keys_are_asked_for_at_a_bounded_rate() {
        for attempt in [|s: &mut Schedule, now| s.succeeded(now, None), |s: &mut Schedule, now| s.failed(now)] {
            let start = Instant::now();
            // Failures by themselves come at longer times.
            let pace = Pace { retry: (Duration::from_secs(60), Duration::from_secs(60)), ..Pace::ADDRESS };
            let mut schedule = Schedule::new(pace, start);
            let mut attempts = 0;
            for tenth in 0..600 {
                let now = start + SECOND * tenth / 10;
                schedule.asked(now);
                if schedule.due() <= now {
                    attempts += 1;
                    attempt(&mut schedule, now);
                }
            }
            assert_eq!(attempts, 6, "in a minute");
        }
    }

    #[test]
    fn the_first_to_ask_after_a_while_is_heard_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::ADDRESS, start);
        schedule.succeeded(start, None);
        schedule.asked(start + SECOND);
        assert_eq!(wait(&schedule, start + SECOND), 9);
        schedule.succeeded(start, None);
        schedule.asked(start + SECOND * 20);
        assert_eq!(schedule.due(), start + SECOND * 20);
        let mut early = Schedule::new(Pace::ADDRESS, start);
        early.asked(start + SECOND);
        assert_eq!(early.due(), start, "it only ever brings an attempt forward");
    }
}
