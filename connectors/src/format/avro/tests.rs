//! Messages of fastavro (by hand: hex below), and random ones, against what they say.

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::array_value_to_string;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::format::registry::SchemaError;

/// Schemas by number; number 9 is not to be had now.
struct Schemas {
    known: Vec<(u32, &'static str)>,
    latest: Option<&'static str>,
    asked: Arc<AtomicUsize>,
}

fn schema_of(text: &str) -> Schema {
    Schema { language: Language::Avro, text: text.to_owned(), references: Vec::new() }
}

impl SchemaSource for Schemas {
    fn schema(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.known.iter().find(|(known, _)| *known == id) {
            Some((_, text)) => Ok(Arc::new(schema_of(text))),
            None if id == 9 => Err(SchemaError::Unavailable("down".to_owned())),
            None => Err(SchemaError::Bad(format!("no schema {id}"))),
        }
    }

    fn latest(&self) -> Result<Option<Arc<Schema>>, SchemaError> {
        Ok(self.latest.map(|text| Arc::new(schema_of(text))))
    }
}

fn rows_of(fields: Vec<Field>, known: &[(u32, &'static str)], latest: Option<&'static str>) -> AvroRows {
    let fields = Fields::from(fields);
    AvroRows::new(&fields, Schemas { known: known.to_vec(), latest, asked: Arc::default() })
}

fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn framed_as(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect()
}

fn decode(rows: &mut AvroRows, messages: &[Vec<u8>]) -> Rows {
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
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    array_value_to_string(&fit::without_zone(column), row).expect("a value")
}

/// Values by row, then whatever is bad.
fn shown(decoded: &Rows) -> String {
    let mut shown = String::new();
    for (row, from) in decoded.from.iter().enumerate() {
        let values = decoded.columns.iter().map(|column| text(column, row));
        shown += &format!("{from}: {}\n", values.collect::<Vec<_>>().join(" | "));
    }
    for bad in &decoded.bad {
        shown += &format!("{}! {}\n", bad.message, bad.reason);
    }
    shown
}

fn check(rows: &mut AvroRows, messages: &[Vec<u8>], expected: Expect) {
    expected.assert_eq(&shown(&decode(rows, messages)));
}

/// An Avro long: zigzag, then seven bits a byte.
fn long(value: i64) -> Vec<u8> {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 128 {
        bytes.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes
}

fn string(value: &str) -> Vec<u8> {
    [long(i64::try_from(value.len()).expect("short")), value.as_bytes().to_vec()].concat()
}

/// Made with fastavro's `schemaless_writer` from `all.avsc`: all values, then as many empty ones as there are.
const ALL: &str = include_str!("all.avsc");
const FULL: &str = "010d82808080808080200000003f000000000000f4bf146e61c3af766520e298830400ff02027808075bcd15ff\
        ffffffffffffff26058936e527ad679ec3aa92ef5b7c74f1e2df798cb502fcabb92dfeffbadd8305fccb82d0be\
        630180a8aed8c7bfce972ffccb82d0be63eacea194a1a189064866383164346661652d376465632d313164302d\
        613736352d30306130633931653662663661626364020100000002000000e8030000084d61696e000402610262\
        00040200000000000000400600000000000010400002066575720200";
const EMPTY: &str = "010d82808080808080200000003f000000000000f4bf146e61c3af766520e298830400ff0008075bcd15ffffff\
        ffffffffff26058936e527ad679ec3aa92ef5b7c74f1e2df798cb502fcabb92dfeffbadd8305fccb82d0be6301\
        00fccb82d0be63eacea194a1a189064866383164346661652d376465632d313164302d613736352d3030613063\
        3931653662663661626364000100000002000000e803000000020838303030000000";

#[test]
fn a_message_of_every_type_is_the_columns_of_its_schema() {
    let fields = columns(&schema_of(ALL)).expect("columns");
    let types: Vec<String> = fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    expect![[r#"
        flag Boolean
        small Int32
        large Int64
        ratio Float32
        double Float64
        text Utf8
        raw Binary
        maybe Utf8
        price Decimal128(10, 2)
        exact Decimal128(18, 3)
        wide Decimal256(60, 1)
        day Date32
        time_ms Time64(µs)
        time_us Time64(µs)
        at_ms Timestamp(µs, "UTC")
        at_us Timestamp(µs, "UTC")
        at_ns Timestamp(µs, "UTC")
        local_ms Timestamp(µs)
        local_us Timestamp(µs)
        id Utf8
        fixed Binary
        color Utf8
        span Interval(MonthDayNano)
        address Struct("street": Utf8, "zip": Utf8)
        tags List(Utf8)
        points List(Struct("x": Int32, "y": Float64))
        prices Map("entries": non-null Struct("key": non-null Utf8, "value": Int64), unsorted)"#]]
    .assert_eq(&types.join("\n"));
    let mut rows = rows_of(fields, &[(1, ALL)], None);
    let messages = [framed_as(1, &hex(FULL)), framed_as(1, &hex(EMPTY))];
    let decoded = decode(&mut rows, &messages);
    let lines = decoded
        .columns
        .iter()
        .zip(&rows.fields)
        .map(|(column, field)| format!("{}: {} | {}", field.name(), text(column, 0), text(column, 1)));
    expect![[r#"
        flag: true | true
        small: -7 | -7
        large: 9007199254740993 | 9007199254740993
        ratio: 0.5 | 0.5
        double: -1.25 | -1.25
        text: naïve ☃ | naïve ☃
        raw: 00ff | 00ff
        maybe: x | NULL
        price: 1234567.89 | 1234567.89
        exact: -0.001 | -0.001
        wide: 12345678901234567890123456789012345678901234.5 | 12345678901234567890123456789012345678901234.5
        day: 2024-02-29 | 2024-02-29
        time_ms: 13:14:15.678 | 13:14:15.678
        time_us: 23:59:59.999999 | 23:59:59.999999
        at_ms: 2024-02-29T13:14:15.678 | 2024-02-29T13:14:15.678
        at_us: 1969-12-31T23:59:59.999999 | 1969-12-31T23:59:59.999999
        at_ns: 2023-11-14T22:13:20.123456 | 1970-01-01T00:00:00
        local_ms: 2024-02-29T13:14:15.678 | 2024-02-29T13:14:15.678
        local_us: 2024-02-29T13:14:15.678901 | 2024-02-29T13:14:15.678901
        id: f81d4fae-7dec-11d0-a765-00a0c91e6bf6 | f81d4fae-7dec-11d0-a765-00a0c91e6bf6
        fixed: 61626364 | 61626364
        color: GREEN | RED
        span: 1 mons 2 days 1.000000000 secs | 1 mons 2 days 1.000000000 secs
        address: {street: Main, zip: } | {street: , zip: 8000}
        tags: [a, b] | []
        points: [{x: 1, y: 2.0}, {x: 3, y: 4.0}] | []
        prices: {eur: 1} | {}"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    assert_eq!(decoded.bad, []);
}

#[test]
fn every_cut_of_a_message_loses_it_alone() {
    let mut rows = rows_of(columns(&schema_of(ALL)).expect("columns"), &[(1, ALL)], None);
    let whole = framed_as(1, &hex(FULL));
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for end in 0..whole.len() {
        messages.extend([whole[..end].to_vec(), whole.clone()]);
    }
    messages.extend([[&whole[..], &[0]].concat(), [&whole[..], &whole[..]].concat(), whole.clone()]);
    let decoded = decode(&mut rows, &messages);
    assert_eq!(decoded.from.len(), whole.len() + 1, "{}", shown(&decoded));
    assert!(decoded.from[..whole.len()].iter().enumerate().all(|(place, from)| *from == place * 2 + 1));
    let of = |row| text(&decoded.columns[23], row);
    assert!((1..decoded.from.len()).all(|row| of(row) == of(0)), "{}", shown(&decoded));
}

const ORDER: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"id","type":"long"},{"name":"who","type":"string"},{"name":"n","type":["null","int"]}]}"#;

fn order(id: i64, who: &str, n: Option<i64>) -> Vec<u8> {
    [long(id), string(who), n.map_or(vec![0], |n| [vec![2], long(n)].concat())].concat()
}

fn order_fields() -> Vec<Field> {
    vec![nullable("id", DataType::Int64), nullable("who", DataType::Utf8), nullable("n", DataType::Int32)]
}

#[test]
fn each_message_that_can_t_be_read_loses_only_itself() {
    let mut rows = rows_of(order_fields(), &[(1, ORDER)], None);
    let good = framed_as(1, &order(1, "ann", Some(5)));
    let messages = [
        good.clone(),
        Vec::new(),
        b"{\"a\":1}".to_vec(),
        vec![0, 0, 0],
        framed_as(7, &order(1, "ann", None)),
        framed_as(1, &[]),
        framed_as(1, &order(1, "ann", None)[..3]),
        framed_as(1, &[order(1, "ann", None), vec![7]].concat()),
        framed_as(1, &[order(1, "ann", None), good.clone()].concat()),
        framed_as(1, &[0x80; 12]),
        framed_as(1, &[long(1), vec![2, 0xff], vec![0]].concat()),
        framed_as(1, &[long(1), string("x"), vec![4]].concat()),
        framed_as(1, &[long(1), long(-5), vec![0]].concat()),
        good.clone(),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
        0: 1 | ann | 5
        13: 1 | ann | 5
        1! it is empty; a schema registry's number is to come first
        2! it begins with byte 123, not with 0 and the number of a schema
        3! it ends within the number of its schema: 3 bytes
        4! no schema 7
        5! it ends in the midst of a value
        6! it ends in the midst of a value
        7! bytes are left after its last value
        8! bytes are left after its last value
        9! Parser error: bad varint
        10! Arrow: Invalid argument error: Encountered non UTF-8 data: invalid utf-8 sequence of 1 bytes from index 0
        11! Parser error: bad varint
        12! Parser error: offset overflow reading avro bytes
    "#]],
    );
    check(
        &mut rows,
        &[good],
        expect![[r#"
        0: 1 | ann | 5
    "#]],
    );
    check(&mut rows, &[], expect![[""]]);
}

#[test]
fn a_registry_that_is_down_loses_nothing() {
    let mut rows = rows_of(order_fields(), &[(1, ORDER)], None);
    let messages = [framed_as(1, &order(1, "a", None)), framed_as(9, &order(1, "a", None))];
    let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    assert!(matches!(rows.decode(&payloads), Err(FormatError::Registry(reason)) if reason == "down"));
}

#[test]
fn messages_of_several_schemas_keep_their_order_and_lack_what_their_writers_lack() {
    const OLD: &str = r#"{"type":"record","name":"Old","fields":[
        {"name":"who","type":"string"},{"name":"gone","type":{"type":"array","items":"string"}},{"name":"id","type":"int"}]}"#;
    const LATEST: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},
        {"name":"who","type":"string","default":"nobody"},{"name":"n","type":["int","null"],"default":42},
        {"name":"tags","type":{"type":"array","items":"string"},"default":["x"]}]}"#;
    const NOTHING: &str = r#"{"type":"record","name":"Nothing","fields":[]}"#;
    let mut fields = order_fields();
    fields.push(nullable("tags", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))));
    let known = [(1, ORDER), (2, OLD), (3, NOTHING)];
    let old = |id, gone: &[u8]| framed_as(2, &[string("bob"), gone.to_vec(), long(id)].concat());
    let messages = [
        framed_as(1, &order(1, "ann", None)),
        old(2, &[0]),
        framed_as(3, &[]),
        old(3, &[[2].as_slice(), &string("x"), &[0]].concat()),
        framed_as(3, &[1]),
        framed_as(1, &order(4, "cid", Some(3))),
        old(5, &[3, 4]),
    ];
    check(
        &mut rows_of(fields.clone(), &known, Some(LATEST)),
        &messages,
        expect![[r#"
        0: 1 | ann | NULL | [x]
        1: 2 | bob | 42 | [x]
        2: NULL | nobody | 42 | [x]
        3: 3 | bob | 42 | [x]
        5: 4 | cid | 3 | [x]
        4! bytes are left after its last value
        6! it ends in the midst of a value
    "#]],
    );
    check(
        &mut rows_of(fields, &known, None),
        &messages[..3],
        expect![[r#"
        0: 1 | ann | NULL | NULL
        1: 2 | bob | NULL | NULL
        2: NULL | NULL | NULL | NULL
    "#]],
    );
}

#[test]
fn a_lone_value_is_the_one_column() {
    let mut rows = rows_of(vec![nullable("key", DataType::Int64)], &[(1, "\"long\""), (2, r#"["null","int"]"#)], None);
    let messages = [framed_as(1, &long(-3)), framed_as(2, &[0]), framed_as(2, &[2, 4]), framed_as(1, &[])];
    check(
        &mut rows,
        &messages,
        expect![[r#"
        0: -3
        1: NULL
        2: 2
        3! it ends in the midst of a value
    "#]],
    );
    let mut rows = rows_of(order_fields(), &[(1, "\"long\"")], None);
    check(
        &mut rows,
        &[framed_as(1, &long(1))],
        expect![[r#"
        0! schema 1: it is no record, and 3 columns are wanted
    "#]],
    );
    assert_eq!(columns(&schema_of("\"string\"")).expect("columns"), [nullable("value", DataType::Utf8)]);
}

#[test]
fn values_that_do_not_fit_are_bad_and_never_null_or_rounded() {
    const NUMBERS: &str = r#"{"type":"record","name":"N","fields":[{"name":"i","type":"long"},{"name":"d","type":"double"},
        {"name":"p","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":3}},
        {"name":"t","type":{"type":"long","logicalType":"timestamp-nanos"}},
        {"name":"l","type":{"type":"array","items":"long"}},{"name":"s","type":["null","int","string"]}]}"#;
    let message = |i: i64, d: f64, p: &[u8], t: i64, l: i64, s: &[u8]| {
        let p = [long(i64::try_from(p.len()).expect("short")), p.to_vec()].concat();
        framed_as(1, &[long(i), d.to_le_bytes().to_vec(), p, long(t), vec![2], long(l), vec![0], s.to_vec()].concat())
    };
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        nullable("i", DataType::Int16),
        nullable("d", DataType::Int32),
        nullable("p", DataType::Decimal128(4, 2)),
        nullable("t", utc),
        nullable("l", DataType::List(Arc::new(Field::new("item", DataType::Int8, true)))),
        nullable("s", DataType::Utf8),
    ];
    let none = &[0][..];
    let mut rows = rows_of(fields, &[(1, NUMBERS)], None);
    let fits = message(1, 2.0, &[10], 5000, 1, none);
    check(
        &mut rows,
        &[fits],
        expect![[r#"
        0! schema 1: `s` is INTEGER, which is never taken as TEXT
    "#]],
    );
    let mut fields = rows.fields.to_vec();
    fields.pop();
    let fields = fields.iter().map(|field| (**field).clone()).collect();
    let mut rows = rows_of(fields, &[(1, NUMBERS)], None);
    let messages = [
        message(1, 2.0, &[10], 5000, 1, none),
        message(32_768, 2.0, &[10], 5000, 1, none),
        message(1, 2.5, &[10], 5000, 1, none),
        message(1, f64::NAN, &[10], 5000, 1, none),
        message(1, 3e9, &[10], 5000, 1, none),
        message(1, 2.0, &[11], 5000, 1, none),
        message(1, 2.0, &[0x7f, 0xff, 0xff], 5000, 1, none),
        message(1, 2.0, &[0x01, 0x86, 0xa0], 5000, 1, none),
        message(1, 2.0, &[10], 5001, 1, none),
        message(1, 2.0, &[10], 5000, 200, none),
        message(-5, -2.0, &[0xf6], -5000, -100, none),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
            0: 1 | 2 | 0.01 | 1970-01-01T00:00:00.000005 | [1]
            8: 1 | 2 | 0.01 | 1970-01-01T00:00:00.000005 | [1]
            10: -5 | -2 | -0.01 | 1969-12-31T23:59:59.999995 | [-100]
            1! `i` is 32768, which is not exactly a value of SMALLINT
            2! `d` is 2.5, which is not exactly a value of INTEGER
            3! `d` is NaN, which is not exactly a value of INTEGER
            4! `d` is 3000000000.0, which is not exactly a value of INTEGER
            5! `p` is 0.011, which is not exactly a value of DECIMAL(4, 2)
            6! `p` is 838.860, which is not exactly a value of DECIMAL(4, 2)
            7! `p` is 100.000, which is not exactly a value of DECIMAL(4, 2)
            9! `l` is [200], which is not exactly a value of TINYINT[]
        "#]],
    );
}

#[test]
fn a_union_is_taken_as_what_all_its_branches_fit() {
    const MIXED: &str = r#"{"type":"record","name":"M","fields":[{"name":"v","type":["null","int","double","long"]}]}"#;
    let mut rows = rows_of(vec![nullable("v", DataType::Int64)], &[(1, MIXED)], None);
    let of = |branch: i64, body: &[u8]| framed_as(1, &[long(branch), body.to_vec()].concat());
    let messages = [
        of(0, &[]),
        of(1, &long(7)),
        of(2, &1.5_f64.to_le_bytes()),
        of(2, &3_f64.to_le_bytes()),
        of(3, &long(i64::MAX)),
        of(4, &[]),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
        0: NULL
        1: 7
        3: 3
        4: 9223372036854775807
        2! `v` is {double=1.5}, which is not exactly a value of BIGINT
        5! Parser error: Union branch index 4 out of range (4 branches)
    "#]],
    );
    assert!(columns(&schema_of(MIXED)).expect_err("several types").contains("`v`"));
}

#[test]
fn ten_thousand_messages_that_can_t_be_read_take_linear_time() {
    let mut rows = rows_of(order_fields(), &[(1, ORDER)], None);
    let good = framed_as(1, &order(1, "ann", Some(5)));
    for (what, poison) in [
        ("truncated", framed_as(1, &order(1, "ann", None)[..3])),
        ("trailing", framed_as(1, &[order(1, "ann", None), vec![7]].concat())),
        ("not UTF-8", framed_as(1, &[long(1), vec![2, 0xff], vec![0]].concat())),
        ("of an unknown schema", framed_as(4, &[])),
    ] {
        for half in [false, true] {
            let messages: Vec<Vec<u8>> =
                (0..10_000).map(|place| if half && place % 2 == 1 { good.clone() } else { poison.clone() }).collect();
            let begun = std::time::Instant::now();
            let decoded = decode(&mut rows, &messages);
            let took = begun.elapsed();
            println!("10,000 {what}{}: {took:?}", if half { ", every second one good" } else { "" });
            assert_eq!(decoded.from.len(), if half { 5000 } else { 0 });
            // Quadratic would be minutes.
            assert!(took.as_secs() < 30, "{what}: {took:?}");
        }
    }
}

proptest! {
    #[test]
    fn random_messages_some_of_them_spoilt_are_what_was_written(
        orders in prop::collection::vec((any::<i64>(), ".{0,9}", prop::option::of(any::<i32>()), 0..6_u8), 0..60)
    ) {
        let mut rows = rows_of(order_fields(), &[(1, ORDER)], None);
        let mut messages = Vec::new();
        let mut expected = String::new();
        for (place, (id, who, n, spoilt)) in orders.iter().enumerate() {
            let mut message = framed_as(1, &order(*id, who, n.map(i64::from)));
            match spoilt {
                0 => { message.pop(); }
                1 => message.push(0),
                2 => message[4] = 7,
                _ => {
                    let n = n.map_or_else(|| "NULL".to_owned(), |n| n.to_string());
                    expected += &format!("{place}: {id} | {who} | {n}\n");
                }
            }
            messages.push(message);
        }
        let decoded = decode(&mut rows, &messages);
        let good = shown(&Rows { bad: Vec::new(), ..decoded });
        prop_assert_eq!(good, expected);
    }

    #[test]
    fn random_bytes_are_no_trouble(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
        let mut rows = rows_of(columns(&schema_of(ALL)).expect("columns"), &[(1, ALL)], None);
        let messages: Vec<Vec<u8>> = bodies.iter().map(|body| framed_as(1, body)).collect();
        decode(&mut rows, &messages);
    }
}

/// `cargo test --release -p connectors avro -- --ignored --nocapture`: time a message, decoded into columns.
#[test]
#[ignore = "a measurement"]
fn time_a_message() {
    const EIGHT: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},
        {"name":"customer","type":"long"},{"name":"status","type":"string"},{"name":"total","type":"double"},
        {"name":"note","type":["null","string"]},{"name":"items","type":"int"},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}]}"#;
    let message = |n: i64| {
        let price = [vec![8], (i32::try_from(n).expect("small")).to_be_bytes().to_vec()].concat();
        let note = [vec![2], string("please ring twice, then leave it at the door of")].concat();
        let at = long(1_700_000_000_000_000 + n);
        framed_as(
            1,
            &[long(n), long(n * 7), string("shipped today"), 1.5_f64.to_le_bytes().to_vec(), note, long(n), at, price]
                .concat(),
        )
    };
    let messages: Vec<Vec<u8>> = (0..8192).map(message).collect();
    let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let all = columns(&schema_of(EIGHT)).expect("columns");
    for (what, fields) in [("8 of 8 fields", all.clone()), ("3 of 8 fields", all[..3].to_vec())] {
        let mut rows = rows_of(fields, &[(1, EIGHT)], None);
        for batch in [8192, 100, 1] {
            let rounds = 400;
            let begun = std::time::Instant::now();
            for _ in 0..rounds {
                for payloads in payloads[..batch].chunks(batch) {
                    assert_eq!(rows.decode(payloads).expect("decodes").from.len(), batch);
                }
            }
            let micros = begun.elapsed().as_secs_f64() * 1e6 / (rounds * batch) as f64;
            println!("{} bytes, {what}, {batch} a batch: {micros:.3} µs a message", messages[1].len());
        }
    }
}

/// A list that is linked, and a tree in a map, beside what is wanted.
const ENDLESS: &str = r#"{"type":"record","name":"Node","namespace":"n","fields":[
    {"name":"before","type":["null",{"type":"array","items":"Node"}]},
    {"name":"id","type":"long"},
    {"name":"next","type":["null","n.Node"]},
    {"name":"tree","type":{"type":"record","name":"Tree","fields":[
        {"name":"nothing","type":"null"},{"name":"raw","type":{"type":"fixed","name":"F","size":2}},
        {"name":"inner","type":{"type":"map","values":"Tree"}}]}},
    {"name":"name","type":"string"}]}"#;

/// One field that nobody had asked for made each message a dead letter.
#[test]
fn what_contains_itself_is_passed_over_where_nobody_wants_it() {
    let fields = || vec![nullable("name", DataType::Utf8), nullable("id", DataType::Int64)];
    let mut rows = rows_of(fields(), &[(1, ENDLESS)], None);
    let leaf = [b"ab", &[0][..]].concat();
    let pair = [long(1), string("k"), leaf.clone()].concat();
    // A block that says how long it is, one that does not, and the end.
    let sized = [long(-1), long(i64::try_from(pair.len() - 1).expect("short")), pair[1..].to_vec()].concat();
    let tree = [b"cd".to_vec(), sized, pair, long(0)].concat();
    let node = |before: &[u8], id: i64, next: &[u8], tree: &[u8], name: &str| {
        [before, &long(id), next, tree, &string(name)].concat()
    };
    let end = node(&long(0), 1, &long(0), &leaf, "end");
    let before = [long(1), long(2), end.clone(), end.clone(), long(0)].concat();
    let next = |node: &[u8]| [long(1), node.to_vec()].concat();
    let full = node(&before, 7, &next(&end), &tree, "full");
    // Deeper than any stack.
    let mut deep = Vec::new();
    for id in 0..20_000 {
        deep.extend([long(0), long(id), long(1)].concat());
    }
    deep.extend_from_slice(&end);
    for _ in 0..20_000 {
        deep.extend([&leaf[..], &string("deep")].concat());
    }
    let messages = [
        framed_as(1, &full),
        framed_as(1, &end),
        framed_as(1, &full[..full.len() - 1]),
        framed_as(1, &node(&long(2), 1, &long(0), &leaf, "no such branch")),
        framed_as(1, &[&end[..], &[0]].concat()),
        framed_as(1, &[]),
        framed_as(1, &[&long(1)[..], &long(i64::MAX), &[0; 8]].concat()),
        framed_as(1, &deep),
    ];
    check(
        &mut rows,
        &messages,
        expect![[r#"
            0: full | 7
            1: end | 1
            7: deep | 0
            2! it ends in the midst of a value
            3! it ends in the midst of a value
            4! bytes are left after its last value
            5! it ends in the midst of a value
            6! it ends in the midst of a value
        "#]],
    );
    let wanted = vec![nullable("id", DataType::Int64), nullable("next", DataType::Utf8)];
    let reason = "0! schema 1: its schema has the type n.Node within itself, and columns can't be nested without end\n";
    assert_eq!(shown(&decode(&mut rows_of(wanted, &[(1, ENDLESS)], None), &messages[1..2])), reason);
    assert!(columns(&schema_of(ENDLESS)).is_err_and(|reason| reason.contains("within itself")));
}

/// Values without bytes could go on for ever.
#[test]
fn what_has_no_end_in_each_value_can_not_be_passed_over() {
    for (field, expected) in [
        (r#""R""#, "in each value of it"),
        (r#"{"type":"record","name":"S","fields":[{"name":"r","type":"R"}]}"#, "in each value of it"),
        (r#"[{"type":"array","items":{"type":"array","items":"null"}},"R"]"#, "of what takes no bytes"),
        (r#"["R",{"type":"fixed","name":"F"}]"#, "without `size`"),
        (r#"["R","Unknown"]"#, "unknown type"),
    ] {
        let text = format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"id","type":"long"}},{{"name":"r","type":{field}}}]}}"#
        );
        let known = [(1, &*Box::leak(text.into_boxed_str()))];
        let mut rows = rows_of(vec![nullable("id", DataType::Int64)], &known, None);
        let said = shown(&decode(&mut rows, &[framed_as(1, &long(1))]));
        assert!(said.contains(expected), "{field}: {said}");
    }
    // Twenty-five records in records, each twice in the next, that take no bytes.
    let mut doubled = r#"{"type":"record","name":"E0","fields":[]}"#.to_owned();
    for n in 1..25 {
        doubled = format!(
            r#"{{"type":"record","name":"E{n}","fields":[{{"name":"a","type":{doubled}}},{{"name":"b","type":"E{}"}}]}}"#,
            n - 1
        );
    }
    let text = format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"r","type":["null","R"]}},{{"name":"e","type":{doubled}}},{{"name":"id","type":"long"}}]}}"#
    );
    let known = [(1, &*Box::leak(text.into_boxed_str()))];
    let mut rows = rows_of(vec![nullable("id", DataType::Int64)], &known, None);
    assert_eq!(shown(&decode(&mut rows, &[framed_as(1, &[long(0), long(7)].concat())])), "0: 7\n");
}
