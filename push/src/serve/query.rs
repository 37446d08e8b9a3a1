//! What a URL asks of a projection: as a subscription does, or in the form that PostgREST made known.
//!
//! ```text
//!  ?where={"status":{"_eq":"open"}}&columns=id,total&order=total.desc&limit=50
//!  ?status=eq.open&total=gt.100&select=id,total&order=total.desc&limit=50
//! ```
//!
//! Both are one filter when both are there. PostgREST's names: <https://docs.postgrest.org/en/v12/references/api/tables_views.html>.

use std::borrow::Cow;

use arrow::datatypes::{DataType, Schema};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::protocol::{OrderBy, Refusal, Subscribe, shorten};

/// Comparators by PostgREST's names.
const COMPARATORS: [(&str, &str); 8] = [
    ("eq", "_eq"),
    ("neq", "_neq"),
    ("gt", "_gt"),
    ("gte", "_gte"),
    ("lt", "_lt"),
    ("lte", "_lte"),
    ("like", "_like"),
    ("ilike", "_ilike"),
];

const FORM: &str =
    "write COLUMN=eq.VALUE, with eq, neq, gt, gte, lt, lte, like, ilike, in.(a,b), is.null, or not. before one of them";

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new("bad_request", message)
}

/// What a query asks of a projection with these columns. One that may not be seen is none, by the same words.
///
/// # Errors
/// `bad_request`, with what is wrong and what to write: a parameter that is passed over would be answered with too much.
pub fn parse(query: Option<&str>, schema: &Schema, may_use: &dyn Fn(usize) -> bool) -> Result<Subscribe, Refusal> {
    let mut asked = Subscribe::default();
    let mut filters = Vec::new();
    let pairs = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let is_twice = match &*name {
            "where" => {
                let filter =
                    serde_json::from_str(&value).map_err(|error| wrong(format!("`where` is no JSON: {error}")))?;
                filters.push(filter);
                false
            }
            "columns" | "select" => {
                let names = value.split(',').map(|name| name.trim().to_owned()).collect();
                asked.columns.replace(names).is_some()
            }
            "order" => asked.order.replace(order(&value)?).is_some(),
            "limit" => {
                let limit =
                    value.parse().map_err(|_| wrong(format!("`limit` is a number, not `{}`", shorten(&value))))?;
                asked.limit.replace(limit).is_some()
            }
            // A column of that name can be asked for by `where`.
            "offset" => {
                return Err(wrong(
                    "there is no `offset`: go on behind the last row that you have, such as id=gt.700&order=id&limit=50",
                ));
            }
            column => {
                let Some(place) = schema.index_of(column).ok().filter(|place| may_use(*place)) else {
                    let message =
                        "; there are where, columns, order, limit, and the projection's columns: status=eq.open";
                    return Err(wrong(format!("there is no parameter `{}`{message}", shorten(column))));
                };
                filters.push(comparison(column, &value, schema.field(place).data_type())?);
                false
            }
        };
        if is_twice {
            return Err(wrong(format!("`{name}` is there twice")));
        }
    }
    asked.filter = match filters.len() {
        0 => None,
        1 => filters.pop(),
        _ => Some(json!({ "_and": filters })),
    };
    Ok(asked)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Refusal> {
    // A form writes blanks so.
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8().map(Cow::into_owned);
    decoded.map(Cow::Owned).map_err(|_| wrong("the query is not UTF-8"))
}

/// `total.desc,id`
fn order(text: &str) -> Result<Vec<OrderBy>, Refusal> {
    let by = |item: &str| {
        let item = item.trim();
        // NULL is the largest here as in Postgres: that is what these say of it.
        let item = match item.strip_suffix(".nullslast") {
            Some(ascending) if !ascending.ends_with(".desc") => ascending,
            _ => item.strip_suffix(".nullsfirst").filter(|item| item.ends_with(".desc")).unwrap_or(item),
        };
        let (column, descending) = match (item.strip_suffix(".desc"), item.strip_suffix(".asc")) {
            (Some(column), _) => (column, true),
            (_, Some(column)) => (column, false),
            _ => (item, false),
        };
        if column.ends_with(".nullsfirst") || column.ends_with(".nullslast") {
            return Err(wrong("NULL is the largest: last in ascending order, and first in descending"));
        }
        Ok(OrderBy { column: column.to_owned(), descending })
    };
    text.split(',').map(by).collect()
}

/// `eq.open` of a column.
fn comparison(column: &str, text: &str, data_type: &DataType) -> Result<Value, Refusal> {
    let bad = || wrong(format!("`{}={}` is no comparison: {FORM}", shorten(column), shorten(text)));
    if let Some(negated) = text.strip_prefix("not.") {
        return Ok(json!({ "_not": comparison(column, negated, data_type)? }));
    }
    let (name, value) = text.split_once('.').ok_or_else(bad)?;
    if let Some((_, comparator)) = COMPARATORS.iter().find(|(known, _)| *known == name) {
        // In URLs * stands for %, which would have to be written %25.
        let value = if matches!(name, "like" | "ilike") { value.replace('*', "%") } else { value.to_owned() };
        return Ok(json!({ column: { *comparator: typed(&value, data_type) } }));
    }
    match (name, value) {
        ("is", "null") => Ok(json!({ column: { "_is_null": true } })),
        ("is", "not_null") => Ok(json!({ column: { "_is_null": false } })),
        ("is", "true" | "false") => Ok(json!({ column: { "_eq": value == "true" } })),
        ("in", list) => {
            let list = list.strip_prefix('(').and_then(|list| list.strip_suffix(')')).ok_or_else(bad)?;
            let items: Vec<Value> = items(list).ok_or_else(bad)?.iter().map(|item| typed(item, data_type)).collect();
            Ok(json!({ column: { "_in": items } }))
        }
        _ => Err(bad()),
    }
}

/// Filters take numbers and times as text; only what is true or false they do not.
fn typed(value: &str, data_type: &DataType) -> Value {
    match (data_type, value) {
        (DataType::Boolean, "true" | "t") => true.into(),
        (DataType::Boolean, "false" | "f") => false.into(),
        _ => value.into(),
    }
}

/// The items of `a,"b,c",d`: what has a comma stands in quotes, with `\"` for one and `\\` for itself.
fn items(list: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut letters = list.chars().peekable();
    while letters.peek().is_some() {
        let mut item = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next()? {
                    '"' => break,
                    '\\' => item.push(letters.next()?),
                    letter => item.push(letter),
                }
            }
            if letters.peek().is_some_and(|next| *next != ',') {
                return None;
            }
        } else {
            while let Some(letter) = letters.next_if(|letter| *letter != ',') {
                item.push(letter);
            }
        }
        found.push(item);
        if letters.next().is_some() && letters.peek().is_none() {
            found.push(String::new());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;
    use expect_test::expect;

    fn asked(query: &str) -> String {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("status", DataType::Utf8, true),
            Field::new("is_new", DataType::Boolean, true),
            Field::new("limit", DataType::Int64, true),
            Field::new("hidden", DataType::Int64, true),
        ]);
        match parse(Some(query), &schema, &|place| schema.field(place).name() != "hidden") {
            Ok(asked) => {
                let order = asked.order.map(|order| {
                    order
                        .iter()
                        .map(|by| format!("{}{}", by.column, if by.descending { " desc" } else { "" }))
                        .collect::<Vec<_>>()
                });
                let filter = asked.filter.map(|filter| filter.to_string());
                format!("{} {:?} {:?} {:?}", filter.unwrap_or_default(), asked.columns, order, asked.limit)
            }
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn queries_are_read_in_both_forms() {
        let queries = [
            "",
            "status=eq.open&order=id.desc&limit=50",
            "where=%7B%22status%22:%7B%22_eq%22:%22open%22%7D%7D&columns=id,status",
            "where={\"id\":{\"_gt\":1}}&status=ilike.*a+b*&select=id",
            "id=in.(1,2,3)&status=in.(a,\"b,c\",\"d\\\"e\",)",
            "status=is.null&is_new=is.true&is_new=eq.f&id=not.gte.7",
            "is_new=eq.true",
            "status=eq.eq.a.b&status=neq.%C3%A4",
            "order=status.asc.nullslast,id.desc.nullsfirst",
            "order=status.nullsfirst",
            "stat=eq.open",
            "hidden=eq.1",
            "status=open",
            "status=between.1",
            "id=in.1,2",
            "limit=many",
            "limit=1&limit=2",
            "offset=10",
            "where={",
            "status=eq.%ff",
        ];
        let told: String = queries.iter().map(|query| format!("{query}\n    {}\n", asked(query))).collect();
        expect![[r#"

                 None None None
            status=eq.open&order=id.desc&limit=50
                {"status":{"_eq":"open"}} None Some(["id desc"]) Some(50)
            where=%7B%22status%22:%7B%22_eq%22:%22open%22%7D%7D&columns=id,status
                {"status":{"_eq":"open"}} Some(["id", "status"]) None None
            where={"id":{"_gt":1}}&status=ilike.*a+b*&select=id
                {"_and":[{"id":{"_gt":1}},{"status":{"_ilike":"%a b%"}}]} Some(["id"]) None None
            id=in.(1,2,3)&status=in.(a,"b,c","d\"e",)
                {"_and":[{"id":{"_in":["1","2","3"]}},{"status":{"_in":["a","b,c","d\"e",""]}}]} None None None
            status=is.null&is_new=is.true&is_new=eq.f&id=not.gte.7
                {"_and":[{"status":{"_is_null":true}},{"is_new":{"_eq":true}},{"is_new":{"_eq":false}},{"_not":{"id":{"_gte":"7"}}}]} None None None
            is_new=eq.true
                {"is_new":{"_eq":true}} None None None
            status=eq.eq.a.b&status=neq.%C3%A4
                {"_and":[{"status":{"_eq":"eq.a.b"}},{"status":{"_neq":"ä"}}]} None None None
            order=status.asc.nullslast,id.desc.nullsfirst
                 None Some(["status", "id desc"]) None
            order=status.nullsfirst
                bad_request: NULL is the largest: last in ascending order, and first in descending
            stat=eq.open
                bad_request: there is no parameter `stat`; there are where, columns, order, limit, and the projection's columns: status=eq.open
            hidden=eq.1
                bad_request: there is no parameter `hidden`; there are where, columns, order, limit, and the projection's columns: status=eq.open
            status=open
                bad_request: `status=open` is no comparison: write COLUMN=eq.VALUE, with eq, neq, gt, gte, lt, lte, like, ilike, in.(a,b), is.null, or not. before one of them
            status=between.1
                bad_request: `status=between.1` is no comparison: write COLUMN=eq.VALUE, with eq, neq, gt, gte, lt, lte, like, ilike, in.(a,b), is.null, or not. before one of them
            id=in.1,2
                bad_request: `id=in.1,2` is no comparison: write COLUMN=eq.VALUE, with eq, neq, gt, gte, lt, lte, like, ilike, in.(a,b), is.null, or not. before one of them
            limit=many
                bad_request: `limit` is a number, not `many`
            limit=1&limit=2
                bad_request: `limit` is there twice
            offset=10
                bad_request: there is no `offset`: go on behind the last row that you have, such as id=gt.700&order=id&limit=50
            where={
                bad_request: `where` is no JSON: EOF while parsing an object at line 1 column 1
            status=eq.%ff
                bad_request: the query is not UTF-8
        "#]].assert_eq(&told);
    }
}
