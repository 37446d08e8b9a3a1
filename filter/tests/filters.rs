//! Filters as clients write them: what they mean at the edges, and what is said of mistakes.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, IntervalMonthDayNano, Schema, TimeUnit, i256};
use expect_test::{Expect, expect};
use filter::{DEPTH_MAX, PATTERN_CHARS_MAX, Predicate, TERMS_MAX, VALUES_MAX};
use serde_json::{Value as Json, json};

/// The rows of one column that a comparison is true for.
#[track_caller]
fn check(array: impl Array + 'static, cases: &[(Json, &[usize])]) {
    let batch = RecordBatch::try_from_iter_with_nullable([("x", Arc::new(array) as ArrayRef, true)]).unwrap();
    for (comparators, expected) in cases {
        let predicate = Predicate::parse(&json!({"x": comparators}), &batch.schema(), &|_| true).unwrap();
        let found: Vec<usize> = predicate.matches(&batch).unwrap().set_indices().collect();
        assert_eq!(found, *expected, "{comparators}");
    }
}

/// In a column of 100.00, 100.01, -0.01, NULL.
#[test]
fn numerics_are_exact() {
    let cases: &[(Json, &[usize])] = &[
        (json!({"_gt": "100.005"}), &[1]),
        (json!({"_gte": "100.005"}), &[1]),
        (json!({"_lt": "100.005"}), &[0, 2]),
        (json!({"_lte": "100.005"}), &[0, 2]),
        (json!({"_eq": "100.005"}), &[]),
        (json!({"_neq": "100.005"}), &[0, 1, 2]),
        (json!({"_nin": ["100.005"]}), &[0, 1, 2]),
        (json!({"_nin": ["100.005", 100]}), &[1, 2]),
        (json!({"_nin": []}), &[0, 1, 2, 3]),
        (json!({"_in": []}), &[]),
        (json!({"_eq": 100}), &[0]),
        (json!({"_eq": 100.01}), &[1]),
        (json!({"_eq": "100.010000000000000000000000000000"}), &[1]),
        (json!({"_eq": 1e2}), &[0]),
        (json!({"_gt": "-0.015"}), &[0, 1, 2]),
        (json!({"_gt": "-0.01"}), &[0, 1]),
        (json!({"_lt": "1e99999"}), &[0, 1, 2]),
        (json!({"_gt": "1e99999"}), &[]),
        (json!({"_gt": "-1e99999"}), &[0, 1, 2]),
        (json!({"_lt": "NaN"}), &[0, 1, 2]),
        (json!({"_eq": "NaN"}), &[]),
        (json!({"_gte": "-Infinity"}), &[0, 1, 2]),
        (json!({"_is_null": true}), &[3]),
        (json!({"_is_null": false}), &[0, 1, 2]),
    ];
    let values = [Some(10_000), Some(10_001), Some(-1), None];
    check(Decimal128Array::from(values.to_vec()).with_precision_and_scale(10, 2).unwrap(), cases);
    let wide = values.map(|value| value.map(i256::from_i128));
    check(Decimal256Array::from(wide.to_vec()).with_precision_and_scale(60, 2).unwrap(), cases);
}

#[test]
fn integers_compare_with_any_number() {
    let cases: &[(Json, &[usize])] = &[
        (json!({"_gt": 0.5}), &[1, 2]),
        (json!({"_eq": "1.0"}), &[1]),
        (json!({"_eq": 1.5}), &[]),
        (json!({"_lt": 100000000000000000000.0}), &[0, 1, 2]),
        (json!({"_gt": 18446744073709551615_u64}), &[]),
        (json!({"_in": ["0", 1, 1.5, "1e40"]}), &[0, 1]),
        (json!({"_gte": -129}), &[0, 1, 2]),
    ];
    check(Int8Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(Int16Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(Int32Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(Int64Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(UInt8Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(UInt16Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(UInt32Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(UInt64Array::from(vec![Some(0), Some(1), Some(127), None]), cases);
    check(
        Int64Array::from(vec![9_007_199_254_740_992, 9_007_199_254_740_993]),
        &[(json!({"_eq": "9007199254740993"}), &[1]), (json!({"_eq": 9_007_199_254_740_992_i64}), &[0])],
    );
}

/// NaN is equal to itself and greater than all else, and the two zeros are one: as Postgres has it.
#[test]
fn floats_compare_as_in_postgres() {
    let cases: &[(Json, &[usize])] = &[
        (json!({"_eq": "NaN"}), &[4]),
        (json!({"_gt": "Infinity"}), &[4]),
        (json!({"_gte": 0.5}), &[2, 3, 4]),
        (json!({"_eq": 0}), &[0, 1]),
        (json!({"_eq": -0.0}), &[0, 1]),
        (json!({"_lt": 0}), &[5]),
        (json!({"_in": ["NaN", 0, "0.1"]}), &[0, 1, 4]),
        (json!({"_neq": "NaN"}), &[0, 1, 2, 3, 5]),
        (json!({"_lte": "-Infinity"}), &[5]),
    ];
    let values = [0.0, -0.0, 0.5, f64::INFINITY, f64::NAN, f64::NEG_INFINITY];
    check(Float64Array::from(values.to_vec()), cases);
    check(Float32Array::from(values.map(|value| value as f32).to_vec()), cases);
    check(
        Float32Array::from(vec![0.1, 16_777_216.0]),
        &[(json!({"_eq": 0.1}), &[0]), (json!({"_eq": "1.6777216e7"}), &[1])],
    );
}

#[test]
fn moments_compare_whatever_their_offset() {
    let stamps = TimestampMicrosecondArray::from(vec![
        Some(1_709_212_455_678_000),
        Some(i64::MAX),
        Some(i64::MIN),
        None,
        Some(0),
    ]);
    let cases: &[(Json, &[usize])] = &[
        (json!({"_eq": "2024-02-29T13:14:15.678Z"}), &[0]),
        (json!({"_gt": "2024-02-29 13:14:15.6779"}), &[0, 1]),
        (json!({"_eq": "infinity"}), &[1]),
        (json!({"_lt": "1970-01-01"}), &[2]),
        (json!({"_in": ["-infinity", "1970-01-01T00:00"]}), &[2, 4]),
    ];
    check(stamps.clone(), cases);
    check(stamps.clone().with_timezone("UTC"), cases);
    check(stamps.with_timezone("UTC"), &[(json!({"_eq": "2024-02-29T18:44:15.678+05:30"}), &[0])]);
    check(
        TimestampNanosecondArray::from(vec![1, 2]).with_timezone("UTC"),
        &[(json!({"_gt": "1970-01-01T00:00:00.000000001Z"}), &[1])],
    );
    check(
        TimestampSecondArray::from(vec![1, 2]),
        &[(json!({"_gt": "1970-01-01T00:00:01.5"}), &[1]), (json!({"_eq": "1970-01-01T00:00:01.5"}), &[])],
    );
    check(TimestampMillisecondArray::from(vec![1, 2]), &[(json!({"_gte": "1970-01-01T00:00:00.0015"}), &[1])]);
    check(
        Date32Array::from(vec![19_782, i32::MAX, i32::MIN]),
        &[(json!({"_lte": "2024-02-29"}), &[0, 2]), (json!({"_gt": "2024-02-29"}), &[1])],
    );
    let noon: &[(Json, &[usize])] = &[(json!({"_eq": "12:00"}), &[0]), (json!({"_gt": "12:00:00"}), &[1])];
    check(Time64MicrosecondArray::from(vec![43_200_000_000, 86_400_000_000]), noon);
    check(Time64NanosecondArray::from(vec![43_200_000_000_000, 86_400_000_000_000]), noon);
    check(Time32MillisecondArray::from(vec![43_200_000, 86_400_000]), noon);
    check(Time32SecondArray::from(vec![43_200, 86_400]), noon);
    let intervals = [(1, 0, 0), (0, 31, 0), (0, 30, 1_500_000_000), (1, 1, -1)];
    let intervals = intervals.map(|(months, days, nanos)| IntervalMonthDayNano::new(months, days, nanos));
    check(
        IntervalMonthDayNanoArray::from(intervals.to_vec()),
        &[
            (json!({"_eq": "P30D"}), &[0]),
            (json!({"_gt": "P1M"}), &[1, 2, 3]),
            (json!({"_lt": "P1MT1S"}), &[0]),
            (json!({"_eq": "P1MT1.5S"}), &[2]),
            (json!({"_lt": "P31D", "_gt": "P30DT2S"}), &[3]),
        ],
    );
}

#[test]
fn texts_and_bytes_compare_by_their_bytes() {
    let texts = vec![Some("a"), Some("B"), Some("é"), Some("\u{1f600}"), Some("\u{ffff}"), None];
    let cases: &[(Json, &[usize])] = &[
        (json!({"_lt": "a"}), &[1]),
        (json!({"_gt": "é"}), &[3, 4]),
        (json!({"_gt": "\u{ffff}"}), &[3]),
        (json!({"_in": ["é", "B", ""]}), &[1, 2]),
        (json!({"_like": "_"}), &[0, 1, 2, 3, 4]),
        (json!({"_ilike": "b%"}), &[1]),
        (json!({"_like": "b%"}), &[]),
        (json!({"_like": "%"}), &[0, 1, 2, 3, 4]),
        (json!({"_gte": "a", "_lt": "b"}), &[0]),
    ];
    check(StringArray::from(texts.clone()), cases);
    check(LargeStringArray::from(texts.clone()), cases);
    check(StringViewArray::from(texts), cases);
    let bytes: Vec<Option<&[u8]>> = vec![Some(b"\0\xFF"), Some(b""), None];
    let cases: &[(Json, &[usize])] =
        &[(json!({"_eq": "AP8="}), &[0]), (json!({"_lt": "AA=="}), &[1]), (json!({"_neq": ""}), &[0])];
    check(BinaryArray::from(bytes.clone()), cases);
    check(LargeBinaryArray::from(bytes.clone()), cases);
    check(BinaryViewArray::from_iter(bytes), cases);
    check(
        BooleanArray::from(vec![Some(true), Some(false), None]),
        &[
            (json!({"_eq": true}), &[0]),
            (json!({"_neq": "true"}), &[1]),
            (json!({"_lt": true}), &[1]),
            (json!({"_in": ["f", "t"]}), &[0, 1]),
            (json!({"_eq": "false"}), &[1]),
        ],
    );
}

#[test]
fn other_types_are_null_or_not() {
    check(
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None]),
        &[(json!({"_is_null": true}), &[1]), (json!({"_is_null": false}), &[0])],
    );
}

fn orders() -> Schema {
    let field = |name, data_type| Field::new(name, data_type, true);
    Schema::new(vec![
        field("id", DataType::Int64),
        field("status", DataType::Utf8),
        field("total", DataType::Decimal128(10, 2)),
        field("created_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("tags", DataType::List(Arc::new(field("item", DataType::Utf8)))),
        field("shipped", DataType::Timestamp(TimeUnit::Microsecond, None)),
        field("secret", DataType::Utf8),
        field("weight", DataType::Float64),
    ])
}

fn parse(filter: &Json) -> Result<Predicate, filter::FilterError> {
    Predicate::parse(filter, &orders(), &|column| column != 6)
}

#[track_caller]
fn mistakes(filters: &[Json], expect: &Expect) {
    let said = filters.iter().map(|filter| match parse(filter) {
        Ok(predicate) => format!("{filter} is {predicate:?}\n"),
        Err(error) => format!("{error}\n"),
    });
    expect.assert_eq(&said.collect::<String>());
}

#[test]
fn mistakes_are_named_with_their_place() {
    mistakes(
        &[
            json!([]),
            json!({"statsu": {"_eq": "open"}}),
            json!({"_eq": 1}),
            json!({"_orr": []}),
            json!({"_or": {"id": {"_eq": 1}}}),
            json!({"_or": [{"id": {"_eq": 1}}, {"total": {"_gt": "much"}}]}),
            json!({"_not": {"_and": [{"id": {"_gte": "7a"}}]}}),
            json!({"status": "open"}),
            json!({"status": ["open"]}),
            json!({"status": null}),
            json!({"status": {}}),
            json!({"status": {"_eq": null}}),
            json!({"status": {"_in": ["open", null]}}),
            json!({"status": {"_in": "open"}}),
            json!({"status": {"_equals": "open"}}),
            json!({"status": {"_regex": "open"}}),
            json!({"status": {"_is_null": null}}),
            json!({"status": {"_eq": {"a": 1}}}),
            json!({"status": {"_eq": 7}}),
            json!({"status": {"_like": "a\\"}}),
            json!({"id": {"_like": "7%"}}),
            json!({"total": {"_gt": 100.12345678901234}}),
            json!({"created_at": {"_gt": "yesterday"}}),
            json!({"shipped": {"_gt": "2024-02-29T00:00:00+01:00"}}),
            json!({"tags": {"_eq": "a"}}),
            json!({"id": {"_eq": "7", "_gt": true}}),
            json!({"weight": {"_eq": "heavy"}}),
        ],
        &expect![[r#"
            where: a filter is an object such as {"id": {"_eq": 7}}, not an array
            where.statsu: there is no column `statsu`; did you mean `status`?
            where._eq: `_eq` stands in a column, such as {"id": {"_eq": …}}
            where._orr: there is no column `_orr`; did you mean `_or`?
            where._or: takes an array of filters, not an object
            where._or[1].total._gt: "much" is no numeric(10,2), which looks like "123.45" or 123.45
            where._not._and[0].id._gte: "7a" is no bigint, which looks like 42 or "42"
            where.status: takes an object of comparators; use {"_eq": …}
            where.status: takes an object of comparators; use {"_in": […]}
            where.status: a null is no comparator; use {"_is_null": true}
            where.status: has no comparator; leave the column out to have all rows
            where.status._eq: nothing compares with null; use {"_is_null": true} to find NULLs
            where.status._in[1]: nothing compares with null; use {"_is_null": true} to find NULLs
            where.status._in: takes an array of values, not a string
            where.status._equals: there is no comparator `_equals`; there are _eq, _neq, _gt, _gte, _lt, _lte, _in, _nin, _is_null, _like, _ilike
            where.status._regex: there is no comparator `_regex`; there are _eq, _neq, _gt, _gte, _lt, _lte, _in, _nin, _is_null, _like, _ilike
            where.status._is_null: takes true or false, not null
            where.status._eq: takes one value, not an object
            where.status._eq: 7 is no text, which looks like "open"
            where.status._like: a pattern can't end in a lone backslash: write \\ for one
            where.id._like: compares text, and the column is bigint
            where.total._gt: a number of JSON does not keep so many digits; write it as text, in quotes
            where.created_at._gt: "yesterday" is no timestamptz, which looks like "2024-02-29T13:14:15.678Z", with any offset, or "infinity"
            where.shipped._gt: "2024-02-29T00:00:00+01:00" is no timestamp, which looks like "2024-02-29T13:14:15.678" (without an offset) or "infinity"
            where.tags._eq: a column of type text[] can only be compared by _is_null
            where.id._gt: true is no bigint, which looks like 42 or "42"
            where.weight._eq: "heavy" is no double precision, which looks like 1.5, "NaN" or "-Infinity"
        "#]],
    );
}

/// Whether a column is there at all is not for those who may not use it.
#[test]
fn a_hidden_column_is_one_that_is_not_there() {
    let hidden = parse(&json!({"secret": {"_eq": 7}})).unwrap_err().to_string();
    let missing = parse(&json!({"secrey": {"_eq": 7}})).unwrap_err().to_string();
    assert_eq!(hidden, "where.secret: there is no column `secret`");
    assert_eq!(hidden, missing.replace("secrey", "secret"));
}

#[test]
fn filters_are_bounded() {
    let mut deep = json!({"id": {"_eq": 1}});
    for _ in 0..DEPTH_MAX - 1 {
        deep = json!({"_not": deep});
    }
    assert!(parse(&deep).is_ok());
    let error = parse(&json!({"_not": deep})).unwrap_err();
    assert_eq!(error.message, "a filter is at most 32 levels deep");
    assert!(error.path.chars().count() <= 257, "{}", error.path);

    let terms = |count| json!({"_or": vec![json!({}); count]});
    assert!(parse(&terms(TERMS_MAX - 1)).is_ok());
    assert_eq!(parse(&terms(TERMS_MAX)).unwrap_err().path, "where._or[999]");
    let terms = |count| json!({"_or": vec![json!({"id": {"_gt": 1}}); count / 2]});
    assert!(parse(&terms(TERMS_MAX - 2)).is_ok());
    assert!(parse(&terms(TERMS_MAX)).is_err());

    let values = |count| json!({"id": {"_in": (0..count / 2).collect::<Vec<_>>(), "_nin": vec![0; count - count / 2]}});
    assert!(parse(&values(VALUES_MAX)).is_ok());
    assert!(parse(&values(VALUES_MAX + 1)).is_err());

    let pattern = |count: usize| json!({"status": {"_ilike": "é".repeat(count)}});
    assert!(parse(&pattern(PATTERN_CHARS_MAX)).is_ok());
    assert!(parse(&pattern(PATTERN_CHARS_MAX + 1)).is_err());

    // A number of so many digits is one still, and lies beyond the column's; text may be of any length.
    let digits = |count: usize| json!({"id": {"_lt": "1".repeat(count)}});
    assert_eq!(parse(&digits(1_000)), parse(&json!({"id": {"_is_null": false}})));
    assert_eq!(parse(&digits(1_001)).unwrap_err().to_string(), "where.id._lt: is too long for a bigint");
    assert!(parse(&json!({"status": {"_lt": "1".repeat(1_001)}})).is_ok());

    let megabyte = "x".repeat(1 << 20);
    for filter in [
        json!({megabyte.clone(): {"_eq": 1}}),
        json!({"id": {megabyte.clone(): 1}}),
        json!({"id": {"_eq": megabyte}}),
        json!({"id": {"_eq": format!("{}x", "1".repeat(1 << 20))}}),
        json!({"created_at": {"_eq": megabyte}}),
        json!({"_or": [{"_and": [{megabyte.clone(): {"_eq": 1}}]}]}),
    ] {
        let said = parse(&filter).unwrap_err().to_string();
        assert!(said.len() < 700, "{} bytes: {said}", said.len());
    }
}

/// Of a float's digits fifteen are sure to be those that were written.
#[test]
fn a_number_of_json_is_taken_while_it_is_exact() {
    for (number, is_taken) in [("0.123456789012345", true), ("0.1234567890123456", false), ("123456789012345e-6", true)]
    {
        let number: Json = serde_json::from_str(number).unwrap();
        assert_eq!(parse(&json!({"total": {"_gt": number}})).is_ok(), is_taken, "{number}");
    }
}

#[test]
fn predicates_simplify() {
    let all = Predicate::all();
    for (one, other) in [
        (json!({}), json!({"_and": []})),
        (json!({"_not": {"_or": []}}), json!({})),
        (json!({"_or": []}), json!({"id": {"_in": []}})),
        (json!({"_or": []}), json!({"total": {"_eq": "100.005"}})),
        (json!({"id": {"_eq": 7}}), json!({"id": {"_in": ["7", 7.0, "07"]}})),
        (json!({"id": {"_neq": 7}}), json!({"_not": {"id": {"_eq": 7}}})),
        (json!({"total": {"_gt": "100.005"}}), json!({"total": {"_gt": 100}})),
        (json!({"total": {"_gte": "100.005"}}), json!({"total": {"_gt": 100}})),
        (json!({"total": {"_neq": "100.005"}}), json!({"total": {"_is_null": false}})),
        (json!({"total": {"_nin": ["100.005"]}}), json!({"total": {"_is_null": false}})),
        (json!({"status": {"_like": "open"}}), json!({"status": {"_eq": "open"}})),
        (json!({"status": {"_like": ""}}), json!({"status": {"_eq": ""}})),
        (json!({"status": {"_like": "%%"}}), json!({"status": {"_is_null": false}})),
        (json!({"id": {"_eq": 7, "_in": [7, 8]}}), json!({"id": {"_eq": 7}})),
        (json!({"id": {"_eq": 7, "_neq": 8}}), json!({"id": {"_eq": 7}})),
        (json!({"id": {"_eq": 7, "_is_null": false}}), json!({"id": {"_eq": 7}})),
        (json!({"id": {"_gt": 7, "_is_null": true}}), json!({"_or": []})),
        (json!({"id": {"_in": [1, 2], "_nin": [2, 3]}}), json!({"id": {"_eq": 1}})),
        (json!({"id": {"_eq": 1}, "_and": [{"id": {"_eq": 2}}]}), json!({"_or": []})),
        (json!({"_or": [{"id": {"_eq": 1}}, {"id": {"_eq": 2}}]}), json!({"id": {"_in": [1, 2]}})),
        (json!({"_or": [{"id": {"_neq": 1}}, {"id": {"_neq": 2}}]}), json!({"id": {"_is_null": false}})),
        (json!({"_or": [{"id": {"_neq": 1}}, {"id": {"_eq": 1}}]}), json!({"id": {"_is_null": false}})),
        (json!({"_or": [{"id": {"_is_null": true}}, {"id": {"_is_null": false}}]}), json!({})),
        (
            json!({"created_at": {"_eq": "2024-02-29T13:00:00Z"}}),
            json!({"created_at": {"_eq": "2024-02-29 14:00:00+01"}}),
        ),
    ] {
        assert_eq!(parse(&one), parse(&other), "{one} {other}");
    }
    assert_eq!(parse(&json!({})), Ok(all.clone()));
    assert!(all.is_all() && !all.is_none() && Predicate::none().is_none() && !Predicate::none().is_all());
    assert_eq!(Predicate::all().or(&Predicate::none()), all);
    assert!(Predicate::all().and(&Predicate::none()).is_none());
}

/// Fingerprints are written into resume tokens: one that changes sends every client an image.
#[test]
fn fingerprints_stay() {
    let print = |filter: Json| parse(&filter).unwrap().fingerprint().to_string();
    expect!["9d15372b1830735a0a2d05214669e327"].assert_eq(&print(json!({})));
    expect!["549aca7d2c3e4bbad89799e1e2b16255"]
        .assert_eq(&print(json!({"id": {"_in": [7, 8]}, "status": {"_like": "a%"}})));
    let of: std::collections::BTreeSet<String> = [
        json!({}),
        json!({"_or": []}),
        json!({"id": {"_eq": 7}}),
        json!({"id": {"_neq": 7}}),
        json!({"id": {"_gt": 7}}),
        json!({"id": {"_gte": 7}}),
        json!({"id": {"_lt": 7}}),
        json!({"id": {"_lte": 7}}),
        json!({"id": {"_is_null": true}}),
        json!({"id": {"_is_null": false}}),
        json!({"total": {"_eq": "0.07"}}),
        json!({"status": {"_eq": "7"}}),
        json!({"status": {"_like": "7%"}}),
        json!({"status": {"_ilike": "7%"}}),
        json!({"_not": {"status": {"_like": "7%"}}}),
        json!({"status": {"_like": "7_"}}),
        json!({"status": {"_like": "7__"}}),
        json!({"id": {"_eq": 7}, "total": {"_gt": 1}}),
        json!({"_or": [{"id": {"_eq": 7}}, {"total": {"_gt": 1}}]}),
    ]
    .into_iter()
    .map(print)
    .collect();
    assert_eq!(of.len(), 19);
}

#[test]
fn what_a_predicate_needs() {
    let predicate =
        parse(&json!({"id": {"_eq": 7}, "_or": [{"status": {"_eq": "a"}}, {"total": {"_gt": 1}}]})).unwrap();
    assert_eq!(predicate.columns_used(), [0, 1, 2].into());
    let long = parse(&json!({"status": {"_eq": "x".repeat(10_000)}})).unwrap();
    assert!((10_000..10_500).contains(&long.bytes()), "{}", long.bytes());
    assert!(predicate.bytes() < 1_500, "{}", predicate.bytes());
    let many = parse(&json!({"id": {"_in": (0..1_000).collect::<Vec<_>>()}})).unwrap();
    assert!((20_000..100_000).contains(&many.bytes()), "{}", many.bytes());
}

#[test]
fn a_batch_of_another_schema_is_an_error() {
    let predicate = parse(&json!({"status": {"_eq": "a"}})).unwrap();
    let one = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    assert!(predicate.matches(&one).is_err());
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let two = RecordBatch::try_from_iter([("id", Arc::clone(&ints)), ("status", ints)]).unwrap();
    assert!(predicate.matches(&two).is_err());
    assert_eq!(Predicate::all().matches(&two).unwrap().count_set_bits(), 1);
}

/// The columns that are looked up, how many alternatives there are, and the columns of the residual.
#[track_caller]
fn terms(filter: &Json) -> Option<(Vec<usize>, usize, Vec<usize>)> {
    let terms = parse(filter).unwrap().index_terms()?;
    for (column, array) in terms.columns.iter().zip(&terms.alternatives) {
        assert_eq!(array.data_type(), orders().field(*column).data_type());
    }
    Some((terms.columns, terms.alternatives[0].len(), terms.residual.columns_used().into_iter().collect()))
}

#[test]
fn equalities_are_looked_up() {
    let list = |count: usize| (0..count).collect::<Vec<_>>();
    for (filter, expected) in [
        (json!({}), None),
        (json!({"_or": []}), None),
        (json!({"id": {"_gt": 7}}), None),
        (json!({"id": {"_neq": 7}}), None),
        (json!({"_or": [{"id": {"_eq": 7}}, {"status": {"_eq": "a"}}]}), None),
        (json!({"id": {"_eq": 7}}), Some((vec![0], 1, vec![]))),
        (json!({"id": {"_in": list(64)}}), Some((vec![0], 64, vec![]))),
        (json!({"id": {"_in": list(65)}}), None),
        (json!({"id": {"_eq": 7, "_gt": 1}, "total": {"_gt": 1}}), Some((vec![0], 1, vec![0, 2]))),
        (json!({"status": {"_in": ["a", "b"]}, "id": {"_in": [1, 2, 3]}}), Some((vec![0, 1], 6, vec![]))),
        // The short list is taken and the long one left.
        (json!({"status": {"_in": ["a", "b"]}, "id": {"_in": list(33)}}), Some((vec![1], 2, vec![0]))),
        (json!({"status": {"_in": ["a", "b"]}, "id": {"_in": list(32)}}), Some((vec![0, 1], 64, vec![]))),
        (json!({"total": {"_eq": "1.5"}, "created_at": {"_eq": "2024-02-29"}}), Some((vec![2, 3], 1, vec![]))),
        // A float is compared, and what is beside it looked up all the same.
        (json!({"weight": {"_eq": 1.5}, "id": {"_eq": 7}}), Some((vec![0], 1, vec![7]))),
    ] {
        assert_eq!(terms(&filter), expected, "{filter}");
    }
}

/// Of several lists every combination is looked up, each once: a row that no view is found for is a row that its
/// clients never hear of.
#[test]
fn all_combinations_are_looked_up() {
    let filter = json!({"id": {"_in": [1, 2, 3]}, "status": {"_in": ["a", "b"]}, "total": {"_in": [1, 2, 3, 4]}});
    let terms = parse(&filter).unwrap().index_terms().unwrap();
    let column =
        |at: usize| arrow::util::display::ArrayFormatter::try_new(&terms.alternatives[at], &Default::default());
    let columns: Vec<_> = (0..3).map(|at| column(at).unwrap()).collect();
    let found: std::collections::BTreeSet<String> =
        (0..24).map(|row| columns.iter().map(|it| it.value(row).to_string()).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!((terms.columns, terms.alternatives[0].len(), found.len()), (vec![0, 1, 2], 24, 24), "{found:?}");
}

/// Each type that can be looked up, by the array that it is looked up with; the others not at all.
#[test]
fn alternatives_are_of_the_type_of_their_column() {
    let stamps = TimestampMicrosecondArray::from(vec![7]);
    let arrays: Vec<(ArrayRef, Json)> = vec![
        (Arc::new(BooleanArray::from(vec![true])), json!(true)),
        (Arc::new(Int8Array::from(vec![7])), json!(7)),
        (Arc::new(Int16Array::from(vec![7])), json!(7)),
        (Arc::new(Int32Array::from(vec![7])), json!(7)),
        (Arc::new(Int64Array::from(vec![7])), json!(7)),
        (Arc::new(UInt8Array::from(vec![7])), json!(7)),
        (Arc::new(UInt16Array::from(vec![7])), json!(7)),
        (Arc::new(UInt32Array::from(vec![7])), json!(7)),
        (Arc::new(UInt64Array::from(vec![7])), json!(7)),
        (Arc::new(Decimal128Array::from(vec![700]).with_precision_and_scale(10, 2).unwrap()), json!("7.00")),
        (
            Arc::new(Decimal256Array::from(vec![i256::from_i128(7)]).with_precision_and_scale(60, 3).unwrap()),
            json!("0.007"),
        ),
        (Arc::new(StringArray::from(vec!["é"])), json!("é")),
        (Arc::new(LargeStringArray::from(vec!["é"])), json!("é")),
        (Arc::new(StringViewArray::from(vec!["é"])), json!("é")),
        (Arc::new(BinaryArray::from(vec![&b"\0"[..]])), json!("AA==")),
        (Arc::new(LargeBinaryArray::from(vec![&b"\0"[..]])), json!("AA==")),
        (Arc::new(BinaryViewArray::from(vec![&b"\0"[..]])), json!("AA==")),
        (Arc::new(Date32Array::from(vec![7])), json!("1970-01-08")),
        (Arc::new(Time32SecondArray::from(vec![7])), json!("00:00:07")),
        (Arc::new(Time32MillisecondArray::from(vec![7])), json!("00:00:00.007")),
        (Arc::new(Time64MicrosecondArray::from(vec![7])), json!("00:00:00.000007")),
        (Arc::new(Time64NanosecondArray::from(vec![7000])), json!("00:00:00.000007")),
        (Arc::new(TimestampSecondArray::from(vec![7])), json!("1970-01-01T00:00:07")),
        (Arc::new(TimestampMillisecondArray::from(vec![7])), json!("1970-01-01T00:00:00.007")),
        (Arc::new(TimestampNanosecondArray::from(vec![7])), json!("1970-01-01T00:00:00.000000007")),
        (Arc::new(stamps.clone()), json!("1970-01-01T00:00:00.000007")),
        (Arc::new(stamps.with_timezone("UTC")), json!("1970-01-01T00:00:00.000007Z")),
    ];
    for (array, value) in arrays {
        let schema = Schema::new(vec![Field::new("x", array.data_type().clone(), true)]);
        let predicate = Predicate::parse(&json!({"x": {"_eq": value}}), &schema, &|_| true).unwrap();
        let terms = predicate.index_terms().unwrap();
        assert_eq!(&terms.alternatives[0], &array);
        assert!(terms.residual.is_all());
    }
    for data_type in [DataType::Float32, DataType::Float64] {
        let schema = Schema::new(vec![Field::new("x", data_type, true)]);
        assert!(Predicate::parse(&json!({"x": {"_eq": 1}}), &schema, &|_| true).unwrap().index_terms().is_none());
    }
}
