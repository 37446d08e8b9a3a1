//! What a message of a topic that is written says of its key.

use serde::de::IgnoredAny;

use super::{Encoded, KeyChange, Pending, SinkRequest};
use crate::format::encode::JsonEncoder;
use crate::source::Problem;

/// Options of topics that are read, and that mean nothing for one that is written.
const OF_READING: [&str; 5] = ["start", "on_error", "on_data_loss", "dead_letters", "key_format"];

/// A topic that rows are written to, as a project has it, whichever log it is of.
pub struct WrittenTopic {
    /// The topic.
    pub topic: String,
    /// What its messages say.
    pub shape: Shape,
    /// Makes them.
    pub encoder: JsonEncoder,
}

impl WrittenTopic {
    /// Reads what all such topics have, leaving the options of the log.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn read(request: &mut SinkRequest) -> Result<WrittenTopic, Problem> {
        let SinkRequest { table, schema, key, .. } = request;
        let of_table =
            |what: String, remedy: &str| Problem { table: Some(table.name.clone()), what, remedy: remedy.to_owned() };
        let Some(key) = key.take().filter(|key| !key.is_empty()) else {
            let what = "rows that are written to a topic need a key, and the query has none".to_owned();
            return Err(of_table(
                what,
                "declare the table's columns with a PRIMARY KEY, or GROUP BY what is to be the key",
            ));
        };
        let encoder =
            JsonEncoder::new(schema, key).map_err(|error| of_table(error, "CAST it to TEXT in the SELECT"))?;
        let option = |name: &str| table.options.get(name).map(String::as_str);
        let shape = Shape::read(option("format"), option("mode")).map_err(|(what, remedy)| of_table(what, remedy))?;
        if let Some(read) = OF_READING.iter().find(|name| option(name).is_some()) {
            let what = format!("`{read}` is of topics that are read, and this one is written");
            return Err(of_table(what, "leave it out"));
        }
        let topic = table.options.remove("topic").unwrap_or_default();
        Ok(WrittenTopic { topic, shape, encoder })
    }
}

/// What a message says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// What it is, or nothing.
    Upsert,
    /// What it was and is, as Debezium says it; and nothing after a delete.
    Debezium,
}

impl Shape {
    /// By what `format` and `mode` say.
    ///
    /// # Errors
    /// With what is wrong with them, and what to write.
    pub fn read(format: Option<&str>, mode: Option<&str>) -> Result<Shape, (String, &'static str)> {
        let shape = match format {
            Some("json") => Shape::Upsert,
            Some("debezium-json") => Shape::Debezium,
            other => {
                let what = format!("topics are not written as `{}`", other.unwrap_or_default());
                return Err((what, "write format = 'json' or 'debezium-json'"));
            }
        };
        match mode {
            None | Some("upsert") => Ok(shape),
            Some(mode) => Err((format!("topics are not written in mode `{mode}`"), "leave `mode` out")),
        }
    }

    /// The row that a message of ours leaves its key with.
    #[must_use]
    pub fn row_in(self, value: &[u8]) -> Option<Encoded> {
        match self {
            Shape::Upsert => Some(value.into()),
            Shape::Debezium => {
                let (_, rest) = leading_json(value.strip_prefix(br#"{"before":"#)?)?;
                let (after, _) = leading_json(rest.strip_prefix(br#","after":"#)?)?;
                (after != b"null").then(|| after.into())
            }
        }
    }
}

/// What happened to a key as Debezium says it. `name` is the sink's.
#[must_use]
pub fn envelope(name: &str, change: &KeyChange, pending: &Pending) -> String {
    let op = match change {
        KeyChange { old: None, .. } => "c",
        KeyChange { new: None, .. } => "d",
        _ => "u",
    };
    // Rows were made as JSON, which is UTF-8.
    let row =
        |row: &Option<Encoded>| row.as_ref().map_or("null".to_owned(), |row| String::from_utf8_lossy(row).into_owned());
    let table = serde_json::Value::from(name);
    let (millis, epoch) = (pending.commit_time / 1000, pending.epoch);
    format!(
        r#"{{"before":{},"after":{},"source":{{"version":"{}","connector":"deltafront","name":"deltafront","ts_ms":{millis},"snapshot":"{}","db":"","table":{table},"epoch":{epoch}}},"op":"{op}","ts_ms":{millis}}}"#,
        row(&change.old),
        row(&change.new),
        env!("CARGO_PKG_VERSION"),
        pending.is_first,
    )
}

/// A JSON value, and what follows it.
fn leading_json(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    text.split_at_checked(values.byte_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(old: Option<&str>, new: Option<&str>) -> KeyChange {
        let encoded = |row: &str| Encoded::from(row.as_bytes());
        KeyChange { old: old.map(encoded), new: new.map(encoded) }
    }

    #[test]
    fn what_an_envelope_leaves_is_read_back() {
        let tricky = r#"{"a":"}\",\"after\":null"}"#;
        for (old, new) in [(None, Some(tricky)), (Some(tricky), Some("{}")), (Some(tricky), None)] {
            let envelope = envelope("a \"table\"", &change(old, new), &Pending::default());
            let left = Shape::Debezium.row_in(envelope.as_bytes());
            assert_eq!(left.as_deref(), new.map(str::as_bytes), "{envelope}");
            assert!(serde_json::from_str::<serde_json::Value>(&envelope).is_ok(), "{envelope}");
        }
    }

    #[test]
    fn what_others_wrote_leaves_no_row() {
        for foreign in ["", "{", r#"{"before":"#, r#"{"before":null,"after":{"#, r#"{"after":{}}"#, "null"] {
            assert_eq!(Shape::Debezium.row_in(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn only_json_is_written_and_only_by_its_keys() {
        assert_eq!(Shape::read(Some("json"), None), Ok(Shape::Upsert));
        assert_eq!(Shape::read(Some("debezium-json"), Some("upsert")), Ok(Shape::Debezium));
        assert!(Shape::read(Some("avro"), None).is_err());
        assert!(Shape::read(Some("json"), Some("append")).is_err());
    }

    #[test]
    fn an_envelope_says_what_happened_and_when() {
        let pending = Pending { commit_time: 1_795_273_483_921_847, is_first: true, ..Pending::default() };
        let of = |old: Option<&str>, new: Option<&str>| {
            let text = envelope("t", &change(old, new), &pending);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        };
        for (old, new, op) in [(None, Some("{}"), "c"), (Some("{}"), Some("1"), "u"), (Some("{}"), None, "d")] {
            let envelope = of(old, new);
            assert_eq!((&envelope["op"], &envelope["ts_ms"]), (&op.into(), &1_795_273_483_921_i64.into()));
            assert_eq!(
                (&envelope["source"]["ts_ms"], &envelope["source"]["snapshot"]),
                (&envelope["ts_ms"], &"true".into())
            );
        }
    }

    #[test]
    fn a_topic_is_written_by_a_key_and_without_options_of_reading() {
        let request = |key: Option<Vec<usize>>, options: &[(&str, &str)]| {
            let field = arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, true);
            let all = [&[("topic", "t"), ("format", "json")], options].concat();
            let options = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let table = crate::source::TableRequest { name: "w".to_owned(), options, columns: None, key: Vec::new() };
            let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![field]));
            WrittenTopic::read(&mut SinkRequest { table, project: "p".to_owned(), schema, key })
                .map(|written| (written.topic, written.shape))
                .map_err(|problem| problem.what)
        };
        assert_eq!(request(Some(vec![0]), &[]), Ok(("t".to_owned(), Shape::Upsert)));
        for key in [None, Some(Vec::new())] {
            assert!(request(key, &[]).is_err_and(|what| what.contains("need a key")));
        }
        let read = request(Some(vec![0]), &[("on_error", "stop")]);
        assert!(read.is_err_and(|what| what.starts_with("`on_error` is of topics that are read")));
    }
}
