//! Messages that could not be read, kept with the reason.
//!
//! Each is written where its table says ([`DeadLetterWriter`]), before the source says that it is
//! past it, and the newest are rows of the table [`TABLE`], which every project that reads topics
//! has, and of the projection `deltafront.dead_letters`.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::topic::Message;

pub mod board; // the newest of them, as a table

pub use board::{CONNECTOR, DeadLetterBoard, DeadLetterSender, PROJECTION, TABLE};

/// A message that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The table that it was for.
    pub table: Arc<str>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its number in the partition.
    pub offset: i64,
    /// When it was written, in milliseconds since 1970-01-01 UTC, as the log says.
    pub timestamp: Option<i64>,
    /// Its key, as it came.
    pub key: Option<Vec<u8>>,
    /// Its value, as it came.
    pub value: Option<Vec<u8>>,
    /// What was sent along with it.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What is wrong with it.
    pub reason: String,
    /// When that was found, in microseconds since 1970-01-01 UTC.
    pub found_at: i64,
}

impl DeadLetter {
    /// A message that was for a table, and what is wrong with it.
    #[must_use]
    pub fn new(table: &str, topic: &Arc<str>, message: &Message<'_>, reason: String) -> DeadLetter {
        let mut headers = Vec::new();
        message.headers.each(&mut |name, value| headers.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        DeadLetter {
            table: table.into(),
            topic: Arc::clone(topic),
            partition: message.partition.number,
            offset: message.offset,
            timestamp: message.timestamp,
            key: message.payload.key.map(<[u8]>::to_vec),
            value: message.payload.value.map(<[u8]>::to_vec),
            headers,
            reason,
            found_at: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// Bytes of what came.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }

    /// All of it, as a line of JSON: for places that have nowhere else to keep the reason. Key, value
    /// and headers are in base64, since they may be any bytes; where they are text, it stands beside
    /// them.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A line of texts and numbers is always JSON.
        serde_json::to_string(&Line::of(self)).unwrap_or_default()
    }

    /// What Kafka Connect sends along with a dead letter, by the same names, beside the message's own
    /// headers.
    #[must_use]
    pub fn context(&self) -> [(&'static str, String); 7] {
        [
            ("__connect.errors.topic", self.topic.to_string()),
            ("__connect.errors.partition", self.partition.to_string()),
            ("__connect.errors.offset", self.offset.to_string()),
            ("__connect.errors.connector.name", self.table.to_string()),
            ("__connect.errors.stage", "VALUE_CONVERTER".to_owned()),
            ("__connect.errors.exception.class.name", "deltafront.Unreadable".to_owned()),
            ("__connect.errors.exception.message", self.reason.clone()),
        ]
    }
}

/// Where dead letters of a table go.
pub trait DeadLetterWriter: Send {
    /// Writes letters, so that they survive us.
    ///
    /// # Errors
    /// When they may not be there; the same ones will be written again.
    fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String>;
}

/// Appends letters to a file, a line each ([`DeadLetter::to_json`]).
pub struct DeadLetterFile {
    path: PathBuf,
}

#[derive(Serialize)]
struct Line<'a> {
    found_at_us: i64,
    table: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    reason: &'a str,
    key: Option<&'a str>,
    value: Option<&'a str>,
    key_base64: Option<String>,
    value_base64: Option<String>,
    headers_base64: Vec<(&'a str, Option<String>)>,
}

impl DeadLetterFile {
    /// To a file that is made when the first letter comes.
    #[must_use]
    pub fn new(path: PathBuf) -> DeadLetterFile {
        DeadLetterFile { path }
    }

    fn append(&self, letters: &[&DeadLetter]) -> io::Result<()> {
        // Opened each time: what rotates logs moves the file away.
        let mut file = BufWriter::new(OpenOptions::new().create(true).append(true).open(&self.path)?);
        for letter in letters {
            file.write_all(letter.to_json().as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        file.get_ref().sync_data()
    }
}

impl<'a> Line<'a> {
    fn of(letter: &'a DeadLetter) -> Line<'a> {
        let text = |bytes: &'a Option<Vec<u8>>| bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        let base64 = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
        Line {
            found_at_us: letter.found_at,
            table: &letter.table,
            topic: &letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            timestamp_ms: letter.timestamp,
            reason: &letter.reason,
            key: text(&letter.key),
            value: text(&letter.value),
            key_base64: letter.key.as_ref().map(base64),
            value_base64: letter.value.as_ref().map(base64),
            headers_base64: letter
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_ref().map(base64)))
                .collect(),
        }
    }
}

impl DeadLetterWriter for DeadLetterFile {
    fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String> {
        self.append(letters).map_err(|error| format!("can't write dead letters to {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Payload;
    use crate::topic::{Headers, TopicPartition};

    struct Sent;

    impl Headers for Sent {
        fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
            take("a", Some(b"\xff"));
            take("b", None);
        }
    }

    fn letter(offset: i64) -> DeadLetter {
        let payload = Payload { key: Some(b"k\xff"), value: Some("ä".as_bytes()) };
        let message = Message {
            partition: TopicPartition::of_only_topic(3),
            offset,
            timestamp: Some(5),
            payload,
            headers: &Sent,
        };
        DeadLetter { found_at: 7, ..DeadLetter::new("orders", &Arc::from("topic"), &message, "why".to_owned()) }
    }

    #[test]
    fn a_line_has_any_bytes_and_the_text_where_they_are_one() {
        let expected = r#"{"found_at_us":7,"table":"orders","topic":"topic","partition":3,"offset":4,"timestamp_ms":5,"reason":"why","key":null,"value":"ä","key_base64":"a/8=","value_base64":"w6Q=","headers_base64":[["a","/w=="],["b",null]]}"#;
        assert_eq!(letter(4).to_json(), expected);
    }

    #[test]
    fn letters_stand_in_the_file_when_they_are_said_to_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("letters.jsonl");
        std::fs::write(&path, "an earlier run's\n").expect("writes");
        let mut file = DeadLetterFile::new(path.clone());
        file.write(&[&letter(1), &letter(2)]).expect("writes");
        file.write(&[&letter(3)]).expect("writes");
        let lines = [letter(1), letter(2), letter(3)].map(|letter| letter.to_json() + "\n").concat();
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), format!("an earlier run's\n{lines}"));
    }

    #[test]
    fn a_file_that_can_t_be_written_is_named_and_tried_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("none/letters.jsonl");
        let mut file = DeadLetterFile::new(path.clone());
        let error = file.write(&[&letter(1)]).expect_err("there is no folder");
        assert!(error.contains("none/letters.jsonl"), "{error}");
        std::fs::create_dir(folder.path().join("none")).expect("makes it");
        file.write(&[&letter(1)]).expect("writes");
        assert_eq!(std::fs::read_to_string(&path).expect("reads").lines().count(), 1);
    }
}
