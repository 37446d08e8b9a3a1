//! `WITH (name = 'value', …)` and `${VARIABLE}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{Expr, Spanned, SqlOption, UnaryOperator, Value};

use crate::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile, most_like};

/// Reads a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The options of one statement.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// By lower-case name: the value, its place, and the place of the name.
    values: BTreeMap<String, (String, Place, Place)>,
    /// Given, but not usable; reported already.
    broken: BTreeSet<String>,
}

impl Options {
    /// Reads the options of a statement, reporting those that are malformed, repeated or use a
    /// variable that is not set.
    pub fn read(
        options: &[SqlOption],
        file: &Arc<SourceFile>,
        environment: Environment<'_>,
        wrong: &mut Diagnostics,
    ) -> Options {
        let mut read = Options::default();
        for option in options {
            let SqlOption::KeyValue { key, value } = option else {
                wrong.push(Diagnostic::at(Place::new(file, option.span()), "an option is written name = 'value'"));
                continue;
            };
            let key_place = Place::new(file, key.span);
            let place = Place::new(file, value.span());
            let name = key.value.to_lowercase();
            let Some(text) = literal(value) else {
                wrong.push(
                    Diagnostic::at(place, format!("the value of `{key}` is not a constant"))
                        .help(format!("write {key} = '…'")),
                );
                read.broken.insert(name);
                continue;
            };
            let text = match substitute(&text, environment) {
                Ok(text) => text,
                Err(mistake) => {
                    wrong.push(Diagnostic::at(place, mistake.message).help(mistake.help));
                    read.broken.insert(name);
                    continue;
                }
            };
            if read.values.insert(name, (text, place, key_place.clone())).is_some() {
                wrong
                    .push(Diagnostic::at(key_place, format!("option `{key}` is given twice")).help("keep one of them"));
            }
        }
        read
    }

    /// Takes an option out.
    pub fn take(&mut self, name: &str) -> Option<(String, Place)> {
        self.values.remove(name).map(|(text, place, _)| (text, place))
    }

    /// Whether an option was given in a way that has been reported already.
    #[must_use]
    pub fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name)
    }

    /// The options that can be used, by their lower-case names.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, String> {
        self.values.iter().map(|(name, (text, ..))| (name.clone(), text.clone())).collect()
    }

    /// Whether an option was given, in a way that can be used or in one that has been reported.
    #[must_use]
    pub fn was_given(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.broken.contains(name)
    }

    /// Reports every option that is none of these.
    pub fn refuse_others(&self, known: &[&str], of: &str, wrong: &mut Diagnostics) {
        for (name, (_, _, place)) in self.values.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let help = match most_like(name, known.iter().copied()) {
                Some(like) => format!("did you mean `{like}`?"),
                None if known.is_empty() => format!("{of} takes none"),
                None => format!("{of} takes {}", known.join(", ")),
            };
            wrong.push(Diagnostic::at(place.clone(), format!("unknown option `{name}`")).help(help));
        }
    }
}

fn literal(value: &Expr) -> Option<String> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            Value::Boolean(yes) => Some(yes.to_string()),
            Value::DollarQuotedString(text) => Some(text.value.clone()),
            _ => None,
        },
        Expr::Identifier(word) => Some(word.value.clone()),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => literal(expr).map(|number| format!("-{number}")),
        _ => None,
    }
}

/// A `${NAME}` that can't be replaced.
pub(crate) struct BadVariable {
    pub message: String,
    pub help: String,
}

/// Replaces `${NAME}` and `${NAME:-otherwise}`. What is put in is text, never SQL.
pub(crate) fn substitute(text: &str, environment: Environment<'_>) -> Result<String, BadVariable> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err(BadVariable {
                message: "`${` without `}`".to_owned(),
                help: "write ${NAME} or ${NAME:-otherwise}".to_owned(),
            });
        };
        let inside = &rest[start + 2..start + length];
        let (name, otherwise) = match inside.split_once(":-") {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (inside, None),
        };
        let found = environment(name);
        let is_empty = found.as_ref().is_some_and(String::is_empty);
        match found.filter(|value| !value.is_empty()).or_else(|| otherwise.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => {
                let how = if is_empty { "set, and empty" } else { "not set" };
                return Err(BadVariable {
                    message: format!("the environment variable {name} is {how}"),
                    help: format!("export {name}=… before starting, or write ${{{name}:-otherwise}}"),
                });
            }
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A duration such as `50ms`, `2s`, `1min` or `24h`.
///
/// # Errors
/// With the remedy, when it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "write a duration such as '50ms' or '2s'".to_owned())?;
    let duration = match unit.trim() {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "min" => Duration::from_secs(number.saturating_mul(60)),
        "h" => Duration::from_secs(number.saturating_mul(3600)),
        _ => return Err("write a duration with its unit: ms, s, min or h".to_owned()),
    };
    if duration > DURATION_MAX { Err("nothing here lasts longer than 100 years".to_owned()) } else { Ok(duration) }
}

/// What is added to a time must not go beyond all times: a clock that overflows ends the program.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_text() {
        let environment = |name: &str| match name {
            "DB" => Some("postgres://h/'; DROP".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let put = |text| substitute(text, &environment).map_err(|bad| bad.message);
        assert_eq!(put("${DB}/x"), Ok("postgres://h/'; DROP/x".to_owned()));
        assert_eq!(put("${NO:-a}${DB}"), Ok("apostgres://h/'; DROP".to_owned()));
        assert_eq!(put("${NO}"), Err("the environment variable NO is not set".to_owned()));
        // It was told to be set when it was.
        assert_eq!(put("${EMPTY}"), Err("the environment variable EMPTY is set, and empty".to_owned()));
        assert_eq!(put("${EMPTY:-a}"), Ok("a".to_owned()));
        assert_eq!(put("${NO"), Err("`${` without `}`".to_owned()));
        assert_eq!(put("$5 {}"), Ok("$5 {}".to_owned()));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("2 s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("876000h"), Ok(Duration::from_secs(876_000 * 3600)));
        for endless in ["876001h", "100000000000h", "18446744073709551615s"] {
            assert_eq!(duration(endless), Err("nothing here lasts longer than 100 years".to_owned()));
        }
        assert!(duration("50").is_err() && duration("fast").is_err() && duration("").is_err());
    }
}
