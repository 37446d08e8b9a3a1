//! Debezium's JSON: what happened to a row, with the row before and after.
//!
//! ```text
//!  {"before": {…}, "after": {…}, "source": {…}, "op": "u", …}                  with or without
//!  {"schema": {…}, "payload": {"before": …}}                                   Kafka Connect's schema
//! ```
//!
//! `op` comes after the rows that it explains, so an envelope is gone through twice: once for where its parts are,
//! then the rows that `op` asks for are read. A schema is only read when it is another than that of the message before.

pub mod transaction; // which events were committed at once

use arrow::datatypes::{Fields, TimeUnit};
use pipeline::Op;
use serde_json::Value;

use super::columns::{Columns, Decimals, Encoding, Unreadable};
use super::json::{Next, Reader, Wanted, Wrong, text_of, unwrapped};
use super::{Bad, Events, FormatError, MessageDecoder, Payload};

/// What Debezium writes where no schema says otherwise: microseconds, days, and decimals as the bytes of their
/// unscaled value (`decimal.handling.mode=precise`).
const UNSAID: Encoding = Encoding { unit: TimeUnit::Microsecond, counts_days: true, decimals: Decimals::Bytes };

/// Makes what happened to a table of Debezium's messages about it.
pub struct Debezium {
    columns: Columns,
    /// The key of a row before its update, to be compared.
    old: Columns,
    /// The key columns, by their place; empty where the table is keyed by its whole row.
    key: Vec<usize>,
    /// For each column whether it is one of the key.
    is_key: Vec<bool>,
    /// What encodings are without a schema.
    unsaid: Encoding,
    /// The schema that the columns' encodings were taken from, as it was written.
    schema: Option<String>,
    scratch: String,
}

impl Debezium {
    /// Events of a table with these columns, keyed by those at the places `key`, or by its whole row where that is
    /// empty.
    ///
    /// # Errors
    /// When a column has a type that JSON is not read into.
    pub fn new(fields: &Fields, key: Vec<usize>) -> Result<Debezium, Unreadable> {
        let mut debezium = Debezium {
            columns: Columns::new(fields)?,
            old: Columns::new(fields)?,
            is_key: (0..fields.len()).map(|place| key.contains(&place)).collect(),
            key,
            unsaid: UNSAID,
            schema: None,
            scratch: String::new(),
        };
        debezium.encode(None);
        Ok(debezium)
    }

    /// For connectors with `decimal.handling.mode=string`. Messages without a schema do not tell: `1234` may be
    /// digits or base64. With one this changes nothing.
    #[must_use]
    pub fn with_decimals_as_digits(mut self) -> Debezium {
        self.unsaid.decimals = Decimals::Digits;
        self.encode(None);
        self
    }

    /// Sets what values mean: as the schema of a row says, or without one.
    fn encode(&mut self, row: Option<&Value>) {
        for place in 0..self.is_key.len() {
            let field = &self.columns.fields()[place];
            let encoding =
                row.and_then(|row| part(row, field.name())).map_or(self.unsaid, |part| said(part, self.unsaid));
            self.columns.column(place).set_encoding(encoding);
            self.old.column(place).set_encoding(encoding);
        }
    }

    /// Reads a schema if it is another than the last.
    fn take_schema(&mut self, schema: Option<&str>) {
        if self.schema.as_deref() == schema {
            return;
        }
        let told = schema.and_then(|schema| serde_json::from_str::<Value>(schema).ok());
        // Of an envelope it is the row's; of a key all of it.
        let row = told.as_ref().map(|told| part(told, "after").or_else(|| part(told, "before")).unwrap_or(told));
        self.encode(row);
        self.schema = schema.map(str::to_owned);
    }

    fn row(&mut self, text: &str, row: usize, only_key: bool) -> Result<(), Box<Wrong>> {
        let wanted = Wanted { only: only_key.then_some(&self.is_key), left_out: None };
        Reader::new(text, &mut self.scratch).row(&mut self.columns, row, wanted)?;
        Ok(())
    }

    /// Reads a row that is complete but for large values that did not change; these are returned.
    fn row_after(&mut self, text: &str, row: usize) -> Result<Vec<usize>, Box<Wrong>> {
        let mut left_out = Vec::new();
        let wanted = Wanted { only: None, left_out: Some(&mut left_out) };
        Reader::new(text, &mut self.scratch).row(&mut self.columns, row, wanted)?;
        left_out.sort_unstable();
        Ok(left_out)
    }

    /// Whether the rows before and after an update have different keys. A key that `before` does not have is the same.
    fn moves(&mut self, before: &str, row: usize) -> Result<bool, Box<Wrong>> {
        self.old.truncate(0);
        let wanted = Wanted { only: Some(&self.is_key), left_out: None };
        Reader::new(before, &mut self.scratch).row(&mut self.old, 0, wanted)?;
        let (old, new) = (self.old.columns(), self.columns.columns());
        let is_whole = self.key.iter().all(|place| !old[*place].is_null(0));
        Ok(is_whole && self.key.iter().any(|place| !new[*place].is_same(row, &old[*place], 0)))
    }

    fn read(&mut self, message: &Payload<'_>, told: &mut Told) -> Result<(), Box<Wrong>> {
        // A tombstone, which is for the broker.
        let Some(value) = message.value else { return Ok(()) };
        let text = text_of(value)?;
        let (schema, text) = match unwrapped(text)? {
            Some((schema, payload)) => (Some(schema).filter(|schema| *schema != "null"), payload),
            None => (None, text),
        };
        if text.trim() == "null" {
            return Ok(());
        }
        let envelope = Envelope::find(text, &mut self.scratch)?;
        self.take_schema(schema);
        let row = told.ops.len();
        match (envelope.op.as_deref(), envelope.before, envelope.after) {
            (Some("r" | "c"), _, Some(after)) => {
                if let Some(place) = self.row_after(after, row)?.first() {
                    let name = self.columns.fields()[*place].name();
                    return other(format!("`{name}` was left out, since it did not change. {REMEDY}"));
                }
                self.needs_key(row)?;
                told.ops.push(Op::Insert);
            }
            (Some("u"), before, Some(after)) => self.update(before, after, told)?,
            (Some("d"), before, _) => {
                self.delete(before, message.key, row)?;
                told.ops.push(Op::Delete);
            }
            (Some("t"), ..) => {
                self.columns.fill(row);
                told.ops.push(Op::Truncate);
            }
            (Some("m"), ..) => {}
            (Some(op @ ("r" | "c" | "u")), _, None) => return other(format!("op is \"{op}\", and it has no `after`")),
            (Some(op), ..) => return other(format!("op is \"{op}\", which is none of r, c, u, d, t, m")),
            (None, ..) => {
                return other(
                    "it has no `op`: if the connector unwraps its events, read them with another format".to_owned(),
                );
            }
        }
        told.commit_time = told.commit_time.max(envelope.commit_time);
        Ok(())
    }

    fn update(&mut self, before: Option<&str>, after: &str, told: &mut Told) -> Result<(), Box<Wrong>> {
        let mut row = told.ops.len();
        if self.key.is_empty() {
            let Some(before) = before else { return other(format!("it has no `before`. {REMEDY}")) };
            self.row(before, row, false)?;
            told.ops.push(Op::OldKey);
            row += 1;
        }
        let mut left_out = self.row_after(after, row)?;
        self.needs_key(row)?;
        if let Some(before) = before.filter(|_| !self.key.is_empty())
            && self.moves(before, row)?
        {
            self.columns.truncate(row);
            self.row(before, row, true)?;
            told.ops.push(Op::OldKey);
            row += 1;
            left_out = self.row_after(after, row)?;
        }
        told.ops.push(Op::Update);
        let at = narrow(row)?;
        for place in left_out {
            told.unchanged.push((at, narrow(place)?));
        }
        Ok(())
    }

    /// The row that went: its key, from `before` or the message's key; or all of it.
    fn delete(&mut self, before: Option<&str>, key: Option<&[u8]>, row: usize) -> Result<(), Box<Wrong>> {
        if self.key.is_empty() {
            let Some(before) = before else { return other(format!("it has no `before`. {REMEDY}")) };
            return self.row(before, row, false);
        }
        if let Some(before) = before {
            self.row(before, row, true)?;
            if self.has_key(row) {
                return Ok(());
            }
            self.columns.truncate(row);
        }
        if let Some(key) = key {
            let text = text_of(key)?;
            let (schema, text) = unwrapped(text)?.map_or((None, text), |(schema, payload)| (Some(schema), payload));
            if let Some(schema) = schema {
                self.take_schema(Some(schema));
            }
            self.row(text, row, true)?;
            if self.has_key(row) {
                return Ok(());
            }
        }
        other("it has its key neither in `before` nor in the message's key".to_owned())
    }

    fn has_key(&self, row: usize) -> bool {
        self.missing(row).is_none()
    }

    /// A row with NULL in its key would be one with all others that have it.
    fn needs_key(&self, row: usize) -> Result<(), Box<Wrong>> {
        match self.missing(row) {
            None => Ok(()),
            Some(name) => other(format!("its `after` has no `{name}`, and that is of the table's PRIMARY KEY")),
        }
    }

    /// The first column of the key that a row does not have.
    fn missing(&self, row: usize) -> Option<&str> {
        let place = self.key.iter().find(|place| self.columns.columns()[**place].is_null(row))?;
        Some(self.columns.fields()[*place].name())
    }
}

const REMEDY: &str = "It is sent after ALTER TABLE … REPLICA IDENTITY FULL";

fn other<T>(reason: String) -> Result<T, Box<Wrong>> {
    Err(Box::new(Wrong::Other(reason)))
}

fn narrow(place: usize) -> Result<u32, Box<Wrong>> {
    u32::try_from(place).or_else(|_| other("the batch has more rows than can be counted".to_owned()))
}

/// What messages have told so far.
#[derive(Default)]
struct Told {
    ops: Vec<Op>,
    unchanged: Vec<(u32, u32)>,
    commit_time: Option<i64>,
}

impl MessageDecoder for Debezium {
    fn decode(&mut self, messages: &[Payload<'_>]) -> Result<Events, FormatError> {
        self.columns.reserve(messages.len());
        let mut events = Events::default();
        let mut told = Told::default();
        for (place, message) in messages.iter().enumerate() {
            let (rows, unchanged) = (told.ops.len(), told.unchanged.len());
            if let Err(wrong) = self.read(message, &mut told) {
                told.ops.truncate(rows);
                told.unchanged.truncate(unchanged);
                self.columns.truncate(rows);
                events.bad.push(Bad { message: place, reason: wrong.to_string() });
            }
            events.from.resize(told.ops.len(), place);
        }
        events.columns = self.columns.finish();
        events.ops = told.ops;
        events.unchanged = told.unchanged;
        events.commit_time = told.commit_time;
        Ok(events)
    }
}

/// Where the parts of an envelope are.
#[derive(Default)]
struct Envelope<'a> {
    op: Option<String>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    /// Microseconds since 1970.
    commit_time: Option<i64>,
}

impl<'a> Envelope<'a> {
    fn find(text: &'a str, scratch: &mut String) -> Result<Envelope<'a>, Box<Wrong>> {
        let mut found = Envelope::default();
        let mut reader = Reader::new(text, scratch);
        reader.skip_space();
        reader.object(|reader, name| {
            match name.as_ref() {
                "op" if reader.peek() == Some(b'"') => found.op = Some(reader.text_here()?.into_owned()),
                "before" => found.before = Some(reader.raw()?).filter(|raw| *raw != "null"),
                "after" => found.after = Some(reader.raw()?).filter(|raw| *raw != "null"),
                "source" if reader.peek() == Some(b'{') => reader.object(|reader, name| {
                    let raw = reader.raw()?;
                    match name.as_ref() {
                        "ts_us" => found.commit_time = raw.parse().ok().or(found.commit_time),
                        "ts_ms" if found.commit_time.is_none() => {
                            found.commit_time = raw.parse::<i64>().ok().and_then(|millis| millis.checked_mul(1_000));
                        }
                        _ => {}
                    }
                    Ok(Next::Go)
                })?,
                _ => drop(reader.raw()?),
            }
            Ok(Next::Go)
        })?;
        reader.end()?;
        Ok(found)
    }
}

/// The schema of a field of a struct.
fn part<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema["fields"].as_array()?.iter().find(|field| field["field"] == name)
}

/// What a field's schema says of its values.
fn said(schema: &Value, unsaid: Encoding) -> Encoding {
    if schema["type"] == "array" {
        return said(&schema["items"], unsaid);
    }
    let counts = |unit| Encoding { unit, counts_days: true, decimals: Decimals::Digits };
    let name = schema["name"].as_str().unwrap_or_default();
    match name.rsplit('.').next().unwrap_or_default() {
        "Timestamp" | "Time" => counts(TimeUnit::Millisecond),
        "NanoTimestamp" | "NanoTime" | "NanoDuration" => counts(TimeUnit::Nanosecond),
        "Decimal" => {
            let scale = &schema["parameters"]["scale"];
            let scale = scale.as_str().and_then(|scale| scale.parse().ok()).unwrap_or(0);
            Encoding { decimals: Decimals::Scaled(scale), ..unsaid }
        }
        "VariableScaleDecimal" => Encoding { decimals: Decimals::Bytes, ..unsaid },
        _ => counts(TimeUnit::Microsecond),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;
    use arrow::datatypes::{DataType, Field};
    use arrow::util::display::array_value_to_string;
    use base64::Engine as _;
    use proptest::prelude::*;

    fn fields(columns: &[(&str, DataType)]) -> Fields {
        columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
    }

    /// Events as lines, and after them what is bad.
    fn shown(mut debezium: Debezium, messages: &[(Option<&str>, Option<&str>)]) -> Vec<String> {
        let messages: Vec<Payload<'_>> = messages
            .iter()
            .map(|(key, value)| Payload { key: key.map(str::as_bytes), value: value.map(str::as_bytes) })
            .collect();
        let events = debezium.decode(&messages).expect("decodes");
        events.columns.iter().for_each(|column| column.to_data().validate_full().expect("a valid array"));
        let mut lines = Vec::new();
        for row in 0..events.ops.len() {
            let values = events.columns.iter().enumerate().map(|(place, column)| {
                let at = (u32::try_from(row).expect("small"), u32::try_from(place).expect("small"));
                match column.is_null(row) {
                    _ if events.unchanged.contains(&at) => "same".to_owned(),
                    true => "NULL".to_owned(),
                    false => array_value_to_string(column, row).expect("shown"),
                }
            });
            let values = values.collect::<Vec<_>>().join(" ");
            lines.push(format!("{} {:?} {values}", events.from[row], events.ops[row]));
        }
        lines.extend(events.bad.iter().map(|bad| format!("{} {}", bad.message, bad.reason)));
        lines
    }

    fn keyed() -> Debezium {
        Debezium::new(&fields(&[("id", DataType::Int64), ("v", DataType::Utf8)]), vec![0]).expect("columns")
    }

    fn whole() -> Debezium {
        Debezium::new(&fields(&[("id", DataType::Int64), ("v", DataType::Utf8)]), Vec::new()).expect("columns")
    }

    fn value(text: &str) -> (Option<&str>, Option<&str>) {
        (None, Some(text))
    }

    #[test]
    fn what_happened_to_a_keyed_row() {
        let messages = [
            value(r#"{"before":null,"after":{"id":1,"v":"a"},"op":"r"}"#),
            value(r#"{"before":null,"after":{"id":1,"v":"b"},"op":"u"}"#),
            value(r#"{"before":{"id":1,"v":"b"},"after":{"id":1,"v":"c"},"op":"u"}"#),
            value(r#"{"before":{"id":1,"v":7},"after":{"id":2,"v":"__debezium_unavailable_value"},"op":"u"}"#),
            value(r#"{"before":{"id":2,"v":null},"after":null,"op":"d"}"#),
            (Some(r#"{"id":2}"#), None),
            (Some(r#"{"id":3}"#), Some(r#"{"before":null,"after":null,"op":"d"}"#)),
            (
                Some(r#"{"schema":{},"payload":{"id":4}}"#),
                Some(r#"{"schema":null,"payload":{"before":null,"op":"d"}}"#),
            ),
            value(r#"{"op":"m","message":{}}"#),
            value(r#"{"op":"t"}"#),
            value(r#"{"op":"d"}"#),
            value(r#"{"op":"u","after":{"id":"x","v":"a"}}"#),
            value(r#"{"op":"c","after":{"id":1,"v":"__debezium_unavailable_value"}}"#),
            value(r#"{"op":"c"}"#),
            value(r#"{"op":"x"}"#),
            value(r#"{"id":1,"v":"a"}"#),
            value(r#"{"op":"c","after":{"id":9,"v":"z"}}"#),
        ];
        let expected = [
            "0 Insert 1 a",
            "1 Update 1 b",
            "2 Update 1 c",
            "3 OldKey 1 NULL",
            "3 Update 2 same",
            "4 Delete 2 NULL",
            "6 Delete 3 NULL",
            "7 Delete 4 NULL",
            "9 Truncate NULL NULL",
            "16 Insert 9 z",
            "10 it has its key neither in `before` nor in the message's key",
            "11 `id` is \"x\", which is not a value of BIGINT",
            "12 `v` was left out, since it did not change. It is sent after ALTER TABLE … REPLICA IDENTITY FULL",
            "13 op is \"c\", and it has no `after`",
            "14 op is \"x\", which is none of r, c, u, d, t, m",
            "15 it has no `op`: if the connector unwraps its events, read them with another format",
        ];
        assert_eq!(shown(keyed(), &messages), expected);
    }

    /// A NULL in the key made one row of all events that had it.
    #[test]
    fn a_row_without_its_key_is_none() {
        let messages = [
            value(r#"{"before":null,"after":{"v":"a"},"op":"c"}"#),
            value(r#"{"before":null,"after":{"id":null,"v":"a"},"op":"r"}"#),
            value(r#"{"before":{"id":1},"after":{"v":"a"},"op":"u"}"#),
            value(r#"{"before":null,"after":{"id":"__debezium_unavailable_value","v":"a"},"op":"u"}"#),
            value(r#"{"before":null,"after":{"id":2,"v":"b"},"op":"u"}"#),
        ];
        let reason = "its `after` has no `id`, and that is of the table's PRIMARY KEY";
        let mut expected = vec!["4 Update 2 b".to_owned()];
        expected.extend((0..4).map(|message| format!("{message} {reason}")));
        assert_eq!(shown(keyed(), &messages), expected);
        assert_eq!(shown(whole(), &messages[..1]), ["0 Insert NULL a"]);
    }

    #[test]
    fn without_a_key_the_whole_row_says_which() {
        let messages = [
            value(r#"{"before":{"id":1,"v":"a"},"after":{"id":1,"v":"__debezium_unavailable_value"},"op":"u"}"#),
            value(r#"{"before":{"id":1,"v":"a"},"op":"d"}"#),
            value(r#"{"before":null,"after":{"id":1,"v":"b"},"op":"u"}"#),
            value(r#"{"before":{"id":1,"v":"a"},"after":{"id":{},"v":"b"},"op":"u"}"#),
            value(r#"{"before":null,"op":"d"}"#),
        ];
        let expected = [
            "0 OldKey 1 a",
            "0 Update 1 same",
            "1 Delete 1 a",
            "2 it has no `before`. It is sent after ALTER TABLE … REPLICA IDENTITY FULL",
            "3 `id` is {}, which is not a value of BIGINT",
            "4 it has no `before`. It is sent after ALTER TABLE … REPLICA IDENTITY FULL",
        ];
        assert_eq!(shown(whole(), &messages), expected);
    }

    /// As Debezium 3.7 wrote it.
    const OF_A_REAL_ONE: &str = r#"{"before":null,"after":{"id":1,"n":"fQ==","u":"bf5af522-5ff7-4edd-8fc8-d126f7de4374","j":"{\"a\": 1}","ts":"2026-11-21T15:04:32.000698Z","d":20778,"tx":"x","a":[1,2],"b":"3q0=","bo":true,"nn":{"scale":5,"value":"BMsv"}},"source":{"version":"3.7.0.Final","connector":"postgresql","name":"srv","ts_ms":1795273483921,"snapshot":"first_in_data_collection","db":"postgres","sequence":"[null,\"22289656\"]","ts_us":1795273483921847,"ts_ns":1795273483921847000,"schema":"public","table":"t","txId":726,"lsn":22289656,"xmin":null,"origin":null,"origin_lsn":null},"transaction":null,"op":"r","ts_ms":1795273484244,"ts_us":1795273484244484,"ts_ns":1795273484244484924}"#;

    #[test]
    fn a_real_envelope_is_understood() {
        let fields = fields(&[
            ("id", DataType::Int32),
            ("n", DataType::Decimal128(10, 2)),
            ("u", DataType::Utf8),
            ("j", DataType::Utf8),
            ("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))),
            ("d", DataType::Date32),
            ("a", DataType::new_list(DataType::Int32, true)),
            ("b", DataType::Binary),
            ("bo", DataType::Boolean),
            ("nn", DataType::Decimal128(38, 10)),
        ]);
        let debezium = || Debezium::new(&fields, vec![0]).expect("columns");
        let row = "0 Insert 1 1.25 bf5af522-5ff7-4edd-8fc8-d126f7de4374 {\"a\": 1} 2026-11-21T15:04:32.000698Z \
                   2026-11-21 [1, 2] dead true 3.1415900000";
        assert_eq!(shown(debezium(), &[value(OF_A_REAL_ONE)]), [row]);
        let message = Payload { key: None, value: Some(OF_A_REAL_ONE.as_bytes()) };
        let events = debezium().decode(&[message]).expect("decodes");
        assert_eq!(events.commit_time, Some(1_795_273_483_921_847));
    }

    #[test]
    fn a_schema_says_what_values_mean() {
        let stamp = || DataType::Timestamp(TimeUnit::Microsecond, None);
        let columns =
            [("id", DataType::Int64), ("at", stamp()), ("n", DataType::Decimal128(10, 2)), ("t", DataType::Utf8)];
        let debezium = || Debezium::new(&fields(&columns), vec![0]).expect("columns");
        let schema = |at: &str, n: &str| {
            format!(
                r#"{{"type":"struct","fields":[{{"field":"after","type":"struct","fields":[
                {{"field":"id","type":"int64"}},{{"field":"at","type":"int64","name":"{at}"}},{{"field":"n",{n}}},
                {{"field":"t","type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{{"scale":"1"}}}}]}}]}}"#
            )
        };
        let message = |schema: &str, n: &str| {
            format!(
                r#"{{"schema":{schema},"payload":{{"op":"c","after":{{"id":1,"at":1500000000,"n":{n},"t":"fQ=="}}}}}}"#
            )
        };
        let precise = r#""type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"3"}"#;
        let messages = [
            message(&schema("io.debezium.time.Timestamp", precise), r#""AdQ=""#),
            message(&schema("io.debezium.time.MicroTimestamp", r#""type":"string""#), r#""1234""#),
            message(&schema("io.debezium.time.NanoTimestamp", r#""type":"double""#), "1.5"),
        ];
        let mut lines = shown(debezium(), &messages.iter().map(|message| value(message)).collect::<Vec<_>>());
        // 0.468 has no place in two digits.
        assert!(lines.pop().expect("a bad one").contains("`n` is \"AdQ=\""), "{lines:?}");
        assert_eq!(
            lines,
            ["1 Insert 1 1970-01-01T00:25:00 1234.00 12.5", "2 Insert 1 1970-01-01T00:00:01.500 1.50 12.5"]
        );
        let bare = [value(r#"{"op":"c","after":{"id":1,"at":1500000000,"n":"fQ==","t":"fQ=="}}"#)];
        assert_eq!(shown(debezium(), &bare), ["0 Insert 1 1970-01-01T00:25:00 1.25 fQ=="]);
        let digits = [value(r#"{"op":"c","after":{"id":1,"n":"1234"}}"#)];
        assert_eq!(shown(debezium().with_decimals_as_digits(), &digits), ["0 Insert 1 NULL 1234.00 NULL"]);
    }

    #[test]
    fn the_stand_in_is_debezium_s_in_each_type() {
        let text = "__debezium_unavailable_value";
        let bytes = base64::engine::general_purpose::STANDARD.encode(text);
        let numbers = text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(",");
        let expected = [format!("\"{text}\""), format!("\"{bytes}\""), format!("[\"{text}\"]"), format!("[{numbers}]")];
        assert_eq!(crate::format::json::PLACEHOLDERS.map(str::to_owned), expected);
    }

    proptest! {
        /// An envelope that was cut or changed anywhere leaves the next one whole.
        #[test]
        fn a_damaged_envelope_leaves_nothing(at: prop::sample::Index, with in "[\\[\\]{}\",:0-9a-z]?") {
            let good = r#"{"before":{"id":1,"v":"a"},"after":{"id":2,"v":"b"},"op":"u"}"#;
            let mut damaged = good.to_owned();
            let at = at.index(good.len());
            damaged.replace_range(at..=at, &with);
            let lines = shown(keyed(), &[value(&damaged), value(good)]);
            let last = ["1 OldKey 1 NULL".to_owned(), "1 Update 2 b".to_owned()];
            prop_assert!(lines.windows(2).any(|two| two == last), "{:?}", lines);
        }
    }

    #[test]
    fn a_key_that_before_does_not_have_is_looked_for_in_the_messages_key() {
        let deleted = Some(r#"{"before":{"v":"a"},"op":"d"}"#);
        let messages = [(Some(r#"{"id":3}"#), deleted), (Some(r#"{"v":"a"}"#), deleted)];
        let refused = "1 it has its key neither in `before` nor in the message's key";
        assert_eq!(shown(keyed(), &messages), ["0 Delete 3 NULL", refused]);
    }

    #[test]
    fn an_envelope_may_have_null_for_any_part() {
        let messages = [
            value(r#"{"after":{"id":1,"v":"a"},"source":null,"op":"c"}"#),
            value(r#"{"after":{"id":1,"v":"a"},"op":null}"#),
        ];
        let no_op = "1 it has no `op`: if the connector unwraps its events, read them with another format";
        assert_eq!(shown(keyed(), &messages), ["0 Insert 1 a", no_op]);
    }

    #[test]
    fn the_time_of_a_commit_is_the_finer_one_in_whichever_order() {
        for (source, expected) in [
            (r#""ts_ms":5"#, Some(5_000)),
            (r#""ts_ms":5,"ts_us":5001"#, Some(5_001)),
            (r#""ts_us":5001,"ts_ms":5"#, Some(5_001)),
            (r#""ts_us":"x""#, None),
        ] {
            let text = format!(r#"{{"after":{{"id":1}},"source":{{{source}}},"op":"c"}}"#);
            let events = keyed().decode(&[Payload { key: None, value: Some(text.as_bytes()) }]).expect("decodes");
            assert_eq!(events.commit_time, expected, "{source}");
        }
    }

    #[test]
    fn milliseconds_are_such_where_the_schema_says_so() {
        let columns = [("id", DataType::Int64), ("at", DataType::Timestamp(TimeUnit::Microsecond, None))];
        let debezium = Debezium::new(&fields(&columns), vec![0]).expect("columns");
        let schema = r#"{"fields":[{"field":"after","fields":[{"field":"at","name":"io.debezium.time.Timestamp"}]}]}"#;
        let text = format!(r#"{{"schema":{schema},"payload":{{"op":"c","after":{{"id":1,"at":1500}}}}}}"#);
        assert_eq!(shown(debezium, &[value(&text)]), ["0 Insert 1 1970-01-01T00:00:01.500"]);
    }

    #[test]
    fn a_row_moves_by_a_text_too() {
        let columns = [("id", DataType::Utf8), ("v", DataType::Int64)];
        let debezium = Debezium::new(&fields(&columns), vec![0]).expect("columns");
        let messages = [
            value(r#"{"before":{"id":"ab","v":1},"after":{"id":"ab","v":2},"op":"u"}"#),
            value(r#"{"before":{"id":"ab","v":2},"after":{"id":"ac","v":2},"op":"u"}"#),
        ];
        assert_eq!(shown(debezium, &messages), ["0 Update ab 2", "1 OldKey ab NULL", "1 Update ac 2"]);
    }

    #[test]
    fn a_decimal_of_any_scale_says_its_own() {
        let debezium = Debezium::new(&fields(&[("n", DataType::Decimal128(20, 5))]), Vec::new()).expect("columns");
        let name = "io.debezium.data.VariableScaleDecimal";
        let schema = format!(r#"{{"fields":[{{"field":"after","fields":[{{"field":"n","name":"{name}"}}]}}]}}"#);
        let n = r#"{"scale":5,"value":"BMsv"}"#;
        let text = format!(r#"{{"schema":{schema},"payload":{{"op":"c","after":{{"n":{n}}}}}}}"#);
        assert_eq!(shown(debezium, &[value(&text)]), ["0 Insert 3.14159"]);
    }

    /// A name that comes twice has its last value, and what was left out the first time is there then.
    #[test]
    fn a_value_that_comes_after_its_stand_in_is_the_value() {
        let twice = r#"{"op":"u","after":{"id":1,"v":"__debezium_unavailable_value","v":"b"}}"#;
        let other = r#"{"op":"u","after":{"id":1,"v":"b","v":"__debezium_unavailable_value"}}"#;
        assert_eq!(shown(keyed(), &[value(twice), value(other)]), ["0 Update 1 b", "1 Update 1 same"]);
    }
}
