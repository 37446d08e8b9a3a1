//! Which rows: a predicate in normal form.
//!
//! # Three values in two
//!
//! A comparison with NULL is neither true nor false, and a row is shown only where the whole is true. Negation is
//! what makes that hard: `NOT (a = 1 AND b = 2)` is true where one of the two is *false*, which a row where it is
//! unknown is not. So no predicate holds a negation. Whoever makes one pushes it down to the comparisons, where it
//! is exact in three values too (`NOT a = 1` is `a <> 1`, `NOT a < 1` is `a >= 1`, and each is unknown where `a` is
//! NULL). What is left is made of AND and OR alone, and such a formula is true exactly where it is true with
//! "unknown" read as "false". Hence each comparison is a set of rows, AND and OR are those of sets, and nothing
//! below this line knows a third value.
//!
//! The price: a predicate can't be negated any more, since where it is not true it may be false or unknown. So
//! there is no `not`; write `_not` in the filter, or negate the [`crate::Template`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;

use crate::like::Pattern;
use crate::value::{Place, Value};

/// Which rows of one schema. Cheap to clone; equal when the meaning is equal in the obvious ways: whatever the
/// order of conjuncts and of values, however nested and repeated.
///
/// ```
/// use arrow::array::{Int64Array, RecordBatch, StringArray};
/// use filter::Predicate;
/// use serde_json::json;
/// # use std::sync::Arc;
///
/// let orders = RecordBatch::try_from_iter([
///     ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as _),
///     ("status", Arc::new(StringArray::from(vec![Some("open"), Some("paid"), None])) as _),
/// ])?;
/// let parse = |filter| Predicate::parse(&filter, &orders.schema(), &|_column| true);
///
/// let open = parse(json!({"status": {"_eq": "open"}}))?;
/// assert_eq!(open.matches(&orders)?.iter().collect::<Vec<_>>(), [true, false, false]);
/// // NULL is neither equal to "open" nor different from it.
/// let not_open = parse(json!({"_not": {"status": {"_eq": "open"}}}))?;
/// assert_eq!(not_open.matches(&orders)?.iter().collect::<Vec<_>>(), [false, true, false]);
///
/// let mine = parse(json!({"id": {"_in": [3, 1, 1]}}))?;
/// assert_eq!(open.and(&mine), parse(json!({"_and": [{"id": {"_in": [1, 3]}}, {"status": {"_eq": "open"}}]}))?);
///
/// let mistake = parse(json!({"_or": [{"statsu": {"_eq": "open"}}]})).unwrap_err();
/// assert_eq!(mistake.to_string(), "where._or[0].statsu: there is no column `statsu`; did you mean `status`?");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Predicate(Arc<Node>);

/// What tells predicates apart across processes and versions of a schema's other columns: the first 128 bits of a
/// BLAKE3 digest of column numbers, comparisons and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Predicate {
    /// Every row.
    #[must_use]
    pub fn all() -> Predicate {
        Predicate::new(Node::All)
    }

    /// No row.
    #[must_use]
    pub fn none() -> Predicate {
        Predicate::new(Node::None)
    }

    /// Whether it is every row, whatever a row holds. Some predicates are without looking so.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self.0 == Node::All
    }

    /// Whether it is no row, whatever a row holds. Some predicates are without looking so.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self.0 == Node::None
    }

    /// The rows of both; both must be of one schema.
    #[must_use]
    pub fn and(&self, other: &Predicate) -> Predicate {
        if self == other || other.is_all() {
            return self.clone();
        }
        Predicate::new(Node::and([self.node().clone(), other.node().clone()]))
    }

    /// The rows of either; both must be of one schema.
    #[must_use]
    pub fn or(&self, other: &Predicate) -> Predicate {
        if self == other || other.is_none() {
            return self.clone();
        }
        Predicate::new(Node::or([self.node().clone(), other.node().clone()]))
    }

    /// The columns that decide, by their numbers in the schema.
    #[must_use]
    pub fn columns_used(&self) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        self.0.each(&mut |leaf| {
            columns.insert(leaf.column.number);
        });
        columns
    }

    /// Bytes on the heap, about; shared by all clones.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Node>() + 2 * size_of::<usize>() + self.0.bytes()
    }

    /// What it costs to look at a row, about, in comparisons of a number. A pattern weighs what it takes to
    /// look through a text of some dozens of characters.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.weight()
    }

    /// Tells it apart from others for longer than a process lives, as resume tokens need it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut out = Vec::new();
        self.0.write(&mut out);
        let digest = blake3::hash(&out);
        let first = digest.as_bytes().first_chunk().expect("a digest has 32 bytes");
        Fingerprint(u128::from_be_bytes(*first))
    }

    pub(crate) fn new(node: Node) -> Predicate {
        Predicate(Arc::new(node))
    }

    pub(crate) fn node(&self) -> &Node {
        &self.0
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Eq,
    /// `<>`
    NotEq,
    /// `<`
    Lt,
    /// `<=`
    LtEq,
    /// `>`
    Gt,
    /// `>=`
    GtEq,
}

impl Operator {
    /// What is true where this is false.
    #[must_use]
    pub fn negated(self) -> Operator {
        match self {
            Operator::Eq => Operator::NotEq,
            Operator::NotEq => Operator::Eq,
            Operator::Lt => Operator::GtEq,
            Operator::LtEq => Operator::Gt,
            Operator::Gt => Operator::LtEq,
            Operator::GtEq => Operator::Lt,
        }
    }

    /// What is true with the sides exchanged.
    #[must_use]
    pub fn flipped(self) -> Operator {
        match self {
            Operator::Eq | Operator::NotEq => self,
            Operator::Lt => Operator::Gt,
            Operator::LtEq => Operator::GtEq,
            Operator::Gt => Operator::Lt,
            Operator::GtEq => Operator::LtEq,
        }
    }

    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Operator::Eq => order.is_eq(),
            Operator::NotEq => order.is_ne(),
            Operator::Lt => order.is_lt(),
            Operator::LtEq => order.is_le(),
            Operator::Gt => order.is_gt(),
            Operator::GtEq => order.is_ge(),
        }
    }
}

/// A column of the schema: its number and what it must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Column {
    pub(crate) number: usize,
    pub(crate) data_type: DataType,
}

/// A formula in normal form: made by [`Node::and`], [`Node::or`] and the leaves' constructors alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    All,
    None,
    Leaf(Leaf),
    /// Two or more, ascending, none of them `All`, `None` or `And`.
    And(Vec<Node>),
    /// Two or more, ascending, none of them `All`, `None` or `Or`.
    Or(Vec<Node>),
}

/// Where one column has what it takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Leaf {
    pub(crate) column: Column,
    pub(crate) test: Test,
}

/// Values are ascending, each once, and at least one. But for `IsNull`, NULL passes no test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Test {
    In(Arc<[Value]>),
    NotIn(Arc<[Value]>),
    Lt(Value),
    LtEq(Value),
    Gt(Value),
    GtEq(Value),
    IsNull,
    IsNotNull,
    Like(Arc<Pattern>),
    NotLike(Arc<Pattern>),
}

impl Leaf {
    fn node(column: &Column, test: Test) -> Node {
        Node::Leaf(Leaf { column: column.clone(), test })
    }

    pub(crate) fn is_null(column: &Column) -> Node {
        Leaf::node(column, Test::IsNull)
    }

    pub(crate) fn is_not_null(column: &Column) -> Node {
        Leaf::node(column, Test::IsNotNull)
    }

    /// A comparison with a literal, wherever that stands among the column's values.
    pub(crate) fn compare(column: &Column, operator: Operator, place: Place) -> Node {
        let test = match (operator, place) {
            (Operator::Eq, Place::On(value)) => Test::In([value].into()),
            (Operator::NotEq, Place::On(value)) => Test::NotIn([value].into()),
            (Operator::Lt, Place::On(value)) => Test::Lt(value),
            (Operator::Lt | Operator::LtEq, Place::After(value)) | (Operator::LtEq, Place::On(value)) => {
                Test::LtEq(value)
            }
            (Operator::Gt | Operator::GtEq, Place::After(value)) | (Operator::Gt, Place::On(value)) => Test::Gt(value),
            (Operator::GtEq, Place::On(value)) => Test::GtEq(value),
            (Operator::NotEq, _)
            | (Operator::Lt | Operator::LtEq, Place::Above)
            | (Operator::Gt | Operator::GtEq, Place::Below) => Test::IsNotNull,
            (Operator::Eq, _)
            | (Operator::Lt | Operator::LtEq, Place::Below)
            | (Operator::Gt | Operator::GtEq, Place::Above) => return Node::None,
        };
        Leaf::node(column, test)
    }

    /// `IN` a list; of no value, no row.
    pub(crate) fn is_in(column: &Column, values: Vec<Value>) -> Node {
        match distinct(values) {
            values if values.is_empty() => Node::None,
            values => Leaf::node(column, Test::In(values)),
        }
    }

    /// `NOT IN` a list that is not empty as it was written, of which these are what the column may hold.
    pub(crate) fn is_not_in(column: &Column, values: Vec<Value>) -> Node {
        match distinct(values) {
            values if values.is_empty() => Leaf::is_not_null(column),
            values => Leaf::node(column, Test::NotIn(values)),
        }
    }

    pub(crate) fn like(column: &Column, pattern: Pattern, is_negated: bool) -> Node {
        let text = || [Value::Text(pattern.as_text().unwrap_or_default().into())];
        let test = match (pattern.as_text().is_some(), pattern.is_any(), is_negated) {
            (true, _, false) => Test::In(text().into()),
            (true, _, true) => Test::NotIn(text().into()),
            (_, true, false) => Test::IsNotNull,
            (_, true, true) => return Node::None,
            (_, _, false) => Test::Like(Arc::new(pattern)),
            (_, _, true) => Test::NotLike(Arc::new(pattern)),
        };
        Leaf::node(column, test)
    }
}

fn distinct(mut values: Vec<Value>) -> Arc<[Value]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

impl Node {
    /// The rows of all the parts.
    pub(crate) fn and(parts: impl IntoIterator<Item = Node>) -> Node {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Node::All => {}
                Node::None => return Node::None,
                Node::And(parts) => flat.extend(parts),
                part => flat.push(part),
            }
        }
        match merged(flat, and_tests) {
            None => Node::None,
            Some(parts) => one_or(parts, Node::All, Node::And),
        }
    }

    /// The rows of any of the parts.
    pub(crate) fn or(parts: impl IntoIterator<Item = Node>) -> Node {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Node::None => {}
                Node::All => return Node::All,
                Node::Or(parts) => flat.extend(parts),
                part => flat.push(part),
            }
        }
        match merged(flat, or_tests) {
            None => Node::All,
            Some(parts) => one_or(parts, Node::None, Node::Or),
        }
    }

    fn each(&self, visit: &mut impl FnMut(&Leaf)) {
        match self {
            Node::All | Node::None => {}
            Node::Leaf(leaf) => visit(leaf),
            Node::And(parts) | Node::Or(parts) => parts.iter().for_each(|part| part.each(visit)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Node::All | Node::None => 0,
            Node::And(parts) | Node::Or(parts) => {
                parts.iter().map(|part| size_of::<Node>() + part.bytes()).sum::<usize>()
            }
            Node::Leaf(leaf) => match &leaf.test {
                Test::In(values) | Test::NotIn(values) => {
                    values.iter().map(|value| size_of::<Value>() + value_bytes(value)).sum::<usize>()
                }
                Test::Lt(value) | Test::LtEq(value) | Test::Gt(value) | Test::GtEq(value) => value_bytes(value),
                Test::IsNull | Test::IsNotNull => 0,
                Test::Like(pattern) | Test::NotLike(pattern) => size_of::<Pattern>() + pattern.bytes(),
            },
        }
    }

    fn weight(&self) -> usize {
        match self {
            Node::All | Node::None => 0,
            Node::And(parts) | Node::Or(parts) => parts.iter().map(Node::weight).sum(),
            Node::Leaf(leaf) => match &leaf.test {
                Test::In(values) | Test::NotIn(values) => 1 + values.len() / 64,
                Test::Like(pattern) | Test::NotLike(pattern) => pattern.weight(),
                _ => 1,
            },
        }
    }

    /// Every part is preceded by its kind and length, so that no two formulas are the same bytes.
    fn write(&self, out: &mut Vec<u8>) {
        let mut list = |kind: u8, length: usize| {
            out.push(kind);
            write_number(out, length);
        };
        match self {
            Node::All => list(0, 0),
            Node::None => list(1, 0),
            Node::And(parts) | Node::Or(parts) => {
                list(if matches!(self, Node::And(_)) { 2 } else { 3 }, parts.len());
                parts.iter().for_each(|part| part.write(out));
            }
            Node::Leaf(Leaf { column, test }) => {
                list(4, column.number);
                match test {
                    Test::In(values) => write_values(out, 0, values),
                    Test::NotIn(values) => write_values(out, 1, values),
                    Test::Lt(value) => write_values(out, 2, std::slice::from_ref(value)),
                    Test::LtEq(value) => write_values(out, 3, std::slice::from_ref(value)),
                    Test::Gt(value) => write_values(out, 4, std::slice::from_ref(value)),
                    Test::GtEq(value) => write_values(out, 5, std::slice::from_ref(value)),
                    Test::IsNull => out.push(6),
                    Test::IsNotNull => out.push(7),
                    Test::Like(pattern) | Test::NotLike(pattern) => {
                        out.push(if matches!(test, Test::Like(_)) { 8 } else { 9 });
                        pattern.write(out);
                    }
                }
            }
        }
    }
}

/// What becomes of tests on one column; `None` when they leave nothing to decide (AND: no row; OR: every row).
type Merge = fn(Vec<Test>) -> Option<Vec<Test>>;

fn merged(parts: Vec<Node>, merge: Merge) -> Option<Vec<Node>> {
    let mut columns: std::collections::BTreeMap<Column, Vec<Test>> = std::collections::BTreeMap::new();
    let mut merged = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Node::Leaf(Leaf { column, test }) => columns.entry(column).or_default().push(test),
            part => merged.push(part),
        }
    }
    for (column, tests) in columns {
        let tests = if let [_] = tests.as_slice() { tests } else { merge(tests)? };
        merged.extend(tests.into_iter().map(|test| Leaf::node(&column, test)));
    }
    merged.sort_unstable();
    merged.dedup();
    Some(merged)
}

fn one_or(mut parts: Vec<Node>, of_none: Node, of_many: fn(Vec<Node>) -> Node) -> Node {
    match parts.len() {
        0 => of_none,
        1 => parts.remove(0),
        _ => of_many(parts),
    }
}

/// Lists become one, and NULL is left to whoever needs it said.
fn and_tests(tests: Vec<Test>) -> Option<Vec<Test>> {
    let (mut listed, mut unlisted) = (None::<Vec<Value>>, BTreeSet::new());
    let (mut is_null, mut others) = (false, Vec::new());
    for test in tests {
        match test {
            Test::In(values) => {
                listed = Some(match listed {
                    None => values.to_vec(),
                    Some(listed) => listed.into_iter().filter(|value| values.binary_search(value).is_ok()).collect(),
                });
            }
            Test::NotIn(values) => unlisted.extend(values.iter().cloned()),
            Test::IsNull => is_null = true,
            test => others.push(test),
        }
    }
    if is_null {
        let is_alone = listed.is_none() && unlisted.is_empty() && others.is_empty();
        return is_alone.then(|| vec![Test::IsNull]);
    }
    if let Some(listed) = listed {
        let listed: Arc<[Value]> = listed.into_iter().filter(|value| !unlisted.contains(value)).collect();
        if listed.is_empty() {
            return None;
        }
        others.push(Test::In(listed));
    } else if !unlisted.is_empty() {
        others.push(Test::NotIn(unlisted.into_iter().collect()));
    }
    // Every other test says as much.
    if others.iter().any(|test| *test != Test::IsNotNull) {
        others.retain(|test| *test != Test::IsNotNull);
    }
    Some(others)
}

fn or_tests(tests: Vec<Test>) -> Option<Vec<Test>> {
    let (mut listed, mut unlisted) = (BTreeSet::new(), None::<Vec<Value>>);
    let (mut is_null, mut is_not_null, mut others) = (false, false, Vec::new());
    for test in tests {
        match test {
            Test::In(values) => listed.extend(values.iter().cloned()),
            Test::NotIn(values) => {
                unlisted = Some(match unlisted {
                    None => values.to_vec(),
                    Some(unlisted) => unlisted.into_iter().filter(|it| values.binary_search(it).is_ok()).collect(),
                });
            }
            Test::IsNull => is_null = true,
            Test::IsNotNull => is_not_null = true,
            test => others.push(test),
        }
    }
    // Not in one list or not in the other, and no value is in both; or in the one or not in the other.
    is_not_null |= unlisted.as_ref().is_some_and(|unlisted| unlisted.iter().all(|value| listed.contains(value)));
    if is_not_null {
        return (!is_null).then(|| vec![Test::IsNotNull]);
    }
    if let Some(unlisted) = unlisted {
        others.push(Test::NotIn(unlisted.into_iter().filter(|value| !listed.contains(value)).collect()));
    } else if !listed.is_empty() {
        others.push(Test::In(listed.into_iter().collect()));
    }
    if is_null {
        others.push(Test::IsNull);
    }
    Some(others)
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() + 2 * size_of::<usize>(),
        Value::Bytes(bytes) => bytes.len() + 2 * size_of::<usize>(),
        Value::Boolean(_) | Value::Integer(_) | Value::Wide(_) | Value::Float(_) => 0,
    }
}

fn write_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u64).to_le_bytes());
}

fn write_values(out: &mut Vec<u8>, test: u8, values: &[Value]) {
    out.push(test);
    write_number(out, values.len());
    for value in values {
        let mut write = |kind: u8, bytes: &[u8]| {
            out.push(kind);
            write_number(out, bytes.len());
            out.extend_from_slice(bytes);
        };
        match value {
            Value::Boolean(value) => write(0, &[u8::from(*value)]),
            Value::Integer(value) => write(1, &value.to_le_bytes()),
            Value::Wide(value) => write(2, &value.to_le_bytes()),
            Value::Float(value) => write(3, &value.to_le_bytes()),
            Value::Text(value) => write(4, value.as_bytes()),
            Value::Bytes(value) => write(5, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::datatypes::{Field, Schema};
    use serde_json::json;

    /// What clients may ask for is bounded by what it costs: a predicate its own place with an `Arc`'s two counts,
    /// each value one too, those of any length theirs and their bytes.
    #[test]
    fn bytes_are_those_of_the_values() {
        let types = [("n", DataType::Int64), ("t", DataType::Utf8), ("b", DataType::Binary)];
        let schema = Schema::new(types.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec());
        let (node, value, counts) = (size_of::<Node>(), size_of::<Value>(), 2 * size_of::<usize>());
        let pattern = size_of::<Pattern>() + Pattern::new("four%", false).unwrap().bytes();
        for (filter, expected) in [
            (json!({}), 0),
            (json!({"t": {"_is_null": true}}), 0),
            (json!({"n": {"_gt": 7}}), 0),
            (json!({"n": {"_nin": [7, 8, 9]}}), 3 * value),
            (json!({"t": {"_gt": "four"}}), counts + 4),
            (json!({"t": {"_in": ["four", "seventeen letters"]}}), 2 * (value + counts) + 4 + 17),
            (json!({"b": {"_eq": "AP9hYg=="}}), value + counts + 4),
            (json!({"t": {"_like": "four%"}}), pattern),
            (json!({"n": {"_gt": 7}, "t": {"_gt": "four"}}), 2 * node + counts + 4),
        ] {
            let predicate = Predicate::parse(&filter, &schema, &|_| true).unwrap();
            assert_eq!(predicate.bytes(), node + counts + expected, "{filter}");
        }
    }
}
