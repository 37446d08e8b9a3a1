//! The messages of a session; `docs/protocol.md` has them with examples.

use std::fmt;
use std::time::Duration;

use pipeline::Position;
use serde_json::{Map, Value};

use crate::json::write_string;
use crate::random::some_time;

/// Version of this protocol, sent in the greeting.
pub const PROTOCOL_VERSION: u32 = 2;
/// Characters that a client's name for a subscription may have.
pub const ID_CHARS_MAX: usize = 64;

/// When to ask again while the server is busy: at a time of their own, or all would come at once again.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// The latest such time.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe {
    /// The client's name for the subscription.
    pub id: String,
    /// The projection's name.
    pub projection: String,
    /// `where`: which rows; all when it is missing.
    pub filter: Option<Value>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// Its name.
    pub column: String,
    /// Whether the largest come first.
    pub descending: bool,
}

/// What a client still holds of a subscription of before.
#[derive(Clone, Debug, PartialEq)]
pub struct Resume {
    /// `cursor` of the last message that it took in.
    pub cursor: String,
    /// `view` of the subscription's image.
    pub view: String,
}

/// How often a session is told, and how much at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// At least so many milliseconds between two diffs.
    pub interval_ms: Option<u64>,
    /// One diff for all that happened since the last, or one an epoch.
    pub mode: Option<Mode>,
    /// Rows in one message at most.
    pub rows_max: Option<u64>,
}

/// What a diff is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

    /// A refusal of what can be had a little later.
    pub fn busy(message: impl Into<String>) -> Refusal {
        Refusal { retry_after: Some(some_time(RETRY_MIN, RETRY_MAX)), ..Refusal::new("busy", message) }
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

/// Reads a client's message. A member that is not known is refused: a `were` that is passed over
/// would be a subscription to everything.
///
/// # Errors
/// With what is wrong with it.
pub fn parse(text: &str) -> Result<Request, Refusal> {
    // Two looks: whether it is JSON at all, then whether it is a request.
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Refusal::new("bad_json", format!("the message is not JSON: {error}")))?;
    let op = match value.get("op") {
        Some(Value::String(op)) => op.clone(),
        Some(_) => return Err(wrong("`op` is a text")),
        None => return Err(wrong("the message has no `op`")),
    };
    let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
    if matches!(op.as_str(), "subscribe" | "unsubscribe") && !id.as_deref().is_some_and(is_id) {
        return Err(match value.get("id") {
            None | Some(Value::Null) => wrong(format!("`{op}` needs an `id`")),
            Some(_) => wrong(format!("an `id` is a text of 1 to {ID_CHARS_MAX} characters")),
        });
    }
    let Value::Object(members) = value else { return Err(wrong("the message is no object")) };
    let members = Members { of: &op, members };
    let about = |refusal: Refusal| match &id {
        Some(id) => refusal.about(id),
        None => refusal,
    };
    match op.as_str() {
        "ping" => Ok(Request::Ping),
        "subscribe" => members.subscribe().map(|it| Request::Subscribe(Box::new(it))).map_err(about),
        "unsubscribe" => members.unsubscribe().map_err(about),
        "batch" => members.batch().map(Request::Batch),
        "authenticate" => members.authenticate(),
        other => Err(Refusal::new(
            "unknown_op",
            format!(
                "there is no operation `{}`; there are subscribe, unsubscribe, batch, authenticate and ping",
                shorten(other)
            ),
        )),
    }
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new("bad_request", message)
}

/// The members of an object, each of which is taken by its name. One that is null is as one that is not there.
struct Members<'a> {
    /// What it is called to its sender.
    of: &'a str,
    members: Map<String, Value>,
}

impl Members<'_> {
    fn subscribe(mut self) -> Result<Subscribe, Refusal> {
        self.knows(&["op", "id", "projection", "where", "columns", "order", "limit", "resume"])?;
        Ok(Subscribe {
            id: self.needed("id")?,
            filter: self.members.remove("where").filter(|filter| !filter.is_null()),
            columns: self.list("columns", "a list of names", |item| match item {
                Value::String(name) => Some(Ok(name)),
                _ => None,
            })?,
            order: self.list("order", ORDER_FORM, |item| match item {
                Value::Object(members) => Some(Members { of: "order", members }.order_by()),
                _ => None,
            })?,
            limit: self.whole("limit")?,
            resume: self.take("resume", "an object with `cursor` and `view`", |value| match value {
                Value::Object(members) => Some(Members { of: "resume", members }.resume()),
                _ => None,
            })?,
            projection: self.needed("projection")?,
        })
    }

    fn order_by(mut self) -> Result<OrderBy, Refusal> {
        self.knows(&["column", "descending"])?;
        let descending = self.take("descending", "true or false", |value| value.as_bool().map(Ok))?;
        Ok(OrderBy { column: self.needed("column")?, descending: descending.unwrap_or(false) })
    }

    fn resume(mut self) -> Result<Resume, Refusal> {
        self.knows(&["cursor", "view"])?;
        let mut held = |name| self.text(name)?.ok_or_else(|| wrong(format!("`resume` needs a `{name}`")));
        Ok(Resume { cursor: held("cursor")?, view: held("view")? })
    }

    fn unsubscribe(mut self) -> Result<Request, Refusal> {
        self.knows(&["op", "id"])?;
        Ok(Request::Unsubscribe { id: self.needed("id")? })
    }

    fn batch(mut self) -> Result<Batch, Refusal> {
        self.knows(&["op", "interval_ms", "mode", "rows_max"])?;
        let mode = self.take("mode", "\"latest\" or \"every\"", |value| match value.as_str()? {
            "latest" => Some(Ok(Mode::Latest)),
            "every" => Some(Ok(Mode::Every)),
            _ => None,
        })?;
        Ok(Batch { interval_ms: self.whole("interval_ms")?, mode, rows_max: self.whole("rows_max")? })
    }

    fn authenticate(mut self) -> Result<Request, Refusal> {
        self.knows(&["op", "token"])?;
        Ok(Request::Authenticate { token: self.needed("token")? })
    }

    /// Refuses a member that is not one of these.
    fn knows(&self, names: &[&str]) -> Result<(), Refusal> {
        match self.members.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let (name, known) = (shorten(name), names.join(", "));
                Err(wrong(format!("there is no `{name}` in `{}`; there are {known}", self.of)))
            }
        }
    }

    /// Takes a member, if it is there; `read` answers `None` for one that is not what is `wanted`.
    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(Value) -> Option<Result<T, Refusal>>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.members.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let told = shorten(&value.to_string());
        read(value).unwrap_or_else(|| Err(wrong(format!("`{name}` is {wanted}, not {told}")))).map(Some)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.take(name, "a text", |value| if let Value::String(text) = value { Some(Ok(text)) } else { None })
    }

    /// A text that has to be there and to say something.
    fn needed(&mut self, name: &str) -> Result<String, Refusal> {
        let text = self.text(name)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| wrong(format!("`{}` needs a `{name}`", self.of)))
    }

    fn whole(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        self.take(name, "a whole number", |value| value.as_u64().map(Ok))
    }

    fn list<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnMut(Value) -> Option<Result<T, Refusal>>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        self.take(name, wanted, |value| match value {
            Value::Array(items) => items.into_iter().map(read).collect(),
            _ => None,
        })
    }
}

const ORDER_FORM: &str = r#"a list such as [{"column":"total","descending":true}]"#;

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
                {"op":"error","code":"bad_request","message":"an `id` is a text of 1 to 64 characters"}
        "#]]
        .assert_eq(&answers.concat());
        assert_eq!(parse("{}").expect_err("a mistake").to_string(), "bad_request: the message has no `op`");
    }

    /// Each is told by its name, in words of JSON: `expected struct Resume` was the name of a type of ours, and of which
    /// member it was said nobody could tell.
    #[test]
    fn a_member_of_the_wrong_kind_is_named() {
        let mistakes = [
            (r#"{"op":"subscribe","id":5}"#, "an `id` is a text of 1 to 64 characters"),
            (r#"{"op":"unsubscribe","id":null}"#, "`unsubscribe` needs an `id`"),
            (r#""projection":["keyed"]"#, r#"`projection` is a text, not ["keyed"]"#),
            (r#""resume":5"#, "`resume` is an object with `cursor` and `view`, not 5"),
            (r#""resume":{}"#, "`resume` needs a `cursor`"),
            (r#""resume":{"cursor":"boot-1"}"#, "`resume` needs a `view`"),
            (r#""resume":{"cursor":1,"view":"x"}"#, "`cursor` is a text, not 1"),
            (r#""resume":{"cursor":"","view":"","at":1}"#, "there is no `at` in `resume`; there are cursor, view"),
            (r#""limit":"ten""#, r#"`limit` is a whole number, not "ten""#),
            (r#""limit":-1"#, "`limit` is a whole number, not -1"),
            (r#""limit":1.0"#, "`limit` is a whole number, not 1.0"),
            (r#""columns":"id""#, r#"`columns` is a list of names, not "id""#),
            (r#""columns":["id",1]"#, r#"`columns` is a list of names, not ["id",1]"#),
            (r#""order":"id""#, r#"`order` is a list such as [{"column":"total","descending":true}], not "id""#),
            (r#""order":["id"]"#, r#"`order` is a list such as [{"column":"total","descending":true}], not ["id"]"#),
            (r#""order":[{}]"#, "`order` needs a `column`"),
            (r#""order":[{"column":"id","descending":1}]"#, "`descending` is true or false, not 1"),
            (r#""order":[{"column":"id","desc":true}]"#, "there is no `desc` in `order`; there are column, descending"),
            (
                r#""were":{}"#,
                "there is no `were` in `subscribe`; there are op, id, projection, where, columns, order, limit, resume",
            ),
            (r#"{"op":"unsubscribe","id":"a","now":1}"#, "there is no `now` in `unsubscribe`; there are op, id"),
            (r#"{"op":"authenticate"}"#, "`authenticate` needs a `token`"),
            (r#"{"op":"authenticate","token":7}"#, "`token` is a text, not 7"),
            (r#"{"op":"authenticate","jwt":"x"}"#, "there is no `jwt` in `authenticate`; there are op, token"),
            (r#"{"op":"batch","interval_ms":"1s"}"#, r#"`interval_ms` is a whole number, not "1s""#),
            (r#"{"op":"batch","rows_max":1e3}"#, "`rows_max` is a whole number, not 1000.0"),
            (r#"{"op":"batch","mode":"slow"}"#, r#"`mode` is "latest" or "every", not "slow""#),
            (r#"{"op":"batch","rows":1}"#, "there is no `rows` in `batch`; there are op, interval_ms, mode, rows_max"),
        ];
        for (mistake, expected) in mistakes {
            let asked = match mistake.starts_with('{') {
                true => mistake.to_owned(),
                false => format!(r#"{{"op":"subscribe","id":"a","projection":"keyed",{mistake}}}"#),
            };
            let refused = parse(&asked).expect_err("a mistake");
            assert_eq!((refused.code, &*refused.message), ("bad_request", expected), "{asked}");
        }
        let long = parse(&format!(r#"{{"op":"batch","mode":"{}"}}"#, "x".repeat(10_000))).expect_err("a mistake");
        assert!(long.message.len() < 500, "{}", long.message);
    }

    /// What is left out may as well be null.
    #[test]
    fn every_member_is_read() {
        let asked = r#"{"op":"subscribe","id":"a","projection":"keyed","where":{"id":{"_eq":1}},"columns":["id"],
            "order":[{"column":"id"},{"column":"name","descending":true}],"limit":7,"resume":{"cursor":"c","view":"v"}}"#;
        let order = |column: &str, descending| OrderBy { column: column.to_owned(), descending };
        let subscribe = Subscribe {
            id: "a".to_owned(),
            projection: "keyed".to_owned(),
            filter: Some(serde_json::json!({"id": {"_eq": 1}})),
            columns: Some(vec!["id".to_owned()]),
            order: Some(vec![order("id", false), order("name", true)]),
            limit: Some(7),
            resume: Some(Resume { cursor: "c".to_owned(), view: "v".to_owned() }),
        };
        assert_eq!(parse(asked), Ok(Request::Subscribe(Box::new(subscribe))));
        let bare = Subscribe { id: "a".to_owned(), projection: "keyed".to_owned(), ..Subscribe::default() };
        let nulls = r#"{"op":"subscribe","id":"a","projection":"keyed","where":null,"columns":null,"order":null,"limit":null,"resume":null}"#;
        for asked in [nulls, r#"{"op":"subscribe","id":"a","projection":"keyed"}"#] {
            assert_eq!(parse(asked), Ok(Request::Subscribe(Box::new(bare.clone()))));
        }
        let batch = Batch { interval_ms: Some(50), mode: Some(Mode::Every), rows_max: Some(9) };
        assert_eq!(parse(r#"{"op":"batch","interval_ms":50,"mode":"every","rows_max":9}"#), Ok(Request::Batch(batch)));
        let latest = Batch { mode: Some(Mode::Latest), ..Batch::default() };
        assert_eq!(parse(r#"{"op":"batch","mode":"latest","rows_max":null}"#), Ok(Request::Batch(latest)));
        let token = "a.b.c".to_owned();
        assert_eq!(parse(r#"{"op":"authenticate","token":"a.b.c"}"#), Ok(Request::Authenticate { token }));
    }

    /// Characters count, not bytes: an id of 64 in any script is right.
    #[test]
    fn an_id_has_up_to_64_characters() {
        let ask = |id: &str| parse(&format!(r#"{{"op":"unsubscribe","id":"{id}"}}"#));
        let longest = "é".repeat(64);
        assert_eq!(ask(&longest), Ok(Request::Unsubscribe { id: longest.clone() }));
        assert_eq!(ask(&(longest + "é")).expect_err("too long").message, "an `id` is a text of 1 to 64 characters");
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
