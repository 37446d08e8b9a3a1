//! What policies become with the claims of a token: which rows, and above all which not.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use expect_test::{Expect, expect};
use filter::{ClaimPath, FilterError, Literal, Operand, Operator, Template};
use serde_json::{Value as Json, json};

const ID: Operand = Operand::Column(0);
const OWNER: Operand = Operand::Column(1);
const TOTAL: Operand = Operand::Column(2);

/// Ids 1 to 4 of ann, bob, NULL and 42.
fn orders() -> RecordBatch {
    let totals = Decimal128Array::from(vec![Some(10_000), Some(10_001), Some(-1), None]);
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("owner", Arc::new(StringArray::from(vec![Some("ann"), Some("bob"), None, Some("42")]))),
        ("total", Arc::new(totals.with_precision_and_scale(10, 2).expect("ten digits"))),
        ("weight", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]))),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]); 4]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("four rows each")
}

fn claim(path: &str) -> Operand {
    Operand::claim(ClaimPath::parse(path).expect("a path"))
}

fn cast_claim(path: &str, to: DataType) -> Operand {
    Operand::Claim(ClaimPath::parse(path).expect("a path"), Some(to))
}

fn text(text: &str) -> Operand {
    Operand::literal(Literal::Text(text.to_owned()))
}

fn number(text: &str) -> Operand {
    Operand::literal(Literal::Number(text.to_owned()))
}

fn compare(left: Operand, operator: Operator, right: Operand) -> Result<Template, FilterError> {
    Template::compare(left, operator, right, &orders().schema())
}

fn is_in(operand: Operand, list: Vec<Operand>) -> Result<Template, FilterError> {
    Template::is_in(operand, list, &orders().schema())
}

fn like(operand: Operand, pattern: Operand) -> Result<Template, FilterError> {
    Template::like(operand, pattern, false, &orders().schema())
}

/// The ids of the rows that tokens show, and those that they show when the policy is negated.
#[track_caller]
fn check(template: Result<Template, FilterError>, tokens: &[(Json, &[i64], &[i64])]) {
    let (template, rows) = (template.expect("a template"), orders());
    for (claims, shown, shown_by_negation) in tokens {
        let claims = claims.as_object().expect("claims are an object");
        let ids = |template: &Template| -> Vec<i64> {
            let found = template.bind(claims, &rows.schema()).matches(&rows).expect("rows of the schema");
            found.set_indices().map(|row| row as i64 + 1).collect()
        };
        assert_eq!(ids(&template), *shown, "{claims:?}");
        assert_eq!(ids(&template.negated()), *shown_by_negation, "NOT, {claims:?}");
        assert_eq!(ids(&template.negated().negated()), *shown, "NOT NOT, {claims:?}");
    }
}

#[test]
fn a_claim_that_is_not_there_shows_nothing() {
    check(
        compare(OWNER, Operator::Eq, claim("sub")),
        &[
            (json!({"sub": "ann"}), &[1], &[2, 4]),
            (json!({"sub": "eve"}), &[], &[1, 2, 4]),
            (json!({"sub": 42}), &[4], &[1, 2]),
            (json!({}), &[], &[]),
            (json!({"sub": null}), &[], &[]),
            (json!({"sub": true}), &[], &[]),
            (json!({"sub": 4.2}), &[], &[]),
            (json!({"sub": 42.0}), &[], &[]),
            (json!({"sub": ["ann"]}), &[], &[]),
            (json!({"sub": {"id": "ann"}}), &[], &[]),
            (json!({"Sub": "ann"}), &[], &[]),
        ],
    );
}

#[test]
fn a_claim_that_is_no_value_of_the_column_is_null() {
    check(
        compare(ID, Operator::GtEq, claim("from")),
        &[
            (json!({"from": 3}), &[3, 4], &[1, 2]),
            (json!({"from": "3"}), &[3, 4], &[1, 2]),
            (json!({"from": 2.5}), &[3, 4], &[1, 2]),
            (json!({"from": "1e99"}), &[], &[1, 2, 3, 4]),
            (json!({"from": "three"}), &[], &[]),
            (json!({"from": ""}), &[], &[]),
            (json!({"from": true}), &[], &[]),
            (json!({"from": [1]}), &[], &[]),
        ],
    );
    check(
        compare(claim("limit"), Operator::Gt, TOTAL),
        &[(json!({"limit": "100.005"}), &[1, 3], &[2]), (json!({"limit": "NaN"}), &[1, 2, 3], &[])],
    );
}

/// The parts of a policy that are known decide where they can: AND and OR in three values.
#[test]
fn what_is_unknown_spoils_only_what_depends_on_it() {
    let mine = || compare(OWNER, Operator::Eq, claim("sub")).expect("text and claim");
    let admin = || compare(claim("role"), Operator::Eq, text("admin")).expect("claim and text");
    let large = || compare(TOTAL, Operator::Gt, number("100")).expect("numbers");
    check(
        Ok(Template::any([mine(), admin()])),
        &[
            (json!({"role": "admin"}), &[1, 2, 3, 4], &[]),
            (json!({"role": "user"}), &[], &[]),
            (json!({"role": "user", "sub": "ann"}), &[1], &[2, 4]),
            (json!({"sub": "ann"}), &[1], &[]),
            (json!({}), &[], &[]),
        ],
    );
    check(
        Ok(Template::every([mine(), large()])),
        &[(json!({"sub": "bob"}), &[2], &[1, 3, 4]), (json!({}), &[], &[1, 3])],
    );
    check(Ok(Template::all()), &[(json!({}), &[1, 2, 3, 4], &[])]);
    check(Ok(Template::none()), &[(json!({}), &[], &[1, 2, 3, 4])]);
    check(Ok(Template::any([])), &[(json!({}), &[], &[1, 2, 3, 4])]);
    check(Ok(Template::every([])), &[(json!({}), &[1, 2, 3, 4], &[])]);
}

#[test]
fn an_array_is_the_list_of_its_items() {
    check(
        is_in(OWNER, vec![claim("teams")]),
        &[
            (json!({"teams": ["ann", "eve"]}), &[1], &[2, 4]),
            (json!({"teams": "bob"}), &[2], &[1, 4]),
            (json!({"teams": [42]}), &[4], &[1, 2]),
            (json!({"teams": []}), &[], &[1, 2, 3, 4]),
            (json!({"teams": ["ann", null]}), &[1], &[]),
            (json!({"teams": ["ann", {}]}), &[1], &[]),
            (json!({"teams": ["ann", true]}), &[1], &[]),
            (json!({"teams": [["ann"]]}), &[], &[]),
            (json!({"teams": null}), &[], &[]),
            (json!({}), &[], &[]),
        ],
    );
    check(
        is_in(ID, vec![number("1"), claim("more"), number("2.5")]),
        &[
            (json!({"more": [2, "3"]}), &[1, 2, 3], &[4]),
            (json!({"more": []}), &[1], &[2, 3, 4]),
            (json!({}), &[1], &[]),
        ],
    );
    check(is_in(ID, vec![]), &[(json!({}), &[], &[1, 2, 3, 4])]);
    // Only what no row can be: different from every row that is there.
    check(is_in(TOTAL, vec![number("100.005")]), &[(json!({}), &[], &[1, 2, 3])]);
}

#[test]
fn claims_alone_decide_for_all_rows() {
    const ALL: &[i64] = &[1, 2, 3, 4];
    check(
        is_in(text("admin"), vec![claim("realm_access.roles")]),
        &[
            (json!({"realm_access": {"roles": ["user", "admin"]}}), ALL, &[]),
            (json!({"realm_access": {"roles": ["user"]}}), &[], ALL),
            (json!({"realm_access": {"roles": ["user", null]}}), &[], &[]),
            (json!({"realm_access": {"roles": []}}), &[], ALL),
            (json!({"realm_access": {"roles": "admin"}}), ALL, &[]),
            (json!({"realm_access": {}}), &[], &[]),
            (json!({"realm_access": "admin"}), &[], &[]),
            (json!({}), &[], &[]),
        ],
    );
    check(
        is_in(claim("role"), vec![text("admin"), text("boss")]),
        &[(json!({"role": "boss"}), ALL, &[]), (json!({"role": "user"}), &[], ALL), (json!({}), &[], &[])],
    );
    check(
        compare(claim("level"), Operator::GtEq, number("3")),
        &[
            (json!({"level": 3}), ALL, &[]),
            (json!({"level": "10"}), ALL, &[]),
            (json!({"level": 2.999}), &[], ALL),
            (json!({"level": "high"}), &[], &[]),
            (json!({"level": true}), &[], &[]),
            (json!({"level": "NaN"}), &[], &[]),
        ],
    );
    // Without a cast two texts are compared as texts.
    check(compare(claim("level"), Operator::Gt, text("3")), &[(json!({"level": "10"}), &[], ALL)]);
    check(
        compare(cast_claim("level", DataType::Int64), Operator::Gt, text("3")),
        &[(json!({"level": "10"}), ALL, &[]), (json!({"level": 10.5}), &[], &[]), (json!({"level": "x"}), &[], &[])],
    );
    check(
        compare(Operand::literal(Literal::Boolean(true)), Operator::Eq, claim("email_verified")),
        &[
            (json!({"email_verified": true}), ALL, &[]),
            (json!({"email_verified": false}), &[], ALL),
            (json!({"email_verified": "true"}), ALL, &[]),
            (json!({"email_verified": 1}), &[], &[]),
        ],
    );
    check(
        compare(claim("sub"), Operator::Eq, claim("act.sub")),
        &[
            (json!({"sub": "a", "act": {"sub": "a"}}), ALL, &[]),
            (json!({"sub": 7, "act": {"sub": "7"}}), ALL, &[]),
            (json!({"sub": "7.0", "act": {"sub": "7"}}), &[], ALL),
            (json!({"sub": "a"}), &[], &[]),
            (json!({}), &[], &[]),
        ],
    );
}

#[test]
fn null_and_patterns() {
    let schema = orders().schema();
    check(Template::is_null(OWNER, &schema), &[(json!({}), &[3], &[1, 2, 4])]);
    check(
        Template::is_null(claim("org"), &schema),
        &[
            (json!({}), &[1, 2, 3, 4], &[]),
            (json!({"org": null}), &[1, 2, 3, 4], &[]),
            (json!({"org": []}), &[], &[1, 2, 3, 4]),
        ],
    );
    let null = Operand::literal(Literal::Null);
    check(Template::is_null(null, &schema), &[(json!({}), &[1, 2, 3, 4], &[])]);
    check(Template::is_null(text("x"), &schema), &[(json!({}), &[], &[1, 2, 3, 4])]);
    check(
        like(OWNER, claim("pattern")),
        &[
            (json!({"pattern": "%n%"}), &[1], &[2, 4]),
            (json!({"pattern": "%"}), &[1, 2, 4], &[]),
            (json!({"pattern": "a\\"}), &[], &[]),
            (json!({"pattern": "_".repeat(5_000)}), &[], &[]),
            (json!({"pattern": 42}), &[], &[]),
            (json!({}), &[], &[]),
        ],
    );
    check(
        like(claim("email"), text("%@shop.example")),
        &[
            (json!({"email": "ann@shop.example"}), &[1, 2, 3, 4], &[]),
            (json!({"email": "ann@else.example"}), &[], &[1, 2, 3, 4]),
            (json!({}), &[], &[]),
        ],
    );
}

#[test]
fn casts_say_what_a_claim_must_be() {
    check(
        compare(TOTAL, Operator::Eq, cast_claim("x", DataType::Int64)),
        &[(json!({"x": 100}), &[1], &[2, 3]), (json!({"x": "100.01"}), &[], &[]), (json!({"x": "1e30"}), &[], &[])],
    );
    check(
        is_in(ID, vec![cast_claim("x", DataType::Int16)]),
        &[(json!({"x": [1, "2"]}), &[1, 2], &[3, 4]), (json!({"x": [1, 40_000]}), &[1], &[])],
    );
    let three = Operand::Literal(Literal::Text("3".to_owned()), Some(DataType::Int64));
    check(compare(ID, Operator::Lt, three), &[(json!({}), &[1, 2], &[3, 4])]);
    check(compare(OWNER, Operator::Eq, cast_claim("x", DataType::Utf8View)), &[(json!({"x": "ann"}), &[1], &[2, 4])]);
}

/// Of two claims with casts the second's was forgotten and the first's stood for both: `x::int >= 2.5` was true for
/// nobody, and a claim that is no `smallint` was compared all the same.
#[test]
fn each_claim_is_of_its_own_cast() {
    const ALL: &[i64] = &[1, 2, 3, 4];
    let cast = |to: &DataType| (cast_claim("x", to.clone()), cast_claim("y", to.clone()));
    let (small, numeric) = (cast(&DataType::Int16), cast(&DataType::Decimal128(10, 2)));
    let tokens: &[(Json, &[i64], &[i64])] = &[
        (json!({"x": 1, "y": "1.01"}), ALL, &[]),
        (json!({"x": 2, "y": "1.01"}), &[], ALL),
        (json!({"x": 2, "y": 2}), &[], ALL),
        (json!({"x": 40_000, "y": 50_000}), &[], &[]),
        (json!({"x": 1, "y": "1.011"}), &[], &[]),
        (json!({"x": 1}), &[], &[]),
    ];
    check(compare(small.0.clone(), Operator::Lt, numeric.1.clone()), tokens);
    check(compare(numeric.1, Operator::Gt, small.0.clone()), tokens);
    let whole = cast(&DataType::Int64);
    let tokens: &[(Json, &[i64], &[i64])] = &[
        (json!({"x": 7, "y": 7}), ALL, &[]),
        (json!({"x": 1, "y": 2}), &[], ALL),
        (json!({"x": 1, "y": 40_000}), &[], &[]),
    ];
    check(compare(whole.0.clone(), Operator::Eq, small.1.clone()), tokens);
    check(is_in(whole.0.clone(), vec![small.1]), tokens);
    check(
        compare(whole.0.clone(), Operator::GtEq, number("2.5")),
        &[(json!({"x": 3}), ALL, &[]), (json!({"x": "2"}), &[], ALL), (json!({"x": 2.5}), &[], &[])],
    );
    check(
        compare(whole.0, Operator::Lt, cast_claim("y", DataType::Float64)),
        &[
            (json!({"x": 1, "y": 1.5}), ALL, &[]),
            (json!({"x": 1, "y": "NaN"}), ALL, &[]),
            (json!({"x": 2, "y": 1.5}), &[], ALL),
        ],
    );
    let wide = cast(&DataType::Decimal256(60, 0));
    let digits = |last: u8| format!("{}{last}", "7".repeat(59));
    check(
        compare(wide.0, Operator::Lt, wide.1),
        &[(json!({"x": digits(1), "y": digits(2)}), ALL, &[]), (json!({"x": digits(2), "y": digits(2)}), &[], ALL)],
    );
    check(
        compare(cast_claim("x", DataType::Date32), Operator::Lt, text("2024-03-01")),
        &[
            (json!({"x": "2024-02-29"}), ALL, &[]),
            (json!({"x": "+010000-01-01"}), &[], ALL),
            (json!({"x": 7}), &[], &[]),
        ],
    );
}

/// Postgres casts the text of a claim (`->>`), and what is no integer by its text is an error: no row, negated or not.
/// Casts were by value, so that `2.0`, `"2.0"` and `"2e0"` showed the rows of 2. The answers are those of Postgres 15.
#[test]
fn an_integer_is_cast_from_its_text() {
    const ALL: &[i64] = &[1, 2, 3, 4];
    let integers = [
        (DataType::Int16, json!(40_000)),
        (DataType::Int32, json!("2147483648")),
        (DataType::Int64, json!(9_223_372_036_854_775_808_u64)),
    ];
    for (to, too_large) in integers {
        let takes: Vec<Json> =
            [json!(2), json!("2"), json!("+2"), json!("002"), json!(" 2 "), json!("\t\n2\u{b}\u{c}\r")].into();
        let refuses: Vec<Json> = [json!(2.0), json!(-0.0), json!(true), json!(["2"]), json!({"n": 2}), too_large]
            .into_iter()
            .chain(
                ["2.0", "2.", "2e0", "20e-1", "", " ", "+", "++2", "- 2", "2 2", "0x2", "2_0", "2\u{a0}", "NaN"]
                    .map(Json::from),
            )
            .collect();
        let cast = || cast_claim("x", to.clone());
        for claim in takes {
            let token =
                |shown: &'static [i64], by_negation: &'static [i64]| [(json!({"x": claim}), shown, by_negation)];
            check(compare(ID, Operator::Eq, cast()), &token(&[2], &[1, 3, 4]));
            check(compare(TOTAL, Operator::Lt, cast()), &token(&[3], &[1, 2]));
            check(is_in(ID, vec![cast()]), &token(&[2], &[1, 3, 4]));
            check(compare(cast(), Operator::Eq, number("2")), &token(ALL, &[]));
            check(is_in(cast(), vec![number("1"), number("2")]), &token(ALL, &[]));
            check(Template::is_null(cast(), &orders().schema()), &token(&[], ALL));
        }
        for claim in refuses {
            let token = [(json!({"x": claim}), &[][..], &[][..])];
            check(compare(ID, Operator::Eq, cast()), &token);
            check(compare(TOTAL, Operator::Lt, cast()), &token);
            check(compare(cast(), Operator::Eq, number("2")), &token);
            check(is_in(cast(), vec![number("1"), number("2")]), &token);
            check(Template::is_null(cast(), &orders().schema()), &token);
            if !claim.is_array() {
                check(is_in(ID, vec![cast()]), &token);
            }
        }
    }
    // Of a list each item is cast; one that is none makes it unknown whether another row is in it.
    check(
        is_in(ID, vec![cast_claim("x", DataType::Int32)]),
        &[(json!({"x": ["1", " 2"]}), &[1, 2], &[3, 4]), (json!({"x": [1, 2.0, "3.0"]}), &[1], &[])],
    );
    // A constant too is cast by its text when it is in quotes, and by its value when it is a number.
    let constant = |literal| Operand::Literal(literal, Some(DataType::Int32));
    let told = compare(ID, Operator::Eq, constant(Literal::Text("2.0".to_owned()))).unwrap_err().to_string();
    assert_eq!(told, r#""2.0" is no integer, which looks like 42 or "42""#);
    check(compare(ID, Operator::Eq, constant(Literal::Text(" 2".to_owned()))), &[(json!({}), &[2], &[1, 3, 4])]);
    check(compare(ID, Operator::Eq, constant(Literal::Number("2.0".to_owned()))), &[(json!({}), &[2], &[1, 3, 4])]);
}

/// Other numbers are cast by value, and blanks round them are none of it, as in Postgres. Of a number that a double
/// can't tell from zero Postgres says that it is out of range.
#[test]
fn other_numbers_are_cast_by_value() {
    let decimal = || compare(ID, Operator::Eq, cast_claim("x", DataType::Decimal128(10, 2)));
    for two in [json!(2), json!(2.0), json!("2.0"), json!("2e0"), json!(" 2\n"), json!("+2.")] {
        check(decimal(), &[(json!({"x": two}), &[2], &[1, 3, 4])]);
    }
    for none in [json!("2 .0"), json!("2,0"), json!("2.005"), json!(""), json!(" "), json!(true)] {
        check(decimal(), &[(json!({"x": none}), &[], &[])]);
    }
    for (to, small) in [(DataType::Float64, "1e-400"), (DataType::Float32, "1e-50")] {
        let float = || compare(Operand::Column(3), Operator::Gt, cast_claim("x", to.clone()));
        check(float(), &[(json!({"x": " 2e0 "}), &[3, 4], &[1, 2]), (json!({"x": "0.0"}), &[1, 2, 3, 4], &[])]);
        check(float(), &[(json!({"x": small}), &[], &[]), (json!({"x": "1e400"}), &[], &[])]);
    }
}

/// What is compared as text is compared by the text of a claim, which a number that has a point does not have: of `2.0`
/// and `2.00` nobody could tell any more which it was. `claim('level') = '2'` was true for 2.0, and 10 came after '9'.
#[test]
fn claims_without_a_cast_are_texts() {
    const ALL: &[i64] = &[1, 2, 3, 4];
    check(
        compare(claim("x"), Operator::Eq, text("2")),
        &[
            (json!({"x": 2}), ALL, &[]),
            (json!({"x": "2"}), ALL, &[]),
            (json!({"x": 3}), &[], ALL),
            (json!({"x": "2.0"}), &[], ALL),
            (json!({"x": " 2"}), &[], ALL),
            (json!({"x": 2.0}), &[], &[]),
            (json!({"x": true}), &[], ALL),
            (json!({"x": [2]}), &[], &[]),
        ],
    );
    check(
        is_in(claim("x"), vec![text("2"), text("true")]),
        &[(json!({"x": 2.0}), &[], &[]), (json!({"x": 2}), ALL, &[]), (json!({"x": true}), ALL, &[])],
    );
    check(is_in(text("2"), vec![claim("x")]), &[(json!({"x": [2.0]}), &[], &[]), (json!({"x": [3, 2]}), ALL, &[])]);
    check(
        compare(claim("x"), Operator::Gt, text("9")),
        &[(json!({"x": 10}), &[], ALL), (json!({"x": "10"}), &[], ALL), (json!({"x": 91}), ALL, &[])],
    );
    check(
        compare(claim("x"), Operator::Lt, claim("y")),
        &[
            (json!({"x": 10, "y": 9}), ALL, &[]),
            (json!({"x": 9, "y": "10"}), &[], ALL),
            (json!({"x": 1.5, "y": 2}), &[], &[]),
        ],
    );
    // 't' is true where it is a boolean, and a text like another where nothing says so.
    check(
        compare(claim("x"), Operator::Eq, text("t")),
        &[(json!({"x": "t"}), ALL, &[]), (json!({"x": true}), &[], ALL)],
    );
    check(compare(claim("x"), Operator::Eq, text("true")), &[(json!({"x": true}), ALL, &[])]);
    check(compare(cast_claim("x", DataType::Boolean), Operator::Eq, text("t")), &[(json!({"x": true}), ALL, &[])]);
}

/// Integers beyond 64 bits come as doubles, and of those some are many integers: `20000000000000000001` and
/// `20000000000000000000` are both written `2e19`, of a single digit.
#[test]
fn an_integer_that_may_be_another_is_null() {
    let token = |claims: &str| serde_json::from_str::<Json>(claims).expect("JSON");
    check(
        compare(TOTAL, Operator::Lt, claim("x")),
        &[
            (token(r#"{"x": 20000000000000000001}"#), &[], &[]),
            (token(r#"{"x": -20000000000000000001}"#), &[], &[]),
            (token(r#"{"x": 2e19}"#), &[], &[]),
            (token(r#"{"x": "2e19"}"#), &[1, 2, 3], &[]),
            (token(r#"{"x": 18446744073709551615}"#), &[1, 2, 3], &[]),
            (token(r#"{"x": 1e3}"#), &[1, 2, 3], &[]),
        ],
    );
}

#[test]
fn claims_are_found_by_their_longest_name() {
    let hasura = json!({"https://hasura.io/jwt/claims": {"x-hasura-user-id": "7"}, "a": {"b": {"c": 1}}, "a.b": 2,
        "CORP\\ann": 3});
    let claims = hasura.as_object().expect("an object");
    for (path, expected) in [
        ("https://hasura.io/jwt/claims.x-hasura-user-id", Some(json!("7"))),
        ("https://hasura\\.io/jwt/claims.x-hasura-user-id", Some(json!("7"))),
        ("a.b", Some(json!(2))),
        // The longest name leads nowhere, and no other is tried: what a token shows never depends on luck.
        ("a.b.c", None),
        ("a\\.b", Some(json!(2))),
        ("a", Some(json!({"b": {"c": 1}}))),
        ("b", None),
        ("a.x", None),
        // But before a dot a backslash is a letter as any other.
        ("CORP\\ann", Some(json!(3))),
    ] {
        assert_eq!(ClaimPath::parse(path).expect("a path").find(claims).cloned(), expected, "{path}");
    }
    for path in ["", ".", "a.", ".a", "a..b", &"a.".repeat(40)] {
        assert!(ClaimPath::parse(path).is_err(), "{path}");
    }
    assert_eq!(ClaimPath::parse("a\\.b").expect("a path").as_str(), "a\\.b");
    let deep = |names: usize| ClaimPath::parse(&vec!["a"; names].join("."));
    assert!(deep(32).is_ok() && deep(33).is_err());
}

#[test]
fn what_a_template_needs() {
    let parts = [
        compare(OWNER, Operator::Eq, claim("sub")),
        is_in(TOTAL, vec![claim("b"), claim("a.x"), claim("b")]),
        like(claim("c"), text("%")).map(|it| it.negated()),
    ];
    let template = Template::every(parts.map(|part| part.expect("a template")));
    assert_eq!(template.claims().into_iter().map(ClaimPath::as_str).collect::<Vec<_>>(), ["a.x", "b", "c", "sub"]);
    assert_eq!(template.columns_used(), [1, 2].into());
}

#[track_caller]
fn mistakes(templates: &[Result<Template, FilterError>], expect: &Expect) {
    let said = templates.iter().map(|template| match template {
        Ok(template) => format!("{template:?}\n"),
        Err(error) => format!("{error}\n"),
    });
    expect.assert_eq(&said.collect::<String>());
}

#[test]
fn types_are_checked_before_there_is_a_token() {
    let stamp = || DataType::Timestamp(TimeUnit::Microsecond, None);
    let cast = |literal: &str, to| Operand::Literal(Literal::Text(literal.to_owned()), Some(to));
    let null = || Operand::literal(Literal::Null);
    mistakes(
        &[
            compare(ID, Operator::Eq, text("seven")),
            compare(number("7"), Operator::Eq, OWNER),
            compare(ID, Operator::Eq, OWNER),
            compare(ID, Operator::Eq, null()),
            compare(Operand::Column(4), Operator::Eq, claim("tags")),
            compare(Operand::Column(9), Operator::Eq, claim("x")),
            compare(ID, Operator::Eq, cast_claim("x", DataType::Utf8)),
            compare(OWNER, Operator::Eq, cast_claim("x", DataType::Date32)),
            compare(cast_claim("x", DataType::Date32), Operator::Eq, cast_claim("y", DataType::Boolean)),
            compare(ID, Operator::Eq, cast("x", DataType::Int64)),
            compare(ID, Operator::Eq, cast("1.5", DataType::Int64)),
            compare(cast_claim("x", DataType::Int64), Operator::Eq, text("y")),
            compare(cast_claim("x", DataType::Int64), Operator::Eq, cast_claim("y", stamp())),
            is_in(ID, vec![number("1"), OWNER]),
            is_in(ID, vec![number("1"), null()]),
            is_in(OWNER, vec![text("a"), number("1")]),
            like(ID, text("7%")),
            like(OWNER, number("7")),
            like(OWNER, text("a\\")),
            like(OWNER, OWNER),
            like(OWNER, cast_claim("x", DataType::Int64)),
        ],
        &expect![[r#"
            `id`: "seven" is no bigint, which looks like 42 or "42"
            `owner`: 7 is no text, which looks like "open"
            a column is compared with a literal or a claim, not with another column
            nothing compares with NULL; use IS NULL or IS NOT NULL
            `tags` is bigint[], which can only be tested by IS NULL
            there is no column number 9
            `id` is bigint, which does not compare with text
            `owner` is text, which does not compare with date
            date does not compare with boolean
            "x" is no bigint, which looks like 42 or "42"
            "1.5" is no bigint, which looks like 42 or "42"
            "y" is no bigint, which looks like 42 or "42"
            bigint does not compare with timestamp
            a list holds literals and claims, not columns
            nothing compares with NULL; use IS NULL or IS NOT NULL
            `owner`: 1 is no text, which looks like "open"
            LIKE compares text, and `id` is bigint
            LIKE compares text; put the literal in quotes
            a pattern can't end in a lone backslash: write \\ for one
            a pattern is a literal or a claim, not a column
            LIKE compares text, not bigint
        "#]],
    );
}
