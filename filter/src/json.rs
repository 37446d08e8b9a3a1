//! The form that clients write, known to front-end people from Hasura:
//!
//! ```json
//! {"status": {"_eq": "open"}, "_or": [{"total": {"_gt": "100.00"}}, {"region": {"_in": ["eu", "us"]}}]}
//! ```
//!
//! Members of an object are ANDed. What is left out by mistake never widens: a comparator whose value is null (an
//! unset variable, most often) and a column without a comparator are errors rather than "everything".

use arrow::datatypes::Schema;
use serde_json::Value as Json;

use crate::error::{FilterError, nearest, shown};
use crate::like::Pattern;
use crate::predicate::{Column, Leaf, Node, Operator, Predicate};
use crate::value::{self, Literal, Place, Value, place, type_name};

/// How deep `_and`, `_or` and `_not` may stand in one another.
pub const DEPTH_MAX: usize = 32;
/// Comparators and `_and`, `_or`, `_not` in one filter.
pub const TERMS_MAX: usize = 1_000;
/// Values in all `_in` and `_nin` of one filter.
pub const VALUES_MAX: usize = 10_000;
/// Characters of a pattern: each row costs its text's length times the pattern's at worst.
pub const PATTERN_CHARS_MAX: usize = 1_000;
/// Bytes of the text of a number, a date and the like; numeric(76,…) has 76 digits.
const NARROW_BYTES_MAX: usize = 1_000;
/// Digits of a decimal number that a 64-bit float is sure to keep.
const FLOAT_DIGITS: usize = 15;

const COMPARATORS: [&str; 11] =
    ["_eq", "_neq", "_gt", "_gte", "_lt", "_lte", "_in", "_nin", "_is_null", "_like", "_ilike"];
const CONNECTIVES: [&str; 3] = ["_and", "_or", "_not"];

impl Predicate {
    /// Reads a client's filter over the columns of `schema` that it may use. `{}` is every row.
    ///
    /// Values are spelled as rows are told to clients (integers and numerics as numbers or as text, timestamps with
    /// any offset, bytes in base64). A number with more than 15 digits and a fraction must be text, since JSON's
    /// numbers do not keep it.
    ///
    /// # Errors
    /// Says which part is wrong and what to write there. A column for which `may_use` is false is treated as
    /// one that does not exist, by the same words.
    pub fn parse(filter: &Json, schema: &Schema, may_use: &dyn Fn(usize) -> bool) -> Result<Predicate, FilterError> {
        let mut reader = Reader { schema, may_use, path: "where".to_owned(), depth: 0, terms: 0, values: 0 };
        reader.object(filter, false).map(Predicate::new)
    }
}

struct Reader<'a> {
    schema: &'a Schema,
    may_use: &'a dyn Fn(usize) -> bool,
    path: String,
    depth: usize,
    terms: usize,
    values: usize,
}

impl Reader<'_> {
    /// Reads what stands at `step` below where we are.
    fn at<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> Result<T, FilterError>) -> Result<T, FilterError> {
        let length = self.path.len();
        self.path += step;
        let read = read(self);
        self.path.truncate(length);
        read
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError::new(&self.path, message))
    }

    fn count_term(&mut self) -> Result<(), FilterError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return self.wrong(format!("a filter has at most {TERMS_MAX} terms; for many values of a column use _in"));
        }
        Ok(())
    }

    /// `{"column": {…}, "_or": […]}`, or what is true where that is false.
    fn object(&mut self, filter: &Json, is_negated: bool) -> Result<Node, FilterError> {
        let Json::Object(members) = filter else {
            return self
                .wrong(format!("a filter is an object such as {{\"id\": {{\"_eq\": 7}}}}, not {}", kind(filter)));
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong(format!("a filter is at most {DEPTH_MAX} levels deep"));
        }
        let mut parts = Vec::with_capacity(members.len().min(TERMS_MAX));
        for (name, member) in members {
            let part = self.at(&format!(".{}", shown(name)), |it| match name.as_str() {
                "_and" => it.list(member, is_negated, is_negated),
                "_or" => it.list(member, is_negated, !is_negated),
                "_not" => {
                    it.count_term()?;
                    it.object(member, !is_negated)
                }
                name => it.column(name, member, is_negated),
            })?;
            parts.push(part);
        }
        self.depth -= 1;
        Ok(joined(parts, is_negated))
    }

    fn list(&mut self, items: &Json, is_negated: bool, is_or: bool) -> Result<Node, FilterError> {
        self.count_term()?;
        let Json::Array(items) = items else {
            return self.wrong(format!("takes an array of filters, not {}", kind(items)));
        };
        let mut parts = Vec::with_capacity(items.len().min(TERMS_MAX));
        for (i, item) in items.iter().enumerate() {
            let part = self.at(&format!("[{i}]"), |it| {
                it.count_term()?;
                it.object(item, is_negated)
            })?;
            parts.push(part);
        }
        Ok(joined(parts, is_or))
    }

    fn column(&mut self, name: &str, comparators: &Json, is_negated: bool) -> Result<Node, FilterError> {
        let usable = || self.schema.fields().iter().enumerate().filter(|(number, _)| (self.may_use)(*number));
        let Some((number, field)) = usable().find(|(_, field)| field.name() == name) else {
            if COMPARATORS.contains(&name) {
                return self.wrong(format!("`{name}` stands in a column, such as {{\"id\": {{\"{name}\": …}}}}"));
            }
            let names = usable().map(|(_, field)| field.name().as_str()).chain(CONNECTIVES);
            let hint = nearest(name, names).map(|like| format!("; did you mean `{like}`?"));
            return self.wrong(format!("there is no column `{}`{}", shown(name), hint.unwrap_or_default()));
        };
        let column = Column { number, data_type: field.data_type().clone() };
        let comparators = match comparators {
            Json::Object(comparators) if !comparators.is_empty() => comparators,
            Json::Object(_) => return self.wrong("has no comparator; leave the column out to have all rows"),
            Json::Null => return self.wrong("a null is no comparator; use {\"_is_null\": true}"),
            Json::Array(_) => return self.wrong("takes an object of comparators; use {\"_in\": […]}"),
            _ => return self.wrong("takes an object of comparators; use {\"_eq\": …}"),
        };
        let mut parts = Vec::with_capacity(comparators.len());
        for (name, operand) in comparators {
            let part = self.at(&format!(".{}", shown(name)), |it| it.comparator(&column, name, operand, is_negated))?;
            parts.push(part);
        }
        Ok(joined(parts, is_negated))
    }

    fn comparator(
        &mut self,
        column: &Column,
        name: &str,
        operand: &Json,
        is_negated: bool,
    ) -> Result<Node, FilterError> {
        self.count_term()?;
        let operator = match name {
            "_eq" => Operator::Eq,
            "_neq" => Operator::NotEq,
            "_gt" => Operator::Gt,
            "_gte" => Operator::GtEq,
            "_lt" => Operator::Lt,
            "_lte" => Operator::LtEq,
            "_in" | "_nin" => return self.members(column, operand, is_negated != (name == "_nin")),
            "_like" | "_ilike" => return self.like(column, operand, name == "_ilike", is_negated),
            "_is_null" => {
                return match operand {
                    Json::Bool(is_null) if *is_null != is_negated => Ok(Leaf::is_null(column)),
                    Json::Bool(_) => Ok(Leaf::is_not_null(column)),
                    other => self.wrong(format!("takes true or false, not {}", kind(other))),
                };
            }
            _ => {
                let hint = match nearest(name, COMPARATORS) {
                    Some(like) => format!("did you mean `{like}`?"),
                    None => format!("there are {}", COMPARATORS.join(", ")),
                };
                return self.wrong(format!("there is no comparator `{}`; {hint}", shown(name)));
            }
        };
        let place = self.place(column, operand)?;
        Ok(Leaf::compare(column, if is_negated { operator.negated() } else { operator }, place))
    }

    fn members(&mut self, column: &Column, operand: &Json, is_negated: bool) -> Result<Node, FilterError> {
        let Json::Array(items) = operand else {
            return self.wrong(format!("takes an array of values, not {}", kind(operand)));
        };
        self.comparable(column)?;
        self.values += items.len();
        if self.values > VALUES_MAX {
            return self.wrong(format!("a filter has at most {VALUES_MAX} values in its lists"));
        }
        let mut values: Vec<Value> = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            // What is no value of the column's type is equal to none.
            if let Place::On(value) = self.at(&format!("[{i}]"), |it| it.place(column, item))? {
                values.push(value);
            }
        }
        Ok(match (is_negated, items.is_empty()) {
            (false, _) => Leaf::is_in(column, values),
            (true, false) => Leaf::is_not_in(column, values),
            // Of no value even NULL is different.
            (true, true) => Node::All,
        })
    }

    fn like(
        &mut self,
        column: &Column,
        operand: &Json,
        is_insensitive: bool,
        is_negated: bool,
    ) -> Result<Node, FilterError> {
        if !value::is_text(&column.data_type) {
            return self.wrong(format!("compares text, and the column is {}", type_name(&column.data_type)));
        }
        let Json::String(pattern) = operand else {
            return self.wrong(format!("takes a pattern such as \"a%\", not {}", kind(operand)));
        };
        if pattern.chars().nth(PATTERN_CHARS_MAX).is_some() {
            return self.wrong(format!("a pattern has at most {PATTERN_CHARS_MAX} characters"));
        }
        match Pattern::new(pattern, is_insensitive) {
            Ok(pattern) => Ok(Leaf::like(column, pattern, is_negated)),
            Err(message) => self.wrong(message),
        }
    }

    fn comparable(&self, column: &Column) -> Result<(), FilterError> {
        if value::is_comparable(&column.data_type) {
            return Ok(());
        }
        self.wrong(format!("a column of type {} can only be compared by _is_null", type_name(&column.data_type)))
    }

    fn place(&self, column: &Column, operand: &Json) -> Result<Place, FilterError> {
        self.comparable(column)?;
        let literal = match literal(operand) {
            Some(Literal::Null) => {
                return self.wrong("nothing compares with null; use {\"_is_null\": true} to find NULLs");
            }
            Some(literal) => literal,
            None => return self.wrong(format!("takes one value, not {}", kind(operand))),
        };
        match &literal {
            Literal::Number(_) if value::is_exact_number(&column.data_type) && may_be_rounded(operand) => {
                return self.wrong("a number of JSON does not keep so many digits; write it as text, in quotes");
            }
            Literal::Text(text) if text.len() > NARROW_BYTES_MAX && !is_long(column) => {
                return self.wrong(format!("is too long for a {}", type_name(&column.data_type)));
            }
            _ => {}
        }
        place(&literal, &column.data_type).or_else(|message| self.wrong(message))
    }
}

/// Whether values may be of any length.
fn is_long(column: &Column) -> bool {
    use arrow::datatypes::DataType::{Binary, BinaryView, LargeBinary};
    value::is_text(&column.data_type) || matches!(column.data_type, Binary | LargeBinary | BinaryView)
}

fn joined(parts: Vec<Node>, is_or: bool) -> Node {
    if is_or { Node::or(parts) } else { Node::and(parts) }
}

/// `None` for arrays and objects.
pub(crate) fn literal(json: &Json) -> Option<Literal> {
    match json {
        Json::Null => Some(Literal::Null),
        Json::Bool(value) => Some(Literal::Boolean(*value)),
        Json::Number(number) => Some(Literal::Number(number.to_string())),
        Json::String(text) => Some(Literal::Text(text.clone())),
        Json::Array(_) | Json::Object(_) => None,
    }
}

/// Whether a number may have lost digits on its way here: it is a float, and has more than those are sure to keep.
pub(crate) fn may_be_rounded(number: &Json) -> bool {
    number.is_f64() && value::significant_digits(&number.to_string()) > FLOAT_DIGITS
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}
