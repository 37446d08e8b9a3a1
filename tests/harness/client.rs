//! A WebSocket client that accumulates what it is sent, and holds the server to its protocol.

use std::collections::BTreeMap;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, CloseCode, Limits, Message, WebSocketStream};

use crate::PATIENCE;

/// A client and the rows that it holds.
pub struct Subscriber {
    /// The socket, for tests that send what no client should.
    pub socket: WebSocketStream<tokio_websockets::MaybeTlsStream<TcpStream>>,
    /// What it holds, by the subscription's id.
    pub held: BTreeMap<String, Held>,
    /// Epoch of the last message.
    pub epoch: u64,
    /// Position of the last message.
    pub position: Value,
    /// Images that replaced what was held.
    pub resyncs: usize,
    /// Diffs of which the last message has not come: half of an epoch is nothing to look at.
    half: Vec<Value>,
}

/// The rows of a subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    columns: Vec<String>,
    key: Option<Vec<usize>>,
    /// By the JSON of the key, or of the row.
    rows: BTreeMap<String, (Value, i64)>,
    /// Whether the image has come to its end.
    pub is_whole: bool,
}

impl Held {
    /// All rows, sorted by their JSON, each as often as it counts.
    #[must_use]
    pub fn rows(&self) -> Vec<Value> {
        let mut rows: Vec<Value> = self
            .rows
            .values()
            .flat_map(|(row, count)| {
                std::iter::repeat_n(row.clone(), usize::try_from(*count).expect("no negative count"))
            })
            .collect();
        rows.sort_by_key(Value::to_string);
        rows
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many distinct rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn key_of(&self, row: &Value) -> String {
        match &self.key {
            Some(columns) => {
                Value::from(columns.iter().map(|&column| row[column].clone()).collect::<Vec<_>>()).to_string()
            }
            None => row.to_string(),
        }
    }
}

impl Subscriber {
    /// Connects and takes the greeting.
    ///
    /// # Panics
    /// When that fails.
    pub async fn connect(address: &str) -> Subscriber {
        let url = format!("ws://{address}/v1/socket");
        let (socket, _) = ClientBuilder::new()
            .uri(&url)
            .expect("a url")
            .limits(Limits::unlimited())
            .connect()
            .await
            .expect("a connection");
        let mut subscriber =
            Subscriber { socket, held: BTreeMap::new(), epoch: 0, position: Value::Null, resyncs: 0, half: Vec::new() };
        let welcome = subscriber.message().await;
        assert_eq!((welcome["op"].as_str(), welcome["protocol"].as_u64()), (Some("welcome"), Some(2)));
        subscriber
    }

    /// Sends a text.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("the server reads");
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn send(&mut self, request: Value) {
        self.send_text(request.to_string()).await;
    }

    /// Subscribes, and waits for the image.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn subscribe(&mut self, projection: &str) {
        self.send(json!({ "op": "subscribe", "id": projection, "projection": projection })).await;
        while !self.held.get(projection).is_some_and(|held| held.is_whole) {
            let message = self.next().await;
            assert_ne!(message["op"], "error", "{message}");
        }
    }

    /// The next message, not looked into.
    ///
    /// # Panics
    /// When none comes, or the connection is closed.
    pub async fn message(&mut self) -> Value {
        let message = timeout(PATIENCE, self.socket.next())
            .await
            .expect("a message in time")
            .expect("the connection is open")
            .expect("a frame");
        let text = message.as_text().unwrap_or_else(|| panic!("a text: {message:?}"));
        serde_json::from_str(text).expect("JSON")
    }

    /// The next message, taken in.
    ///
    /// # Panics
    /// When none comes, or it breaks the protocol.
    pub async fn next(&mut self) -> Value {
        let message = self.message().await;
        self.take(&message);
        message
    }

    /// Waits for the code with which the server closes.
    ///
    /// # Panics
    /// When it does not close.
    pub async fn closed(&mut self) -> CloseCode {
        loop {
            let message = timeout(PATIENCE, self.socket.next())
                .await
                .expect("a close in time")
                .expect("a close frame")
                .expect("a frame");
            if let Some((code, _)) = message.as_close() {
                return code;
            }
        }
    }

    fn take(&mut self, message: &Value) {
        let before = self.epoch;
        if let Some(epoch) = message["epoch"].as_u64() {
            assert!(epoch >= self.epoch, "epoch {epoch} behind {}", self.epoch);
            self.epoch = epoch;
            self.position = message["position"].clone();
            assert!(message["commit_time"].is_string(), "{message}");
        }
        match message["op"].as_str() {
            Some("image") => {
                let held = self.held.entry(message["id"].as_str().expect("an id").to_owned()).or_default();
                if let Some(columns) = message["columns"].as_array() {
                    let names: Vec<String> =
                        columns.iter().map(|column| column["name"].as_str().expect("a name").to_owned()).collect();
                    let key = message["key"].as_array().map(|key| {
                        key.iter()
                            .map(|name| {
                                names
                                    .iter()
                                    .position(|column| Some(column.as_str()) == name.as_str())
                                    .expect("a key column")
                            })
                            .collect()
                    });
                    // What the client has of it stays when it is resumed.
                    if message["resumed"] != true {
                        *held = Held { columns: names, key, rows: BTreeMap::new(), is_whole: false };
                    }
                    self.resyncs += usize::from(message["reset"].is_string());
                }
                for row in message["rows"].as_array().expect("rows") {
                    assert_eq!(row.as_array().map(Vec::len), Some(held.columns.len()));
                    let key = held.key_of(row);
                    let entry = held.rows.entry(key).or_insert_with(|| (row.clone(), 0));
                    entry.1 += 1;
                    assert!(held.key.is_none() || entry.1 == 1, "two rows of one key: {row}");
                }
                held.is_whole = message["last"] == true;
                self.apply(message, false);
            }
            Some("diff") => {
                let is_merged = self.epoch > before + 1;
                self.half.push(message["diffs"].clone());
                if message["last"] != true {
                    return;
                }
                for diffs in std::mem::take(&mut self.half) {
                    for diff in diffs.as_array().expect("diffs") {
                        self.apply(diff, is_merged);
                    }
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, diff: &Value, is_merged: bool) {
        let held = self.held.get_mut(diff["id"].as_str().expect("an id")).expect("a diff after its image");
        let list = |name: &str| diff[name].as_array().cloned().unwrap_or_default();
        for key in list("delete") {
            // Also of merged epochs: a row that came and went between them is not told.
            assert!(held.rows.remove(&key.to_string()).is_some(), "a delete of no row: {diff}");
        }
        for row in list("upsert") {
            let key = held.key_of(&row);
            let before = held.rows.insert(key, (row.clone(), 1));
            assert!(is_merged || before != Some((row, 1)), "an upsert that changes nothing: {diff}");
        }
        for change in list("count") {
            let (by, row) = (change[0].as_i64().expect("a number"), &change[1]);
            let key = held.key_of(row);
            let entry = held.rows.entry(key.clone()).or_insert_with(|| (row.clone(), 0));
            entry.1 += by;
            assert!(by != 0 && entry.1 >= 0, "{diff}");
            if entry.1 == 0 {
                held.rows.remove(&key);
            }
        }
    }

    /// Takes messages in until what is held is as wanted.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&mut self, is_wanted: impl Fn(&BTreeMap<String, Held>) -> bool) {
        let waiting = async {
            while !is_wanted(&self.held) {
                self.next().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("not so after {PATIENCE:?}: {:?}", self.held);
        }
    }

    /// The rows of a subscription.
    ///
    /// # Panics
    /// When there is no such subscription.
    #[must_use]
    pub fn rows(&self, id: &str) -> Vec<Value> {
        self.held[id].rows()
    }
}
