//! Messages held back until what a database committed at once is whole.
//!
//! Debezium writes each table's changes into a topic of their own, so what was one transaction comes in parts, in any
//! order between the topics. With `provide.transaction.metadata=true` each event says which transaction it is part of,
//! and one more topic says where transactions begin and end, in the order in which they were committed, and how many
//! events of which table each has.
//!
//! ```text
//!  orders/0   ── T1 ── T3 ───────────►  T1 is whole when one event of orders and two of items
//!  items/0    ── T1 ── T1 ── T2 ─────►  have come and its END has: all three go on, in one piece
//!  the topic  ── BEGIN 1, END 1 (orders 1, items 2), BEGIN 2 ──►
//! ```
//!
//! What makes this simple is that Debezium writes one transaction after the other: events of a partition, and the
//! topic of transactions, are in the order of commits. What goes wrong in the world is then told apart so:
//!
//! - An event of no transaction (a row of a snapshot, or what can't be read) goes on when it is the first of its
//!   partition.
//! - The END of a transaction may be gone (its topic keeps less than the tables' topics), or was never written. It is,
//!   if one that begins later ends for the first time.
//! - Events may be gone (compaction, a filter between Debezium and the topic). They are, if each partition of their
//!   topic has come to messages written after the END, or is read to its end and stays there for half a minute.
//! - A connector that was killed writes again what it has not noted as written. What was ended before is dropped; of
//!   what it was in the middle of, the later copy counts.
//!
//! Events of a transaction go on in the order in which the database made them, also where their partitions differ.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hold::{Held, Hold, NoBoundary, Whole};
use super::{Message, TopicPartition};
use crate::format::debezium::transaction::{Boundary, boundary, part_of};

/// How long events that were told may be missing where their partitions are read to their ends: what writes them does
/// so to several brokers, and one may be slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a transaction that was ended before: of what is sent again, only some may be.
const PATIENCE_AGAIN: Duration = Duration::from_secs(1);
/// How much of the time between two looks at what has come counts as waited for messages: while the engine is behind,
/// nobody looks.
const TICK_MAX: Duration = Duration::from_secs(1);
/// By how much times must differ, in milliseconds, to say what was written later.
const LATER: i64 = 1000;
/// Transactions that have ended which are remembered.
const ENDED_MAX: usize = 100_000;
/// Bytes of a partition that are held before it is read no further, unless they are all of one transaction; and what
/// is told of transactions that is held.
const HELD_MAX: u64 = 16 << 20;
const TOLD_MAX: usize = 100_000;
/// How long to wait for the rest of a transaction before the source says so.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Messages of several topics that wait until their transactions are whole.
pub struct Transactions<M> {
    /// The topics that are read, with what the topic of transactions calls their tables.
    topics: Vec<Tables>,
    /// Which of them tells of transactions.
    teller: usize,
    queues: BTreeMap<TopicPartition, Queue<M>>,
    /// What was told of transactions that have not gone on, in the order of commits.
    told: VecDeque<Told<M>>,
    /// How often it names each transaction.
    named: HashMap<String, u32>,
    /// The transaction that has begun and not ended, of what has gone on, and when it was said to begin.
    open: Option<(String, i64)>,
    ended: Ended,
    /// When the last transaction that ended for the first time was said to begin, in milliseconds since 1970: nothing
    /// will be told of older ones that was not.
    sure_until: i64,
    /// Time that was spent on waiting for messages: in which none had to wait for us.
    clock: Duration,
    asked: Option<Instant>,
    waiting: Option<Wait>,
    /// Transactions that went on with less events than they have.
    incomplete: u64,
}

struct Told<M> {
    boundary: Boundary,
    message: M,
    came: Duration,
}

struct Tables {
    topic: Arc<str>,
    /// Names of tables whose events it has.
    collections: HashSet<String>,
    last: [Option<String>; 3],
}

struct Queue<M> {
    entries: VecDeque<Entry<M>>,
    /// The events among them, as they follow each other.
    runs: VecDeque<Run>,
    bytes: u64,
    is_at_end: bool,
}

/// Events of one transaction, written once.
struct Run {
    transaction: String,
    events: usize,
    /// The number of the last of them in the transaction. What is written again begins with a lower one.
    last: u64,
    /// When the first of them was written.
    written: i64,
    /// How it calls its transaction.
    id: String,
}

struct Entry<M> {
    message: M,
    bytes: u64,
    /// When it was written, in milliseconds since 1970.
    written: i64,
    part: Option<Part>,
}

struct Part {
    transaction: String,
    id: String,
    order: u64,
}

/// For what, and since when.
struct Wait {
    since: Duration,
    transaction: String,
    what: String,
}

/// Transactions that have ended, by what their END says.
#[derive(Default)]
struct Ended {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Ended {
    fn insert(&mut self, id: &str) {
        if self.known.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
            if self.order.len() > ENDED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

impl Tables {
    /// Whether the events of what the topic of transactions calls so are here: as they say themselves, or by the name
    /// of the topic, `prefix.schema.table` where nothing else was set up.
    fn have(&self, collection: &str) -> bool {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        let in_names: String = collection.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
        self.collections.contains(collection)
            || *self.topic == *in_names
            || self.topic.strip_suffix(in_names.as_str()).is_some_and(|prefix| prefix.ends_with('.'))
    }

    fn learn(&mut self, names: [Option<String>; 3]) {
        if self.last != names {
            self.collections.extend(names.iter().flatten().cloned());
            self.last = names;
        }
    }
}

impl<M> Queue<M> {
    fn new() -> Queue<M> {
        Queue { entries: VecDeque::new(), runs: VecDeque::new(), bytes: 0, is_at_end: false }
    }

    fn push(&mut self, entry: Entry<M>) {
        if let Some(Part { transaction, id, order }) = &entry.part {
            match self.runs.back_mut().filter(|run| run.transaction == *transaction && run.last < *order) {
                Some(run) => {
                    run.events += 1;
                    run.last = *order;
                }
                None => self.runs.push_back(Run {
                    transaction: transaction.clone(),
                    events: 1,
                    last: *order,
                    written: entry.written,
                    id: id.clone(),
                }),
            }
        }
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry<M>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        if entry.part.is_some()
            && let Some(run) = self.runs.front_mut()
        {
            run.events -= 1;
            if run.events == 0 {
                self.runs.pop_front();
            }
        }
        Some(entry)
    }

    /// The first copy of a transaction's events that was written since then, or the last if there is none, by its place
    /// among the runs.
    fn run_of(&self, transaction: &str, since: i64) -> Option<usize> {
        let is_one = |run: &Run| run.transaction == transaction;
        let is_recent = |run: &Run| is_one(run) && run.written.saturating_add(LATER) >= since;
        self.runs.iter().position(is_recent).or_else(|| self.runs.iter().rposition(is_one))
    }

    /// The copies that begin as this one does, up to it.
    fn copies_of(&self, run: usize) -> Vec<usize> {
        let is_copy = |of: &Run| (&of.transaction, &of.id) == (&self.runs[run].transaction, &self.runs[run].id);
        (0..=run).filter(|place| is_copy(&self.runs[*place])).collect()
    }

    /// Takes all up to the last event of a run.
    fn pop_through(&mut self, run: usize) -> Vec<Entry<M>> {
        let mut events: usize = self.runs.range(..=run).map(|run| run.events).sum();
        let mut popped = Vec::new();
        while events > 0
            && let Some(entry) = self.pop()
        {
            events -= usize::from(entry.part.is_some());
            popped.push(entry);
        }
        popped
    }

    /// Takes the events of a run out of what stays. What stands behind them is not looked at.
    fn remove(&mut self, run: usize) -> Vec<Entry<M>> {
        let before: usize = self.runs.range(..run).map(|run| run.events).sum();
        let mut left = self.runs.remove(run).map_or(0, |run| run.events);
        let (mut place, mut stay, mut removed) = (0, Vec::new(), Vec::new());
        while left > 0
            && let Some(entry) = self.entries.pop_front()
        {
            let is_event = entry.part.is_some();
            if is_event && place >= before {
                self.bytes -= entry.bytes;
                left -= 1;
                removed.push(entry);
            } else {
                stay.push(entry);
            }
            place += usize::from(is_event);
        }
        stay.into_iter().rev().for_each(|entry| self.entries.push_front(entry));
        removed
    }
}

impl<M: Held> Transactions<M> {
    /// Of topics, of which the one at the place `teller` tells of transactions.
    #[must_use]
    pub fn new(topics: &[Arc<str>], teller: usize) -> Transactions<M> {
        let tables = |topic: &Arc<str>| Tables {
            topic: Arc::clone(topic),
            collections: HashSet::new(),
            last: [None, None, None],
        };
        Transactions {
            topics: topics.iter().map(tables).collect(),
            teller,
            queues: BTreeMap::new(),
            told: VecDeque::new(),
            named: HashMap::new(),
            open: None,
            ended: Ended::default(),
            sure_until: i64::MIN,
            clock: Duration::ZERO,
            asked: None,
            waiting: None,
            incomplete: 0,
        }
    }

    /// Takes what waits for nothing.
    fn take_free(&mut self, whole: &mut Whole<M>, at_most: usize) {
        let mut queues = std::mem::take(&mut self.queues);
        for queue in queues.values_mut() {
            while whole.messages.len() < at_most
                && queue.entries.front().is_some_and(|entry| self.is_free(entry))
                && let Some(entry) = queue.pop()
            {
                whole.messages.push(entry.message);
            }
        }
        self.queues = queues;
    }

    /// Whether a message is part of nothing that can become whole.
    fn is_free(&self, entry: &Entry<M>) -> bool {
        let Some(Part { transaction, .. }) = &entry.part else { return true };
        let is_open = self.open.as_ref().is_some_and(|(open, _)| open == transaction);
        !is_open && !self.named.contains_key(transaction) && self.sure_until.saturating_sub(LATER) > entry.written
    }

    /// Takes the next thing that was told, with the transaction that it ends. Whether there was one.
    fn take_told(&mut self, whole: &mut Whole<M>) -> bool {
        let front = self.told.front();
        let written = front.and_then(|told| told.message.view().timestamp).unwrap_or(i64::MIN);
        match front.map(|told| told.boundary.clone()) {
            None => {
                self.wait_for_end();
                return false;
            }
            Some(Boundary::Begin(transaction)) => self.open = Some((transaction, written)),
            Some(Boundary::End { transaction, id, counts }) => {
                let open = self.open.take_if(|(open, _)| *open == transaction);
                let since = open.as_ref().map_or(written, |(_, since)| *since);
                let is_again = self.ended.known.contains(&id);
                let missing = self.missing(&transaction, &counts, since);
                if let Some(missing) = &missing
                    && !self.is_gone(missing, is_again)
                {
                    self.open = open;
                    self.wait_for(transaction, missing.to_string());
                    return false;
                }
                // Its connector was killed before all of it was written, if it comes again.
                let comes_again = missing.is_some() && self.named.get(&transaction).is_some_and(|times| *times > 1);
                if is_again {
                    self.drop_parts(&transaction, since, whole);
                } else if !comes_again {
                    let parts = self.take_parts(&transaction, since, whole);
                    whole.messages.extend(parts);
                    self.sure_until = self.sure_until.max(since);
                    match &missing {
                        None => self.ended.insert(&id),
                        Some(missing) => self.count_incomplete(&transaction, missing),
                    }
                }
            }
        }
        self.waiting = None;
        if let Some(told) = self.told.pop_front() {
            let transaction = told.boundary.transaction();
            if let Some(times) = self.named.get_mut(transaction) {
                *times -= 1;
                if *times == 0 {
                    self.named.remove(transaction);
                }
            }
            whole.messages.push(told.message);
        }
        true
    }

    fn count_incomplete(&mut self, transaction: &str, missing: &Missing) {
        self.incomplete += 1;
        if self.incomplete.is_power_of_two() {
            let (so_far, missing) = (self.incomplete, missing.to_string());
            tracing::warn!(transaction, missing, so_far, "a transaction is read without events that are gone");
        }
    }

    /// Events have come, and nothing was told of where their transaction ends.
    fn wait_for_end(&mut self) {
        let held: usize = self.queues.values().map(|queue| queue.entries.len()).sum();
        let part = self.queues.values().find_map(|queue| queue.entries.front()?.part.as_ref());
        match part.map(|part| part.transaction.clone()) {
            Some(transaction) => self.wait_for(transaction, format!("{held} events have come, and not its END")),
            None => self.waiting = None,
        }
    }

    fn wait_for(&mut self, transaction: String, what: String) {
        let is_same =
            self.waiting.as_ref().is_some_and(|wait| (&wait.transaction, &wait.what) == (&transaction, &what));
        if !is_same {
            self.waiting = Some(Wait { since: self.clock, transaction, what });
        }
    }

    /// What has not come of a transaction that has these events.
    fn missing(&self, transaction: &str, counts: &[(String, u64)], since: i64) -> Option<Missing> {
        for (topic, tables) in self.topics.iter().enumerate().filter(|(topic, _)| *topic != self.teller) {
            let events: u64 = counts.iter().filter(|(name, _)| tables.have(name)).map(|(_, count)| count).sum();
            let of_topic = self.queues.iter().filter(|(partition, _)| partition.topic == topic);
            let run = |queue: &Queue<M>| queue.run_of(transaction, since).map(|run| queue.runs[run].events);
            let come = of_topic.filter_map(|(_, queue)| run(queue)).sum::<usize>() as u64;
            if come < events {
                return Some(Missing { topic, name: Arc::clone(&tables.topic), events, come });
            }
        }
        None
    }

    /// Whether what has not come will not.
    fn is_gone(&self, missing: &Missing, is_again: bool) -> bool {
        let Some(end) = self.told.front() else { return false };
        let ended = end.message.view().timestamp.unwrap_or(i64::MAX);
        let is_over = self.clock - end.came > if is_again { PATIENCE_AGAIN } else { PATIENCE };
        let mut of_topic = self.queues.iter().filter(|(partition, _)| partition.topic == missing.topic).peekable();
        of_topic.peek().is_some()
            && of_topic.all(|(_, queue)| {
                queue.entries.back().is_some_and(|entry| entry.written > ended) || queue.is_at_end && is_over
            })
    }

    /// Drops what has come of a transaction that went on before.
    fn drop_parts(&mut self, transaction: &str, since: i64, whole: &mut Whole<M>) {
        for (partition, queue) in &mut self.queues {
            let Some(run) = queue.run_of(transaction, since) else { continue };
            for run in (0..=run).rev() {
                if queue.runs[run].transaction == transaction {
                    pass_over(*partition, queue, run, whole);
                }
            }
        }
    }

    /// All that has come of a transaction, with what stands before it in its partitions: that is of none, or of
    /// transactions that will not be whole. Of copies the last one is taken.
    fn take_parts(&mut self, transaction: &str, since: i64, whole: &mut Whole<M>) -> Vec<M> {
        let mut parts: Vec<(u64, M)> = Vec::new();
        for (partition, queue) in &mut self.queues {
            let Some(run) = queue.run_of(transaction, since) else { continue };
            let mut copies = queue.copies_of(run);
            copies.pop();
            for copy in copies.iter().rev() {
                pass_over(*partition, queue, *copy, whole);
            }
            // What has no place in the transaction stands where what is before it does.
            let mut place = 0;
            for entry in queue.pop_through(run - copies.len()) {
                if let Some(part) = entry.part.filter(|part| part.transaction == transaction) {
                    place = place.max(part.order);
                }
                parts.push((place, entry.message));
            }
        }
        parts.sort_by_key(|(place, _)| *place);
        parts.into_iter().map(|(_, message)| message).collect()
    }
}

impl<M: Held + Send> Hold<M> for Transactions<M> {
    fn begin(&mut self, partition: TopicPartition) {
        self.queues.entry(partition).or_insert_with(Queue::new);
    }

    fn take(&mut self, message: M) -> Result<(), NoBoundary> {
        let Message { partition, offset, timestamp, payload, .. } = message.view();
        let written = timestamp.unwrap_or(i64::MIN);
        let queue = self.queues.entry(partition).or_insert_with(Queue::new);
        queue.is_at_end = false;
        if partition.topic == self.teller {
            let boundary = boundary(payload.value.unwrap_or_default()).map_err(|reason| NoBoundary {
                topic: Arc::clone(&self.topics[self.teller].topic),
                offset,
                reason,
            })?;
            *self.named.entry(boundary.transaction().to_owned()).or_default() += 1;
            self.told.push_back(Told { boundary, message, came: self.clock });
            return Ok(());
        }
        let bytes = message.view().bytes() + 128;
        let part = payload.value.and_then(part_of).map(|part| {
            self.topics[partition.topic].learn(part.collections);
            Part { transaction: part.transaction, id: part.id, order: part.order }
        });
        queue.push(Entry { message, bytes, written, part });
        Ok(())
    }

    fn at_end(&mut self, partition: TopicPartition) {
        self.queues.entry(partition).or_insert_with(Queue::new).is_at_end = true;
    }

    fn is_full(&self, partition: TopicPartition) -> bool {
        if partition.topic == self.teller {
            return self.told.len() > TOLD_MAX;
        }
        self.queues.get(&partition).is_some_and(|queue| queue.bytes > HELD_MAX && queue.runs.len() != 1)
    }

    fn next(&mut self, at_most: usize, now: Instant) -> Whole<M> {
        let passed = self.asked.replace(now).map_or(Duration::ZERO, |asked| now.duration_since(asked));
        self.clock += passed.min(TICK_MAX);
        let mut whole = Whole::default();
        loop {
            self.take_free(&mut whole, at_most);
            if whole.messages.len() >= at_most || !self.take_told(&mut whole) {
                break;
            }
        }
        whole
    }

    fn empty_at_end(&self) -> Vec<TopicPartition> {
        let is_done = |partition: TopicPartition, queue: &Queue<M>| {
            queue.is_at_end && queue.entries.is_empty() && (partition.topic != self.teller || self.told.is_empty())
        };
        let done = self.queues.iter().filter(|(partition, queue)| is_done(**partition, queue));
        done.map(|(partition, _)| *partition).collect()
    }

    fn clear(&mut self) {
        self.queues.clear();
        self.told.clear();
        self.named.clear();
        self.open = None;
        self.sure_until = i64::MIN;
        self.waiting = None;
    }

    fn waits_for(&self) -> Option<String> {
        let wait = self.waiting.as_ref().filter(|wait| self.clock - wait.since > TELL_AFTER)?;
        Some(format!("transaction {} is not whole: {}", wait.transaction, wait.what))
    }
}

/// Takes a run out, of which nothing goes on.
fn pass_over<M: Held>(partition: TopicPartition, queue: &mut Queue<M>, run: usize, whole: &mut Whole<M>) {
    for entry in queue.remove(run) {
        let offset = entry.message.view().offset;
        // What stands before it has not gone on: it would be lost if it were read from here on.
        if queue.entries.front().is_none_or(|first| first.message.view().offset > offset) {
            let passed = whole.passed.entry(partition).or_default();
            *passed = (*passed).max(offset + 1);
        }
    }
}

/// Events of a topic that were told and have not come.
struct Missing {
    topic: usize,
    name: Arc<str>,
    events: u64,
    come: u64,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of its {} events in {} have come", self.come, self.events, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Payload;

    /// The topic of transactions.
    const TELLER: usize = 2;

    #[derive(Clone, Debug, PartialEq)]
    struct Scripted {
        partition: TopicPartition,
        offset: i64,
        written: i64,
        value: String,
        /// The transaction that it is part of.
        of: Option<u64>,
    }

    impl Held for Scripted {
        fn view(&self) -> Message<'_> {
            Message {
                partition: self.partition,
                offset: self.offset,
                timestamp: Some(self.written),
                payload: Payload { key: None, value: Some(self.value.as_bytes()) },
                headers: &(),
            }
        }
    }

    /// Debezium, as far as it matters: one transaction after the other, into two topics of two partitions.
    #[derive(Default)]
    struct Log {
        messages: Vec<Scripted>,
        next: BTreeMap<TopicPartition, i64>,
        now: i64,
    }

    impl Log {
        fn push(&mut self, topic: usize, number: i32, value: String, of: Option<u64>) {
            let partition = TopicPartition { topic, number };
            let next = self.next.entry(partition).or_default();
            self.messages.push(Scripted { partition, offset: *next, written: self.now, value, of });
            *next += 1;
        }

        fn begin(&mut self, transaction: u64) {
            self.push(TELLER, 0, format!(r#"{{"status":"BEGIN","id":"{transaction}:1"}}"#), None);
        }

        fn event(&mut self, transaction: u64, order: usize, topic: usize, number: i32) {
            let value = format!(
                r#"{{"op":"c","source":{{"schema":"public","table":"{}"}},"transaction":{{"id":"{transaction}:{}","total_order":{order}}}}}"#,
                NAMES[topic],
                order + 7
            );
            self.push(topic, number, value, Some(transaction));
        }

        fn end(&mut self, transaction: u64, counts: [usize; 2]) {
            let told: Vec<String> = counts
                .iter()
                .zip(NAMES)
                .filter(|(count, _)| **count > 0)
                .map(|(count, name)| format!(r#"{{"data_collection":"public.{name}","event_count":{count}}}"#))
                .collect();
            let value = format!(
                r#"{{"status":"END","id":"{transaction}:9","ts_ms":{transaction},"data_collections":[{},{{"data_collection":"public.other","event_count":3}}]}}"#,
                told.join(",")
            );
            self.push(TELLER, 0, value.replace("[,", "["), None);
        }

        /// One whole transaction; each event says in which topic and partition it is.
        fn transaction(&mut self, transaction: u64, events: &[(usize, i32)]) {
            self.begin(transaction);
            let mut counts = [0, 0];
            for (place, (topic, number)) in events.iter().enumerate() {
                self.event(transaction, place + 1, *topic, *number);
                counts[*topic] += 1;
            }
            self.end(transaction, counts);
            self.now += 1;
        }

        fn snapshot(&mut self, topic: usize, number: i32) {
            self.push(topic, number, r#"{"op":"r","transaction":null}"#.to_owned(), None);
        }

        fn of(&self, partition: TopicPartition) -> Vec<Scripted> {
            self.messages.iter().filter(|message| message.partition == partition).cloned().collect()
        }
    }

    const NAMES: [&str; 2] = ["orders", "items"];

    fn names() -> Vec<Arc<str>> {
        vec!["shop.public.orders".into(), "shop.public.items".into(), "shop.transaction".into()]
    }

    fn partitions() -> Vec<TopicPartition> {
        let mut all: Vec<TopicPartition> =
            (0..2).flat_map(|topic| (0..2).map(move |number| TopicPartition { topic, number })).collect();
        all.push(TopicPartition { topic: TELLER, number: 0 });
        all
    }

    fn opened() -> Transactions<Scripted> {
        let mut held = Transactions::new(&names(), TELLER);
        partitions().into_iter().for_each(|partition| held.begin(partition));
        held
    }

    fn take(held: &mut Transactions<Scripted>, messages: &[Scripted]) {
        for message in messages {
            held.take(message.clone()).expect("a boundary");
        }
    }

    /// What goes on now: of which transactions events, in their order.
    fn went_on(held: &mut Transactions<Scripted>, now: Instant) -> Vec<u64> {
        let whole = held.next(1000, now);
        whole.messages.into_iter().filter_map(|message| message.of).collect()
    }

    #[test]
    fn a_transaction_goes_on_when_all_of_it_has_come() {
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (1, 0), (1, 1), (0, 1)]);
        let now = Instant::now();
        // Whichever comes last.
        for last in 0..log.messages.len() {
            let mut held = opened();
            let mut messages = log.messages.clone();
            let late = messages.remove(last);
            // BEGIN alone says nothing.
            take(&mut held, &messages);
            if last == 0 {
                continue;
            }
            assert_eq!(went_on(&mut held, now), Vec::<u64>::new(), "without {last}");
            take(&mut held, &[late]);
            assert_eq!(went_on(&mut held, now), [1, 1, 1, 1], "with {last}");
            assert!(
                held.named.is_empty() && held.queues.values().all(|queue| queue.bytes == 0),
                "nothing is left of it"
            );
        }
    }

    #[test]
    fn its_events_go_on_as_the_database_made_them() {
        let mut log = Log::default();
        log.transaction(1, &[(0, 1), (0, 0), (1, 0), (0, 1), (0, 0)]);
        let mut held = opened();
        for partition in partitions() {
            take(&mut held, &log.of(partition));
        }
        let whole = held.next(1000, Instant::now());
        let events: Vec<&Scripted> = whole.messages.iter().filter(|message| message.of.is_some()).collect();
        assert_eq!(events, log.messages.iter().filter(|message| message.of.is_some()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_of_no_transaction_waits_for_what_is_before_it_alone() {
        let mut log = Log::default();
        log.snapshot(0, 0);
        log.begin(1);
        log.event(1, 1, 0, 0);
        log.snapshot(0, 0);
        log.snapshot(1, 0);
        let mut held = opened();
        take(&mut held, &log.messages);
        let now = Instant::now();
        let offsets = |whole: Whole<Scripted>| -> Vec<(usize, i64)> {
            whole.messages.iter().map(|message| (message.partition.topic, message.offset)).collect()
        };
        assert_eq!(offsets(held.next(1000, now)), [(0, 0), (1, 0), (TELLER, 0)]);
        log.messages.clear();
        log.end(1, [1, 0]);
        take(&mut held, &log.messages);
        assert_eq!(offsets(held.next(1000, now)), [(0, 1), (TELLER, 1), (0, 2)]);
    }

    #[test]
    fn batches_end_between_transactions() {
        let mut log = Log::default();
        for transaction in 0..10 {
            log.transaction(transaction, &[(0, 0), (1, 0), (1, 0)]);
        }
        let mut held = opened();
        take(&mut held, &log.messages);
        let mut batches = 0;
        loop {
            let whole = held.next(4, Instant::now());
            if whole.messages.is_empty() {
                break;
            }
            assert!(whole.messages.len() <= 8, "{}", whole.messages.len());
            assert_eq!(whole.messages.iter().filter(|message| message.of.is_some()).count() % 3, 0);
            batches += 1;
        }
        assert!(batches >= 5, "{batches}");
    }

    /// Its topic keeps a week, say, and those of the tables are compacted.
    #[test]
    fn a_transaction_whose_end_is_gone_goes_on_when_later_times_are_told() {
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.now += 1000 + LATER;
        log.transaction(2, &[(0, 0)]);
        let mut held = opened();
        let is_gone = |message: &Scripted| message.partition.topic == TELLER && message.written < 1000;
        let (_, rest): (Vec<Scripted>, Vec<Scripted>) = log.messages.iter().cloned().partition(is_gone);
        take(&mut held, &rest[..2]);
        let now = Instant::now();
        assert_eq!(went_on(&mut held, now), Vec::<u64>::new());
        take(&mut held, &rest[2..]);
        assert_eq!(went_on(&mut held, now), [1, 2, 1]);
    }

    #[test]
    fn events_that_are_gone_are_not_waited_for() {
        // Compacted: what came later is there.
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (0, 0), (1, 0)]);
        log.transaction(2, &[(0, 0), (0, 1)]);
        let mut messages = log.messages.clone();
        messages.remove(1);
        let mut held = opened();
        take(&mut held, &messages);
        assert_eq!(went_on(&mut held, Instant::now()), [1, 1, 2, 2]);

        // Or nothing came later, and their partitions are read to their ends, for long.
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (0, 0), (1, 0)]);
        let mut held = opened();
        let mut messages = log.messages.clone();
        messages.remove(1);
        take(&mut held, &messages);
        let mut now = Instant::now();
        assert_eq!(went_on(&mut held, now), Vec::<u64>::new());
        held.at_end(TopicPartition { topic: 0, number: 0 });
        let mut waited = 0;
        for _ in 0..40 {
            now += Duration::from_millis(900);
            assert_eq!(went_on(&mut held, now), Vec::<u64>::new(), "one partition has not come to its end");
        }
        assert_eq!(
            held.waits_for().as_deref(),
            Some("transaction 1 is not whole: 1 of its 2 events in shop.public.orders have come")
        );
        held.clear();
        take(&mut held, &messages);
        for partition in partitions() {
            held.at_end(partition);
        }
        // A minute in which the engine was behind is no minute of waiting for messages.
        now += Duration::from_secs(60);
        while went_on(&mut held, now).is_empty() {
            now += Duration::from_millis(900);
            waited += 900;
        }
        assert!((25_000..35_000).contains(&waited), "{waited}");
        assert_eq!(held.waits_for(), None);
    }

    /// A connector that is killed notes at most once a minute how far it is.
    #[test]
    fn what_is_written_again_is_dropped() {
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.transaction(2, &[(0, 0)]);
        let mut held = opened();
        let now = Instant::now();
        take(&mut held, &log.messages);
        assert_eq!(went_on(&mut held, now), [1, 1, 2]);
        log.messages.clear();
        log.now += 5000;
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.transaction(2, &[(0, 0)]);
        log.transaction(3, &[(0, 0)]);
        take(&mut held, &log.messages);
        let whole = held.next(1000, now);
        assert_eq!(whole.messages.iter().filter_map(|message| message.of).collect::<Vec<_>>(), [3]);
        let again: Vec<Scripted> = log.messages.clone();
        let orders = TopicPartition { topic: 0, number: 0 };
        assert_eq!(whole.passed, [(orders, 4), (TopicPartition { topic: 1, number: 0 }, 2)].into());

        // The same when all of it is read at once.
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.transaction(2, &[(0, 0)]);
        log.messages.extend(again);
        let mut held = opened();
        take(&mut held, &log.messages);
        assert_eq!(went_on(&mut held, now), [1, 1, 2, 3]);
    }

    /// A connector was killed in the middle of transaction 769 and began again with 729, which had ended: the one event
    /// of 769 that had come was seen without the others. In another run its BEGIN had not been written either.
    #[test]
    fn what_was_interrupted_waits_until_it_is_written_again() {
        for begin_is_written in [true, false] {
            let mut log = Log::default();
            log.transaction(1, &[(0, 0), (1, 0)]);
            if begin_is_written {
                log.begin(2);
            }
            log.event(2, 1, 0, 0);
            log.snapshot(0, 0);
            // It is killed once more in the middle of what had ended.
            log.now += 5000;
            log.begin(1);
            log.event(1, 1, 0, 0);
            log.now += 5000;
            log.transaction(1, &[(0, 0), (1, 0)]);
            let mut held = opened();
            let now = Instant::now();
            take(&mut held, &log.messages);
            let whole = held.next(1000, now);
            assert_eq!(whole.messages.iter().filter_map(|message| message.of).collect::<Vec<_>>(), [1, 1]);
            assert_eq!(whole.passed, [(TopicPartition { topic: 1, number: 0 }, 2)].into(), "not past what is held");
            log.messages.clear();
            log.transaction(2, &[(0, 0), (1, 1)]);
            take(&mut held, &log.messages);
            assert_eq!(went_on(&mut held, now), [2, 2], "once, and not what had come before as well");
            assert!(held.named.is_empty());
            assert!(held.queues.values().all(|queue| queue.bytes == 0 && queue.runs.is_empty()));
        }
    }

    /// Its END had been written when a connector was killed, and one of its events had not: what it wrote then is no
    /// repetition.
    #[test]
    fn what_had_ended_in_parts_is_read_when_it_comes_whole() {
        let mut log = Log::default();
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.messages.retain(|message| message.partition.topic != 1);
        log.next.remove(&TopicPartition { topic: 1, number: 0 });
        log.now += 5000;
        log.transaction(1, &[(0, 0), (1, 0)]);
        log.transaction(2, &[(0, 0), (1, 0)]);
        let mut held = opened();
        take(&mut held, &log.messages);
        partitions().into_iter().for_each(|partition| held.at_end(partition));
        let mut now = Instant::now();
        assert_eq!(went_on(&mut held, now), [1, 1]);
        now += Duration::from_millis(900);
        assert_eq!(went_on(&mut held, now), Vec::<u64>::new(), "there may be more of what comes again");
        now += Duration::from_millis(900);
        assert_eq!(went_on(&mut held, now), [2, 2]);
        // Also where its first half had gone on, since nothing of the second was known.
        let mut held = opened();
        let known = log.messages.iter().position(|message| message.written > 0 && message.partition.topic == TELLER);
        let (first, rest) = log.messages.split_at(known.expect("it comes again"));
        take(&mut held, first);
        partitions().into_iter().for_each(|partition| held.at_end(partition));
        let mut seen = Vec::new();
        while seen.is_empty() {
            now += Duration::from_secs(1);
            seen = went_on(&mut held, now);
        }
        take(&mut held, rest);
        seen.extend(went_on(&mut held, now));
        assert_eq!(seen, [1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_transaction_that_never_ends_does_not_keep_the_next() {
        let mut log = Log::default();
        log.begin(1);
        log.event(1, 1, 0, 0);
        let mut held = opened();
        let mut now = Instant::now();
        take(&mut held, &log.messages);
        for _ in 0..7 {
            assert_eq!(went_on(&mut held, now), Vec::<u64>::new());
            now += Duration::from_secs(1);
        }
        assert_eq!(
            held.waits_for().as_deref(),
            Some("transaction 1 is not whole: 1 events have come, and not its END")
        );
        log.messages.clear();
        log.transaction(2, &[(0, 0)]);
        take(&mut held, &log.messages);
        assert_eq!(went_on(&mut held, now), [1, 2]);
        // Nor does it stay for ever where nothing comes behind it.
        let mut log = Log::default();
        log.begin(1);
        log.event(1, 1, 0, 0);
        log.now += 1 + LATER;
        log.transaction(2, &[(1, 0)]);
        let mut held = opened();
        take(&mut held, &log.messages);
        assert_eq!(went_on(&mut held, now), [2, 1]);
    }

    #[test]
    fn a_partition_that_is_ahead_is_not_read_further_unless_one_transaction_has_it_all() {
        let mut log = Log::default();
        let large = "x".repeat(1 << 20);
        log.begin(1);
        for order in 1..20 {
            log.event(1, order, 0, 0);
            log.messages.last_mut().expect("it").value.insert_str(1, &format!(r#""after":"{large}","#));
        }
        let mut held = opened();
        take(&mut held, &log.messages);
        let orders = TopicPartition { topic: 0, number: 0 };
        assert!(!held.is_full(orders), "the rest of it must come");
        log.messages.clear();
        log.event(2, 1, 0, 0);
        take(&mut held, &log.messages);
        assert!(held.is_full(orders));
        log.messages.clear();
        log.end(1, [19, 0]);
        take(&mut held, &log.messages);
        assert_eq!(went_on(&mut held, Instant::now()).len(), 19);
        assert!(!held.is_full(orders));
    }

    #[test]
    fn another_topic_is_told_apart() {
        let mut held = opened();
        let partition = TopicPartition { topic: TELLER, number: 0 };
        let value = r#"{"op":"c"}"#.to_owned();
        let error = held.take(Scripted { partition, offset: 7, written: 0, value, of: None }).expect_err("no boundary");
        assert_eq!((&*error.topic, error.offset), ("shop.transaction", 7));
    }

    /// Names that Kafka does not have in topics, and tables that share one.
    #[test]
    fn tables_are_found_by_what_their_events_say_or_by_the_topic() {
        let of = |topic: &str| Tables { topic: topic.into(), collections: HashSet::new(), last: [None, None, None] };
        assert!(of("shop.public.orders").have("public.orders"));
        assert!(of("shop.public.my_table").have("public.my table"));
        assert!(!of("shop.public.reorders").have("orders"));
        assert!(!of("all_tables").have("public.orders"));
        let mut learned = of("all_tables");
        learned.learn([Some("public.orders".to_owned()), None, None]);
        learned.learn([Some("public.items".to_owned()), None, None]);
        assert!(learned.have("public.orders") && learned.have("public.items"));
    }

    /// Chance decides what transactions hold, in which order the partitions' messages come, and when the client is
    /// another one, which reads again what has not gone on.
    #[test]
    fn whatever_the_order_of_arrival_whole_transactions_go_on_and_all_of_them() {
        for seed in 0..300 {
            let mut random = crate::generator::random::Random::new(seed);
            let mut log = Log::default();
            for transaction in 0..30 {
                let count = 1 + random.below(6);
                let events: Vec<(usize, i32)> =
                    (0..count).map(|_| (usize::from(random.below(2) == 0), i32::from(random.below(2) == 0))).collect();
                if random.below(4) == 0 {
                    log.snapshot(usize::from(random.below(2) == 0), 0);
                }
                log.transaction(transaction, &events);
            }
            let all: BTreeMap<TopicPartition, Vec<Scripted>> =
                partitions().into_iter().map(|partition| (partition, log.of(partition))).collect();
            let (mut read, mut next) =
                (BTreeMap::<TopicPartition, usize>::new(), BTreeMap::<TopicPartition, i64>::new());
            let mut held = opened();
            let mut gone_on: Vec<Scripted> = Vec::new();
            let now = Instant::now();
            while gone_on.len() < log.messages.len() {
                let partition = partitions()[usize::try_from(random.below(5)).expect("small")];
                let from = read.entry(partition).or_default();
                let to = all[&partition].len().min(*from + usize::try_from(random.below(8)).expect("small"));
                take(&mut held, &all[&partition][*from..to]);
                *from = to;
                let whole = held.next(1 + usize::try_from(random.below(20)).expect("small"), now);
                for message in &whole.messages {
                    let place = next.entry(message.partition).or_default();
                    assert_eq!(*place, message.offset, "in order, seed {seed}");
                    *place += 1;
                }
                gone_on.extend(whole.messages);
                let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
                gone_on.iter().filter_map(|message| message.of).for_each(|of| *seen.entry(of).or_default() += 1);
                for (of, count) in seen {
                    let events = log.messages.iter().filter(|message| message.of == Some(of)).count();
                    assert_eq!(count, events, "all of transaction {of} or nothing, seed {seed}");
                }
                if random.below(40) == 0 {
                    held.clear();
                    for partition in partitions() {
                        held.begin(partition);
                        let place = next.get(&partition).copied().unwrap_or(0);
                        read.insert(partition, usize::try_from(place).expect("no offset is negative"));
                    }
                }
            }
            let order: Vec<u64> = gone_on.iter().filter_map(|message| message.of).collect();
            assert!(order.is_sorted(), "in the order of commits, seed {seed}: {order:?}");
        }
    }
}
