//! What Debezium says of transactions, with `provide.transaction.metadata=true`.
//!
//! ```text
//!  of an event      "transaction": {"id": "571:53195832", "total_order": 1, "data_collection_order": 1}
//!  of their topic   {"status": "BEGIN", "id": "571:53195829", …}
//!                   {"status": "END", "id": "571:53195840", "event_count": 2, "data_collections": [
//!                       {"data_collection": "public.orders", "event_count": 2}]}
//! ```
//!
//! Read in Debezium 3.7: for Postgres `id` is the transaction's number and the place in the log of the event that it is
//! written with, so the same transaction has many; for all others it is one text.

use serde::Deserialize;

use super::super::json::{Next, Reader, Wrong, text_of, unwrapped};

/// Which transaction an event is part of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The transaction, the same in all of its events and in what their topic says.
    pub transaction: String,
    /// As the event has it: of Postgres with its place in the log, so that of two copies of a transaction it is the same.
    pub id: String,
    /// The event's number in it, over all tables; from 1.
    pub order: u64,
    /// The names by which the transaction topic may call its table: which of them, connectors differ in.
    pub collections: [Option<String>; 3],
}

/// What a message of the transaction topic says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Events of this transaction come.
    Begin(String),
    /// No more events of it come.
    End {
        /// The transaction.
        transaction: String,
        /// As it is written here, and when it was committed: another with the same is the same one, sent again.
        id: String,
        /// How many events of each table there are, by the table's name.
        counts: Vec<(String, u64)>,
    },
}

impl Boundary {
    /// The transaction.
    #[must_use]
    pub fn transaction(&self) -> &str {
        match self {
            Boundary::Begin(transaction) | Boundary::End { transaction, .. } => transaction,
        }
    }
}

/// What all messages about a transaction call it.
fn name_of(id: &str) -> &str {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match id.split_once(':') {
        Some((number, place)) if is_number(number) && is_number(place) => number,
        _ => id,
    }
}

/// The transaction that an event says it is part of, if it says so and can be read.
#[must_use]
pub fn part_of(value: &[u8]) -> Option<Part> {
    let text = text_of(value).ok()?;
    let text = unwrapped(text).ok()?.map_or(text, |(_, payload)| payload);
    let mut scratch = String::new();
    find(text, &mut scratch).ok().flatten()
}

fn find(text: &str, scratch: &mut String) -> Result<Option<Part>, Box<Wrong>> {
    #[derive(Deserialize)]
    struct Block {
        id: String,
        // A number; the documentation shows a text.
        total_order: serde_json::Value,
    }
    #[derive(Deserialize, Default)]
    struct Of {
        db: Option<String>,
        schema: Option<String>,
        table: Option<String>,
        collection: Option<String>,
    }
    let (mut block, mut of) = (None::<Block>, Of::default());
    let mut reader = Reader::new(text, scratch);
    reader.skip_space();
    reader.object(|reader, name| {
        let raw = reader.raw()?;
        match name.as_ref() {
            "transaction" => block = serde_json::from_str(raw).ok(),
            "source" => of = serde_json::from_str(raw).unwrap_or_default(),
            _ => {}
        }
        Ok(Next::Go)
    })?;
    let Some(block) = block else { return Ok(None) };
    let order = match &block.total_order {
        serde_json::Value::String(text) => text.parse().ok(),
        number => number.as_u64(),
    };
    let name = |of: &[Option<&String>]| -> Option<String> {
        let parts: Option<Vec<&str>> = of.iter().map(|part| part.map(String::as_str)).collect();
        parts.map(|parts| parts.join("."))
    };
    let table = of.table.as_ref().or(of.collection.as_ref());
    Ok(Some(Part {
        transaction: name_of(&block.id).to_owned(),
        id: block.id,
        order: order.unwrap_or_default(),
        collections: [
            name(&[of.schema.as_ref(), table]),
            name(&[of.db.as_ref(), table]),
            name(&[of.db.as_ref(), of.schema.as_ref(), table]),
        ],
    }))
}

/// Reads a message of the transaction topic.
///
/// # Errors
/// With what is wrong with it.
pub fn boundary(value: &[u8]) -> Result<Boundary, String> {
    #[derive(Deserialize)]
    struct Told {
        status: String,
        id: String,
        ts_ms: Option<i64>,
        data_collections: Option<Vec<Count>>,
    }
    #[derive(Deserialize)]
    struct Count {
        data_collection: String,
        event_count: u64,
    }
    let text = text_of(value).map_err(|wrong| wrong.to_string())?;
    let text = unwrapped(text).map_err(|wrong| wrong.to_string())?.map_or(text, |(_, payload)| payload);
    let told: Told = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let transaction = name_of(&told.id).to_owned();
    match told.status.as_str() {
        "BEGIN" => Ok(Boundary::Begin(transaction)),
        "END" => {
            let counts = told.data_collections.unwrap_or_default();
            let counts = counts.into_iter().map(|count| (count.data_collection, count.event_count)).collect();
            let id = format!("{} at {}", told.id, told.ts_ms.unwrap_or_default());
            Ok(Boundary::End { transaction, id, counts })
        }
        other => Err(format!("its status is {other:?}, which is neither BEGIN nor END")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_its_transaction() {
        let event = r#"{"before":null,"after":{"id":1},"source":{"connector":"postgresql","db":"shop","schema":"public","table":"orders","txId":571},
            "transaction":{"id":"571:53195832","total_order":3,"data_collection_order":1},"op":"c"}"#;
        let part = part_of(event.as_bytes()).expect("part of one");
        assert_eq!((part.transaction.as_str(), part.order), ("571", 3));
        let names: Vec<&str> = part.collections.iter().flatten().map(String::as_str).collect();
        assert_eq!(names, ["public.orders", "shop.orders", "shop.public.orders"]);
        let with_schema = format!(r#"{{"schema":{{}},"payload":{event}}}"#);
        assert_eq!(part_of(with_schema.as_bytes()), Some(part));
        let as_text = r#"{"transaction":{"id":"a","total_order":"12"},"op":"c"}"#;
        assert_eq!(part_of(as_text.as_bytes()).map(|part| part.order), Some(12));
        for none in [r#"{"op":"r","transaction":null}"#, r#"{"op":"r"}"#, "null", "", "{", "[1]"] {
            assert_eq!(part_of(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn one_transaction_has_one_name() {
        let cases = [
            ("571:53195832", "571"),
            ("0e4d5dcd-a33b-11ea-80f1-02010a22a99e:10", "0e4d5dcd-a33b-11ea-80f1-02010a22a99e:10"),
            ("file=mysql-bin.000003,pos=1500", "file=mysql-bin.000003,pos=1500"),
            ("00000025:00000d98:00a2", "00000025:00000d98:00a2"),
            ("5.6.641", "5.6.641"),
            (":1", ":1"),
            ("7:", "7:"),
        ];
        for (id, name) in cases {
            assert_eq!(name_of(id), name, "{id}");
        }
    }

    #[test]
    fn the_topic_of_transactions_is_read() {
        let begin = r#"{"status":"BEGIN","id":"571:10","ts_ms":1,"event_count":null,"data_collections":null}"#;
        assert_eq!(boundary(begin.as_bytes()), Ok(Boundary::Begin("571".to_owned())));
        let end = r#"{"schema":{"a":1},"payload":{"status":"END","id":"571:20","ts_ms":1,"event_count":3,"data_collections":[
            {"data_collection":"public.a","event_count":1},{"data_collection":"public.b","event_count":2}]}}"#;
        let counts = vec![("public.a".to_owned(), 1), ("public.b".to_owned(), 2)];
        let told = Boundary::End { transaction: "571".to_owned(), id: "571:20 at 1".to_owned(), counts };
        assert_eq!(boundary(end.as_bytes()), Ok(told));
        for wrong in ["", "{}", r#"{"op":"c"}"#, r#"{"status":"AROUND","id":"1"}"#] {
            assert!(boundary(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
