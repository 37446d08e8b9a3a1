//! What is in the topics: orders of some 200 bytes, in three forms.

use std::fmt::Write as _;

/// The schema of [`avro`].
pub const SCHEMA: &str = r#"{"type":"record","name":"order","fields":[
    {"name":"id","type":"long"},{"name":"customer","type":"int"},{"name":"status","type":"string"},
    {"name":"city","type":"string"},{"name":"amount","type":"double"},{"name":"note","type":"string"},
    {"name":"paid","type":"boolean"},{"name":"quantity","type":"int"}]}"#;
/// The columns of a table of them.
pub const COLUMNS: &str =
    "id BIGINT, customer INT, status TEXT, city TEXT, amount DOUBLE PRECISION, note TEXT, paid BOOLEAN, quantity INT";

const STATES: [&str; 4] = ["open", "picked", "shipped", "delivered"];
const NOTE: &str = "please leave it with the neighbours if nobody is at home before six";

/// One as JSON.
pub fn json(id: usize, out: &mut String) {
    out.clear();
    let _ = write!(
        out,
        r#"{{"id":{id},"customer":{},"status":"{}","city":"city number {}","amount":{}.25,"note":"{NOTE}","paid":{},"quantity":{}}}"#,
        id % 1000,
        STATES[id % 4],
        id % 97,
        id % 10_000,
        id.is_multiple_of(3),
        id % 9,
    );
}

/// One as Debezium tells that it was inserted.
pub fn debezium(id: usize, out: &mut String) {
    let mut row = String::new();
    json(id, &mut row);
    out.clear();
    let _ = write!(
        out,
        r#"{{"before":null,"after":{row},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"srv","ts_ms":1795273640487,"snapshot":"false","db":"shop","schema":"public","table":"orders","txId":{id},"lsn":22568448}},"op":"c","ts_ms":1795273640592}}"#
    );
}

/// One as Avro (specification 1.11, "Binary Encoding"), framed with the id of its schema.
pub fn avro(schema: u32, id: usize, out: &mut Vec<u8>) {
    fn long(value: i64, out: &mut Vec<u8>) {
        let mut left = (value << 1 ^ value >> 63).cast_unsigned();
        while left > 0x7f {
            out.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
    fn text(text: &str, out: &mut Vec<u8>) {
        long(text.len().cast_signed() as i64, out);
        out.extend_from_slice(text.as_bytes());
    }
    let number = i64::try_from(id).unwrap_or(i64::MAX);
    out.clear();
    out.push(0);
    out.extend_from_slice(&schema.to_be_bytes());
    long(number, out);
    long(number % 1000, out);
    text(STATES[id % 4], out);
    text(&format!("city number {}", id % 97), out);
    out.extend_from_slice(&((number % 10_000) as f64 + 0.25).to_le_bytes());
    text(NOTE, out);
    out.push(u8::from(id.is_multiple_of(3)));
    long(number % 9, out);
}
