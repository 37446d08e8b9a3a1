//! Messages of Python's protobuf, and ones made wrong, against what they say.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::format::registry::{Language, SchemaError};

/// Schemas by number.
struct Schemas {
    known: Vec<(u32, Schema)>,
    latest: Option<Schema>,
}

impl SchemaSource for Schemas {
    fn schema(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        match self.known.iter().find(|(known, _)| *known == id) {
            Some((_, schema)) => Ok(Arc::new(schema.clone())),
            None if id == 9 => Err(SchemaError::Unavailable("down".to_owned())),
            None => Err(SchemaError::Bad(format!("no schema {id}"))),
        }
    }

    fn latest(&self) -> Result<Option<Arc<Schema>>, SchemaError> {
        Ok(self.latest.clone().map(Arc::new))
    }
}

fn schema_of(text: &str) -> Schema {
    let references = vec![("common/money.proto".to_owned(), include_str!("money.proto").to_owned())];
    Schema { language: Language::Protobuf, text: text.to_owned(), references }
}

fn rows_of(fields: Vec<Field>, known: &[(u32, &str)], latest: Option<&str>) -> ProtobufRows {
    let known = known.iter().map(|(id, text)| (*id, schema_of(text))).collect();
    ProtobufRows::new(&Fields::from(fields), Schemas { known, latest: latest.map(schema_of) })
}

fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn framed_as(id: u32, indexes: &[u8], body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], indexes, body].concat()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect()
}

fn decode(rows: &mut ProtobufRows, messages: &[Vec<u8>]) -> Rows {
    let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let decoded = rows.decode(&payloads).expect("the schemas are there");
    for (column, field) in decoded.columns.iter().zip(&rows.fields) {
        assert_eq!(column.data_type(), field.data_type());
        assert_eq!(column.len(), decoded.from.len());
        column.to_data().validate_full().expect("a sound column");
    }
    assert!(decoded.from.is_sorted() && decoded.bad.is_sorted_by_key(|bad| bad.message));
    assert_eq!(decoded.from.len() + decoded.bad.len(), messages.len());
    decoded
}

/// A value as text; instants in UTC without saying so, since Arrow knows no zones by name here.
fn text(column: &ArrayRef, row: usize) -> String {
    let column = match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(instants) => Arc::new(instants.clone().with_timezone_opt(None::<&str>)),
        None => Arc::clone(column),
    };
    if column.is_null(row) { "NULL".to_owned() } else { array_value_to_string(&column, row).expect("a value") }
}

fn check(rows: &mut ProtobufRows, messages: &[Vec<u8>], expected: Expect) {
    let decoded = decode(rows, messages);
    let mut shown = String::new();
    for (row, from) in decoded.from.iter().enumerate() {
        let values = decoded.columns.iter().map(|column| text(column, row));
        shown += &format!("{from}: {}\n", values.collect::<Vec<_>>().join(" | "));
    }
    for bad in &decoded.bad {
        shown += &format!("{}! {}\n", bad.message, bad.reason);
    }
    expected.assert_eq(&shown);
}

const ALL: &str = include_str!("all.proto");
/// Made with Python's protobuf from `all.proto`: `SerializeToString(deterministic=True)`.
const FULL: &str = "080110f9ffffffffffffffff0118818080808080802020ffffffff0f29ffffffffffffffff350000003f390000\
        00000000f4bf420a6e61c3af766520e298834a0200ff5001580062006a0b0880e2cfaa06108094ef3a7208085a\
        1080cab5ee017a080a0345555210cf0f82010b0a016110021a01781a01798201008a01050a016110018a01050a\
        0162100292011008ffffffffffffffffff0112030a017aa00105aa01020201";

#[test]
fn a_message_of_every_type_is_the_columns_of_its_schema() {
    let fields = columns(&schema_of(ALL)).expect("columns");
    let types: Vec<String> = fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    expect![[r#"
        flag Boolean
        small Int32
        large Int64
        unsigned Int64
        unsigned_large Decimal128(20, 0)
        ratio Float32
        total Float64
        text Utf8
        raw Binary
        status Utf8
        maybe Int32
        wrapped Utf8
        at Timestamp(µs, "UTC")
        took Interval(MonthDayNano)
        price Struct("currency": Utf8, "cents": Int64)
        lines List(Struct("sku": Utf8, "count": Int32, "notes": List(Utf8)))
        stock Map("entries": non-null Struct("key": non-null Utf8, "value": Int64), unsorted)
        by_shelf Map("entries": non-null Struct("key": non-null Int32, "value": Struct("sku": Utf8, "count": Int32, "notes": List(Utf8))), unsorted)
        card Utf8
        invoice Int64
        codes List(Int32)"#]].assert_eq(&types.join("\n"));
    let mut rows = rows_of(fields, &[(1, ALL)], None);
    let messages = [framed_as(1, &[0], &hex(FULL)), framed_as(1, &[2, 0], &[])];
    let decoded = decode(&mut rows, &messages);
    let lines = decoded
        .columns
        .iter()
        .zip(&rows.fields)
        .map(|(column, field)| format!("{}: {} | {}", field.name(), text(column, 0), text(column, 1)));
    expect![[r#"
        flag: true | false
        small: -7 | 0
        large: -9007199254740993 | 0
        unsigned: 4294967295 | 0
        unsigned_large: 18446744073709551615 | 0
        ratio: 0.5 | 0.0
        total: -1.25 | 0.0
        text: naïve ☃ | 
        raw: 00ff | 
        status: PAID | UNKNOWN
        maybe: 0 | NULL
        wrapped:  | NULL
        at: 2023-11-14T22:13:20.123456 | NULL
        took: 1 mins 30.500000000 secs | NULL
        price: {currency: EUR, cents: 1999} | NULL
        lines: [{sku: a, count: 2, notes: [x, y]}, {sku: , count: 0, notes: []}] | []
        stock: {a: 1, b: 2} | {}
        by_shelf: {-1: {sku: z, count: 0, notes: []}} | {}
        card: NULL | NULL
        invoice: 5 | NULL
        codes: [1, -1] | []"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    assert_eq!(decoded.bad, []);
}

#[test]
fn message_indexes_lead_to_the_message() {
    let mut rows = rows_of(vec![nullable("n", DataType::Int64), nullable("s", DataType::Utf8)], &[(1, ALL)], None);
    let messages = [
        framed_as(1, &[4, 2, 0], &[8, 5]),
        framed_as(1, &[4, 2, 2], b"\x0a\x02hi"),
        framed_as(1, &[0], &[]),
        framed_as(1, &[4, 2, 4], &[]),
        framed_as(1, &[2, 4], &[]),
        framed_as(1, &[], &[]),
        framed_as(1, &[4, 2], &[]),
        framed_as(1, &[1], &[]),
        framed_as(1, &[0xfe, 0xff, 0xff, 0xff, 0x0f], &[]),
        framed_as(1, &[0xff; 9], &[]),
        framed_as(1, &[126], &[2; 100]),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
        0: 5 | NULL
        1: NULL | hi
        2: NULL | NULL
        3! schema 1: its schema has no message at [1, 2]
        4! schema 1: its schema has no message at [2]
        5! it ends within the index of its message
        6! it ends within the index of its message
        7! it has a message index below zero
        8! it says that its message is 2147483647 messages deep
        9! it ends within the index of its message
        10! it says that its message is 63 messages deep
    "#]],
    );
}

#[test]
fn each_message_that_can_t_be_read_loses_only_itself() {
    let fields = vec![
        nullable("text", DataType::Utf8),
        nullable("small", DataType::Int32),
        nullable("codes", DataType::List(Arc::new(nullable("item", DataType::Int32)))),
    ];
    let mut rows = rows_of(fields, &[(1, ALL), (2, "syntax = \"proto3\"; message {")], None);
    let whole = hex(FULL);
    let messages = [
        framed_as(1, &[0], &whole),
        Vec::new(),
        b"{}".to_vec(),
        framed_as(1, &[0], &whole[..whole.len() - 1]),
        framed_as(1, &[0], &[&whole[..], &[0x42]].concat()),
        framed_as(1, &[0], &[&whole[..], &[0x07]].concat()),
        framed_as(1, &[0], b"\x42\x01\xff"),
        framed_as(1, &[0], b"\x42\x7fab"),
        framed_as(7, &[0], &whole),
        framed_as(2, &[0], &whole),
        framed_as(1, &[0], &[0x10, 7]),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
        0: naïve ☃ | -7 | [1, -1]
        10:  | 7 | []
        1! it is empty; a schema registry's number is to come first
        2! it begins with byte 123, not with 0 and the number of a schema
        3! `codes` ends in the midst of a value
        4! `text`: invalid varint
        5! it is no message of shop.Order: invalid wire type value: 7
        6! `text` is not UTF-8
        7! `text` ends in the midst of a value
        8! no schema 7
        9! schema 2: its schema can't be compiled: expected an identifier, but found '{'
    "#]],
    );
    let messages = [framed_as(9, &[0], &whole)];
    assert!(matches!(rows.decode(&[&messages[0]]), Err(FormatError::Registry(reason)) if reason == "down"));
}

#[test]
fn values_that_do_not_fit_are_bad_and_never_null_or_rounded() {
    let fields = vec![
        nullable("small", DataType::Int8),
        nullable("unsigned", DataType::Int32),
        nullable("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None)),
        nullable("took", DataType::Int64),
    ];
    let mut rows = rows_of(fields, &[(1, ALL)], None);
    // A `Timestamp` or a `Duration` of these seconds and nanoseconds, as field 13 or 14.
    let time = |field: u8, seconds: &[u8], nanos: &[u8]| {
        let inner = [&[8], seconds, &[16], nanos].concat();
        [vec![field << 3 | 2, u8::try_from(inner.len()).expect("short")], inner].concat()
    };
    let far = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let messages = [
        framed_as(1, &[0], &[0x10, 127]),
        framed_as(1, &[0], &[0x10, 0x80, 1]),
        framed_as(1, &[0], &[0x20, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        framed_as(1, &[0], &time(13, &[1], &[0xe8, 7])),
        framed_as(1, &[0], &time(13, &[1], &[1])),
        framed_as(1, &[0], &time(13, &far, &[0])),
        framed_as(1, &[0], &time(14, &[1], &[0xe8, 7])),
        framed_as(1, &[0], &time(14, &far, &[0])),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
            0: 127 | 0 | NULL | NULL
            3: 0 | 0 | 1970-01-01T00:00:01.000001 | NULL
            4: 0 | 0 | 1970-01-01T00:00:01 | NULL
            6: 0 | 0 | NULL | 1000001
            1! `small` is 128, which is not exactly a value of TINYINT
            2! `unsigned` is 4294967295, which is not exactly a value of INTEGER
            5! `at`: 9223372036854775807 seconds are more than fit in microseconds
            7! `took`: 9223372036854775807 seconds are more than fit in microseconds
        "#]],
    );
    let mut rows = rows_of(vec![nullable("small", DataType::Utf8)], &[(1, ALL)], None);
    check(
        &mut rows,
        &messages[..1],
        expect![[r#"
        0! schema 1: `small` is INTEGER, which is never taken as TEXT
    "#]],
    );
}

#[test]
fn what_a_writer_lacks_is_as_the_newest_schema_has_it_unset() {
    const OLD: &str = "syntax = \"proto3\"; package shop; message M { int32 a = 1; }";
    const NEW: &str =
        "syntax = \"proto3\"; package shop; message M { string b = 2; int32 a = 1; optional string c = 3; }";
    let fields: Vec<Field> = ["b", "c", "d"].iter().map(|name| nullable(name, DataType::Utf8)).collect();
    let messages = [framed_as(1, &[0], &[8, 1])];
    check(
        &mut rows_of(fields.clone(), &[(1, OLD)], Some(NEW)),
        &messages,
        expect![[r#"
        0:  | NULL | NULL
    "#]],
    );
    check(
        &mut rows_of(fields, &[(1, OLD)], None),
        &messages,
        expect![[r#"
        0: NULL | NULL | NULL
    "#]],
    );
    let order: Vec<String> =
        columns(&schema_of(NEW)).expect("columns").iter().map(|field| field.name().clone()).collect();
    assert_eq!(order, ["b", "a", "c"]);
}

#[test]
fn a_message_within_itself_is_refused_unless_what_is_wanted_ends() {
    const TREE: &str = "syntax = \"proto3\"; message T { int32 n = 1; T left = 2; repeated T all = 3; }";
    assert!(columns(&schema_of(TREE)).expect_err("no end").contains("the message T has itself within it"));
    let one = DataType::Struct(Fields::from(vec![nullable("n", DataType::Int32)]));
    let mut rows = rows_of(vec![nullable("n", DataType::Int32), nullable("left", one)], &[(1, TREE)], None);
    check(
        &mut rows,
        &[framed_as(1, &[0], &[8, 1, 18, 2, 8, 2])],
        expect![[r#"
        0: 1 | {n: 2}
    "#]],
    );
    // Deeper than anybody reads without end.
    let mut body = Vec::new();
    for _ in 0..300 {
        let len = u16::try_from(body.len()).expect("short");
        let len = [u8::try_from(len & 127).expect("seven bits") | 128, u8::try_from(len >> 7).expect("seven bits")];
        body = [&[18][..], &len, &body].concat();
    }
    assert_eq!(decode(&mut rows, &[framed_as(1, &[0], &body)]).bad.len(), 1);
}

#[test]
fn maps_are_lists_of_pairs_where_those_are_wanted() {
    let pair = vec![nullable("k", DataType::Utf8), nullable("v", DataType::Int64)];
    let list = DataType::List(Arc::new(nullable("item", DataType::Struct(pair.into()))));
    let mut rows = rows_of(vec![nullable("stock", list)], &[(1, ALL)], None);
    check(
        &mut rows,
        &[framed_as(1, &[0], &hex(FULL))],
        expect![[r#"
        0: [{k: a, v: 1}, {k: b, v: 2}]
    "#]],
    );
}

#[test]
fn descriptors_in_base64_and_what_confluent_has_built_in_are_schemas() {
    use base64::Engine as _;
    const TEXT: &str = "syntax = \"proto3\"; import \"confluent/meta.proto\"; import \"confluent/type/decimal.proto\";
        message M { confluent.type.Decimal d = 1 [(confluent.field_meta) = { doc: \"x\" }]; }";
    assert_eq!(columns(&schema_of(TEXT)).expect("columns").len(), 1);
    let file = schema::compile(&schema_of("syntax = \"proto3\"; message M { int32 a = 1; }")).expect("compiles");
    let encoded = base64::engine::general_purpose::STANDARD.encode(file.encode_to_vec());
    assert_eq!(columns(&schema_of(&encoded)).expect("columns"), [nullable("a", DataType::Int32)]);
}

#[test]
fn ten_thousand_messages_that_can_t_be_read_take_linear_time() {
    let mut rows = rows_of(vec![nullable("text", DataType::Utf8)], &[(1, ALL), (2, "message {")], None);
    for (what, poison) in [
        ("truncated", framed_as(1, &[0], b"\x42\x7fab")),
        ("of a schema that can't be used", framed_as(2, &[0], &[])),
        ("of an unknown schema", framed_as(4, &[0], &[])),
    ] {
        let messages = vec![poison; 10_000];
        let begun = std::time::Instant::now();
        assert_eq!(decode(&mut rows, &messages).bad.len(), 10_000);
        println!("10,000 {what}: {:?}", begun.elapsed());
        assert!(begun.elapsed().as_secs() < 30, "{what}");
    }
}

proptest! {
    #[test]
    fn random_bytes_are_no_trouble(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
        let mut rows = rows_of(columns(&schema_of(ALL)).expect("columns"), &[(1, ALL)], None);
        let messages: Vec<Vec<u8>> = bodies.iter().map(|body| framed_as(1, &[0], body)).collect();
        decode(&mut rows, &messages);
    }
}

/// `cargo test --release -p connectors protobuf -- --ignored --nocapture`: time a message, decoded into columns.
#[test]
#[ignore = "a measurement"]
fn time_a_message() {
    const EIGHT: &str = "syntax = \"proto3\"; message M { int64 id = 1; int64 customer = 2; string status = 3;
        double total = 4; optional string note = 5; int32 items = 6; int64 at = 7; string price = 8; }";
    let text =
        |field: u8, text: &str| [&[field << 3 | 2, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let note = text(5, "please ring twice, then leave it at the door of");
    let body = [
        vec![8, 200, 1, 16, 210, 1],
        text(3, "shipped today"),
        [&[33][..], &1.5_f64.to_le_bytes()].concat(),
        note,
        vec![48, 3, 56, 210, 1],
        text(8, "123.45"),
    ]
    .concat();
    let message = framed_as(1, &[0], &body);
    let payloads = vec![message.as_slice(); 8192];
    let mut rows = rows_of(columns(&schema_of(EIGHT)).expect("columns"), &[(1, EIGHT)], None);
    for batch in [8192, 100, 1] {
        let rounds = 100;
        let begun = std::time::Instant::now();
        for _ in 0..rounds {
            assert_eq!(rows.decode(&payloads[..batch]).expect("decodes").from.len(), batch);
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds) / batch as f64;
        println!("{} bytes, 8 fields, {batch} a batch: {micros:.3} µs a message", message.len());
    }
}
