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
use crate::message::{Draft, Message};
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
    /// Subscriptions whose image is still to come, since their projection was not ready.
    awaiting: BTreeSet<String>,
    /// Subscriptions that have been told that their projection fails.
    told_failed: BTreeSet<String>,
}

/// What to send, in order.
pub enum Outgoing {
    /// One message.
    Message(Message),
    /// An image: messages made one at a time, when the one before has gone out.
    Image(Box<Image>),
}

impl Session {
    /// A client that has subscribed to nothing.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Session {
        let stamp = hub.stamp();
        Session { hub, stamp, subscriptions: BTreeMap::new(), awaiting: BTreeSet::new(), told_failed: BTreeSet::new() }
    }

    /// The greeting.
    #[must_use]
    pub fn welcome(&self, heartbeat: Duration, message_bytes_max: usize) -> Message {
        let version = env!("CARGO_PKG_VERSION");
        let heartbeat_ms = heartbeat.as_millis();
        Message::from(format!(
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
            return Err(Refusal::new(
                "too_many_subscriptions",
                format!("a session has at most {SUBSCRIPTIONS_MAX} subscriptions"),
            )
            .about(&id));
        }
        let Some(projection) = self.hub.find(name) else {
            return Err(
                Refusal::new("unknown_projection", format!("there is no projection `{}`", shorten(name))).about(&id)
            );
        };
        // The others first, so that all are at the image's epoch.
        let (rows, failed) = self.advance_with(Some(projection), out);
        if let Some(reason) = failed {
            return Err(Refusal::new("projection_failed", &*reason).about(&id));
        }
        match rows {
            Some(rows) => self.push_image(&id, projection, rows, Reason::Subscribed, out),
            None => drop(self.awaiting.insert(id.clone())),
        }
        self.subscriptions.insert(id, projection);
        Ok(())
    }

    fn unsubscribe(&mut self, id: &str, out: &mut Vec<Outgoing>) -> Result<(), Refusal> {
        if self.subscriptions.remove(id).is_none() {
            return Err(Refusal::new("unknown_id", format!("there is no subscription `{}`", shorten(id))).about(id));
        }
        self.awaiting.remove(id);
        self.told_failed.remove(id);
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

    /// As [`Session::advance`], with one more projection's rows of the same moment if it is ready,
    /// and why it can't be served if it can't.
    fn advance_with(
        &mut self,
        extra: Option<ProjectionId>,
        out: &mut Vec<Outgoing>,
    ) -> (Option<Rows>, Option<Arc<str>>) {
        let mut fresh: Vec<(String, ProjectionId, Reason)> =
            self.awaiting.iter().map(|id| (id.clone(), self.subscriptions[id], Reason::Subscribed)).collect();
        let wanted = |fresh: &[(String, ProjectionId, Reason)]| -> Vec<ProjectionId> {
            extra.into_iter().chain(fresh.iter().map(|(_, projection, _)| *projection)).collect()
        };
        let mut since = self.hub.since(self.stamp.epoch, &wanted(&fresh));
        match since.records.take() {
            Some(records) => {
                self.stamp = since.stamp;
                if let Some(message) = self.diff_message(&records) {
                    out.push(Outgoing::Message(message));
                }
            }
            // The client fell off the log: the rows as they are replace what it has.
            None => {
                for (id, projection) in self.subscriptions.iter().filter(|(id, _)| !self.awaiting.contains(*id)) {
                    fresh.push((id.clone(), *projection, Reason::Resync));
                }
                since = self.hub.since(self.stamp.epoch, &wanted(&fresh));
                self.stamp = since.stamp;
            }
        }
        let mut images = since.images.into_iter();
        let rows = extra.and_then(|_| images.next().flatten());
        for ((id, projection, reason), rows) in fresh.into_iter().zip(images) {
            // One that is not ready goes on waiting, and one that failed before it was ever shown too.
            let Some(rows) = rows else { continue };
            if reason == Reason::Resync || !since.failed.contains_key(&projection) {
                self.awaiting.remove(&id);
                self.push_image(&id, projection, rows, reason, out);
            }
        }
        for (id, projection) in &self.subscriptions {
            match since.failed.get(projection) {
                Some(reason) if self.told_failed.insert(id.clone()) => {
                    out.push(Outgoing::Message(
                        Refusal::new("projection_failed", &**reason).about(id).to_json().into(),
                    ));
                }
                Some(_) => {}
                None => {
                    self.told_failed.remove(id);
                }
            }
        }
        let failed = extra.and_then(|extra| since.failed.get(&extra).cloned());
        (rows, failed)
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
    fn diff_message(&self, records: &[Arc<Record>]) -> Option<Message> {
        let mut diffs: Vec<u8> = Vec::new();
        let mut encoded: BTreeMap<ProjectionId, Bytes> = BTreeMap::new();
        for (id, projection) in self.subscriptions.iter().filter(|(id, _)| !self.awaiting.contains(*id)) {
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
        let mut out = Draft::new();
        out.extend_from_slice(br#"{"op":"diff","#);
        write_stamp(&mut out, &self.stamp);
        out.extend_from_slice(br#","diffs":["#);
        out.extend_from_slice(&diffs);
        out.extend_from_slice(b"]}");
        Some(out.finish())
    }

    /// "Complete up to here."
    #[must_use]
    pub fn heartbeat(&self) -> Message {
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
    pub fn next_message(&mut self) -> Option<Message> {
        let mut out = Draft::new();
        out.extend_from_slice(br#"{"op":"image","id":"#);
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
        Some(out.finish())
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

    use expect_test::{Expect, expect};
    use pipeline::Epoch;

    use crate::testing::{
        ample_hub, fail, hub, hub_of, not_ready, projection, publish, ready, restless_hub, stamp, text,
    };

    /// Plays a story with one client, and compares all that the client is sent. Its lines are
    ///
    /// ```text
    /// publish EPOCH CHANGES       fail EPOCH PROJECTION REASON
    /// ready EPOCH PROJECTION                                     it has a diff, of nothing
    /// subscribe ID PROJECTION     {"op":…}                       what the client sends
    /// advance                     heartbeat                      what the socket's loop does
    /// ```
    fn check(story: &str, expected: Expect) {
        check_on(&ample_hub(), story, expected);
    }

    fn check_on(hub: &Arc<Hub>, story: &str, expected: Expect) {
        let mut session = Session::new(Arc::clone(hub));
        let mut out = Vec::new();
        for line in story.lines().map(str::trim) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            match verb {
                "publish" => {
                    let (epoch, changes) = rest.split_once(' ').unwrap_or((rest, ""));
                    publish(hub, epoch.parse().expect("an epoch"), changes);
                }
                "fail" => fail(hub, word().parse().expect("an epoch"), word(), word()),
                "ready" => ready(hub, word().parse().expect("an epoch"), word()),
                "subscribe" => out.extend(subscribe(&mut session, word(), word())),
                "advance" => session.advance(&mut out),
                "heartbeat" => out.push(Outgoing::Message(session.heartbeat())),
                "" => {}
                _ => session.receive(line, &mut out),
            }
        }
        expected.assert_eq(&sent(out).replace(SHAPE, ""));
    }

    /// What every first message of an image says of these projections.
    const SHAPE: &str = r#","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}]"#;

    /// Everything that goes out, a line a message, stamps as `epoch@LSN`.
    fn sent(out: Vec<Outgoing>) -> String {
        let mut told = String::new();
        for message in messages(out) {
            let message = text(message.json())
                .replace(r#","position":{"shop":"0/"#, "@")
                .replace(r#""},"commit_time":"1970-01-01T00:00:00Z""#, "");
            told += &message.replace(r#","position":{},"commit_time":"1970-01-01T00:00:00Z""#, "");
            told.push('\n');
        }
        told
    }

    /// Parts that an image of a test has at most: one without an end is to fail, and not to fill memory.
    const MESSAGES_MAX: usize = 100;

    fn messages(out: Vec<Outgoing>) -> Vec<Message> {
        let mut messages = Vec::new();
        for outgoing in out {
            match outgoing {
                Outgoing::Message(message) => messages.push(message),
                Outgoing::Image(mut image) => {
                    messages.extend(std::iter::from_fn(|| image.next_message()).take(MESSAGES_MAX))
                }
            }
        }
        messages
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
        check(
            r#"publish 1 +keyed(1,ann) +keyed(2,bob) +2bag(5,x)
               subscribe a keyed
               publish 2 -keyed(1,ann) +keyed(1,eve) -keyed(2,bob)
               advance
               subscribe b bag
               publish 3 +keyed(3,joe) -bag(5,x)
               advance
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"a","upsert":[[1,"eve"]],"delete":[[2]]}]}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[[5,"x"],[5,"x"]],"last":true}
                {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[3,"joe"]]},{"id":"b","count":[[-1,[5,"x"]]]}]}
            "#]],
        );
    }

    /// The members that stories leave out: a stamp, and a projection's shape.
    #[test]
    fn messages_say_how_far_they_go_and_what_rows_are() {
        let mut info = projection("ranking", Some(vec![1, 0]));
        info.order = vec![(1, true), (0, false)];
        let hub = hub_of(vec![info]);
        hub.publish(Stamp { commit_time: 951_827_696_500_000, ..stamp(0x16B_3748) }, Vec::new());
        let mut session = Session::new(hub);
        let mut out = subscribe(&mut session, "a", "ranking");
        out.push(Outgoing::Message(session.heartbeat()));
        out.push(Outgoing::Message(session.welcome(Duration::from_millis(1500), 65536)));
        let told: Vec<String> = messages(out)
            .iter()
            .map(|message| text(message.json()).replace(env!("CARGO_PKG_VERSION"), "VERSION"))
            .collect();
        expect![[r#"
            {"op":"image","id":"a","projection":"ranking","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["name","id"],"order":[{"column":"name","descending":true},{"column":"id","descending":false}],"epoch":23803720,"position":{"shop":"0/16B3748"},"commit_time":"2000-02-29T12:34:56.5Z","rows":[],"last":true}
            {"op":"heartbeat","epoch":23803720,"position":{"shop":"0/16B3748"},"commit_time":"2000-02-29T12:34:56.5Z"}
            {"op":"welcome","server":"deltafront VERSION","protocol":1,"heartbeat_ms":1500,"message_bytes_max":65536}
        "#]]
        .assert_eq(&(told.join("\n") + "\n"));
    }

    #[test]
    fn a_slow_client_gets_the_net_of_what_it_missed() {
        check(
            r#"subscribe a keyed
               subscribe b bag
               publish 1 +keyed(1,ann) +bag(5,x)
               publish 2 -keyed(1,ann) +keyed(1,eve) +bag(6,y)
               publish 3 +keyed(2,bob) -bag(5,x)
               publish 4 -keyed(2,bob)
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":4@4,"diffs":[{"id":"a","upsert":[[1,"eve"]]},{"id":"b","count":[[1,[6,"y"]]]}]}
            "#]],
        );
    }

    /// Epochs that changed nothing of the client's make no message, and it is past them all the same.
    #[test]
    fn what_is_not_subscribed_is_not_sent() {
        check(
            r#"subscribe b bag
               publish 1 +keyed(1,ann)
               advance
               publish 2 +keyed(2,bob) +bag(5,x)
               advance
               {"op":"unsubscribe","id":"b"}
               publish 3 +bag(6,y)
               advance
               heartbeat"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"b","count":[[1,[5,"x"]]]}]}
                {"op":"unsubscribed","id":"b"}
                {"op":"heartbeat","epoch":3@3}
            "#]],
        );
    }

    /// An answer to a ping says that all is complete up to its epoch. When it did not advance the
    /// client, "complete up to 1" came while 2 was there, and a client that pings in place of
    /// waiting for heartbeats never learned how far it is.
    #[test]
    fn a_ping_brings_what_is_there_and_then_says_so() {
        check(
            r#"subscribe a keyed
               publish 1 +keyed(1,ann)
               {"op":"ping"}
               publish 2 +bag(5,x)
               {"op":"ping"}"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":1@1,"diffs":[{"id":"a","upsert":[[1,"ann"]]}]}
                {"op":"heartbeat","epoch":1@1}
                {"op":"heartbeat","epoch":2@2}
            "#]],
        );
    }

    /// "All you hold is complete up to this epoch" is about what the client was sent, and the hub
    /// may be further: were the hub's epoch told, a client would take old rows for new.
    #[test]
    fn a_heartbeat_tells_the_sessions_epoch_not_the_hubs() {
        check(
            r#"publish 1 +keyed(1,ann)
               subscribe a keyed
               publish 2 -keyed(1,ann)
               heartbeat
               advance
               heartbeat"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"]],"last":true}
                {"op":"heartbeat","epoch":1@1}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"a","delete":[[1]]}]}
                {"op":"heartbeat","epoch":2@2}
            "#]],
        );
    }

    #[test]
    fn a_client_that_fell_off_the_log_is_sent_its_images_anew() {
        check_on(
            &hub(0),
            r#"publish 1 +keyed(1,ann)
               subscribe a keyed
               subscribe b bag
               publish 2 +keyed(2,bob) +2bag(5,x)
               advance
               publish 3 -bag(5,x)
               subscribe c keyed
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"]],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"resync":true,"epoch":2@2,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"resync":true,"epoch":2@2,"rows":[[5,"x"],[5,"x"]],"last":true}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"resync":true,"epoch":3@3,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"resync":true,"epoch":3@3,"rows":[[5,"x"]],"last":true}
                {"op":"image","id":"c","projection":"keyed","key":["id"],"order":[],"epoch":3@3,"rows":[[1,"ann"],[2,"bob"]],"last":true}
            "#]],
        );
    }

    #[test]
    fn a_new_subscription_first_brings_the_others_to_its_epoch() {
        check(
            r#"subscribe a keyed
               publish 1 +keyed(1,ann)
               subscribe b bag"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":1@1,"diffs":[{"id":"a","upsert":[[1,"ann"]]}]}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
            "#]],
        );
    }

    /// The hub moves on between any two looks at it. An image taken from a second one, after that
    /// which gave the epoch and the diffs, was newer than it said: the client then took in the next
    /// diff, which it held already, and of a whole row it counted one too many.
    #[test]
    fn an_image_is_of_the_epoch_that_it_tells() {
        for log_bytes_max in [1 << 20, 0] {
            let mut session = Session::new(restless_hub(log_bytes_max));
            let mut out = subscribe(&mut session, "a", "keyed");
            out.extend(subscribe(&mut session, "b", "keyed"));
            out.extend(advance(&mut session));
            let told = messages(out);
            assert_eq!(told.len(), if log_bytes_max > 0 { 4 } else { 5 });
            for message in told {
                let value: serde_json::Value = serde_json::from_slice(message.json()).expect("JSON");
                let epoch = value["epoch"].as_u64().expect("an epoch").to_string();
                let rows = if value["op"] == "diff" { &value["diffs"][0]["upsert"] } else { &value["rows"] };
                assert_eq!(rows, &serde_json::json!([[1, epoch]]), "{value}");
            }
        }
    }

    /// Of two rows so long, the number of messages and of rows in each.
    fn parts(row_bytes: usize) -> Vec<usize> {
        let hub = ample_hub();
        let name = "x".repeat(row_bytes - r#"[1,""]"#.len());
        publish(&hub, 1, &format!("+bag(1,{name}) +bag(2,{name})"));
        let all = messages(subscribe(&mut Session::new(hub), "a", "bag"));
        let values: Vec<serde_json::Value> =
            all.iter().map(|message| serde_json::from_slice(message.json()).expect("JSON")).collect();
        let lasts: Vec<bool> = values.iter().map(|value| value["last"] == true).collect();
        assert_eq!(
            lasts.iter().rposition(|last| !last).map_or(0, |i| i + 1),
            lasts.len() - 1,
            "the last is the last: {lasts:?}"
        );
        assert!(
            values.iter().enumerate().all(|(i, value)| value["columns"].is_array() == (i == 0)),
            "columns come first, and once"
        );
        values.iter().map(|value| value["rows"].as_array().map_or(0, Vec::len)).collect()
    }

    /// A part ends with the row that fills it; no empty one comes after the last.
    #[test]
    fn an_image_is_cut_where_a_part_is_full() {
        assert_eq!(parts(100), [2]);
        assert_eq!(parts(IMAGE_PART_BYTES - 1), [2]);
        assert_eq!(parts(IMAGE_PART_BYTES), [1, 1]);
        assert_eq!(IMAGE_PART_BYTES, 262_144, "what a slow client costs");
    }

    /// The same rows as one object in chunks, for REST.
    #[test]
    fn chunks_of_a_large_image_are_one_object() {
        for rows in [0, 1, 1000] {
            let hub = ample_hub();
            let long = "x".repeat(1000);
            publish(&hub, 1, &(0..rows).map(|id| format!("+2bag({id},{long}) ")).collect::<String>());
            let since = hub.since(Epoch(1), &[ProjectionId(1)]);
            let mut image = Image::for_rest(
                Arc::clone(&hub.projections()[1]),
                since.images[0].clone().expect("it is ready"),
                since.stamp,
            );
            let chunks: Vec<Bytes> = std::iter::from_fn(|| image.next_chunk()).take(MESSAGES_MAX).collect();
            assert_eq!(chunks.len(), if rows == 1000 { 8 } else { 1 }, "{rows} rows");
            let value: serde_json::Value = serde_json::from_slice(&chunks.concat()).expect("one JSON object");
            assert_eq!((&value["projection"], value["rows"].as_array().map(Vec::len)), (&"bag".into(), Some(2 * rows)));
        }
    }

    /// An image without rows would say that there are none; of what is ready and empty, that is so.
    /// What came before the image is in it, and is told no second time.
    #[test]
    fn a_projection_that_is_not_ready_has_its_image_when_it_is() {
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               subscribe b bag
               advance
               ready 1 bag
               advance
               publish 2 +bag(5,x)
               publish 3 +keyed(1,ann)
               publish 4 +keyed(2,bob)
               advance
               publish 5 +keyed(3,joe)
               advance"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
                {"op":"diff","epoch":4@4,"diffs":[{"id":"b","count":[[1,[5,"x"]]]}]}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":4@4,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"diff","epoch":5@5,"diffs":[{"id":"a","upsert":[[3,"joe"]]}]}
            "#]],
        );
    }

    #[test]
    fn who_waits_for_an_image_waits_off_the_log_too_and_may_leave() {
        check_on(
            &not_ready(0),
            r#"subscribe a keyed
               subscribe b bag
               publish 1 +bag(5,x)
               publish 2 +bag(6,y)
               advance
               {"op":"unsubscribe","id":"a"}
               publish 3 +keyed(1,ann)
               advance"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[[5,"x"],[6,"y"]],"last":true}
                {"op":"unsubscribed","id":"a"}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"resync":true,"epoch":3@3,"rows":[[5,"x"],[6,"y"]],"last":true}
            "#]],
        );
    }

    #[test]
    fn one_that_fails_before_it_was_ever_shown_is_awaited() {
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               publish 2 +keyed(7,ann)
               advance"#,
            expect![[r#"
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":2@2,"rows":[[7,"ann"]],"last":true}
            "#]],
        );
        // It was ready for a moment, and the client did not look.
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               publish 1 +keyed(7,ann)
               fail 2 keyed two rows have the key id = 7
               advance
               publish 3 +keyed(8,bob)
               advance"#,
            expect![[r#"
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":3@3,"rows":[[7,"ann"],[8,"bob"]],"last":true}
            "#]],
        );
    }

    #[test]
    fn refusals_end_nothing() {
        check(
            r#"subscribe a none
               subscribe a bag
               subscribe a bag
               {"op":"unsubscribe","id":"z"}
               {"op":"unsubscribe","id":"a"}
               hello"#,
            expect![[r#"
                {"op":"error","id":"a","code":"unknown_projection","message":"there is no projection `none`"}
                {"op":"image","id":"a","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"duplicate_id","message":"there is a subscription `a` already"}
                {"op":"error","id":"z","code":"unknown_id","message":"there is no subscription `z`"}
                {"op":"unsubscribed","id":"a"}
                {"op":"error","code":"bad_json","message":"the message is not JSON: expected value at line 1 column 1"}
            "#]],
        );
    }

    #[test]
    fn a_session_has_a_number_of_subscriptions() {
        let mut session = Session::new(ample_hub());
        for i in 0..SUBSCRIPTIONS_MAX {
            assert_eq!(session.subscriptions(), i);
            subscribe(&mut session, &i.to_string(), "bag");
        }
        expect![[r#"
            {"op":"error","id":"more","code":"too_many_subscriptions","message":"a session has at most 100 subscriptions"}
        "#]]
        .assert_eq(&sent(subscribe(&mut session, "more", "bag")));
        assert_eq!(session.subscriptions(), 100);
    }

    #[test]
    fn the_most_eager_projection_sets_the_pace() {
        let slow = |name: &str, millis| Projection { batch: Duration::from_millis(millis), ..projection(name, None) };
        let mut session = Session::new(hub_of(vec![slow("slow", 500), slow("slower", 900)]));
        assert_eq!(session.batch(), Duration::ZERO);
        subscribe(&mut session, "a", "slower");
        assert_eq!(session.batch(), Duration::from_millis(900));
        subscribe(&mut session, "b", "slow");
        assert_eq!(session.batch(), Duration::from_millis(500));
    }

    #[test]
    fn a_failed_projection_says_so_once_and_heals() {
        check(
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               fail 2 keyed two rows have the key id = 7
               advance
               subscribe b keyed
               subscribe c bag
               publish 3 +keyed(7,ann)
               advance
               fail 4 keyed two rows have the key id = 7
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"error","id":"b","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"c","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[],"last":true}
                {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[7,"ann"]]}]}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }

    /// The failure was remembered by projection: of two subscriptions to it, as of two panels of a
    /// page, only the first was told.
    #[test]
    fn every_subscription_of_a_failed_projection_is_told() {
        check(
            r#"subscribe a keyed
               subscribe b keyed
               fail 1 keyed two rows have the key id = 7
               advance
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"image","id":"b","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"error","id":"b","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }

    /// And it was remembered when the subscription was gone: one of the same projection that came
    /// after it had healed was not told of the next failure.
    #[test]
    fn a_failure_is_forgotten_with_its_subscription() {
        check(
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               {"op":"unsubscribe","id":"a"}
               publish 2 +keyed(7,ann)
               subscribe a keyed
               fail 3 keyed two rows have the key id = 7
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"unsubscribed","id":"a"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":2@2,"rows":[[7,"ann"]],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }
}
