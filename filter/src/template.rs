//! A predicate with places for claims of a token: what a policy is before it is known who asks.
//!
//! Binding fails closed. A claim that is missing, null, or no value of the type that it is compared with is SQL's
//! NULL: what compares with it is unknown, and so is its negation, so that neither `owner = claim('sub')` nor
//! `NOT owner = claim('sub')` shows a row to a token without `sub`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use serde_json::{Map, Value as Json};

use crate::error::FilterError;
use crate::json::{PATTERN_CHARS_MAX, literal, may_be_rounded};
use crate::like::Pattern;
use crate::predicate::{Column, Leaf, Node, Operator, Predicate};
use crate::value::{self, Literal, Place, Value, place, type_name};

/// A predicate in which claims stand for values. Put together by its constructors, which check the types against
/// the schema, so that [`Template::bind`] has nothing left to complain of.
///
/// ```
/// use arrow::datatypes::{DataType, Field, Schema};
/// use filter::{ClaimPath, Literal, Operand, Operator, Predicate, Template};
/// use serde_json::json;
///
/// // USING (owner = claim('sub') OR 'admin' = ANY (claim('app.roles')))
/// let schema = Schema::new(vec![Field::new("owner", DataType::Utf8, false)]);
/// let claim = |path| Ok::<_, filter::FilterError>(Operand::claim(ClaimPath::parse(path)?));
/// let admin = Operand::literal(Literal::Text("admin".to_owned()));
/// let template = Template::any([
///     Template::compare(Operand::Column(0), Operator::Eq, claim("sub")?, &schema)?,
///     Template::is_in(admin, vec![claim("app.roles")?], &schema)?,
/// ]);
///
/// let bind = |claims: serde_json::Value| template.bind(claims.as_object().expect("an object"), &schema);
/// assert_eq!(bind(json!({"sub": "ann"})), Predicate::parse(&json!({"owner": {"_eq": "ann"}}), &schema, &|_| true)?);
/// assert!(bind(json!({"sub": "root", "app": {"roles": ["dev", "admin"]}})).is_all());
/// assert!(bind(json!({"sub": null})).is_none());
/// # Ok::<(), filter::FilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template(Arc<Formula>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Formula {
    All,
    None,
    Compare { left: Operand, operator: Operator, right: Operand },
    IsIn { operand: Operand, list: Vec<Operand> },
    IsNull(Operand),
    Like { operand: Operand, pattern: Operand, is_insensitive: bool },
    And(Vec<Template>),
    Or(Vec<Template>),
    Not(Template),
}

/// A side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A column, by its number in the schema.
    Column(usize),
    /// A value, and the type that a cast says it is of: `'7'::bigint`.
    Literal(Literal, Option<DataType>),
    /// A claim, and the type that a cast says it is of. One that isn't is NULL.
    Claim(ClaimPath, Option<DataType>),
}

impl Operand {
    /// A value as it stands.
    #[must_use]
    pub fn literal(literal: Literal) -> Operand {
        Operand::Literal(literal, None)
    }

    /// A claim as the token has it.
    #[must_use]
    pub fn claim(path: ClaimPath) -> Operand {
        Operand::Claim(path, None)
    }
}

/// Where a claim stands in a token: names with dots between them, for claims within claims.
///
/// Names that hold dots need nothing special: of the names that a path may begin with, the longest that is there is
/// taken, and if that leads nowhere the claim is missing. So `https://hasura.io/jwt/claims.x-hasura-user-id` is
/// found where Hasura's clients have it. A dot behind a backslash never separates.
///
/// ```
/// # use filter::ClaimPath;
/// let claims = serde_json::json!({"app": {"org": 7}, "app.team": "red"});
/// let claims = claims.as_object().expect("an object");
/// let at = |path| ClaimPath::parse(path).expect("a path").find(claims).cloned();
/// assert_eq!(at("app.org"), Some(7.into()));
/// assert_eq!(at("app.team"), Some("red".into()));
/// assert_eq!(at(r"app\.org"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimPath {
    /// As it was written.
    text: String,
    /// What stands between the dots that may separate.
    names: Vec<String>,
}

impl ClaimPath {
    /// Reads a path.
    ///
    /// # Errors
    /// When it, or a name in it, is empty, or it has more than 32 names.
    pub fn parse(text: &str) -> Result<ClaimPath, FilterError> {
        let mut names = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(next) = chars.next() {
            let name = names.last_mut().expect("there is one from the start");
            match next {
                '\\' if chars.peek() == Some(&'.') => name.extend(chars.next()),
                '.' => names.push(String::new()),
                other => name.push(other),
            }
        }
        if names.iter().any(String::is_empty) || names.len() > CLAIM_NAMES_MAX {
            return Err(FilterError::new("", "a claim is named such as `sub` or `app_metadata.org`"));
        }
        Ok(ClaimPath { text: text.to_owned(), names })
    }

    /// The claim, where the token has it.
    #[must_use]
    pub fn find<'a>(&self, claims: &'a Map<String, Json>) -> Option<&'a Json> {
        let (mut within, mut names) = (claims, self.names.as_slice());
        loop {
            let (found, rest) =
                (1..=names.len()).rev().find_map(|n| Some((within.get(&names[..n].join("."))?, &names[n..])))?;
            if rest.is_empty() {
                return Some(found);
            }
            (within, names) = (found.as_object()?, rest);
        }
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Template {
    /// Every row, whoever asks.
    #[must_use]
    pub fn all() -> Template {
        Template(Arc::new(Formula::All))
    }

    /// No row.
    #[must_use]
    pub fn none() -> Template {
        Template(Arc::new(Formula::None))
    }

    /// The rows that all of them have.
    #[must_use]
    pub fn every(parts: impl IntoIterator<Item = Template>) -> Template {
        Template(Arc::new(Formula::And(parts.into_iter().collect())))
    }

    /// The rows that any of them has.
    #[must_use]
    pub fn any(parts: impl IntoIterator<Item = Template>) -> Template {
        Template(Arc::new(Formula::Or(parts.into_iter().collect())))
    }

    /// SQL's NOT: where the template is unknown, so is its negation.
    #[must_use]
    pub fn negated(&self) -> Template {
        Template(Arc::new(Formula::Not(self.clone())))
    }

    /// Compares a column with a literal or a claim, or the latter with one another.
    ///
    /// # Errors
    /// When the types can't be compared, by words that name the column.
    pub fn compare(
        left: Operand,
        operator: Operator,
        right: Operand,
        schema: &Schema,
    ) -> Result<Template, FilterError> {
        let (left, operator, right) = match (&left, &right) {
            (Operand::Column(_), Operand::Column(_)) => {
                return wrong("a column is compared with a literal or a claim, not with another column");
            }
            (_, Operand::Column(_)) => (right, operator.flipped(), left),
            _ => (left, operator, right),
        };
        check_pair(&left, &right, schema)?;
        Ok(Template(Arc::new(Formula::Compare { left, operator, right })))
    }

    /// Whether an operand equals one of a list of literals and claims. A claim that is an array stands for its
    /// items; so `= ANY (claim('groups'))` and `IN (claim('groups'))` are the same.
    ///
    /// # Errors
    /// As [`Template::compare`]; and for a column in the list.
    pub fn is_in(operand: Operand, list: Vec<Operand>, schema: &Schema) -> Result<Template, FilterError> {
        for item in &list {
            if matches!(item, Operand::Column(_)) {
                return wrong("a list holds literals and claims, not columns");
            }
            check_pair(&operand, item, schema)?;
        }
        Ok(Template(Arc::new(Formula::IsIn { operand, list })))
    }

    /// Whether a column is NULL, or a claim missing or null.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn is_null(operand: Operand, schema: &Schema) -> Result<Template, FilterError> {
        if let Operand::Column(number) = operand {
            column(number, schema)?;
        }
        Ok(Template(Arc::new(Formula::IsNull(operand))))
    }

    /// LIKE, or ILIKE when `is_insensitive`.
    ///
    /// # Errors
    /// When either side isn't text, or the pattern is none.
    pub fn like(
        operand: Operand,
        pattern: Operand,
        is_insensitive: bool,
        schema: &Schema,
    ) -> Result<Template, FilterError> {
        if let Operand::Column(number) = operand {
            let column = column(number, schema)?;
            if !value::is_text(&column.data_type) {
                let (name, data_type) = (schema.field(number).name(), type_name(&column.data_type));
                return wrong(format!("LIKE compares text, and `{name}` is {data_type}"));
            }
        }
        for operand in [&operand, &pattern] {
            if let Operand::Literal(_, Some(cast)) | Operand::Claim(_, Some(cast)) = operand
                && !value::is_text(cast)
            {
                return wrong(format!("LIKE compares text, not {}", type_name(cast)));
            }
            if let Operand::Literal(Literal::Boolean(_) | Literal::Number(_), _) = operand {
                return wrong("LIKE compares text; put the literal in quotes");
            }
        }
        match &pattern {
            Operand::Column(_) => return wrong("a pattern is a literal or a claim, not a column"),
            Operand::Literal(Literal::Text(text), _) => {
                Pattern::new(text, is_insensitive).map_err(|message| FilterError::new("", message))?;
            }
            Operand::Literal(..) | Operand::Claim(..) => {}
        }
        Ok(Template(Arc::new(Formula::Like { operand, pattern, is_insensitive })))
    }

    /// The claims that it asks for, each once.
    #[must_use]
    pub fn claims(&self) -> BTreeSet<&ClaimPath> {
        let mut claims = BTreeSet::new();
        self.each_operand(&mut |operand| {
            if let Operand::Claim(path, _) = operand {
                claims.insert(path);
            }
        });
        claims
    }

    /// The columns that it asks for, by their numbers in the schema.
    #[must_use]
    pub fn columns_used(&self) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        self.each_operand(&mut |operand| {
            if let Operand::Column(number) = operand {
                columns.insert(*number);
            }
        });
        columns
    }

    /// The predicate for one token. `schema` is the one that the template was made for.
    ///
    /// # Panics
    /// When `schema` lacks a column of the template.
    #[must_use]
    pub fn bind(&self, claims: &Map<String, Json>, schema: &Schema) -> Predicate {
        Predicate::new(Binder { claims, schema }.node(self, false))
    }

    fn each_operand<'a>(&'a self, visit: &mut impl FnMut(&'a Operand)) {
        match &*self.0 {
            Formula::All | Formula::None => {}
            Formula::Compare { left: one, right: other, .. } | Formula::Like { operand: one, pattern: other, .. } => {
                visit(one);
                visit(other);
            }
            Formula::IsIn { operand, list } => {
                visit(operand);
                list.iter().for_each(visit);
            }
            Formula::IsNull(operand) => visit(operand),
            Formula::And(parts) | Formula::Or(parts) => parts.iter().for_each(|part| part.each_operand(visit)),
            Formula::Not(part) => part.each_operand(visit),
        }
    }
}

/// Puts a token's claims in their places. What is unknown becomes "no row", negated or not: see
/// [`crate::predicate`] for why that is exact.
struct Binder<'a> {
    claims: &'a Map<String, Json>,
    schema: &'a Schema,
}

impl Binder<'_> {
    fn node(&self, template: &Template, is_negated: bool) -> Node {
        match &*template.0 {
            Formula::All => truth(Some(true), is_negated),
            Formula::None => truth(Some(false), is_negated),
            Formula::Not(part) => self.node(part, !is_negated),
            Formula::And(parts) | Formula::Or(parts) => {
                let is_or = matches!(&*template.0, Formula::Or(_)) != is_negated;
                let parts = parts.iter().map(|part| self.node(part, is_negated));
                if is_or { Node::or(parts) } else { Node::and(parts) }
            }
            Formula::Compare { left, operator, right } => {
                let Some(literal) = self.scalar(right) else { return Node::None };
                if let Operand::Column(number) = left {
                    let column = self.column(*number);
                    let operator = if is_negated { operator.negated() } else { *operator };
                    return match self.place(&column, right, &literal) {
                        Some(place) => Leaf::compare(&column, operator, place),
                        None => Node::None,
                    };
                }
                let Some(left_literal) = self.scalar(left) else { return Node::None };
                let order = order((&left_literal, left), (&literal, right));
                truth(order.map(|order| operator.holds(order)), is_negated)
            }
            Formula::IsIn { operand, list } => self.is_in(operand, list, is_negated),
            Formula::IsNull(Operand::Column(number)) => {
                let column = self.column(*number);
                if is_negated { Leaf::is_not_null(&column) } else { Leaf::is_null(&column) }
            }
            Formula::IsNull(operand @ Operand::Claim(path, cast)) => {
                let is_null = match (path.find(self.claims), cast) {
                    (None | Some(Json::Null), _) => Some(true),
                    (Some(_), None) => Some(false),
                    // What can't be cast is not NULL to Postgres but an error, so that neither answer shows a row.
                    (Some(_), Some(cast)) => self.scalar(operand).and_then(|it| value_of(&it, cast)).map(|_| false),
                };
                truth(is_null, is_negated)
            }
            Formula::IsNull(Operand::Literal(literal, _)) => truth(Some(*literal == Literal::Null), is_negated),
            Formula::Like { operand, pattern, is_insensitive } => {
                let Some(Literal::Text(pattern)) = self.scalar(pattern) else { return Node::None };
                if pattern.chars().nth(PATTERN_CHARS_MAX).is_some() {
                    return Node::None;
                }
                let Ok(pattern) = Pattern::new(&pattern, *is_insensitive) else { return Node::None };
                match operand {
                    Operand::Column(number) => Leaf::like(&self.column(*number), pattern, is_negated),
                    operand => match self.scalar(operand) {
                        Some(Literal::Text(text)) => {
                            truth(Some(pattern.matches(&text, &mut String::new())), is_negated)
                        }
                        _ => Node::None,
                    },
                }
            }
        }
    }

    fn is_in(&self, operand: &Operand, list: &[Operand], is_negated: bool) -> Node {
        // Each item with the operand that it came from; `None` is NULL.
        let mut items: Vec<(&Operand, Option<Literal>)> = Vec::new();
        for item in list {
            match item {
                Operand::Claim(path, cast) => match path.find(self.claims) {
                    Some(Json::Array(array)) => {
                        items.extend(array.iter().map(|it| (item, claimed(it, cast.as_ref()))));
                    }
                    Some(other) => items.push((item, claimed(other, cast.as_ref()))),
                    None => items.push((item, None)),
                },
                item => items.push((item, self.scalar(item))),
            }
        }
        if let Operand::Column(number) = operand {
            let column = self.column(*number);
            let mut values = Vec::with_capacity(items.len());
            for (item, literal) in &items {
                match literal.as_ref().and_then(|literal| self.place(&column, item, literal)) {
                    Some(Place::On(value)) => values.push(value),
                    Some(Place::Below | Place::After(_) | Place::Above) => {}
                    // Different from NULL is unknown.
                    None if is_negated => return Node::None,
                    None => {}
                }
            }
            return match (is_negated, items.is_empty()) {
                (false, _) => Leaf::is_in(&column, values),
                (true, false) => Leaf::is_not_in(&column, values),
                (true, true) => Node::All,
            };
        }
        if items.is_empty() {
            return truth(Some(false), is_negated);
        }
        let Some(left) = self.scalar(operand) else { return Node::None };
        let mut found = Some(false);
        for (item, literal) in &items {
            let order = literal.as_ref().and_then(|literal| order((&left, operand), (literal, item)));
            match order {
                Some(order) if order.is_eq() => {
                    found = Some(true);
                    break;
                }
                Some(_) => {}
                None => found = None,
            }
        }
        truth(found, is_negated)
    }

    fn column(&self, number: usize) -> Column {
        Column { number, data_type: self.schema.field(number).data_type().clone() }
    }

    /// The value of a literal or a claim; `None` is NULL.
    fn scalar(&self, operand: &Operand) -> Option<Literal> {
        let found = match operand {
            Operand::Column(_) => None,
            Operand::Literal(literal, cast) => constant(literal, cast.as_ref()),
            Operand::Claim(path, cast) => claimed(path.find(self.claims)?, cast.as_ref()),
        };
        found.filter(|found| *found != Literal::Null)
    }

    /// A value's place in a column; `None` is NULL, since it is no value of the column's type or of its cast's.
    fn place(&self, column: &Column, operand: &Operand, literal: &Literal) -> Option<Place> {
        let literal = settled(literal, cast(operand).unwrap_or(&column.data_type))?;
        if let Some(cast) = cast(operand) {
            value_of(&literal, cast)?;
        }
        place(&literal, &column.data_type).ok()
    }
}

/// The value of a claim, as its cast reads it. A number that JSON may have rounded is none: another's id could be
/// rounded to the same.
fn claimed(json: &Json, cast: Option<&DataType>) -> Option<Literal> {
    let is_beyond = json.is_f64() && json.as_f64().is_some_and(|number| number.abs() >= DOUBLE_INTEGERS_END);
    if may_be_rounded(json) || is_beyond {
        return None;
    }
    // To Postgres every claim is text (`->>`), and a number is cast from its text.
    match (literal(json)?, cast) {
        (Literal::Number(text) | Literal::Text(text), Some(cast)) if value::is_number(cast) => number(&text, cast),
        (literal, _) => Some(literal),
    }
}

/// The value of a constant, as its cast reads it: by its text when it was in quotes.
fn constant(literal: &Literal, cast: Option<&DataType>) -> Option<Literal> {
    match (literal, cast) {
        (Literal::Text(text), Some(cast)) if value::is_number(cast) => number(text, cast),
        (literal, _) => Some(literal.clone()),
    }
}

/// Reads text as Postgres casts it to a type of numbers: blanks round it are none of it, an integer is nothing but
/// digits behind a sign (not `2.0`, not `2e0`), and what a float can't tell from zero is out of its range.
fn number(text: &str, cast: &DataType) -> Option<Literal> {
    let text = text.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    if value::is_integer(cast) {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
    }
    let literal = Literal::Text(text.to_owned());
    let is_lost = !value::is_exact_number(cast)
        && value::significant_digits(text) > 0
        && value_of(&literal, cast) == value_of(&Literal::Text("0".to_owned()), cast);
    (!is_lost).then_some(literal)
}

/// The value of a type that a literal is; `None` when it is none, or lies between two.
fn value_of(literal: &Literal, data_type: &DataType) -> Option<Value> {
    match place(&settled(literal, data_type)?, data_type) {
        Ok(Place::On(value)) => Some(value),
        _ => None,
    }
}

/// What a literal is where a type is wanted: a whole number is text by its digits where that is, as `->>` of
/// Postgres has it (tokens have ids as numbers and as text); a fraction is not, since its digits are not settled.
fn settled(literal: &Literal, data_type: &DataType) -> Option<Literal> {
    match literal {
        Literal::Number(number) if value::is_text(data_type) => {
            number.parse::<i128>().ok().map(|number| Literal::Text(number.to_string()))
        }
        literal => Some(literal.clone()),
    }
}

/// Of two values that touch no column, each with where it is from. A value that is none of its own cast's is NULL,
/// which is `None`, as is what comes of it. Where there is a cast, both are of its family, and numbers are compared
/// exactly, whatever their types; otherwise a constant that is no text says what they are, and if there is none both
/// are texts.
fn order(left: (&Literal, &Operand), right: (&Literal, &Operand)) -> Option<std::cmp::Ordering> {
    const EXACT: DataType = DataType::Decimal256(76, 30);
    for (literal, operand) in [left, right] {
        if let Some(cast) = cast(operand) {
            value_of(literal, cast)?;
        }
    }
    let data_type = match (cast(left.1), cast(right.1)) {
        (Some(one), Some(other)) if one == other => one,
        (Some(float), _) | (_, Some(float)) if value::is_number(float) && !value::is_exact_number(float) => float,
        (Some(number), _) | (_, Some(number)) if value::is_exact_number(number) => &EXACT,
        (Some(cast), _) | (_, Some(cast)) => cast,
        (None, None) => match (left.1, right.1) {
            (Operand::Literal(Literal::Boolean(_), _), _) | (_, Operand::Literal(Literal::Boolean(_), _)) => {
                &DataType::Boolean
            }
            (Operand::Literal(Literal::Number(_), _), _) | (_, Operand::Literal(Literal::Number(_), _)) => &EXACT,
            _ => {
                let text = |literal: &Literal| match literal {
                    Literal::Boolean(truth) => Some(Value::Text(truth.to_string().into())),
                    literal => value_of(literal, &DataType::Utf8),
                };
                return Some(text(left.0)?.cmp(&text(right.0)?));
            }
        },
    };
    Some(value_of(left.0, data_type)?.cmp(&value_of(right.0, data_type)?))
}

fn truth(truth: Option<bool>, is_negated: bool) -> Node {
    if truth.is_some_and(|truth| truth != is_negated) { Node::All } else { Node::None }
}

fn cast(operand: &Operand) -> Option<&DataType> {
    match operand {
        Operand::Literal(_, cast) | Operand::Claim(_, cast) => cast.as_ref(),
        Operand::Column(_) => None,
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError::new("", message))
}

fn column(number: usize, schema: &Schema) -> Result<Column, FilterError> {
    match schema.fields().get(number) {
        Some(field) => Ok(Column { number, data_type: field.data_type().clone() }),
        None => wrong(format!("there is no column number {number}")),
    }
}

/// Checks what can be checked before there is a token: literals are values of the type that they are compared as.
fn check_pair(left: &Operand, right: &Operand, schema: &Schema) -> Result<(), FilterError> {
    for operand in [left, right] {
        match operand {
            Operand::Literal(Literal::Null, _) => {
                return wrong("nothing compares with NULL; use IS NULL or IS NOT NULL");
            }
            Operand::Literal(literal, Some(cast)) => match constant(literal, Some(cast)).map(|it| place(&it, cast)) {
                Some(Ok(Place::On(_))) => {}
                Some(Err(message)) => return wrong(message),
                Some(Ok(_)) => return wrong(format!("the literal is no {}", type_name(cast))),
                None => return wrong(value::refused(literal, cast)),
            },
            _ => {}
        }
    }
    if let Operand::Column(number) = left {
        let column = column(*number, schema)?;
        let (name, data_type) = (schema.field(*number).name(), type_name(&column.data_type));
        if !value::is_comparable(&column.data_type) {
            return wrong(format!("`{name}` is {data_type}, which can only be tested by IS NULL"));
        }
        if let Some(cast) = cast(right)
            && Family::of(cast) != Family::of(&column.data_type)
        {
            return wrong(format!("`{name}` is {data_type}, which does not compare with {}", type_name(cast)));
        }
        if let Operand::Literal(literal, cast) = right
            && let Some(literal) = constant(literal, cast.as_ref())
        {
            place(&literal, &column.data_type)
                .map_err(|message| FilterError::new("", format!("`{name}`: {message}")))?;
        }
        return Ok(());
    }
    match (cast(left), cast(right)) {
        (Some(one), Some(other)) if Family::of(one) != Family::of(other) => {
            wrong(format!("{} does not compare with {}", type_name(one), type_name(other)))
        }
        (Some(cast), None) | (None, Some(cast)) => {
            for operand in [left, right] {
                if let Operand::Literal(literal, own) = operand
                    && let Some(literal) = constant(literal, own.as_ref())
                {
                    place(&literal, cast).map_err(|message| FilterError::new("", message))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Types whose values compare with one another.
#[derive(PartialEq, Eq)]
enum Family {
    Number,
    Text,
    Bytes,
    Timestamp { has_zone: bool },
    Other(std::mem::Discriminant<DataType>),
}

impl Family {
    fn of(data_type: &DataType) -> Family {
        match data_type {
            data_type if value::is_number(data_type) => Family::Number,
            data_type if value::is_text(data_type) => Family::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Family::Bytes,
            DataType::Timestamp(_, zone) => Family::Timestamp { has_zone: zone.is_some() },
            other => Family::Other(std::mem::discriminant(other)),
        }
    }
}

const CLAIM_NAMES_MAX: usize = 32;
/// From here on a double is many integers.
const DOUBLE_INTEGERS_END: f64 = 9_007_199_254_740_992.0;
