//! Which formats a table's messages have, as a project says.

use std::collections::BTreeMap;

use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{Field, Fields, TimestampMillisecondType};

use super::append::Append;
use super::upsert::Upsert;
use super::{MessageDecoder, RowDecoder};
use crate::source::Problem;
use crate::topic::options::Mode;

/// The formats of a table's messages.
#[derive(Clone, Debug)]
pub struct Formats {
    value: Name,
    key: Name,
    registry: Option<RegistryAddress>,
    csv_delimiter: u8,
    csv_null: String,
}

/// A format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Json,
    DebeziumJson,
    Avro,
    Protobuf,
    Csv,
    Text,
    Bytes,
}

const NAMES: [(&str, Name); 7] = [
    ("json", Name::Json),
    ("debezium-json", Name::DebeziumJson),
    ("avro", Name::Avro),
    ("protobuf", Name::Protobuf),
    ("csv", Name::Csv),
    ("text", Name::Text),
    ("bytes", Name::Bytes),
];

/// Where schemas are registered.
#[derive(Clone)]
struct RegistryAddress {
    urls: String,
    authorities: Option<String>,
    token: Option<String>,
}

impl std::fmt::Debug for RegistryAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its address may hold a password.
        f.write_str("RegistryAddress")
    }
}

/// What a decoder is made for.
pub struct Wanted<'a> {
    /// The table, for messages about it.
    pub table: &'a str,
    /// Its topic.
    pub topic: &'a str,
    /// The columns that messages fill.
    pub fields: &'a Fields,
    /// The key columns, by their place among them.
    pub key: Vec<usize>,
    /// What a message means.
    pub mode: Mode,
}

fn name(table: &str, option: &str, text: &str) -> Result<Name, Problem> {
    NAMES.iter().find(|(name, _)| *name == text).map(|(_, name)| *name).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        Problem {
            table: Some(table.to_owned()),
            what: format!("there is no {option} `{text}`"),
            remedy: format!("this version has {}", names.join(", ")),
        }
    })
}

impl Formats {
    /// Takes the options that are of formats.
    ///
    /// # Errors
    /// With what is wrong with them.
    pub fn read(table: &str, options: &mut BTreeMap<String, String>) -> Result<Formats, Problem> {
        let problem =
            |what: String, remedy: &str| Problem { table: Some(table.to_owned()), what, remedy: remedy.to_owned() };
        let value = name(table, "format", &options.remove("format").unwrap_or_default())?;
        let key = match options.remove("key_format") {
            Some(text) => name(table, "key_format", &text)?,
            None => match value {
                Name::Json | Name::DebeziumJson => Name::Json,
                Name::Avro | Name::Protobuf => value,
                Name::Csv | Name::Text | Name::Bytes => Name::Text,
            },
        };
        if matches!(key, Name::DebeziumJson | Name::Csv) {
            return Err(problem(
                "keys have no such format".to_owned(),
                "write key_format = 'json', 'text', 'avro', 'protobuf' or 'bytes'",
            ));
        }
        let registry = options.remove("registry").map(|urls| RegistryAddress {
            urls,
            authorities: options.remove("registry_ca"),
            token: options.remove("registry_token"),
        });
        if registry.is_none() && [value, key].iter().any(|name| matches!(name, Name::Avro | Name::Protobuf)) {
            return Err(problem(
                "avro and protobuf are read with the schemas of a registry, and none is named".to_owned(),
                "add registry = 'http://registry:8081'",
            ));
        }
        let csv_delimiter = match options.remove("csv_delimiter").as_deref() {
            None => b',',
            Some("\\t" | "tab") => b'\t',
            Some(text) => match text.as_bytes() {
                [byte] => *byte,
                _ => return Err(problem(format!("`{text}` is no delimiter"), "write one ASCII character, or 'tab'")),
            },
        };
        let csv_null = options.remove("csv_null").unwrap_or_default();
        Ok(Formats { value, key, registry, csv_delimiter, csv_null })
    }

    /// Whether messages say what was before and what is after.
    #[must_use]
    pub fn is_debezium(&self) -> bool {
        self.value == Name::DebeziumJson
    }

    /// The columns of a table that declares none.
    ///
    /// # Errors
    /// When the format does not tell, or the registry does not answer.
    pub fn columns(&self, table: &str, _topic: &str) -> Result<Vec<Field>, Problem> {
        Err(Problem {
            table: Some(table.to_owned()),
            what: "messages of this format do not say which columns they have".to_owned(),
            remedy: "declare the columns: CREATE TABLE name (id BIGINT, …) WITH (…)".to_owned(),
        })
    }

    /// What reads messages.
    ///
    /// # Errors
    /// When there is no reading of such messages into such columns, or the registry is not there.
    pub fn open(&self, wanted: Wanted<'_>) -> Result<Box<dyn MessageDecoder>, Problem> {
        let values = self.rows(self.value, &wanted, wanted.fields)?;
        Ok(match wanted.mode {
            Mode::Append | Mode::Debezium => Box::new(Append::new(values)),
            Mode::Upsert => {
                let fields: Fields = wanted.key.iter().map(|&place| wanted.fields[place].clone()).collect();
                let names = fields.iter().map(|field| field.name().clone()).collect();
                Box::new(Upsert::new(self.rows(self.key, &wanted, &fields)?, values, wanted.key, names))
            }
        })
    }

    fn rows(&self, _name: Name, _wanted: &Wanted<'_>, _fields: &Fields) -> Result<Box<dyn RowDecoder>, Problem> {
        unimplemented!()
    }
}

/// Milliseconds since 1970-01-01 UTC of a time such as `2026-01-31T12:00:00Z`.
#[must_use]
pub fn moment_millis(text: &str) -> Option<i64> {
    TimestampMillisecondType::parse(text)
}
