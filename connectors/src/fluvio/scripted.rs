//! A log that does what it is told, among it all that a real one was measured to do.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::error::Failure;
use super::log::{Log, Partition, Record, Run, Runs};

/// What opening a stream comes to.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These, and nothing more.
    Runs(Vec<Run>),
    /// These, and the end.
    Ends(Vec<Run>),
    /// These, and an error.
    Breaks(Vec<Run>, Failure),
    /// No stream.
    Refuses(Failure),
}

/// Answers one after the other; after the last, nothing.
#[derive(Default)]
pub struct Script {
    answers: Mutex<VecDeque<Answer>>,
    partitions: Mutex<VecDeque<Result<Vec<Partition>, Failure>>>,
    opened: Mutex<Vec<(i32, i64, i32)>>,
}

impl Script {
    /// Of what opening streams comes to.
    pub fn new(answers: Vec<Answer>) -> Script {
        Script { answers: Mutex::new(answers.into()), ..Script::default() }
    }

    /// With what asking for partitions comes to; the last of it stays.
    pub fn described(self, partitions: Vec<Result<Vec<Partition>, Failure>>) -> Script {
        Script { partitions: Mutex::new(partitions.into()), ..self }
    }

    /// Where streams were opened.
    pub fn opened_at(&self) -> Vec<i64> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, from, _)| *from).collect()
    }

    /// How many bytes were asked for.
    pub fn bytes_asked(&self) -> Vec<i32> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, _, bytes)| *bytes).collect()
    }
}

impl Log for Script {
    fn describe(&self) -> BoxFuture<'_, Result<Vec<Partition>, Failure>> {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let described = if partitions.len() > 1 { partitions.pop_front() } else { partitions.front().cloned() };
        async { described.unwrap_or_else(|| Ok(Vec::new())) }.boxed()
    }

    fn open(&self, partition: i32, from: i64, bytes_max: i32) -> BoxFuture<'_, Result<Runs, Failure>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push((partition, from, bytes_max));
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (runs, failure, ends) = match answer {
            None => (Vec::new(), None, false),
            Some(Answer::Runs(runs)) => (runs, None, false),
            Some(Answer::Ends(runs)) => (runs, None, true),
            Some(Answer::Breaks(runs, failure)) => (runs, Some(failure), true),
            Some(Answer::Refuses(failure)) => return async { Err(failure) }.boxed(),
        };
        let told = stream::iter(runs.into_iter().map(Ok).chain(failure.map(Err)));
        let rest = if ends { stream::empty().boxed() } else { stream::pending().boxed() };
        async { Ok(told.chain(rest).boxed()) }.boxed()
    }
}

/// The record of an offset.
pub fn record(offset: i64) -> Record {
    let value = Bytes::from(format!(r#"{{"id":{offset}}}"#));
    Record { offset, timestamp: Some(1000 + offset), key: None, value }
}

/// A whole run.
pub fn run(offsets: Range<i64>) -> Run {
    let records: Vec<Record> = offsets.clone().map(record).collect();
    Run { first: offsets.start, count: records.len(), records }
}
