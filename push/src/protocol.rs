//! The messages of a session; `docs/protocol.md` has them with examples.

use std::fmt;
use std::time::Duration;

use pipeline::Position;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::json::write_string;

/// Version of this protocol, sent in the greeting.
pub const PROTOCOL_VERSION: u32 = 2;
/// Characters that a client's name for a subscription may have.
pub const ID_CHARS_MAX: usize = 64;

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Send an image, then diffs.
    Subscribe(Box<Subscribe>),
    /// Stop sending.
    Unsubscribe {
        /// The client's name for the subscription.
        id: String,
    },
    /// How often, and how much at a time.
    Batch(Batch),
    /// Who the client is, by a token.
    Authenticate {
        /// As it is; nothing of it has been checked.
        token: String,
    },
    /// Answer with a heartbeat.
    Ping,
}

/// A subscription.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscribe {
    #[doc(hidden)]
    pub op: String,
    /// The client's name for the subscription.
    pub id: String,
    /// The projection's name.
    pub projection: String,
    /// Which rows; all when it is missing.
    #[serde(rename = "where")]
    pub filter: Option<serde_json::Value>,
    /// Which columns; all when it is missing.
    pub columns: Option<Vec<String>>,
    /// With a limit: by which columns the rows are in order.
    pub order: Option<Vec<OrderBy>>,
    /// Only so many rows.
    pub limit: Option<u64>,
    /// Where the client is, if it has been here before.
    pub resume: Option<Resume>,
}

impl Subscribe {
    /// Whether it asks for less than all.
    #[must_use]
    pub fn wants_some(&self) -> bool {
        self.filter.is_some() || self.columns.is_some() || self.order.is_some() || self.limit.is_some()
    }
}

/// A column to sort by.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderBy {
    /// Its name.
    pub column: String,
    /// Whether the largest come first.
    #[serde(default)]
    pub descending: bool,
}

/// What a client still holds of a subscription of before.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// `cursor` of the last message that it took in.
    pub cursor: String,
    /// `view` of the subscription's image.
    pub view: String,
}

/// How often a session is told, and how much at a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    op: String,
    /// At least so many milliseconds between two diffs.
    pub interval_ms: Option<u64>,
    /// One diff for all that happened since the last, or one an epoch.
    pub mode: Option<Mode>,
    /// Rows in one message at most.
    pub rows_max: Option<u64>,
}

/// What a diff is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All that happened since the last one, net.
    #[default]
    Latest,
    /// One epoch.
    Every,
}

/// A request that was refused. The session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The subscription that it is about, if known.
    pub id: Option<String>,
    /// When to ask again, if that is all that is wrong.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that is about no subscription in particular.
    pub fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), id: None, retry_after: None }
    }

    /// A refusal about a subscription.
    #[must_use]
    pub fn about(mut self, id: &str) -> Refusal {
        self.id = Some(id.to_owned());
        self
    }

    /// As a message.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = br#"{"op":"error","#.to_vec();
        if let Some(id) = &self.id {
            out.extend_from_slice(br#""id":"#);
            write_string(&mut out, id);
            out.push(b',');
        }
        out.extend_from_slice(format!(r#""code":"{}","message":"#, self.code).as_bytes());
        write_string(&mut out, &self.message);
        if let Some(after) = self.retry_after {
            out.extend_from_slice(format!(r#","retry_after_ms":{}"#, after.as_millis()).as_bytes());
        }
        out.push(b'}');
        out
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Unsubscribe {
    #[serde(rename = "op")]
    _op: String,
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Authenticate {
    #[serde(rename = "op")]
    _op: String,
    token: String,
}

/// Reads a client's message. A member that is not known is refused: a `were` that is passed over
/// would be a subscription to everything.
///
/// # Errors
/// With what is wrong with it.
pub fn parse(text: &str) -> Result<Request, Refusal> {
    // Two looks: whether it is JSON at all, then whether it is a request.
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Refusal::new("bad_json", format!("the message is not JSON: {error}")))?;
    let op = match value.get("op") {
        Some(serde_json::Value::String(op)) => op.clone(),
        Some(_) => return Err(Refusal::new("bad_request", "`op` is a text")),
        None => return Err(Refusal::new("bad_request", "the message has no `op`")),
    };
    let id = value.get("id").and_then(serde_json::Value::as_str).map(str::to_owned);
    let about = |refusal: Refusal| match id.as_deref().filter(|id| is_id(id)) {
        Some(id) => refusal.about(id),
        None => refusal,
    };
    if matches!(op.as_str(), "subscribe" | "unsubscribe") {
        let id = id.as_deref().ok_or_else(|| Refusal::new("bad_request", format!("`{op}` needs an `id`")))?;
        if !is_id(id) {
            return Err(Refusal::new("bad_request", format!("an `id` has 1 to {ID_CHARS_MAX} characters")));
        }
    }
    match op.as_str() {
        "ping" => Ok(Request::Ping),
        "subscribe" => {
            let subscribe: Subscribe = read(value).map_err(about)?;
            if subscribe.projection.is_empty() {
                return Err(about(Refusal::new("bad_request", "`subscribe` needs a `projection`")));
            }
            Ok(Request::Subscribe(Box::new(subscribe)))
        }
        "unsubscribe" => {
            let Unsubscribe { id, .. } = read(value).map_err(about)?;
            Ok(Request::Unsubscribe { id })
        }
        "batch" => read(value).map(Request::Batch),
        "authenticate" => {
            let Authenticate { token, .. } = read(value)?;
            if token.is_empty() {
                return Err(Refusal::new("bad_request", "`authenticate` needs a `token`"));
            }
            Ok(Request::Authenticate { token })
        }
        other => Err(Refusal::new(
            "unknown_op",
            format!(
                "there is no operation `{}`; there are subscribe, unsubscribe, batch, authenticate and ping",
                shorten(other)
            ),
        )),
    }
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| {
        Refusal::new("bad_request", format!("the message is no request: {}", shorten(&error.to_string())))
    })
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().count() <= ID_CHARS_MAX
}

/// Characters of what another party wrote that are repeated to it.
const SHOWN_CHARS_MAX: usize = 200;

/// What another party wrote, short enough to repeat.
pub fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Appends `"position":{"source":"mark",…}`.
pub fn write_position(out: &mut Vec<u8>, position: &Position) {
    out.extend_from_slice(br#""position":{"#);
    for (i, (source, mark)) in position.marks.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(out, source);
        out.push(b':');
        write_string(out, &mark.to_string());
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;
    use pipeline::{Lsn, Mark};

    use crate::testing::text;

    #[test]
    fn requests_are_read() {
        let Ok(Request::Subscribe(subscribe)) = parse(r#"{"op":"subscribe","id":"a","projection":"open_orders"}"#)
        else {
            panic!("it is right");
        };
        assert_eq!((&*subscribe.id, &*subscribe.projection, subscribe.limit), ("a", "open_orders", None));
        assert_eq!(parse(r#"{"op":"unsubscribe","id":"a"}"#), Ok(Request::Unsubscribe { id: "a".to_owned() }));
        assert_eq!(parse(r#"{"op":"ping"}"#), Ok(Request::Ping));
    }

    #[test]
    fn each_mistake_has_its_answer() {
        let mistakes = [
            "{",
            "[]",
            "{}",
            r#"{"op":1}"#,
            r#"{"op":"drop"}"#,
            r#"{"op":"subscribe"}"#,
            r#"{"op":"unsubscribe"}"#,
            r#"{"op":"subscribe","id":"a \"b\""}"#,
            r#"{"op":"subscribe","id":""}"#,
        ];
        let answers: Vec<String> = mistakes
            .iter()
            .map(|mistake| format!("{mistake}\n    {}\n", text(&parse(mistake).expect_err("a mistake").to_json())))
            .collect();
        expect![[r#"
            {
                {"op":"error","code":"bad_json","message":"the message is not JSON: EOF while parsing an object at line 1 column 1"}
            []
                {"op":"error","code":"bad_request","message":"the message has no `op`"}
            {}
                {"op":"error","code":"bad_request","message":"the message has no `op`"}
            {"op":1}
                {"op":"error","code":"bad_request","message":"`op` is a text"}
            {"op":"drop"}
                {"op":"error","code":"unknown_op","message":"there is no operation `drop`; there are subscribe, unsubscribe, batch, authenticate and ping"}
            {"op":"subscribe"}
                {"op":"error","code":"bad_request","message":"`subscribe` needs an `id`"}
            {"op":"unsubscribe"}
                {"op":"error","code":"bad_request","message":"`unsubscribe` needs an `id`"}
            {"op":"subscribe","id":"a \"b\""}
                {"op":"error","id":"a \"b\"","code":"bad_request","message":"`subscribe` needs a `projection`"}
            {"op":"subscribe","id":""}
                {"op":"error","code":"bad_request","message":"an `id` has 1 to 64 characters"}
        "#]]
        .assert_eq(&answers.concat());
        assert_eq!(parse("{}").expect_err("a mistake").to_string(), "bad_request: the message has no `op`");
    }

    /// Characters count, not bytes: an id of 64 in any script is right.
    #[test]
    fn an_id_has_up_to_64_characters() {
        let ask = |id: &str| parse(&format!(r#"{{"op":"unsubscribe","id":"{id}"}}"#));
        let longest = "é".repeat(64);
        assert_eq!(ask(&longest), Ok(Request::Unsubscribe { id: longest.clone() }));
        assert_eq!(ask(&(longest + "é")).expect_err("too long").message, "an `id` has 1 to 64 characters");
    }

    /// What a client wrote is repeated to it, but not all of it.
    #[test]
    fn what_is_long_is_not_repeated_whole() {
        let long = "é".repeat(SHOWN_CHARS_MAX);
        assert_eq!(shorten(&long), long);
        assert_eq!(shorten(&format!("{long}x")), format!("{long}…"));
        assert_eq!(shorten(""), "");
    }

    #[test]
    fn a_position_has_a_mark_a_source() {
        let shown = |marks: &[(&str, u64)]| {
            let position =
                Position { marks: marks.iter().map(|&(name, at)| (name.into(), Mark::Lsn(Lsn(at)))).collect() };
            let mut out = Vec::new();
            write_position(&mut out, &position);
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(shown(&[]), r#""position":{}"#);
        assert_eq!(
            shown(&[("a \"b\"", 1), ("shop", 0x1_016B_3748)]),
            r#""position":{"a \"b\"":"0/1","shop":"1/16B3748"}"#
        );
    }
}
