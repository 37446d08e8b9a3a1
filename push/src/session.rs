//! What one client is owed. Decides, and knows no socket.
//!
//! A session is a cursor: the epoch that its client is at, the same for all its subscriptions.
//! [`Session::advance`] moves it to where the hub is, with one message for everything in between;
//! a new subscription's image is taken at the very epoch that the others are advanced to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::hub::{Changes, Hub, Projection, ProjectionId, Record, Row, Rows, Stamp, diff_members, merge};
use crate::json::{moment, type_name, write_string};
use crate::protocol::{PROTOCOL_VERSION, Refusal, Request, parse, shorten, write_position};

/// Subscriptions that one session may have.
pub const SUBSCRIPTIONS_MAX: usize = 100;
/// Bytes of rows in one message of an image; a larger image is sent in several, so that a slow
/// client costs no more than one of them.
pub const IMAGE_PART_BYTES: usize = 256 * 1024;

/// One client.
pub struct Session {
    hub: Arc<Hub>,
    /// Where the client is.
    stamp: Stamp,
    subscriptions: BTreeMap<String, ProjectionId>,
    /// Projections whose failure the client has been told.
    told_failed: BTreeSet<ProjectionId>,
}

/// What to send, in order.
pub enum Outgoing {
    /// One message.
    Message(Bytes),
    /// An image: messages made one at a time, when the one before has gone out.
    Image(Box<Image>),
}

impl Session {
    /// A client that has subscribed to nothing.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Session {
        let stamp = hub.stamp();
        Session { hub, stamp, subscriptions: BTreeMap::new(), told_failed: BTreeSet::new() }
    }

    /// The greeting.
    #[must_use]
    pub fn welcome(&self, heartbeat: Duration, message_bytes_max: usize) -> Bytes {
        let version = env!("CARGO_PKG_VERSION");
        let heartbeat_ms = heartbeat.as_millis();
        Bytes::from(format!(
            r#"{{"op":"welcome","server":"deltafront {version}","protocol":{PROTOCOL_VERSION},"heartbeat_ms":{heartbeat_ms},"message_bytes_max":{message_bytes_max}}}"#
        ))
    }

    /// Subscriptions now.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The shortest time between two diffs that any of its projections asks for: all
    /// subscriptions advance together, at the pace of the most eager.
    #[must_use]
    pub fn batch(&self) -> Duration {
        self.subscriptions.values().map(|id| self.hub.projections()[id.0].batch).min().unwrap_or_default()
    }

    /// Answers a client's message.
    pub fn receive(&mut self, text: &str, out: &mut Vec<Outgoing>) {
        let answer = match parse(text) {
            Ok(Request::Subscribe { id, projection }) => self.subscribe(id, &projection, out),
            Ok(Request::Unsubscribe { id }) => self.unsubscribe(&id, out),
            Ok(Request::Ping) => {
                self.advance(out);
                out.push(Outgoing::Message(self.heartbeat()));
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = answer {
            out.push(Outgoing::Message(refusal.to_json().into()));
        }
    }

    fn subscribe(&mut self, id: String, name: &str, out: &mut Vec<Outgoing>) -> Result<(), Refusal> {
        if self.subscriptions.contains_key(&id) {
            return Err(Refusal::new("duplicate_id", format!("there is a subscription `{id}` already")).about(&id));
        }
        if self.subscriptions.len() == SUBSCRIPTIONS_MAX {
            return Err(
                Refusal::new("too_many_subscriptions", format!("a session has at most {SUBSCRIPTIONS_MAX} subscriptions")).about(&id)
            );
        }
        let Some(projection) = self.hub.find(name) else {
            return Err(Refusal::new("unknown_projection", format!("there is no projection `{}`", shorten(name))).about(&id));
        };
        // The others first, so that all are at the image's epoch.
        let (rows, failed) = self.advance_with(Some(projection), out);
        if let Some(reason) = failed {
            return Err(Refusal::new("projection_failed", &*reason).about(&id));
        }
        self.push_image(&id, projection, rows.unwrap_or_default(), Reason::Subscribed, out);
        self.subscriptions.insert(id, projection);
        Ok(())
    }

    fn unsubscribe(&mut self, id: &str, out: &mut Vec<Outgoing>) -> Result<(), Refusal> {
        if self.subscriptions.remove(id).is_none() {
            return Err(Refusal::new("unknown_id", format!("there is no subscription `{}`", shorten(id))).about(id));
        }
        let mut message = br#"{"op":"unsubscribed","id":"#.to_vec();
        write_string(&mut message, id);
        message.push(b'}');
        out.push(Outgoing::Message(message.into()));
        Ok(())
    }

    /// Moves the client to where the hub is.
    pub fn advance(&mut self, out: &mut Vec<Outgoing>) {
        self.advance_with(None, out);
    }

    /// As [`Session::advance`], with one more projection's rows of the same moment, and why it
    /// can't be served if it can't.
    fn advance_with(&mut self, extra: Option<ProjectionId>, out: &mut Vec<Outgoing>) -> (Option<Rows>, Option<Arc<str>>) {
        let wanted: Vec<ProjectionId> = extra.into_iter().collect();
        let mut since = self.hub.since(self.stamp.epoch, &wanted);
        match since.records.take() {
            Some(records) => {
                self.stamp = since.stamp;
                if let Some(message) = self.diff_message(&records) {
                    out.push(Outgoing::Message(message));
                }
            }
            // The client fell off the log: the rows as they are replace what it has.
            None => {
                let subscribed: Vec<(String, ProjectionId)> =
                    self.subscriptions.iter().map(|(id, projection)| (id.clone(), *projection)).collect();
                let images: Vec<ProjectionId> =
                    wanted.iter().copied().chain(subscribed.iter().map(|(_, projection)| *projection)).collect();
                since = self.hub.since(self.stamp.epoch, &images);
                self.stamp = since.stamp;
                let fresh = since.images.split_off(wanted.len());
                for ((id, projection), rows) in subscribed.into_iter().zip(fresh) {
                    self.push_image(&id, projection, rows, Reason::Resync, out);
                }
            }
        }
        for (id, projection) in &self.subscriptions {
            match since.failed.get(projection) {
                Some(reason) if self.told_failed.insert(*projection) => {
                    out.push(Outgoing::Message(Refusal::new("projection_failed", &**reason).about(id).to_json().into()));
                }
                Some(_) => {}
                None => {
                    self.told_failed.remove(projection);
                }
            }
        }
        let failed = extra.and_then(|extra| since.failed.get(&extra).cloned());
        (since.images.into_iter().next(), failed)
    }

    fn push_image(&self, id: &str, projection: ProjectionId, rows: Rows, reason: Reason, out: &mut Vec<Outgoing>) {
        let info = Arc::clone(&self.hub.projections()[projection.0]);
        out.push(Outgoing::Image(Box::new(Image {
            id: id.to_owned(),
            info,
            rows,
            stamp: self.stamp.clone(),
            reason,
            sent: Sent::Nothing,
        })));
    }

    /// One message for what these epochs changed; `None` when they changed nothing of ours.
    fn diff_message(&self, records: &[Arc<Record>]) -> Option<Bytes> {
        let mut diffs: Vec<u8> = Vec::new();
        let mut encoded: BTreeMap<ProjectionId, Bytes> = BTreeMap::new();
        for (id, projection) in &self.subscriptions {
            let members = encoded.entry(*projection).or_insert_with(|| net_members(records, *projection));
            if members.is_empty() {
                continue;
            }
            diffs.extend_from_slice(if diffs.is_empty() { br#"{"id":"# } else { br#",{"id":"# });
            write_string(&mut diffs, id);
            diffs.push(b',');
            diffs.extend_from_slice(members);
            diffs.push(b'}');
        }
        if diffs.is_empty() {
            return None;
        }
        let mut out = br#"{"op":"diff","#.to_vec();
        write_stamp(&mut out, &self.stamp);
        out.extend_from_slice(br#","diffs":["#);
        out.extend_from_slice(&diffs);
        out.extend_from_slice(b"]}");
        Some(out.into())
    }

    /// "Complete up to here."
    #[must_use]
    pub fn heartbeat(&self) -> Bytes {
        let mut out = br#"{"op":"heartbeat","#.to_vec();
        write_stamp(&mut out, &self.stamp);
        out.push(b'}');
        out.into()
    }
}

/// What the records changed in a projection, as members of a diff object. One record's are used as
/// they are; several are merged by key.
fn net_members(records: &[Arc<Record>], projection: ProjectionId) -> Bytes {
    let of_projection = |record: &Record| {
        let found = record.changes.binary_search_by_key(&projection, |(id, _)| *id).ok()?;
        Some(Arc::clone(&record.changes[found].1))
    };
    let changes: Vec<Arc<Changes>> = records.iter().filter_map(|record| of_projection(record)).collect();
    match &changes[..] {
        [] => Bytes::new(),
        [only] => only.json.clone(),
        several => diff_members(merge(several.iter().map(Arc::as_ref)).iter()).into(),
    }
}

/// Appends `"epoch":…,"position":{…},"commit_time":"…"`.
fn write_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend_from_slice(format!(r#""epoch":{},"#, stamp.epoch).as_bytes());
    write_position(out, &stamp.position);
    out.extend_from_slice(format!(r#","commit_time":"{}""#, moment(stamp.commit_time)).as_bytes());
}

/// Why an image is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client subscribed.
    Subscribed,
    /// The client fell too far behind for diffs; what it has is replaced.
    Resync,
    /// A client asked over REST.
    Rest,
}

/// All rows of a projection at an epoch, as one or more messages.
pub struct Image {
    id: String,
    info: Arc<Projection>,
    rows: Rows,
    stamp: Stamp,
    reason: Reason,
    sent: Sent,
}

enum Sent {
    Nothing,
    UpTo(Bytes),
    All,
}

impl Image {
    /// An image that is no answer to a subscription.
    #[must_use]
    pub fn for_rest(info: Arc<Projection>, rows: Rows, stamp: Stamp) -> Image {
        Image { id: String::new(), info, rows, stamp, reason: Reason::Rest, sent: Sent::Nothing }
    }

    /// The next message; `None` after the last.
    pub fn next_message(&mut self) -> Option<Bytes> {
        let mut out = br#"{"op":"image","id":"#.to_vec();
        let is_first = matches!(self.sent, Sent::Nothing);
        write_string(&mut out, &self.id);
        if is_first {
            out.extend_from_slice(br#","projection":"#);
            write_string(&mut out, &self.info.name);
            out.push(b',');
            write_shape(&mut out, &self.info);
            if self.reason == Reason::Resync {
                out.extend_from_slice(br#","resync":true"#);
            }
        }
        out.push(b',');
        write_stamp(&mut out, &self.stamp);
        out.extend_from_slice(br#","rows":["#);
        let is_last = self.write_rows(&mut out)?;
        out.extend_from_slice(if is_last { br#"],"last":true}"# } else { br#"],"last":false}"# });
        Some(out.into())
    }

    /// The next part of one JSON object for all of the image; `None` after the last.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if matches!(self.sent, Sent::Nothing) {
            out.extend_from_slice(br#"{"projection":"#);
            write_string(&mut out, &self.info.name);
            out.push(b',');
            write_shape(&mut out, &self.info);
            out.push(b',');
            write_stamp(&mut out, &self.stamp);
            out.extend_from_slice(br#","rows":["#);
        } else if !matches!(self.sent, Sent::All) {
            out.push(b',');
        }
        if self.write_rows(&mut out)? {
            out.extend_from_slice(b"]}");
        }
        Some(out.into())
    }

    /// Appends rows up to a part's size. Answers whether they were the last, `None` when those
    /// have gone out before.
    fn write_rows(&mut self, out: &mut Vec<u8>) -> Option<bool> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = match &self.sent {
            Sent::Nothing => Unbounded,
            Sent::UpTo(key) => Excluded(key.clone()),
            Sent::All => return None,
        };
        let start = out.len();
        for (key, Row { json, count }) in self.rows.range((from, Unbounded)) {
            for _ in 0..*count {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(json);
            }
            self.sent = Sent::UpTo(key.clone());
            if out.len() - start >= IMAGE_PART_BYTES {
                let is_last = self.rows.get_max().is_none_or(|(last, _)| last == key);
                if is_last {
                    self.sent = Sent::All;
                }
                return Some(is_last);
            }
        }
        self.sent = Sent::All;
        Some(true)
    }
}

/// Appends `"columns":[…],"key":[…]`.
pub fn write_shape(out: &mut Vec<u8>, info: &Projection) {
    let names = |out: &mut Vec<u8>, columns: &[usize]| {
        out.push(b'[');
        for (i, &column) in columns.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(out, info.schema.field(column).name());
        }
        out.push(b']');
    };
    out.extend_from_slice(br#""columns":["#);
    for (i, field) in info.schema.fields().iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"name":"# } else { br#",{"name":"# });
        write_string(out, field.name());
        out.extend_from_slice(br#","type":"#);
        write_string(out, &type_name(field.data_type()));
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"key":"#);
    match &info.key {
        Some(columns) => names(out, columns),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","order":["#);
    for (i, &(column, descending)) in info.order.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"column":"# } else { br#",{"column":"# });
        write_string(out, info.schema.field(column).name());
        out.extend_from_slice(if descending { br#","descending":true}"# } else { br#","descending":false}"# });
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use expect_test::{Expect, expect};
    use pipeline::{Delta, Epoch, Lsn, Mark, Position};

    use crate::hub::Publication;

    fn projection(name: &str, key: Option<Vec<usize>>) -> Projection {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]));
        Projection { name: name.to_owned(), description: None, schema, key, order: Vec::new(), batch: Duration::ZERO }
    }

    fn hub(log_bytes_max: usize) -> Arc<Hub> {
        Arc::new(Hub::with_log(vec![projection("keyed", Some(vec![0])), projection("bag", None)], log_bytes_max))
    }

    fn publish(hub: &Hub, epoch: u64, rows: &[(usize, i64, i64, &str)]) {
        let publications = (0..2)
            .filter_map(|i| {
                let of: Vec<_> = rows.iter().filter(|row| row.0 == i).collect();
                let ids: ArrayRef = Arc::new(of.iter().map(|row| Some(row.2)).collect::<Int64Array>());
                let names: ArrayRef = Arc::new(of.iter().map(|row| Some(row.3)).collect::<StringArray>());
                let batch = RecordBatch::try_new(hub.projections()[i].schema.clone(), vec![ids, names]).expect("two columns");
                (!of.is_empty()).then(|| (ProjectionId(i), Publication::Diff(Delta::new(batch, of.iter().map(|row| row.1).collect()))))
            })
            .collect();
        let position = Position { marks: [("shop".into(), Mark::Lsn(Lsn(epoch)))].into() };
        let epoch = Epoch(epoch);
        hub.publish(Stamp { epoch, position, commit_time: 0 }, publications);
    }

    /// Everything that goes out, a line a message.
    fn sent(out: Vec<Outgoing>) -> String {
        let mut lines = Vec::new();
        for outgoing in out {
            match outgoing {
                Outgoing::Message(message) => lines.push(message),
                Outgoing::Image(mut image) => lines.extend(std::iter::from_fn(|| image.next_message())),
            }
        }
        lines
            .iter()
            .map(|line| {
                String::from_utf8_lossy(line)
                    .replace(r#","position":{"shop":"0/"#, "@")
                    .replace(r#""},"commit_time":"1970-01-01T00:00:00Z""#, "")
                    + "\n"
            })
            .collect()
    }

    fn check(out: Vec<Outgoing>, expected: &Expect) {
        expected.assert_eq(&sent(out));
    }

    fn subscribe(session: &mut Session, id: &str, name: &str) -> Vec<Outgoing> {
        let mut out = Vec::new();
        session.receive(&format!(r#"{{"op":"subscribe","id":"{id}","projection":"{name}"}}"#), &mut out);
        out
    }

    fn advance(session: &mut Session) -> Vec<Outgoing> {
        let mut out = Vec::new();
        session.advance(&mut out);
        out
    }

    #[test]
    fn an_image_and_then_diffs_by_key() {
        let hub = hub(1 << 20);
        publish(&hub, 1, &[(0, 1, 1, "ann"), (0, 1, 2, "bob"), (1, 2, 5, "x")]);
        let mut session = Session::new(Arc::clone(&hub));
        check(
            subscribe(&mut session, "a", "keyed"),
            &expect![[r#"
            {"op":"image","id":"a","projection":"keyed","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"],[2,"bob"]],"last":true}
        "#]],
        );
        publish(&hub, 2, &[(0, -1, 1, "ann"), (0, 1, 1, "eve"), (0, -1, 2, "bob")]);
        check(
            advance(&mut session),
            &expect![[r#"
            {"op":"diff","epoch":2@2,"diffs":[{"id":"a","upsert":[[1,"eve"]],"delete":[[2]]}]}
        "#]],
        );
        check(
            subscribe(&mut session, "b", "bag"),
            &expect![[r#"
            {"op":"image","id":"b","projection":"bag","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"epoch":2@2,"rows":[[5,"x"],[5,"x"]],"last":true}
        "#]],
        );
        publish(&hub, 3, &[(0, 1, 3, "joe"), (1, -1, 5, "x")]);
        check(
            advance(&mut session),
            &expect![[r#"
            {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[3,"joe"]]},{"id":"b","count":[[-1,[5,"x"]]]}]}
        "#]],
        );
        check(advance(&mut session), &expect![[""]]);
    }

    #[test]
    fn a_slow_client_gets_the_net_of_what_it_missed() {
        let hub = hub(1 << 20);
        let mut session = Session::new(Arc::clone(&hub));
        subscribe(&mut session, "a", "keyed");
        subscribe(&mut session, "b", "bag");
        publish(&hub, 1, &[(0, 1, 1, "ann"), (1, 1, 5, "x")]);
        publish(&hub, 2, &[(0, -1, 1, "ann"), (0, 1, 1, "eve"), (1, 1, 6, "y")]);
        publish(&hub, 3, &[(0, 1, 2, "bob"), (1, -1, 5, "x")]);
        publish(&hub, 4, &[(0, -1, 2, "bob")]);
        check(
            advance(&mut session),
            &expect![[r#"
            {"op":"diff","epoch":4@4,"diffs":[{"id":"a","upsert":[[1,"eve"]],"delete":[[2]]},{"id":"b","count":[[1,[6,"y"]]]}]}
        "#]],
        );
    }

    #[test]
    fn a_client_that_fell_off_the_log_is_sent_its_images_anew() {
        let hub = hub(0);
        publish(&hub, 1, &[(0, 1, 1, "ann")]);
        let mut session = Session::new(Arc::clone(&hub));
        subscribe(&mut session, "a", "keyed");
        publish(&hub, 2, &[(0, 1, 2, "bob")]);
        check(
            advance(&mut session),
            &expect![[r#"
            {"op":"image","id":"a","projection":"keyed","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["id"],"order":[],"resync":true,"epoch":2@2,"rows":[[1,"ann"],[2,"bob"]],"last":true}
        "#]],
        );
    }

    #[test]
    fn a_new_subscription_first_brings_the_others_to_its_epoch() {
        let hub = hub(1 << 20);
        let mut session = Session::new(Arc::clone(&hub));
        subscribe(&mut session, "a", "keyed");
        publish(&hub, 1, &[(0, 1, 1, "ann")]);
        check(
            subscribe(&mut session, "b", "bag"),
            &expect![[r#"
            {"op":"diff","epoch":1@1,"diffs":[{"id":"a","upsert":[[1,"ann"]]}]}
            {"op":"image","id":"b","projection":"bag","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
        "#]],
        );
    }

    #[test]
    fn a_large_image_comes_in_parts_and_all_of_it_once() {
        let hub = hub(1 << 20);
        let long = "x".repeat(1000);
        let rows: Vec<_> = (0..1000).map(|id| (0, 1, id, long.as_str())).collect();
        publish(&hub, 1, &rows);
        let mut session = Session::new(Arc::clone(&hub));
        let out = subscribe(&mut session, "a", "keyed");
        let text = sent(out);
        assert_eq!(text.matches("\"op\":\"image\"").count(), 4);
        assert_eq!(text.matches("\"last\":true").count(), 1);
        assert_eq!(text.matches(&long).count(), 1000);
        let since = hub.since(Epoch(1), &[ProjectionId(0)]);
        let mut image = Image::for_rest(Arc::clone(&hub.projections()[0]), since.images[0].clone(), since.stamp);
        let whole: Vec<u8> = std::iter::from_fn(|| image.next_chunk()).flatten().collect();
        let value: serde_json::Value = serde_json::from_slice(&whole).expect("one JSON object");
        assert_eq!(value["rows"].as_array().map(Vec::len), Some(1000));
    }

    #[test]
    fn refusals_end_nothing() {
        let hub = hub(1 << 20);
        let mut session = Session::new(Arc::clone(&hub));
        let mut out = subscribe(&mut session, "a", "none");
        out.extend(subscribe(&mut session, "a", "bag"));
        out.extend(subscribe(&mut session, "a", "bag"));
        session.receive(r#"{"op":"unsubscribe","id":"z"}"#, &mut out);
        session.receive(r#"{"op":"unsubscribe","id":"a"}"#, &mut out);
        session.receive("hello", &mut out);
        check(
            out,
            &expect![[r#"
            {"op":"error","id":"a","code":"unknown_projection","message":"there is no projection `none`"}
            {"op":"image","id":"a","projection":"bag","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"epoch":0,"position":{},"commit_time":"1970-01-01T00:00:00Z","rows":[],"last":true}
            {"op":"error","id":"a","code":"duplicate_id","message":"there is a subscription `a` already"}
            {"op":"error","id":"z","code":"unknown_id","message":"there is no subscription `z`"}
            {"op":"unsubscribed","id":"a"}
            {"op":"error","code":"bad_json","message":"the message is not JSON: expected value at line 1 column 1"}
        "#]],
        );
    }

    #[test]
    fn a_failed_projection_says_so_once_and_heals() {
        let hub = hub(1 << 20);
        let mut session = Session::new(Arc::clone(&hub));
        subscribe(&mut session, "a", "keyed");
        let fail = |epoch| {
            hub.publish(
                Stamp { epoch: Epoch(epoch), ..Stamp::default() },
                vec![(ProjectionId(0), Publication::Failed("two rows have the key id = 7".to_owned()))],
            )
        };
        fail(1);
        let mut out = advance(&mut session);
        fail(2);
        out.extend(advance(&mut session));
        out.extend(subscribe(&mut Session::new(Arc::clone(&hub)), "b", "keyed"));
        publish(&hub, 3, &[(0, 1, 7, "ann")]);
        out.extend(advance(&mut session));
        check(
            out,
            &expect![[r#"
            {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
            {"op":"error","id":"b","code":"projection_failed","message":"two rows have the key id = 7"}
            {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[7,"ann"]]}]}
        "#]],
        );
    }
}
