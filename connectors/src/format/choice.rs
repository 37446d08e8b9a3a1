//! Which formats a table's messages have, as a project says.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, Fields, TimestampMillisecondType};

use super::append::Append;
use super::avro::{self, AvroRows};
use super::columns::Unreadable;
use super::csv::{CsvOptions, CsvRows};
use super::debezium::Debezium;
use super::json::JsonRows;
use super::protobuf::{self, ProtobufRows};
use super::registry::{Registry, RegistryOptions, SchemaError, SchemaSource};
use super::text::{BytesRows, TextRows};
use super::upsert::Upsert;
use super::{MessageDecoder, RowDecoder};
use crate::source::{Problem, TableRequest};
use crate::topic::options::Mode;

/// The formats of a table's messages.
#[derive(Clone)]
pub struct Formats {
    value: Name,
    key: Name,
    registry: Option<Registry>,
    csv: CsvOptions,
    /// Whether Debezium writes decimals as digits (`decimal.handling.mode=string`).
    has_decimal_digits: bool,
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

impl std::fmt::Debug for Formats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} with keys of {:?}", self.value, self.key)
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

/// The first option that none of these formats looks at, with what does.
fn without_effect(options: &BTreeMap<String, String>, value: Name, key: Name) -> Option<(&'static str, &'static str)> {
    let has_schemas = [value, key].iter().any(|name| matches!(name, Name::Avro | Name::Protobuf));
    [
        ("csv_delimiter", "format = 'csv'", value == Name::Csv),
        ("csv_null", "format = 'csv'", value == Name::Csv),
        ("debezium_decimals", "format = 'debezium-json'", value == Name::DebeziumJson),
        ("registry", "the formats avro and protobuf", has_schemas),
        ("registry_token", "the formats avro and protobuf", has_schemas),
        ("registry_ca", "the formats avro and protobuf", has_schemas),
    ]
    .into_iter()
    .find(|(option, _, has_effect)| !has_effect && options.contains_key(*option))
    .map(|(option, format, _)| (option, format))
}

impl Formats {
    /// Takes the options that are of formats.
    ///
    /// # Errors
    /// With what is wrong with them.
    pub fn read(request: &mut TableRequest) -> Result<Formats, Problem> {
        let TableRequest { name: table, options, columns, key } = request;
        let is_of_key = |column: &&(String, DataType)| key.contains(&column.0);
        let has_bytes = columns.iter().flatten().filter(is_of_key).any(|(_, of)| *of == DataType::Binary);
        let problem =
            |what: String, remedy: &str| Problem { table: Some(table.clone()), what, remedy: remedy.to_owned() };
        let value = name(table, "format", &options.remove("format").unwrap_or_default())?;
        let key = match options.remove("key_format") {
            Some(text) => name(table, "key_format", &text)?,
            None => match value {
                Name::Json | Name::DebeziumJson => Name::Json,
                Name::Avro | Name::Protobuf => value,
                Name::Bytes if has_bytes => Name::Bytes,
                Name::Csv | Name::Text | Name::Bytes => Name::Text,
            },
        };
        if matches!(key, Name::DebeziumJson | Name::Csv) {
            return Err(problem(
                "keys have no such format".to_owned(),
                "write key_format = 'json', 'text', 'avro', 'protobuf' or 'bytes'",
            ));
        }
        if let Some((option, format)) = without_effect(options, value, key) {
            let what = format!("`{option}` means nothing here: it is of {format}");
            return Err(problem(what, "leave it out, or write another format"));
        }
        let registry = options.remove("registry").map(|urls| {
            Registry::new(&RegistryOptions {
                urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
                token: options.remove("registry_token"),
                authorities: options.remove("registry_ca").map(Into::into),
                ..RegistryOptions::default()
            })
        });
        let registry = registry.transpose().map_err(|error| {
            problem(
                error.to_string(),
                "write registry = 'http://user:password@registry:8081', or several with commas between",
            )
        })?;
        if registry.is_none() && [value, key].iter().any(|name| matches!(name, Name::Avro | Name::Protobuf)) {
            return Err(problem(
                "avro and protobuf are read with the schemas of a registry, and none is named".to_owned(),
                "add registry = 'http://registry:8081'",
            ));
        }
        let delimiter = match options.remove("csv_delimiter").as_deref() {
            None => b',',
            Some("\\t" | "tab") => b'\t',
            Some(text) => match text.as_bytes() {
                [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => *byte,
                _ => {
                    let what = format!("`{}` is no delimiter", text.escape_debug());
                    return Err(problem(what, "write one ASCII character, or 'tab'; quotes and line ends are taken"));
                }
            },
        };
        let csv = CsvOptions { delimiter, null: options.remove("csv_null").unwrap_or_default() };
        let has_decimal_digits = match options.remove("debezium_decimals").as_deref() {
            None | Some("precise") => false,
            Some("string") => true,
            Some(text) => {
                return Err(problem(
                    format!("`{text}` is no way in which Debezium writes decimals"),
                    "write debezium_decimals = 'string' where its decimal.handling.mode is string, and 'precise' otherwise",
                ));
            }
        };
        Ok(Formats { value, key, registry, csv, has_decimal_digits })
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
    pub fn columns(&self, table: &str, topic: &str) -> Result<Vec<Field>, Problem> {
        let problem =
            |what: String, remedy: &str| Problem { table: Some(table.to_owned()), what, remedy: remedy.to_owned() };
        let (Name::Avro | Name::Protobuf, Some(registry)) = (self.value, &self.registry) else {
            return Err(problem(
                "messages of this format do not say which columns they have".to_owned(),
                "declare the columns: CREATE TABLE name (id BIGINT, …) WITH (…)",
            ));
        };
        let subject = format!("{topic}-value");
        let latest = match registry.latest(&subject) {
            Ok(Some(latest)) => latest,
            Ok(None) => {
                let what = format!("the registry has no schema of the subject {subject}");
                return Err(problem(what, "register one, or declare the columns"));
            }
            Err(SchemaError::Bad(reason) | SchemaError::Unavailable(reason)) => {
                return Err(problem(
                    format!("the schema of {subject} can't be had: {reason}"),
                    "start the registry, or check its address; `check --offline` asks nobody",
                ));
            }
        };
        let columns = if self.value == Name::Avro { avro::columns(&latest) } else { protobuf::columns(&latest) };
        columns.map_err(|reason| problem(format!("{subject}: {reason}"), "declare the columns that are wanted"))
    }

    /// What reads messages.
    ///
    /// # Errors
    /// When there is no reading of such messages into such columns.
    pub fn open(&self, wanted: Wanted<'_>) -> Result<Box<dyn MessageDecoder>, Problem> {
        self.try_open(&wanted).map_err(|what| Problem {
            table: Some(wanted.table.to_owned()),
            what,
            remedy:
                "declare the column with a type that docs/formats.md has for this format; TEXT takes what it is in JSON"
                    .to_owned(),
        })
    }

    fn try_open(&self, wanted: &Wanted<'_>) -> Result<Box<dyn MessageDecoder>, String> {
        if wanted.mode == Mode::Debezium {
            let debezium = Debezium::new(wanted.fields, wanted.key.clone()).map_err(|error| error.to_string())?;
            let debezium = if self.has_decimal_digits { debezium.with_decimals_as_digits() } else { debezium };
            return Ok(Box::new(debezium));
        }
        // A text is one value, and says nothing of its key.
        let is_bare = wanted.mode == Mode::Upsert && matches!(self.value, Name::Text | Name::Bytes);
        let in_values = |place: &usize| !is_bare || !wanted.key.contains(place);
        let of_values: Fields =
            (0..wanted.fields.len()).filter(in_values).map(|place| Arc::clone(&wanted.fields[place])).collect();
        let values = self.rows(self.value, wanted.topic, &of_values, "value")?;
        if wanted.mode == Mode::Append {
            return Ok(Box::new(Append::new(values)));
        }
        let fields: Fields = wanted.key.iter().map(|&place| Arc::clone(&wanted.fields[place])).collect();
        let names = fields.iter().map(|field| field.name().clone()).collect();
        let keys = self.rows(self.key, wanted.topic, &fields, "key")?;
        let upsert = Upsert::new(keys, values, wanted.key.clone(), names, wanted.fields.len());
        Ok(Box::new(if is_bare { upsert.without_key_in_values() } else { upsert }))
    }

    /// What reads keys or values, as `part` says.
    fn rows(&self, name: Name, topic: &str, fields: &Fields, part: &str) -> Result<Box<dyn RowDecoder>, String> {
        let of_one = || match &fields[..] {
            [field] => Ok(field),
            fields => Err(format!("a {part} of text or bytes is one column, and there are {}", fields.len())),
        };
        let wrong = |error: Unreadable| error.to_string();
        let subject = || match &self.registry {
            Some(registry) => Ok(registry.subject(&format!("{topic}-{part}"))),
            None => Err("no registry is named".to_owned()),
        };
        Ok(match name {
            Name::Json if part == "key" => Box::new(JsonRows::of_keys(fields).map_err(wrong)?),
            Name::Json | Name::DebeziumJson => Box::new(JsonRows::new(fields).map_err(wrong)?),
            Name::Avro => {
                let schemas = subject()?;
                // A registry that is away is waited for later; so is a schema.
                if let Ok(Some(latest)) = schemas.latest() {
                    let reason = |reason| format!("the newest schema of {topic}-{part}: {reason}");
                    avro::check(&latest, fields).map_err(reason)?;
                }
                Box::new(AvroRows::new(fields, schemas))
            }
            Name::Protobuf => Box::new(ProtobufRows::new(fields, subject()?)),
            Name::Csv => Box::new(CsvRows::new(fields, self.csv.clone()).map_err(wrong)?),
            Name::Text => Box::new(TextRows::new(of_one()?).map_err(wrong)?),
            Name::Bytes => Box::new(BytesRows::new(of_one()?).map_err(wrong)?),
        })
    }
}

/// Milliseconds since 1970-01-01 UTC of a time such as `2026-01-31T12:00:00Z`.
#[must_use]
pub fn moment_millis(text: &str) -> Option<i64> {
    TimestampMillisecondType::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::registry::tests::Server;

    /// What is wrong with a table of these columns, as the registry has the value's schema.
    fn wrong(columns: &[(&str, DataType)], latest: (u16, &'static str)) -> String {
        let registry = Server::start(move |path| match path {
            "/subjects/orders-value/versions/latest" => {
                let answer = serde_json::json!({ "id": 1, "schema": latest.1 }).to_string();
                (latest.0, if latest.0 == 404 { r#"{"error_code":40401}"#.to_owned() } else { answer })
            }
            _ => (404, r#"{"error_code":40401}"#.to_owned()),
        });
        let options = [("format", "avro"), ("registry", &registry.url)];
        let mut request = TableRequest {
            name: "t".to_owned(),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            columns: Some(columns.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect()),
            key: Vec::new(),
        };
        let formats = Formats::read(&mut request).expect("formats");
        let fields: Fields = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect();
        let wanted = Wanted { table: "t", topic: "orders", fields: &fields, key: Vec::new(), mode: Mode::Append };
        formats.open(wanted).err().map_or_else(String::new, |problem| problem.what)
    }

    /// Each message was a dead letter, and `check` said nothing.
    #[test]
    fn a_column_that_no_message_fits_is_told_before_any_is_read() {
        let latest =
            r#"{"type":"record","name":"o","fields":[{"name":"id","type":"string"},{"name":"n","type":"int"}]}"#;
        let of = |of: DataType| [("id", of), ("n", DataType::Int64), ("later", DataType::Utf8)];
        assert_eq!(wrong(&of(DataType::Utf8), (200, latest)), "");
        let what = "the newest schema of orders-value: `id` is TEXT, which is never taken as BIGINT";
        assert_eq!(wrong(&of(DataType::Int64), (200, latest)), what);
        // What is not there yet, or does not answer, may say something else.
        assert_eq!(wrong(&of(DataType::Int64), (404, latest)), "");
        assert_eq!(wrong(&of(DataType::Int64), (500, latest)), "");
    }
}
