//! What a thread that reads a topic does with what it has read: rows to the engine, dead letters to
//! where they go, and what it counts.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::dead_letters::{DeadLetter, DeadLetterWriter};
use crate::source::{Link, SourceEvent, SourceState};

use super::thread::{Stopped, Waiting};
use super::{Message, ReadError, TopicPartition, TopicReader};

/// How long to wait before what failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Takes the messages of a source's topics to where they go.
pub struct Pump {
    /// What reads them.
    pub reader: TopicReader,
    /// The rest of the program.
    pub link: Link,
    /// How the thread waits.
    pub waiting: Waiting,
    /// Where dead letters go, by the table's place.
    writers: Vec<Option<Box<dyn DeadLetterWriter>>>,
    /// By partition: letters of messages before this were written by an earlier run.
    written_before: BTreeMap<TopicPartition, i64>,
    /// The partitions that have not come to where they ended when the source was started.
    behind: BTreeMap<TopicPartition, i64>,
    is_loaded: bool,
    read: u64,
    to_read: u64,
    state: SourceState,
}

/// Why the pump stands still.
#[derive(Debug)]
pub enum Halt {
    /// The program ends.
    Stopped,
    /// A message can't be read, and nothing is to be read without it.
    Unreadable(String),
    /// A mistake of ours.
    Internal(String),
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Halt {
        Halt::Stopped
    }
}

impl Pump {
    /// Of topics of which nothing has been read.
    #[must_use]
    pub fn new(
        reader: TopicReader,
        writers: Vec<Option<Box<dyn DeadLetterWriter>>>,
        link: Link,
        waiting: Waiting,
    ) -> Pump {
        Pump {
            reader,
            link,
            waiting,
            writers,
            written_before: BTreeMap::new(),
            behind: BTreeMap::new(),
            is_loaded: false,
            read: 0,
            to_read: 0,
            state: SourceState::Connecting,
        }
    }

    /// Letters of this partition's messages before this offset were written by an earlier run.
    pub fn letters_written_before(&mut self, partition: TopicPartition, offset: i64) {
        self.written_before.insert(partition, offset);
    }

    /// A partition is read from `start` on; when the source was started it ended at `end`.
    pub fn begin(&mut self, partition: TopicPartition, start: i64, end: i64) {
        self.reader.start_at(partition, start);
        if !self.is_loaded && end > start {
            self.to_read += u64::try_from(end - start).unwrap_or(0);
            self.behind.insert(partition, end);
        }
    }

    /// A partition has been read to where it ends now.
    ///
    /// # Errors
    /// When the program ends.
    pub fn at_end(&mut self, partition: TopicPartition) -> Result<(), Stopped> {
        self.behind.remove(&partition);
        self.tell_loaded()
    }

    /// Whether what there was at the start has been read.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// What the source is doing, told once.
    pub fn set_state(&mut self, state: SourceState) {
        if self.state != state {
            self.state = state.clone();
            self.link.state.send_replace(state);
        }
    }

    /// The server answers.
    pub fn set_well(&mut self) {
        let state = if self.is_loaded {
            SourceState::Streaming
        } else {
            let table = self.first_table();
            SourceState::Copying { table, rows: self.read, estimated_rows: Some(self.to_read) }
        };
        self.set_state(state);
    }

    fn first_table(&self) -> String {
        let mut tables = self.reader.topics().iter().flat_map(|of| &of.tables);
        tables.next().map(|(_, table)| table.table.name.clone()).unwrap_or_default()
    }

    /// Says that all is there that there was at the start, when it is.
    ///
    /// # Errors
    /// When the program ends.
    pub fn tell_loaded(&mut self) -> Result<(), Stopped> {
        if !self.is_loaded && self.behind.is_empty() {
            self.is_loaded = true;
            self.waiting.send(&self.link.events, SourceEvent::CopyDone { position: self.reader.mark() })?;
            self.set_well();
        }
        Ok(())
    }

    /// Takes messages to where they go, of each partition in order. What can be tried again is, until
    /// it has succeeded.
    ///
    /// # Errors
    /// When the source must not go on.
    pub fn take(&mut self, messages: &[Message<'_>]) -> Result<(), Halt> {
        let mut delay = RETRY.0;
        let batch = loop {
            match self.reader.read(messages) {
                Ok(batch) => break batch,
                Err(ReadError::Format(error @ crate::format::FormatError::Internal(_))) => {
                    return Err(Halt::Internal(error.to_string()));
                }
                Err(ReadError::Format(error)) => self.wait_after(error.to_string(), &mut delay)?,
                Err(error @ ReadError::Unreadable { .. }) => return Err(Halt::Unreadable(error.to_string())),
            }
        };
        self.write_letters(&batch.dead_letters)?;
        let counters = &self.link.counters;
        let count = messages.len() as u64;
        counters.messages.fetch_add(count, Relaxed);
        counters.bytes.fetch_add(messages.iter().map(Message::bytes).sum(), Relaxed);
        counters.dead_letters.fetch_add(batch.dead_letters.len() as u64, Relaxed);
        for (_, letter) in batch.dead_letters {
            self.link.dead_letters.tell(letter);
        }
        self.waiting.send(&self.link.events, batch.event)?;
        if !self.is_loaded {
            self.read += count;
            let next = self.reader.next();
            self.behind.retain(|partition, end| next.get(partition).is_none_or(|next| next < end));
            self.tell_loaded()?;
        }
        self.set_well();
        Ok(())
    }

    fn write_letters(&mut self, letters: &[(usize, DeadLetter)]) -> Result<(), Halt> {
        for place in 0..self.writers.len() {
            let is_new = |letter: &DeadLetter| {
                let topic = self.reader.topics().iter().position(|of| of.topic == letter.topic).unwrap_or_default();
                let partition = TopicPartition { topic, number: letter.partition };
                self.written_before.get(&partition).is_none_or(|before| letter.offset >= *before)
            };
            let of_table: Vec<&DeadLetter> = letters
                .iter()
                .filter(|(of, letter)| *of == place && is_new(letter))
                .map(|(_, letter)| letter)
                .collect();
            let mut delay = RETRY.0;
            while !of_table.is_empty()
                && let Some(writer) = &mut self.writers[place]
                && let Err(error) = writer.write(&of_table)
            {
                self.wait_after(error, &mut delay)?;
            }
        }
        Ok(())
    }

    fn wait_after(&mut self, error: String, delay: &mut Duration) -> Result<(), Stopped> {
        tracing::warn!(source = &*self.link.name, error, "trying again");
        self.set_state(SourceState::Retrying { error });
        self.waiting.sleep(*delay)?;
        *delay = (*delay * 2).min(RETRY.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use arrow::datatypes::{DataType, Field, Schema};
    use pipeline::table::Identity;
    use tokio::sync::watch;

    use crate::dead_letters::DeadLetterSender;
    use crate::format::append::Append;
    use crate::format::json::JsonRows;
    use crate::format::{Events, FormatError, MessageDecoder, Payload};
    use crate::source::{Counters, EventReceiver, SourceTable, event_queue};
    use crate::topic::thread::on_thread;
    use crate::topic::{OnError, TopicTable, TopicTables};

    /// Tables and offsets of letters.
    type Written = Arc<Mutex<Vec<(Arc<str>, i64)>>>;

    /// Fails as often as it is told, then writes down tables and offsets.
    struct Writes(u32, Written);

    impl DeadLetterWriter for Writes {
        fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err("the disk is full".to_owned());
            }
            self.1
                .lock()
                .expect("no panic")
                .extend(letters.iter().map(|letter| (Arc::clone(&letter.table), letter.offset)));
            Ok(())
        }
    }

    /// A registry that is away once, or a mistake of ours.
    struct Fails(Option<FormatError>, Append);

    impl MessageDecoder for Fails {
        fn decode(&mut self, messages: &[Payload<'_>]) -> Result<Events, FormatError> {
            self.0.take().map_or_else(|| self.1.decode(messages), Err)
        }
    }

    fn table(name: &str, fails: Option<FormatError>) -> TopicTable {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let rows = JsonRows::new(schema.fields()).expect("a type that JSON is read into");
        let table = SourceTable { name: name.to_owned(), schema, identity: Identity::AppendOnly };
        let decoder = Fails(fails, Append::new(Box::new(rows)));
        TopicTable { table, decoder: Box::new(decoder), metadata: BTreeMap::new(), on_error: OnError::DeadLetter }
    }

    fn of(partition: i32) -> TopicPartition {
        TopicPartition::of_only_topic(partition)
    }

    fn message(offset: i64, value: &str) -> Message<'_> {
        let payload = Payload { key: None, value: Some(value.as_bytes()) };
        Message { partition: of(0), offset, timestamp: None, payload, headers: &() }
    }

    const ROW: &str = r#"{"n":1}"#;

    struct Ran {
        events: EventReceiver,
        states: watch::Receiver<SourceState>,
        counters: Arc<Counters>,
    }

    impl Ran {
        /// What was told, in short: where a transaction or the copy ends.
        fn told(&mut self) -> Vec<String> {
            let mut told = Vec::new();
            while let Ok(delivery) = self.events.try_recv() {
                told.push(match delivery.event {
                    SourceEvent::CopyDone { position } => format!("loaded {position}"),
                    SourceEvent::Transaction { position, .. } => position.to_string(),
                    other => format!("{other:?}"),
                });
            }
            told
        }
    }

    /// Runs a pump of two tables on its thread. The first has letters written as `writes` says, the other nowhere.
    async fn run(fails: Option<FormatError>, writes: Writes, with: impl FnOnce(&mut Pump) + Send + 'static) -> Ran {
        let (events, receiver) = event_queue(1 << 20);
        let (state, states) = watch::channel(SourceState::Connecting);
        let counters = Arc::new(Counters::default());
        let (of_link, durable) = (Arc::clone(&counters), watch::channel(None).1);
        let link = Link {
            name: "s".into(),
            events,
            state,
            durable,
            dead_letters: DeadLetterSender::default(),
            counters: of_link,
        };
        let reader = TopicReader::new(vec![TopicTables {
            topic: "t".into(),
            tables: vec![(0, table("a", fails)), (1, table("b", None))],
        }]);
        on_thread("test".to_owned(), move |waiting| {
            with(&mut Pump::new(reader, vec![Some(Box::new(writes)), None], link, waiting));
        })
        .await;
        Ran { events: receiver, states, counters }
    }

    #[tokio::test]
    async fn letters_of_an_earlier_run_are_not_written_again_and_a_writer_that_fails_is() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let begun = Instant::now();
        let ran = run(None, Writes(2, Arc::clone(&written)), |pump| {
            pump.letters_written_before(of(0), 11);
            pump.take(&[message(10, "x"), message(11, "x"), message(12, ROW), message(13, "x")]).expect("it goes on");
        })
        .await;
        assert_eq!(*written.lock().expect("no panic"), [("a".into(), 11), ("a".into(), 13)]);
        assert!(begun.elapsed() >= RETRY.0 * 3, "it waits, and then twice as long");
        let Counters { messages, bytes, dead_letters, .. } = &*ran.counters;
        // Each of both tables has three that it can't read.
        assert_eq!(
            (messages.load(Relaxed), bytes.load(Relaxed), dead_letters.load(Relaxed)),
            (4, 3 + ROW.len() as u64, 6)
        );
    }

    #[tokio::test]
    async fn what_is_away_is_tried_again_and_a_mistake_of_ours_is_not() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writes = || Writes(0, Arc::clone(&written));
        let away = FormatError::Registry("it is away".to_owned());
        let mut ran = run(Some(away), writes(), |pump| pump.take(&[message(0, ROW)]).expect("it goes on")).await;
        assert_eq!(ran.told().first().map(String::as_str), Some("t/0:1"));
        assert_eq!(*ran.states.borrow(), SourceState::Streaming);
        let ours = FormatError::Internal(arrow::error::ArrowError::ComputeError("a mistake".to_owned()));
        let mut ran = run(Some(ours), writes(), |pump| {
            assert!(matches!(pump.take(&[message(0, ROW)]), Err(Halt::Internal(_))));
        })
        .await;
        assert!(ran.told().is_empty());
    }

    #[tokio::test]
    async fn all_is_loaded_when_each_partition_has_come_to_where_it_ended() {
        let mut ran = run(None, Writes(0, Arc::default()), |pump| {
            let tables = |pump: &Pump| match pump.state.clone() {
                SourceState::Copying { rows, estimated_rows, .. } => (rows, estimated_rows),
                other => panic!("{other:?}"),
            };
            pump.begin(of(0), 5, 8);
            pump.begin(of(1), 4, 4);
            pump.begin(of(2), 0, 10);
            pump.set_well();
            assert_eq!(tables(pump), (0, Some(13)));
            pump.take(&[message(5, ROW), message(6, ROW)]).expect("it goes on");
            assert_eq!(tables(pump), (2, Some(13)));
            pump.at_end(of(2)).expect("somebody listens");
            pump.take(&[message(7, ROW)]).expect("it goes on");
            // One that is new is no part of what there was.
            pump.begin(of(3), 0, 9);
            pump.take(&[message(8, ROW)]).expect("it goes on");
        })
        .await;
        let expected = ["t/0:7,1:4,2:0", "t/0:8,1:4,2:0", "loaded t/0:8,1:4,2:0", "t/0:9,1:4,2:0,3:0"];
        assert_eq!(ran.told(), expected);
    }
}
