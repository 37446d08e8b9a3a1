//! One partition, each record once and in order, whatever its stream does.
//!
//! Offsets of a partition have no holes. So the next offset is known before its record comes, and
//! whatever else comes says what is wrong: one before it was had already, one after it means that
//! records were left out. Then the stream is opened again at the next offset.
//!
//! What is left out at the end of all that there is shows in two ways: a run with fewer records than
//! it says, and, should even that be missing, the end of the partition that the controller tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::error::Failure;
use super::log::{End, Log, Record, Run, Runs};

/// Bytes that an answer may have at first and at most. Each answer may end in the middle of a run,
/// which costs a connection: fewer and larger ones are better, and all partitions share `.0`.
const ANSWER_BYTES: (i32, i32) = (16 << 20, 1 << 30);
/// The least of it that a partition has.
const ANSWER_BYTES_MIN: i32 = 1 << 20;
/// How often a stream may be opened without a record before it counts as trouble.
const IN_VAIN_MAX: u32 = 2;

/// How often a server must say that our place is behind its end.
const BEYOND_MAX: u32 = 4;

/// Where the ends of partitions are, as last heard of the controller.
pub type Ends = BTreeMap<i32, End>;

/// What comes of a partition.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// The next records: none twice, none left out.
    Records(Vec<Record>),
    /// It can't be read now. It is tried again.
    Trouble(String),
    /// It can be read again, and nothing new is there.
    Well,
    /// What was to be read is not there. Nothing more comes.
    Lost(Loss),
    /// The operator's move. Nothing more comes.
    Refused {
        /// Why.
        error: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// How records that were to be read are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// They were deleted; this is the oldest that is there.
    Evicted {
        /// Its offset.
        begin: i64,
    },
    /// The partition ends before the place where we are. Its server says so: the controller is late at
    /// times, by seconds when much is written.
    Short,
    /// The topic was deleted.
    Deleted,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before what failed is tried again, at first and at most.
    pub retry: (Duration, Duration),
    /// For the next record, when the controller says that there are more.
    pub quiet: Duration,
    /// For the next record, whatever it says: then the stream is opened again, should it be dead.
    pub silent: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            retry: (Duration::from_millis(100), Duration::from_secs(5)),
            quiet: Duration::from_secs(2),
            silent: Duration::from_secs(60),
        }
    }
}

/// The place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    next: i64,
}

impl Place {
    /// Takes the records of a run that are next, and says whether it leaves some out.
    fn take(&mut self, run: Run) -> (Vec<Record>, bool) {
        let end = run.first.saturating_add(i64::try_from(run.count).unwrap_or(i64::MAX));
        let mut records = run.records;
        records.retain(|record| {
            let is_next = record.offset == self.next;
            self.next += i64::from(is_next);
            is_next
        });
        (records, self.next < end)
    }
}

/// Follows one partition.
pub struct Follower {
    log: Arc<dyn Log>,
    partition: i32,
    place: Place,
    ends: watch::Receiver<Ends>,
    pace: Pace,
    /// What an answer has as long as records come.
    usual_bytes: i32,
    /// What the next has: more after one that could not hold a single run.
    bytes_max: i32,
    /// Streams opened since one was well.
    in_vain: u32,
    /// How often its server has said, without anything else between, that our place is behind its end.
    beyond: u32,
    /// Whether the last that was told was trouble.
    in_trouble: bool,
}

impl Follower {
    /// From an offset on. `partitions` is how many the topic has.
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        partition: i32,
        next: i64,
        partitions: usize,
        ends: watch::Receiver<Ends>,
        pace: Pace,
    ) -> Follower {
        let shared = ANSWER_BYTES.0 / i32::try_from(partitions.max(1)).unwrap_or(i32::MAX);
        let usual_bytes = shared.max(ANSWER_BYTES_MIN);
        let place = Place { next };
        Follower {
            log,
            partition,
            place,
            ends,
            pace,
            usual_bytes,
            bytes_max: usual_bytes,
            in_vain: 0,
            beyond: 0,
            in_trouble: false,
        }
    }

    /// Tells all that comes, until that is the last of it or nobody listens. `word` puts it into the
    /// words of whoever does.
    pub async fn run<T>(mut self, tell: mpsc::Sender<T>, word: impl Fn(Came) -> T) {
        let partition = self.partition;
        let tell = Teller { tell, word };
        let mut delay = self.pace.retry.0;
        loop {
            let failure = match self.read(&tell).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            self.beyond = if failure.why == Failure::Beyond { self.beyond + 1 } else { 0 };
            if self.in_vain <= IN_VAIN_MAX && failure.is_usual {
                tracing::debug!(partition, next = self.place.next, why = failure.why.to_string(), "opened again");
                delay = self.pace.retry.0;
                continue;
            }
            let end = match failure.why {
                Failure::Evicted { next } if next > self.place.next => Came::Lost(Loss::Evicted { begin: next }),
                Failure::Deleted => Came::Lost(Loss::Deleted),
                Failure::Refused { error, remedy } => Came::Refused { error, remedy },
                // A server that has just been started may say so before it has read its own log.
                Failure::Beyond if self.beyond >= BEYOND_MAX => Came::Lost(Loss::Short),
                why => Came::Trouble(why.to_string()),
            };
            self.in_trouble = matches!(end, Came::Trouble(_));
            let is_last = !self.in_trouble;
            if !tell.tell(end).await || is_last {
                return;
            }
            sleep(delay).await;
            delay = (delay * 2).min(self.pace.retry.1);
        }
    }

    /// Reads one stream. `Ok` when nobody listens any more.
    async fn read<T>(&mut self, tell: &Teller<T, impl Fn(Came) -> T>) -> Result<(), Ended> {
        self.in_vain = self.in_vain.saturating_add(1);
        let mut runs: Runs =
            self.log.open(self.partition, self.place.next, self.bytes_max).await.map_err(Ended::bad)?;
        let mut heard = Instant::now();
        loop {
            let Ok(next) = timeout(self.pace.quiet, runs.next()).await else {
                self.is_all_there()?;
                self.in_vain = 0;
                if heard.elapsed() >= self.pace.silent {
                    return Err(Ended::usual(Failure::Passing("nothing has come for long".to_owned())));
                }
                if std::mem::take(&mut self.in_trouble) && !tell.tell(Came::Well).await {
                    return Ok(());
                }
                continue;
            };
            let run = match next {
                Some(Ok(run)) => run,
                Some(Err(why @ Failure::Passing(_))) => {
                    // A run that is cut in the middle may be none that can be unpacked.
                    self.ask_for_more();
                    return Err(Ended::usual(why));
                }
                Some(Err(why)) => return Err(Ended::bad(why)),
                None => return Err(Ended::usual(Failure::Passing("the server ended the stream".to_owned()))),
            };
            heard = Instant::now();
            let (records, leaves_out) = self.place.take(run);
            if !records.is_empty() {
                (self.in_vain, self.in_trouble) = (0, false);
                self.bytes_max = self.usual_bytes;
                if !tell.tell(Came::Records(records)).await {
                    return Ok(());
                }
            }
            if leaves_out {
                if self.in_vain > 0 {
                    self.ask_for_more();
                }
                return Err(Ended::usual(Failure::Passing(format!("record {} was left out", self.place.next))));
            }
        }
    }

    fn ask_for_more(&mut self) {
        self.bytes_max = self.bytes_max.saturating_mul(2).min(ANSWER_BYTES.1);
    }

    /// Nothing has come for a while. That may be all; or what was left out was the last that there is,
    /// or the server is gone without a word.
    fn is_all_there(&self) -> Result<(), Ended> {
        match self.ends.borrow().get(&self.partition) {
            Some(end) if end.readable > self.place.next => {
                let why = format!("records {} to {} do not come", self.place.next, end.readable - 1);
                Err(Ended::usual(Failure::Passing(why)))
            }
            _ => Ok(()),
        }
    }
}

struct Teller<T, W> {
    tell: mpsc::Sender<T>,
    word: W,
}

impl<T, W: Fn(Came) -> T> Teller<T, W> {
    /// Whether somebody listens.
    async fn tell(&self, came: Came) -> bool {
        self.tell.send((self.word)(came)).await.is_ok()
    }
}

/// Why a stream ended.
struct Ended {
    why: Failure,
    /// What streams do: the next one is opened at once.
    is_usual: bool,
}

impl Ended {
    fn usual(why: Failure) -> Ended {
        Ended { why, is_usual: true }
    }

    fn bad(why: Failure) -> Ended {
        Ended { why, is_usual: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fluvio::scripted::{Answer, Script, run};

    /// Follows a partition by a script, until `want` records have come or nothing more comes, and tells what came in
    /// short: `0-4` for records, the rest by name. Where ends are told, silence alone opens no stream again: what
    /// does is what the test is about.
    async fn follow(next: i64, want: usize, ends: &[(i32, i64)], script: Vec<Answer>) -> (Vec<String>, Arc<Script>) {
        let (log, has_ends) = (Arc::new(Script::new(script)), !ends.is_empty());
        let (tell, mut told) = mpsc::channel::<Came>(1);
        let (_ends, ends) =
            watch::channel(ends.iter().map(|(id, end)| (*id, End { readable: *end, written: *end })).collect());
        let soon = Duration::from_millis(1);
        let silent = if has_ends { Duration::from_secs(60) } else { Duration::from_millis(100) };
        let pace = Pace { retry: (soon, soon), quiet: Duration::from_millis(20), silent };
        let following =
            tokio::spawn(Follower::new(Arc::clone(&log) as _, 0, next, 1, ends, pace).run(tell, |came| came));
        let (mut came, mut count) = (Vec::new(), 0);
        while count < want
            && let Some(what) = timeout(Duration::from_secs(10), told.recv()).await.expect("something comes")
        {
            came.push(match what {
                Came::Records(records) => {
                    count += records.len();
                    format!("{}-{}", records[0].offset, records[records.len() - 1].offset)
                }
                other => format!("{other:?}"),
            });
        }
        following.abort();
        (came, log)
    }

    #[tokio::test]
    async fn what_an_answer_leaves_out_is_asked_for_again() {
        // As measured: an answer ends in the middle of a run, the next begins behind it, no error.
        let (came, log) = follow(
            0,
            12,
            &[],
            vec![Answer::Runs(vec![run(0..4), run(8..12)]), Answer::Runs(vec![run(4..8), run(8..12)])],
        )
        .await;
        assert_eq!((came, log.opened_at()), (vec!["0-3".into(), "4-7".into(), "8-11".into()], vec![0, 4]));
        assert_eq!(log.bytes_asked(), [16 << 20; 2], "answers that bring records are large enough");
    }

    #[tokio::test]
    async fn a_run_that_is_cut_short_shows_at_once_also_as_the_last_there_is() {
        let mut cut = run(4..8);
        cut.records.truncate(1);
        let (came, log) =
            follow(0, 8, &[], vec![Answer::Runs(vec![run(0..4), cut]), Answer::Runs(vec![run(4..8)])]).await;
        assert_eq!((came, log.opened_at()), (vec!["0-3".into(), "4-4".into(), "5-7".into()], vec![0, 5]));
    }

    #[tokio::test]
    async fn a_last_run_of_which_nothing_came_is_missed_by_the_end_of_the_partition() {
        let (came, log) =
            follow(0, 8, &[(0, 8)], vec![Answer::Runs(vec![run(0..4)]), Answer::Runs(vec![run(4..8)])]).await;
        assert_eq!((came, log.opened_at()), (vec!["0-3".into(), "4-7".into()], vec![0, 4]));
    }

    #[tokio::test]
    async fn what_was_had_is_not_told_again() {
        let (came, _) = follow(5, 5, &[], vec![Answer::Runs(vec![run(0..4), run(4..8), run(6..8), run(2..10)])]).await;
        assert_eq!(came, ["5-7", "8-9"]);
    }

    #[tokio::test]
    async fn a_stream_that_ends_or_breaks_goes_on_where_it_was() {
        let broken = || Failure::Passing("connection reset".to_owned());
        let (came, log) = follow(
            0,
            9,
            &[],
            vec![
                Answer::Ends(vec![run(0..3)]),
                Answer::Breaks(vec![run(3..6)], broken()),
                Answer::Refuses(broken()),
                Answer::Refuses(broken()),
                Answer::Runs(vec![run(6..9)]),
            ],
        )
        .await;
        let trouble = format!("{:?}", Came::Trouble("connection reset".to_owned()));
        assert_eq!(came, ["0-2", "3-5", &trouble, &trouble, "6-8"]);
        assert_eq!(log.opened_at(), [0, 3, 6, 6, 6]);
    }

    #[tokio::test]
    async fn a_run_larger_than_an_answer_gets_a_larger_one() {
        let mut cut = run(0..4);
        cut.records.clear();
        let (came, log) = follow(
            0,
            4,
            &[],
            vec![Answer::Runs(vec![cut.clone()]), Answer::Runs(vec![cut]), Answer::Runs(vec![run(0..4)])],
        )
        .await;
        assert_eq!(came, ["0-3"]);
        assert_eq!(log.bytes_asked(), [16 << 20, 32 << 20, 64 << 20]);
    }

    #[tokio::test]
    async fn a_hole_that_stays_is_trouble_and_never_stepped_over() {
        let holes = (0..5).map(|_| Answer::Runs(vec![run(4..8)])).collect::<Vec<_>>();
        let (came, _) = follow(2, 6, &[], [holes, vec![Answer::Runs(vec![run(2..8)])]].concat()).await;
        assert!(came[0].contains("record 2 was left out"), "{came:?}");
        assert_eq!(came.last().map(String::as_str), Some("2-7"), "{came:?}");
    }

    #[tokio::test]
    async fn what_was_deleted_is_a_loss_and_tells_where_the_rest_begins() {
        let evicted = Failure::Evicted { next: 100 };
        let (came, _) = follow(4, 1, &[], vec![Answer::Breaks(Vec::new(), evicted)]).await;
        assert_eq!(came, [format!("{:?}", Came::Lost(Loss::Evicted { begin: 100 }))]);
        let (came, _) = follow(0, 9, &[], vec![Answer::Breaks(vec![run(0..2)], Failure::Deleted)]).await;
        assert_eq!(came, ["0-1".to_owned(), format!("{:?}", Came::Lost(Loss::Deleted))]);
    }

    #[tokio::test]
    async fn a_place_beyond_the_end_is_a_loss_when_its_server_says_so_again_and_again() {
        let beyond = || Answer::Breaks(Vec::new(), Failure::Beyond);
        let (came, log) = follow(9, 1, &[(0, 3)], (0..9).map(|_| beyond()).collect()).await;
        assert_eq!(came.last(), Some(&format!("{:?}", Came::Lost(Loss::Short))));
        assert_eq!(log.opened_at().len(), 4, "once is not enough");
    }

    /// Measured: a server was killed while the controller still said an end from before the last
    /// records. Opening failed again and again, and the old end was believed.
    #[tokio::test]
    async fn a_controller_that_is_late_and_a_server_that_is_gone_are_no_loss() {
        let gone = || Answer::Refuses(Failure::Passing("connection refused".to_owned()));
        let mut script: Vec<Answer> = (0..9).map(|_| gone()).collect();
        script.push(Answer::Runs(vec![run(9..10)]));
        let (came, _) = follow(9, 1, &[(0, 3)], script).await;
        assert_eq!(came.last().map(String::as_str), Some("9-9"), "{came:?}");
    }

    #[tokio::test]
    async fn a_stream_that_is_silent_for_long_is_opened_again() {
        let (came, log) = follow(3, 1, &[], vec![Answer::Runs(Vec::new()), Answer::Runs(vec![run(3..4)])]).await;
        assert_eq!((came, log.opened_at()), (vec!["3-3".to_owned()], vec![3, 3]));
    }

    #[tokio::test]
    async fn after_trouble_a_quiet_partition_is_well() {
        let down = Failure::Passing("nobody is there".to_owned());
        let script = vec![Answer::Refuses(down), Answer::Runs(Vec::new()), Answer::Runs(vec![run(3..4)])];
        let (came, _) = follow(3, 1, &[], script).await;
        let trouble = format!("{:?}", Came::Trouble("nobody is there".to_owned()));
        assert_eq!(came, [&trouble, "Well", "3-3"], "once, and it is read on");
    }

    #[tokio::test]
    async fn what_was_deleted_before_our_place_is_no_loss() {
        let evicted = Answer::Breaks(Vec::new(), Failure::Evicted { next: 4 });
        let (came, _) = follow(4, 1, &[], vec![evicted, Answer::Runs(vec![run(4..5)])]).await;
        assert!(came[0].starts_with("Trouble"), "{came:?}");
        assert_eq!(came[1..], ["4-4"]);
    }
}
