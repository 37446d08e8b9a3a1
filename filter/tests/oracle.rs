//! Random filters over random rows, against the plainest evaluator there is: a row at a time, in three values.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, SortField};
use filter::{ClaimPath, Literal, Operand, Operator, Predicate, Template};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

/// A value, or NULL. Exact numbers are in thousandths, so that some lie between two of a column's.
#[derive(Clone, Debug)]
enum Value {
    Null,
    Exact(i64),
    Float(f64),
    Text(String),
    Boolean(bool),
    /// Microseconds since 1970, and the offset in minutes that it is written with.
    Moment(i64, i64),
}

#[derive(Clone, Debug)]
enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Compare(usize, usize, Value),
    In(usize, bool, Vec<Value>),
    IsNull(usize, bool),
    Like(String, bool),
}

const NAMES: [&str; 6] = ["n", "total", "price", "name", "done", "at"];
const NAME: usize = 3;
const OPERATORS: [(&str, Operator); 6] = [
    ("_eq", Operator::Eq),
    ("_neq", Operator::NotEq),
    ("_lt", Operator::Lt),
    ("_lte", Operator::LtEq),
    ("_gt", Operator::Gt),
    ("_gte", Operator::GtEq),
];

/// Values that a column may hold, and some more that may be compared with it.
fn value(column: usize, is_of_column: bool) -> BoxedStrategy<Value> {
    match column {
        0 if is_of_column => (-3_i64..4).prop_map(|n| Value::Exact(n * 1000)).boxed(),
        1 if is_of_column => (-40_i64..40).prop_map(|n| Value::Exact(n * 50)).boxed(),
        0 | 1 => prop_oneof![
            (-8_i64..8).prop_map(|n| Value::Exact(n * 500)),
            (-400_i64..400).prop_map(|n| Value::Exact(n * 5)),
            prop::sample::select(vec![Value::Exact(i64::MAX), Value::Exact(i64::MIN), Value::Exact(9_999_999)]),
        ]
        .boxed(),
        2 => prop::sample::select(vec![f64::NEG_INFINITY, -1.5, -0.0, 0.0, 0.1, 1.5, f64::INFINITY, f64::NAN])
            .prop_map(Value::Float)
            .boxed(),
        3 => "[abA%é]{0,3}".prop_map(Value::Text).boxed(),
        4 => any::<bool>().prop_map(Value::Boolean).boxed(),
        _ => (-3_i64..3, -2_i64..3).prop_map(|(at, offset)| Value::Moment(at * 1_500_000, offset * 45)).boxed(),
    }
}

fn rows() -> impl Strategy<Value = Vec<Vec<Value>>> {
    let cell = |column| prop_oneof![1 => Just(Value::Null), 4 => value(column, true)];
    prop::collection::vec((0..6).map(cell).collect::<Vec<_>>(), 0..70)
}

fn filters() -> impl Strategy<Value = Filter> {
    let leaf = prop_oneof![
        4 => (0_usize..6, 0_usize..6)
            .prop_flat_map(|(column, operator)| (Just(column), Just(operator), value(column, false)))
            .prop_map(|(column, operator, value)| Filter::Compare(column, operator, value)),
        3 => (0_usize..6, any::<bool>())
            .prop_flat_map(|(column, negated)| {
                (Just(column), Just(negated), prop::collection::vec(value(column, false), 0..4))
            })
            .prop_map(|(column, negated, values)| Filter::In(column, negated, values)),
        1 => (0_usize..6, any::<bool>()).prop_map(|(column, is)| Filter::IsNull(column, is)),
        1 => ("([abAé%_]|\\\\[a%]){0,4}", any::<bool>()).prop_map(|(pattern, i)| Filter::Like(pattern, i)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Or),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
}

fn batch(rows: &[Vec<Value>]) -> RecordBatch {
    let exact = |column: usize, unit: i64| {
        rows.iter().map(move |row| if let Value::Exact(n) = row[column] { Some(n / unit) } else { None })
    };
    let totals: Decimal128Array = exact(1, 10).map(|n| n.map(i128::from)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(exact(0, 1000).collect::<Int64Array>()),
        Arc::new(totals.with_precision_and_scale(6, 2).expect("six digits")),
        Arc::new(
            rows.iter().map(|row| if let Value::Float(x) = row[2] { Some(x) } else { None }).collect::<Float64Array>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| if let Value::Text(text) = &row[3] { Some(text) } else { None })
                .collect::<StringArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| if let Value::Boolean(yes) = row[4] { Some(yes) } else { None })
                .collect::<BooleanArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| if let Value::Moment(at, _) = row[5] { Some(at) } else { None })
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(NAMES.iter().zip(columns).map(|(name, array)| (*name, array, true)))
        .expect("columns of one length")
}

// The oracle.

fn is_true(filter: &Filter, row: &[Value]) -> Option<bool> {
    match filter {
        Filter::And(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| is_true(part, row)).collect();
            if parts.contains(&Some(false)) {
                Some(false)
            } else {
                parts.into_iter().all(|it| it.is_some()).then_some(true)
            }
        }
        Filter::Or(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| is_true(part, row)).collect();
            if parts.contains(&Some(true)) {
                Some(true)
            } else {
                parts.into_iter().all(|it| it.is_some()).then_some(false)
            }
        }
        Filter::Not(part) => is_true(part, row).map(|it| !it),
        Filter::Compare(column, operator, value) => compare(&row[*column], *operator, value),
        Filter::In(column, is_negated, values) => {
            let equal: Vec<_> = values.iter().map(|value| compare(&row[*column], 0, value)).collect();
            let found = if equal.contains(&Some(true)) {
                Some(true)
            } else {
                equal.into_iter().all(|it| it.is_some()).then_some(false)
            };
            found.map(|it| it != *is_negated)
        }
        Filter::IsNull(column, is) => Some(matches!(row[*column], Value::Null) == *is),
        Filter::Like(pattern, is_insensitive) => match &row[NAME] {
            Value::Text(text) if *is_insensitive => {
                Some(like(&chars(&text.to_lowercase()), &chars(&pattern.to_lowercase())))
            }
            Value::Text(text) => Some(like(&chars(text), &chars(pattern))),
            _ => None,
        },
    }
}

fn compare(left: &Value, operator: usize, right: &Value) -> Option<bool> {
    let order = match (left, right) {
        (Value::Exact(one), Value::Exact(other)) => one.cmp(other),
        (Value::Float(one), Value::Float(other)) => match (one.is_nan(), other.is_nan()) {
            (false, false) => one.partial_cmp(other)?,
            (one, other) => one.cmp(&other),
        },
        (Value::Text(one), Value::Text(other)) => one.chars().cmp(other.chars()),
        (Value::Boolean(one), Value::Boolean(other)) => one.cmp(other),
        (Value::Moment(one, _), Value::Moment(other, _)) => one.cmp(other),
        _ => return None,
    };
    Some([order.is_eq(), order.is_ne(), order.is_lt(), order.is_le(), order.is_gt(), order.is_ge()][operator])
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|skipped| like(&text[skipped..], rest)),
        ['_', rest @ ..] => !text.is_empty() && like(&text[1..], rest),
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => text.first() == Some(literal) && like(&text[1..], rest),
    }
}

// The same filter in other forms.

fn spelled(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Exact(n) if *n % 1000 == 0 && n.abs() < 2000 => json!(n / 1000),
        Value::Exact(n) => {
            let sign = if *n < 0 { "-" } else { "" };
            json!(format!("{sign}{}.{:03}", n.unsigned_abs() / 1000, n.unsigned_abs() % 1000))
        }
        Value::Float(x) if x.is_nan() => json!("NaN"),
        Value::Float(x) if x.is_infinite() => json!(if *x > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Float(x) => json!(x),
        Value::Text(text) => json!(text),
        Value::Boolean(yes) => json!(yes),
        Value::Moment(at, offset) => {
            // Within two days of 1970, so that a clock is all that is needed.
            let local = at + offset * 60_000_000;
            let (day, clock) = (local.div_euclid(86_400_000_000), local.rem_euclid(86_400_000_000));
            let day = if day < 0 { "1969-12-31" } else { "1970-01-01" };
            let (seconds, micros) = (clock / 1_000_000, clock % 1_000_000);
            let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            let (sign, offset) = (if *offset < 0 { '-' } else { '+' }, offset.abs());
            json!(format!("{day}T{h:02}:{m:02}:{s:02}.{micros:06}{sign}{:02}:{:02}", offset / 60, offset % 60))
        }
    }
}

fn as_json(filter: &Filter) -> Json {
    let items = |parts: &[Filter]| Json::Array(parts.iter().map(as_json).collect());
    match filter {
        Filter::And(parts) => json!({"_and": items(parts)}),
        Filter::Or(parts) => json!({"_or": items(parts)}),
        Filter::Not(part) => json!({"_not": as_json(part)}),
        Filter::Compare(column, operator, value) => json!({NAMES[*column]: {OPERATORS[*operator].0: spelled(value)}}),
        Filter::In(column, is_negated, values) => {
            let name = if *is_negated { "_nin" } else { "_in" };
            json!({NAMES[*column]: {name: values.iter().map(spelled).collect::<Vec<_>>()}})
        }
        Filter::IsNull(column, is) => json!({NAMES[*column]: {"_is_null": is}}),
        Filter::Like(pattern, is_insensitive) => {
            json!({NAMES[NAME]: {if *is_insensitive { "_ilike" } else { "_like" }: pattern}})
        }
    }
}

/// The same meaning: parts in the other order and twice, in further layers.
fn turned(filter: &Filter) -> Filter {
    let turned_parts = |parts: &[Filter]| {
        let mut parts: Vec<Filter> = parts.iter().rev().map(turned).collect();
        parts.extend(parts.first().cloned());
        parts
    };
    let twice = |part| Filter::Not(Box::new(Filter::Not(Box::new(part))));
    match filter {
        Filter::And(parts) => twice(Filter::And(vec![Filter::And(turned_parts(parts))])),
        Filter::Or(parts) => Filter::Or(vec![Filter::Or(vec![]), Filter::Or(turned_parts(parts))]),
        Filter::Not(part) => match &**part {
            // As De Morgan has it.
            Filter::And(parts) => Filter::Or(parts.iter().map(|part| Filter::Not(Box::new(turned(part)))).collect()),
            part => Filter::Not(Box::new(turned(part))),
        },
        Filter::In(column, is_negated, values) => {
            let values = values.iter().rev().chain(values).cloned().collect();
            Filter::In(*column, *is_negated, values)
        }
        other => other.clone(),
    }
}

/// As a policy. Every value for which `is_claim` is a claim, which goes to `claims`.
fn as_template(
    filter: &Filter,
    schema: &Schema,
    is_claim: &mut impl FnMut() -> bool,
    claims: &mut Map<String, Json>,
) -> Template {
    let mut operand = |value: &Value| {
        if is_claim() || matches!(value, Value::Null) {
            let name = format!("c{}", claims.len());
            claims.insert(name.clone(), spelled(value));
            return Operand::claim(ClaimPath::parse(&format!("within.{name}")).expect("a path"));
        }
        Operand::literal(match spelled(value) {
            Json::Bool(yes) => Literal::Boolean(yes),
            Json::String(text) => Literal::Text(text),
            number => Literal::Number(number.to_string()),
        })
    };
    let template = match filter {
        Filter::And(parts) => {
            return Template::every(
                parts.iter().map(|it| as_template(it, schema, is_claim, claims)).collect::<Vec<_>>(),
            );
        }
        Filter::Or(parts) => {
            return Template::any(parts.iter().map(|it| as_template(it, schema, is_claim, claims)).collect::<Vec<_>>());
        }
        Filter::Not(part) => return as_template(part, schema, is_claim, claims).negated(),
        Filter::Compare(column, operator, value) => {
            // With the sides exchanged, which must not matter.
            let operator = OPERATORS[*operator].1.flipped();
            Template::compare(operand(value), operator, Operand::Column(*column), schema)
        }
        Filter::In(column, is_negated, values) => {
            let list = values.iter().map(&mut operand).collect();
            let template = Template::is_in(Operand::Column(*column), list, schema).expect("a list of the type");
            return if *is_negated { template.negated() } else { template };
        }
        Filter::IsNull(column, is) => {
            let template = Template::is_null(Operand::Column(*column), schema).expect("a column");
            return if *is { template } else { template.negated() };
        }
        Filter::Like(pattern, is_insensitive) => {
            let pattern = operand(&Value::Text(pattern.clone()));
            Template::like(Operand::Column(NAME), pattern, *is_insensitive, schema)
        }
    };
    template.expect("types that compare")
}

/// The filter with every n-th value NULL.
fn with_nulls(filter: &Filter, count: &mut usize) -> Filter {
    let mut null = |value: &Value| {
        *count += 1;
        if (*count).is_multiple_of(3) { Value::Null } else { value.clone() }
    };
    match filter {
        Filter::And(parts) => Filter::And(parts.iter().map(|it| with_nulls(it, count)).collect()),
        Filter::Or(parts) => Filter::Or(parts.iter().map(|it| with_nulls(it, count)).collect()),
        Filter::Not(part) => Filter::Not(Box::new(with_nulls(part, count))),
        Filter::Compare(column, operator, value) => Filter::Compare(*column, *operator, null(value)),
        Filter::In(column, is_negated, values) => Filter::In(*column, *is_negated, values.iter().map(null).collect()),
        other => other.clone(),
    }
}

fn parse(filter: &Filter) -> Predicate {
    Predicate::parse(&as_json(filter), &batch(&[]).schema(), &|_| true).expect("a filter without mistakes")
}

fn matches(predicate: &Predicate, rows: &RecordBatch) -> Vec<bool> {
    predicate.matches(rows).expect("a batch of the schema").iter().collect()
}

fn bits(bits: &BooleanBuffer) -> Vec<bool> {
    bits.iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_is_true_where_it_is_true_row_by_row(filter in filters(), rows in rows()) {
        let expected: Vec<bool> = rows.iter().map(|row| is_true(&filter, row) == Some(true)).collect();
        let (predicate, batch) = (parse(&filter), batch(&rows));
        prop_assert_eq!(matches(&predicate, &batch), expected.clone());
        // Half of the batch, so that bits don't begin where bytes do.
        let skipped = rows.len() / 3;
        prop_assert_eq!(matches(&predicate, &batch.slice(skipped, rows.len() - skipped)), &expected[skipped..]);
        prop_assert!(!predicate.is_all() || expected.iter().all(|it| *it));
        prop_assert!(!predicate.is_none() || !expected.iter().any(|it| *it));
    }

    #[test]
    fn filters_of_one_meaning_are_one_predicate(filter in filters()) {
        let (one, other) = (parse(&filter), parse(&turned(&filter)));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn predicates_are_sets(a in filters(), b in filters(), c in filters(), rows in rows()) {
        let (a, b, c, batch) = (parse(&a), parse(&b), parse(&c), batch(&rows));
        let (in_a, in_b) = (a.matches(&batch).unwrap(), b.matches(&batch).unwrap());
        prop_assert_eq!(matches(&a.and(&b), &batch), bits(&(&in_a & &in_b)));
        prop_assert_eq!(matches(&a.or(&b), &batch), bits(&(&in_a | &in_b)));
        prop_assert_eq!(a.and(&b), b.and(&a));
        prop_assert_eq!(a.or(&b), b.or(&a));
        prop_assert_eq!(a.and(&b).and(&c), a.and(&b.and(&c)));
        prop_assert_eq!(a.or(&b).or(&c), a.or(&b.or(&c)));
        prop_assert_eq!(&a.and(&a), &a);
        prop_assert_eq!(&a.or(&a), &a);
        prop_assert_eq!(a == b, a.fingerprint() == b.fingerprint());
    }

    #[test]
    fn what_is_looked_up_and_the_residual_are_the_predicate(filter in filters(), more in filters(), rows in rows()) {
        let (predicate, batch) = (parse(&filter).and(&parse(&more)), batch(&rows));
        let Some(terms) = predicate.index_terms() else { return Ok(()) };
        prop_assert!(terms.columns.is_sorted() && !terms.columns.is_empty());
        let fields = terms.columns.iter().map(|column| SortField::new(batch.column(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect()).unwrap();
        let alternatives = converter.convert_columns(&terms.alternatives).unwrap();
        prop_assert!(alternatives.num_rows() <= filter::ALTERNATIVES_MAX);
        let columns: Vec<ArrayRef> = terms.columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        let found = converter.convert_columns(&columns).unwrap();
        let residual = terms.residual.matches(&batch).unwrap();
        let joined: Vec<bool> = (0..rows.len())
            .map(|row| residual.value(row) && alternatives.iter().filter(|it| *it == found.row(row)).count() == 1)
            .collect();
        prop_assert_eq!(joined, matches(&predicate, &batch));
    }

    #[test]
    fn a_policy_with_its_claims_is_the_filter_with_its_values(
        filter in filters(),
        has_nulls in any::<bool>(),
        are_claims in prop::collection::vec(any::<bool>(), 40),
        rows in rows(),
    ) {
        let filter = if has_nulls { with_nulls(&filter, &mut 0) } else { filter };
        let (batch, mut claims, mut count) = (batch(&rows), Map::new(), 0);
        let mut is_claim = || {
            count += 1;
            are_claims[count % are_claims.len()]
        };
        let template = as_template(&filter, &batch.schema(), &mut is_claim, &mut claims);
        prop_assert_eq!(template.claims().len(), claims.len());
        let claims = Map::from_iter([("within".to_owned(), Json::Object(claims))]);
        let predicate = template.bind(&claims, &batch.schema());
        let expected: Vec<bool> = rows.iter().map(|row| is_true(&filter, row) == Some(true)).collect();
        prop_assert_eq!(matches(&predicate, &batch), expected);
        if !has_nulls {
            prop_assert_eq!(predicate, parse(&filter));
        }
    }
}
