//! What a project says of a topic, whichever log has it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use super::{Metadata, OnError, TopicTable, identity};
use crate::format::columns::name_of;
use crate::format::{self, Formats};
use crate::source::{Opened, Problem, Source, SourceTable, TableOption, TableRequest};

/// What `WITH (…)` may say of a table that is a topic; a log adds its own.
pub const OPTIONS: [TableOption; 20] = [
    TableOption::required("topic", "add topic = '…'"),
    TableOption::required(
        "format",
        "add format = 'json', or one of debezium-json, avro, protobuf, csv, text and bytes",
    ),
    TableOption::optional("mode"),
    TableOption::optional("key_format"),
    TableOption::optional("start"),
    TableOption::optional("on_error"),
    TableOption::optional("on_data_loss"),
    TableOption::optional("dead_letters"),
    TableOption::optional("source"),
    TableOption::optional("partition_column"),
    TableOption::optional("offset_column"),
    TableOption::optional("timestamp_column"),
    TableOption::optional("key_column"),
    TableOption::optional("headers_column"),
    TableOption::optional("registry"),
    TableOption::optional("registry_ca"),
    TableOption::optional("registry_token"),
    TableOption::optional("csv_delimiter"),
    TableOption::optional("csv_null"),
    TableOption::optional("debezium_decimals"),
];

/// What a message means for its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each message is a row.
    Append,
    /// The key replaces, no value deletes.
    Upsert,
    /// Messages say what was before and what is after.
    Debezium,
}

/// Where a topic is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// From the oldest message that is there.
    #[default]
    Earliest,
    /// From those that come after we have started.
    Latest,
    /// From the first message that is not older than this, in milliseconds since 1970-01-01 UTC.
    Timestamp(i64),
}

/// What to do when messages that were to be read are gone, or a topic is another one of the same
/// name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDataLoss {
    /// Stop, until an operator has seen to it.
    #[default]
    Stop,
    /// Go on from the oldest message that is there.
    Earliest,
    /// Go on from the messages that come from now on.
    Latest,
}

/// Where the dead letters of a table go, besides the projection that shows the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadLettersTo {
    /// To a topic of the same cluster.
    Topic(String),
    /// To a file.
    File(PathBuf),
}

/// A table that is a topic, as a project has it.
#[derive(Clone, Debug)]
pub struct TopicRequest {
    /// Its name in the project.
    pub name: String,
    /// The topic.
    pub topic: String,
    /// What a message means.
    pub mode: Mode,
    /// Where the topic is read from.
    pub start: Start,
    /// What to do about a message that can't be read.
    pub on_error: OnError,
    /// What to do when messages are gone.
    pub on_data_loss: OnDataLoss,
    /// The topic that tells which events were committed at once.
    pub transactions: Option<String>,
    /// Where what can't be read goes.
    pub dead_letters: Option<DeadLettersTo>,
    /// The columns of metadata, by the names that they shall have.
    pub metadata: Vec<(String, Metadata)>,
    /// What the bytes of messages mean.
    pub formats: Formats,
    /// The columns as declared.
    pub columns: Option<Vec<(String, DataType)>>,
    /// The primary key as declared.
    pub key: Vec<String>,
}

/// The columns of metadata, by their place.
type Places = BTreeMap<usize, Metadata>;

/// Opens tables that are topics: those that `reads_with` says are read together are one source.
pub fn open_topics<C, S: Source + 'static>(
    tables: Vec<TableRequest>,
    cluster: impl Fn(&mut TableRequest) -> Result<C, Problem>,
    reads_with: fn(&S, &C, &str, &TopicRequest) -> bool,
    add: fn(&mut S, TopicRequest),
    new: fn(String, C, TopicRequest) -> S,
) -> Opened {
    let mut sources: Vec<S> = Vec::new();
    let mut problems = Vec::new();
    for mut table in tables {
        let cluster = match without_empty(&table).and_then(|()| cluster(&mut table)) {
            Ok(cluster) => cluster,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let name = table.options.remove("source");
        match TopicRequest::read(&mut table) {
            Ok(request) => {
                let name = name.unwrap_or_else(|| request.transactions.as_ref().unwrap_or(&request.topic).clone());
                match sources.iter_mut().find(|source| reads_with(source, &cluster, &name, &request)) {
                    Some(source) => add(source, request),
                    None => sources.push(new(name, cluster, request)),
                }
            }
            Err(wrong) => problems.extend(wrong),
        }
    }
    Opened { sources: sources.into_iter().map(|source| Box::new(source) as _).collect(), problems }
}

/// That no option is given and says nothing, as one that a variable was meant for may be. NULL may be nothing at all,
/// and what a log's client makes of its own is for the client to say.
///
/// # Errors
/// With the first that is empty.
pub fn without_empty(table: &TableRequest) -> Result<(), Problem> {
    let may_be_empty = |name: &str| name == "csv_null" || name.contains('.');
    match table.options.iter().find(|(name, value)| value.trim().is_empty() && !may_be_empty(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Problem {
            table: Some(table.name.clone()),
            what: format!("`{name}` is empty"),
            remedy: "write its value, or leave it out".to_owned(),
        }),
    }
}

/// What is wrong with an option: the value, and what to write.
fn refuse(table: &str, option: &str, value: &str, remedy: &str) -> Problem {
    Problem {
        table: Some(table.to_owned()),
        what: format!("`{value}` is no {option}"),
        remedy: format!("write {remedy}"),
    }
}

impl TopicRequest {
    /// Reads the options that all topics have, leaving those of the log.
    ///
    /// # Errors
    /// With all that is wrong with them.
    pub fn read(table: &mut TableRequest) -> Result<TopicRequest, Vec<Problem>> {
        let name = table.name.clone();
        let mut wrong = Vec::new();
        let has_key_format = table.options.contains_key("key_format");
        let formats = match Formats::read(table) {
            Ok(formats) => Some(formats),
            Err(problem) => {
                wrong.push(problem);
                None
            }
        };
        let options = &mut table.options;
        let has_key = !table.key.is_empty();
        let is_debezium = formats.as_ref().is_some_and(Formats::is_debezium);
        let mode = match options.remove("mode").as_deref() {
            None if is_debezium => Mode::Debezium,
            None if has_key => Mode::Upsert,
            None => Mode::Append,
            Some("debezium") if is_debezium => Mode::Debezium,
            Some("append") if !is_debezium => Mode::Append,
            Some("upsert") if !is_debezium => Mode::Upsert,
            Some(mode) if is_debezium => {
                wrong.push(refuse(&name, "mode of debezium-json", mode, "no mode: its messages say what they mean"));
                Mode::Debezium
            }
            Some(mode) => {
                wrong.push(refuse(
                    &name,
                    "mode",
                    mode,
                    "mode = 'append' (each message is a row) or mode = 'upsert' (the key replaces, no value deletes)",
                ));
                Mode::Append
            }
        };
        if mode == Mode::Append && has_key {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "in mode = 'append' each message is a row of its own, and the table has a PRIMARY KEY".to_owned(),
                remedy: "write mode = 'upsert' to have a key's last message only, or leave the PRIMARY KEY out"
                    .to_owned(),
            });
        }
        if mode == Mode::Upsert && !has_key && table.columns.is_some() {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "in mode = 'upsert' the key says which row a message is, and the table has no PRIMARY KEY"
                    .to_owned(),
                remedy: "write PRIMARY KEY behind the columns that the messages' keys hold".to_owned(),
            });
        }
        if has_key_format && mode != Mode::Upsert {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "`key_format` means nothing here: keys are read in mode = 'upsert'".to_owned(),
                remedy: "leave it out; `key_column` shows a key as it is".to_owned(),
            });
        }
        let start = match options.remove("start").as_deref() {
            None | Some("earliest") => Start::Earliest,
            Some("latest") => Start::Latest,
            Some(text) => match text.strip_prefix("timestamp:").and_then(format::moment_millis) {
                Some(millis) => Start::Timestamp(millis),
                None => {
                    wrong.push(refuse(
                        &name,
                        "start",
                        text,
                        "start = 'earliest', 'latest' or 'timestamp:2026-01-31T12:00:00Z'",
                    ));
                    Start::Earliest
                }
            },
        };
        if mode != Mode::Append && start != Start::Earliest {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "a table whose rows are replaced and deleted by their keys is not whole when it begins in the middle of its topic".to_owned(),
                remedy: "leave `start` out, or write mode = 'append' without a PRIMARY KEY".to_owned(),
            });
        }
        let on_error = match options.remove("on_error").as_deref() {
            None | Some("dead_letter") => OnError::DeadLetter,
            Some("stop") => OnError::Stop,
            Some(text) => {
                wrong.push(refuse(
                    &name,
                    "on_error",
                    text,
                    "on_error = 'dead_letter' (go on without the message) or 'stop'",
                ));
                OnError::Stop
            }
        };
        let on_data_loss = match options.remove("on_data_loss").as_deref() {
            None | Some("stop") => OnDataLoss::Stop,
            Some("earliest") => OnDataLoss::Earliest,
            Some("latest") => OnDataLoss::Latest,
            Some(text) => {
                wrong.push(refuse(&name, "on_data_loss", text, "on_data_loss = 'stop', 'earliest' or 'latest'"));
                OnDataLoss::Stop
            }
        };
        let dead_letters = match options.remove("dead_letters") {
            None => None,
            Some(text) => match text.strip_prefix("file:") {
                Some("") => {
                    wrong.push(refuse(
                        &name,
                        "file",
                        "",
                        "dead_letters = 'file:dead-letters.jsonl', or the name of a topic",
                    ));
                    None
                }
                Some(path) => Some(DeadLettersTo::File(path.into())),
                None => Some(DeadLettersTo::Topic(text)),
            },
        };
        if dead_letters.is_some() && on_error == OnError::Stop {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "`dead_letters` means nothing with on_error = 'stop': no message becomes one".to_owned(),
                remedy: "leave it out, or write on_error = 'dead_letter'".to_owned(),
            });
        }
        let transactions = options.remove("transactions");
        if transactions.is_some() && mode != Mode::Debezium {
            wrong.push(Problem {
                table: Some(name.clone()),
                what: "`transactions` names the topic of Debezium's transaction metadata, and the table is not in its format".to_owned(),
                remedy: "write format = 'debezium-json', or leave `transactions` out".to_owned(),
            });
        }
        let named = |(option, metadata): (&str, Metadata)| Some((options.remove(option)?, metadata));
        let metadata: Vec<(String, Metadata)> = Metadata::OPTIONS.into_iter().filter_map(named).collect();
        let topic = options.remove("topic").unwrap_or_default();
        let request = formats.map(|formats| TopicRequest {
            name,
            topic,
            mode,
            start,
            on_error,
            on_data_loss,
            transactions,
            dead_letters,
            metadata,
            formats,
            columns: table.columns.clone(),
            key: table.key.clone(),
        });
        match request {
            Some(request) if wrong.is_empty() => Ok(request),
            _ => Err(wrong),
        }
    }

    fn problem(&self, what: String, remedy: &str) -> Problem {
        Problem { table: Some(self.name.clone()), what, remedy: remedy.to_owned() }
    }

    /// The columns of the table, with those of metadata by their place: as declared, or as the
    /// registry has them.
    fn columns(&self) -> Result<(Vec<Field>, Places), Problem> {
        let mut fields: Vec<Field> = match &self.columns {
            Some(columns) => columns.iter().map(|(name, of)| Field::new(name, of.clone(), true)).collect(),
            None => self.formats.columns(&self.name, &self.topic)?,
        };
        let mut places = BTreeMap::new();
        for (name, metadata) in &self.metadata {
            let place = match fields.iter().position(|field| field.name() == name) {
                Some(place) if metadata.fits(fields[place].data_type()) => place,
                Some(place) => {
                    let what = format!(
                        "column `{name}` is declared as {}, and holds {metadata:?}s",
                        name_of(fields[place].data_type())
                    );
                    return Err(self.problem(what, &format!("declare it as {}", metadata.sql())));
                }
                None if self.columns.is_some() => {
                    let what = format!("column `{name}` is not declared");
                    return Err(self.problem(what, &format!("add `{name} {}` to the table's columns", metadata.sql())));
                }
                None => {
                    fields.push(Field::new(name, metadata.data_type(), true));
                    fields.len() - 1
                }
            };
            if places.insert(place, *metadata).is_some() {
                return Err(self.problem(
                    format!("column `{name}` is named twice"),
                    "give each kind of metadata a column of its own",
                ));
            }
        }
        Ok((fields, places))
    }

    /// The table, its columns of metadata, and its key by place.
    fn shape(&self) -> Result<(SourceTable, Places, Vec<usize>), Problem> {
        let (fields, metadata) = self.columns()?;
        let mut key = Vec::with_capacity(self.key.len());
        for name in &self.key {
            match fields.iter().position(|field| field.name() == name) {
                Some(place) if !metadata.contains_key(&place) => key.push(place),
                Some(_) => {
                    return Err(self.problem(
                        format!("the PRIMARY KEY names `{name}`, which is no part of a message's key"),
                        "name columns that messages hold",
                    ));
                }
                None => {
                    return Err(self.problem(
                        format!("the PRIMARY KEY names `{name}`, and there is no such column"),
                        "name columns that the table has",
                    ));
                }
            }
        }
        if self.mode == Mode::Upsert && key.is_empty() {
            return Err(self.problem(
                "in mode = 'upsert' the key says which row a message is, and the table has no PRIMARY KEY".to_owned(),
                "declare the columns, and write PRIMARY KEY behind those that the messages' keys hold",
            ));
        }
        let schema = Arc::new(Schema::new(fields));
        let table = SourceTable { name: self.name.clone(), schema, identity: identity(self.mode, key.clone()) };
        Ok((table, metadata, key))
    }

    /// The table as far as it is known without asking anybody: where its columns are declared.
    #[must_use]
    pub fn declared(&self) -> Option<SourceTable> {
        self.columns.as_ref()?;
        self.shape().ok().map(|(table, ..)| table)
    }

    /// The table and what reads messages into it.
    ///
    /// # Errors
    /// When there is no reading of such messages into such columns, or the registry is not there.
    pub fn open(&self) -> Result<TopicTable, Problem> {
        let (table, metadata, key) = self.shape()?;
        let fields = table.schema.fields();
        let payload: Vec<usize> = (0..fields.len()).filter(|place| !metadata.contains_key(place)).collect();
        let of_messages: Fields = payload.iter().map(|&place| Arc::clone(&fields[place])).collect();
        let key_of_messages = key.iter().filter_map(|place| payload.iter().position(|of| of == place)).collect();
        let decoder = self.formats.open(format::Wanted {
            table: &self.name,
            topic: &self.topic,
            fields: &of_messages,
            key: key_of_messages,
            mode: self.mode,
        })?;
        Ok(TopicTable { table, decoder, metadata, on_error: self.on_error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;
    use pipeline::table::Identity;

    fn table(options: &[(&str, &str)], columns: &[(&str, DataType)], key: &[&str]) -> TableRequest {
        TableRequest {
            name: "t".to_owned(),
            options: [("topic", "t")].iter().chain(options).map(|(name, of)| ((*name).into(), (*of).into())).collect(),
            columns: Some(columns.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect()),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn id() -> [(&'static str, DataType); 1] {
        [("id", DataType::Int64)]
    }

    fn read(options: &[(&str, &str)], key: &[&str]) -> Result<TopicRequest, Vec<String>> {
        let problems = |wrong: Vec<Problem>| wrong.into_iter().map(|problem| problem.what).collect();
        TopicRequest::read(&mut table(options, &id(), key)).map_err(problems)
    }

    fn refused(options: &[(&str, &str)], key: &[&str]) -> String {
        read(options, key).expect_err("it is wrong").join("; ")
    }

    #[test]
    fn the_mode_is_said_or_follows_from_key_and_format() {
        let mode = |options: &[(&str, &str)], key: &[&str]| read(options, key).map(|request| request.mode);
        let (json, debezium) = (("format", "json"), ("format", "debezium-json"));
        assert_eq!(mode(&[json], &[]), Ok(Mode::Append));
        assert_eq!(mode(&[json], &["id"]), Ok(Mode::Upsert));
        assert_eq!(mode(&[debezium], &["id"]), Ok(Mode::Debezium));
        assert_eq!(mode(&[debezium], &[]), Ok(Mode::Debezium));
        assert_eq!(mode(&[json, ("mode", "append")], &[]), Ok(Mode::Append));
        assert_eq!(mode(&[json, ("mode", "upsert")], &["id"]), Ok(Mode::Upsert));
        assert_eq!(mode(&[debezium, ("mode", "debezium")], &[]), Ok(Mode::Debezium));
        assert_eq!(refused(&[json, ("mode", "debezium")], &[]), "`debezium` is no mode");
        assert_eq!(refused(&[debezium, ("mode", "append")], &[]), "`append` is no mode of debezium-json");
        assert_eq!(refused(&[debezium, ("mode", "upsert")], &["id"]), "`upsert` is no mode of debezium-json");
        assert!(refused(&[json, ("mode", "append")], &["id"]).contains("the table has a PRIMARY KEY"));
        assert!(refused(&[json, ("mode", "upsert")], &[]).contains("the table has no PRIMARY KEY"));
    }

    #[test]
    fn only_what_is_appended_may_begin_in_the_middle() {
        let begin =
            |start: &str, key: &[&str]| read(&[("format", "json"), ("start", start)], key).map(|request| request.start);
        assert_eq!(begin("latest", &[]), Ok(Start::Latest));
        assert_eq!(begin("timestamp:1970-01-01T00:00:01Z", &[]), Ok(Start::Timestamp(1000)));
        assert_eq!(begin("earliest", &["id"]), Ok(Start::Earliest));
        assert!(begin("latest", &["id"]).is_err());
        assert!(begin("timestamp:soon", &[]).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_and_what_is_right_is_taken() {
        let wrong = [("on_error", "x"), ("on_data_loss", "y"), ("start", "z"), ("dead_letters", "file:")];
        let told = refused(&[&[("format", "json")], &wrong[..]].concat(), &[]);
        assert_eq!(told, "`z` is no start; `x` is no on_error; `y` is no on_data_loss; `` is no file");
        let right = [("format", "json"), ("on_error", "stop"), ("on_data_loss", "latest")];
        let request = read(&right, &[]).expect("it is right");
        assert_eq!((request.on_error, request.on_data_loss), (OnError::Stop, OnDataLoss::Latest));
        let request = read(&[("format", "json"), ("dead_letters", "file:a/b")], &[]).expect("it is right");
        assert_eq!(request.dead_letters, Some(DeadLettersTo::File("a/b".into())));
        let request = read(&[("format", "json"), ("dead_letters", "d")], &[]).expect("it is right");
        assert_eq!(request.dead_letters, Some(DeadLettersTo::Topic("d".to_owned())));
        assert_eq!((request.on_error, request.on_data_loss), (OnError::DeadLetter, OnDataLoss::Stop));
    }

    /// The table of such columns with its metadata in `at` and `part`, or what is wrong with it.
    fn shape(columns: &[(&str, DataType)], key: &[&str], more: &[(&str, &str)]) -> Result<TopicTable, String> {
        let options = [&[("format", "json")], more].concat();
        let request = TopicRequest::read(&mut table(&options, columns, key)).expect("options");
        let declared = request.declared().map(|table| table.schema);
        let opened = request.open().map_err(|problem| format!("{}: {}", problem.what, problem.remedy));
        assert_eq!(opened.as_ref().ok().map(|open| Arc::clone(&open.table.schema)), declared);
        opened
    }

    #[test]
    fn columns_of_metadata_stand_where_they_are_declared_and_messages_fill_the_others() {
        let columns = [("part", DataType::Int64), ("a", DataType::Utf8), ("id", DataType::Int64)];
        let mut opened = shape(&columns, &["id"], &[("partition_column", "part")]).expect("a table");
        assert_eq!(opened.table.identity, Identity::Key(vec![2]));
        assert_eq!(opened.metadata, [(0, Metadata::Partition)].into());
        // The key of messages is the second of the columns that they fill.
        let payload = format::Payload { key: Some(br#"{"id":7}"#), value: None };
        let events = opened.decoder.decode(&[payload]).expect("decodes");
        assert_eq!(events.ops, [pipeline::Op::Delete]);
        assert!(events.columns[0].is_null(0));
        assert_eq!(events.columns[1].as_primitive::<Int64Type>().value(0), 7);
    }

    #[test]
    fn columns_that_can_t_be_are_refused_with_what_to_write() {
        let wrong = |columns: &[(&str, DataType)], key: &[&str], more: &[(&str, &str)]| {
            shape(columns, key, more).err().expect("it is wrong")
        };
        let (at, id) = (("offset_column", "at"), ("id", DataType::Int64));
        let declared = |of| [id.clone(), ("at", of)];
        assert!(shape(&declared(DataType::Int64), &[], &[at]).is_ok());
        let told = wrong(&declared(DataType::Utf8), &[], &[at]);
        assert_eq!(told, "column `at` is declared as TEXT, and holds Offsets: declare it as BIGINT");
        let told = wrong(std::slice::from_ref(&id), &[], &[at]);
        assert_eq!(told, "column `at` is not declared: add `at BIGINT` to the table's columns");
        let told = wrong(&declared(DataType::Int64), &[], &[at, ("partition_column", "at")]);
        assert!(told.starts_with("column `at` is named twice"), "{told}");
        let told = wrong(&declared(DataType::Int64), &["at"], &[at]);
        assert!(told.contains("`at`, which is no part of a message's key"), "{told}");
        let told = wrong(&[id], &["other"], &[]);
        assert!(told.contains("`other`, and there is no such column"), "{told}");
    }

    #[test]
    fn columns_of_a_registry_have_those_of_metadata_behind_them() {
        let mut table = table(&[("format", "text"), ("offset_column", "at")], &[], &[]);
        table.columns = None;
        let request = TopicRequest::read(&mut table).expect("options");
        assert!(request.declared().is_none(), "somebody has to be asked");
        assert!(request.open().is_err(), "and of text nobody knows");
    }
}

#[cfg(test)]
mod faults {
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::format::Payload;
    use crate::source::SourceEvent;
    use crate::topic::{Message, TopicPartition, TopicReader, TopicTables};

    fn table(options: &[(&str, &str)], columns: &[(&str, DataType)], key: &[&str]) -> TableRequest {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let columns = columns.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
        let key = key.iter().map(|name| (*name).to_owned()).collect();
        TableRequest { name: "t".to_owned(), options, columns: Some(columns), key }
    }

    /// What is wrong with these options of a table `k BIGINT, v TEXT`, with or without a key.
    fn wrong(options: &[(&str, &str)], key: &[&str]) -> String {
        let columns = [("k", DataType::Int64), ("v", DataType::Utf8)];
        let mut table = table(&[&[("topic", "t")], options].concat(), &columns, key);
        match TopicRequest::read(&mut table) {
            Ok(_) => String::new(),
            Err(problems) => problems.iter().map(|problem| format!("{}; ", problem.what)).collect(),
        }
    }

    /// The rows that messages make, a line each, and what is bad, each with its offset.
    fn read(mut table: TableRequest, messages: &[(&[u8], &[u8])]) -> (Vec<String>, Vec<(i64, String)>) {
        let request = TopicRequest::read(&mut table).expect("a request");
        let topic: Arc<str> = request.topic.as_str().into();
        let tables = vec![(0, request.open().expect("a table"))];
        let messages: Vec<Message<'_>> = (0..)
            .zip(messages)
            .map(|(offset, (key, value))| Message {
                partition: TopicPartition::of_only_topic(0),
                offset,
                timestamp: None,
                payload: Payload { key: Some(key), value: Some(value) },
                headers: &(),
            })
            .collect();
        let batch = TopicReader::new(vec![TopicTables { topic, tables }]).read(&messages).expect("a batch");
        let SourceEvent::Transaction { changes, .. } = batch.event else { panic!("a transaction") };
        let line = |rows: &RecordBatch, row: usize| {
            let values = rows.columns().iter().map(|column| match column.data_type() {
                DataType::Binary => format!("{:?}", column.as_binary::<i32>().value(row)),
                _ => array_value_to_string(column, row).expect("shown"),
            });
            values.collect::<Vec<_>>().join(" ")
        };
        let rows = changes.iter().flat_map(|(_, changes)| {
            (0..changes.rows.num_rows()).map(|row| line(&changes.rows, row)).collect::<Vec<_>>()
        });
        let bad = batch.dead_letters.into_iter().map(|(_, letter)| (letter.offset, letter.reason));
        (rows.collect(), bad.collect())
    }

    /// Bytes were made text with U+FFFD in it: another key than the message has.
    #[test]
    fn a_key_that_is_no_text_is_none_for_a_column_of_text() {
        let options = [("topic", "t"), ("format", "text"), ("key_column", "key")];
        let of = |key: DataType| table(&options, &[("v", DataType::Int64), ("key", key)], &[]);
        let messages: [(&[u8], &[u8]); 5] =
            [(b"a", b"1"), (b"\xff", b"2"), (b"b", b"x"), (b"\xffz", b"x"), ("é".as_bytes(), b"5")];
        let no_text = || "its key is not UTF-8: declare the column as BYTEA".to_owned();
        let no_number = || "`v` is \"x\", which is not a value of BIGINT".to_owned();
        let (rows, bad) = read(of(DataType::Utf8), &messages);
        assert_eq!(rows, ["1 a", "5 é"]);
        assert_eq!(bad, [(1, no_text()), (2, no_number()), (3, no_text())]);
        let (rows, bad) = read(of(DataType::Binary), &messages);
        assert_eq!(rows, ["1 [97]", "2 [255]", "5 [195, 169]"]);
        assert_eq!(bad, [(2, no_number()), (3, no_number())]);
    }

    /// Keys of bytes were read as base64, and those that happened to be some were other keys.
    #[test]
    fn keys_of_bytes_are_kept() {
        let of = |key: DataType, options: &[(&str, &str)]| {
            let options = [&[("topic", "t"), ("format", "bytes")], options].concat();
            table(&options, &[("k", key), ("v", DataType::Binary)], &["k"])
        };
        let messages: [(&[u8], &[u8]); 2] = [(b"3q0=", b"\0"), (b"\xff", b"")];
        let (rows, bad) = read(of(DataType::Binary, &[]), &messages);
        assert_eq!((rows, bad.len()), (vec!["[51, 113, 48, 61] [0]".to_owned(), "[255] []".to_owned()], 0));
        let (rows, bad) = read(of(DataType::Utf8, &[]), &messages);
        assert_eq!((rows, bad.len()), (vec!["3q0= [0]".to_owned()], 1));
        let (rows, bad) = read(of(DataType::Binary, &[("key_format", "text")]), &messages);
        assert_eq!((rows, bad.len()), (vec!["[222, 173] [0]".to_owned()], 1));
    }

    /// They were taken, and nothing came of them.
    #[test]
    fn options_without_effect_are_refused() {
        let json = ("format", "json");
        let registry = ("registry", "http://localhost:1");
        for (options, key, expected) in [
            (&[json][..], &[][..], ""),
            (&[json, ("key_format", "text")], &["k"], ""),
            (&[json, ("key_format", "avro"), registry, ("registry_token", "x")], &["k"], ""),
            (&[("format", "csv"), ("csv_delimiter", ";"), ("csv_null", "")], &[], ""),
            (&[("format", "avro"), registry], &[], ""),
            (&[json, ("on_error", "dead_letter"), ("dead_letters", "d")], &[], ""),
            (&[("format", "debezium-json"), ("debezium_decimals", "string")], &["k"], ""),
            (&[json, ("csv_delimiter", ";")], &[], "`csv_delimiter` means nothing"),
            (&[json, ("csv_null", "x")], &[], "`csv_null` means nothing"),
            (&[json, ("debezium_decimals", "precise")], &[], "`debezium_decimals` means nothing"),
            (&[json, registry], &[], "`registry` means nothing"),
            (&[json, ("registry_token", "x")], &[], "`registry_token` means nothing"),
            (&[json, ("registry_ca", "x")], &["k"], "`registry_ca` means nothing"),
            (&[json, ("key_format", "text")], &[], "`key_format` means nothing"),
            (&[("format", "debezium-json"), ("key_format", "json")], &["k"], "`key_format` means nothing"),
            (&[json, ("on_error", "stop"), ("dead_letters", "d")], &[], "`dead_letters` means nothing"),
        ] {
            let wrong = wrong(options, key);
            assert!(wrong.contains(expected) && wrong.is_empty() == expected.is_empty(), "{options:?}: {wrong}");
        }
    }

    #[test]
    fn a_delimiter_is_nothing_that_records_have_themselves() {
        for delimiter in ["\"", "\n", "\r", "", "é", ",,"] {
            let wrong = wrong(&[("format", "csv"), ("csv_delimiter", delimiter)], &[]);
            assert!(wrong.contains("is no delimiter"), "{delimiter:?}: {wrong}");
        }
        assert_eq!(wrong(&[("format", "csv"), ("csv_delimiter", "tab")], &[]), "");
    }
}
