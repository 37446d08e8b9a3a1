//! What clients are sent, as JSON.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use filter::type_name;
use hashbrown::HashMap;
use pipeline::Epoch;

use crate::hub::{Moment, Projection, Stamp};
use crate::json::{moment, write_string};
use crate::message::{Draft, Message};
use crate::protocol::write_position;
use crate::record::Record;
use crate::view::{Due, Hit, View, ViewSpec};

/// Appends `"epoch":…,"position":{…},"commit_time":"…"`.
pub fn write_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend_from_slice(format!(r#""epoch":{},"#, stamp.epoch).as_bytes());
    write_position(out, &stamp.position);
    out.extend_from_slice(format!(r#","commit_time":"{}""#, moment(stamp.commit_time)).as_bytes());
}

/// Appends `"columns":[…],"key":[…],"order":[…]` of a view.
pub fn write_shape(out: &mut Vec<u8>, info: &Projection, spec: &ViewSpec) {
    let order = spec.window.as_ref().map_or(&info.order, |window| &window.order);
    let name = |column: usize| info.schema.field(column).name();
    out.extend_from_slice(br#""columns":["#);
    for (i, &column) in spec.columns.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"name":"# } else { br#",{"name":"# });
        write_string(out, name(column));
        out.extend_from_slice(br#","type":"#);
        write_string(out, &type_name(info.schema.field(column).data_type()));
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"key":"#);
    match &info.key {
        None => out.extend_from_slice(b"null"),
        Some(columns) => {
            out.push(b'[');
            for (i, &column) in columns.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, name(column));
            }
            out.push(b']');
        }
    }
    out.extend_from_slice(br#","order":["#);
    let shown = order.iter().filter(|(column, _)| spec.columns.contains(column));
    for (i, &(column, descending)) in shown.enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"column":"# } else { br#",{"column":"# });
        write_string(out, name(column));
        out.extend_from_slice(if descending { br#","descending":true}"# } else { br#","descending":false}"# });
    }
    out.push(b']');
}

/// What became of rows, as members of an object: `"upsert":[row,…],"delete":[key,…]`, or
/// `"count":[[by,row],…]`.
#[derive(Debug, Default)]
pub struct Members {
    upserts: Vec<u8>,
    deletes: Vec<u8>,
    counts: Vec<u8>,
    rows: usize,
}

impl Members {
    fn list(list: &mut Vec<u8>) -> &mut Vec<u8> {
        if !list.is_empty() {
            list.push(b',');
        }
        list
    }

    pub(crate) fn upsert(&mut self, row: &[u8]) {
        Members::list(&mut self.upserts).extend_from_slice(row);
        self.rows += 1;
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        Members::list(&mut self.deletes).extend_from_slice(key);
        self.rows += 1;
    }

    pub(crate) fn count(&mut self, by: i64, row: &[u8]) {
        let out = Members::list(&mut self.counts);
        out.push(b'[');
        out.extend_from_slice(itoa::Buffer::new().format(by).as_bytes());
        out.push(b',');
        out.extend_from_slice(row);
        out.push(b']');
        self.rows += 1;
    }

    /// Whether nothing became of any row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the lists.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.upserts.len() + self.deletes.len() + self.counts.len()
    }

    /// Appends the members, each after a comma, and begins anew.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let lists = [("upsert", &mut self.upserts), ("delete", &mut self.deletes), ("count", &mut self.counts)];
        for (name, list) in lists {
            if !list.is_empty() {
                out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
                out.extend_from_slice(list);
                out.push(b']');
                list.clear();
            }
        }
        self.rows = 0;
    }
}

/// What several epochs changed of one view.
pub struct Changes {
    view: Arc<View>,
    due: Vec<Due>,
    /// Of several epochs, net; of one the changes as they are.
    net: Option<Vec<Net>>,
    /// The next one.
    at: usize,
    hits: Vec<Hit>,
}

/// Where a row is: which of the epochs, which part, which row.
type Place = (usize, u32, u32);

/// What became of a key over several epochs, or how a row is counted.
struct Net {
    /// The row that the client has.
    old: Option<Place>,
    /// The row that is to be there, with the place of the change that brought it.
    new: Option<(Place, u32)>,
    by: i64,
}

impl Changes {
    /// The changes of a view over these epochs.
    #[must_use]
    pub fn new(view: &Arc<View>, due: Vec<Due>) -> Changes {
        let hits = if let [only] = &due[..] { only.hits().collect() } else { Vec::new() };
        let net = (due.len() > 1).then(|| net_of(view, &due));
        Changes { view: Arc::clone(view), due, net, at: 0, hits }
    }

    /// Writes changes until there are as many bytes or rows as one message may have. Answers whether
    /// all have been written.
    pub fn write(&mut self, out: &mut Members, bytes_max: usize, rows_max: usize) -> bool {
        let is_full = |out: &Members| out.bytes() >= bytes_max || out.rows >= rows_max;
        let mut made: HashMap<(usize, u32), Arc<crate::record::PartJson>> = HashMap::new();
        let key = self.view.info.key.as_deref();
        let spec = &self.view.spec;
        let is_whole = spec.columns.len() == self.view.info.schema.fields().len();
        let total = self.net.as_ref().map_or(self.hits.len(), Vec::len);
        let mut scratch = Vec::new();
        while self.at < total {
            if is_full(out) {
                return false;
            }
            let at = self.at;
            self.at += 1;
            // The change that says it, and the row that the client had.
            let (epoch, part, change, old, is_there, by) = match &self.net {
                None => {
                    let Hit { part, change, was, is } = self.hits[at];
                    let of = self.due[0].record.parts[part as usize].changes[change as usize];
                    let old = of.old.filter(|_| was).map(|row| (0, part, row));
                    (0, part, change, old, is, of.by)
                }
                Some(net) => {
                    let net = &net[at];
                    match (net.new, net.old) {
                        (Some(((epoch, part, _), change)), old) => (epoch, part, change, old, true, net.by),
                        (None, Some((epoch, part, row))) => {
                            write_of(&self.due[epoch].record, part, &mut scratch, key.unwrap_or(&spec.columns), row);
                            out.delete(&scratch);
                            continue;
                        }
                        (None, None) => continue,
                    }
                }
            };
            let held = &self.due[epoch].record.parts[part as usize];
            let json = made.entry((epoch, part)).or_insert_with(|| held.json(&spec.columns, key));
            let json = json.as_ref();
            let change = change as usize;
            if key.is_none() {
                out.count(by, json.row(change));
                continue;
            }
            if !is_there {
                if old.is_some() {
                    out.delete(json.key(change));
                }
                continue;
            }
            // Of a row that is as it was in what the client sees of it nothing is told. One epoch
            // does not change a row to itself.
            if let Some((old_epoch, old_part, row)) = old.filter(|_| !is_whole || self.net.is_some()) {
                write_of(&self.due[old_epoch].record, old_part, &mut scratch, &spec.columns, row);
                if scratch == json.row(change) {
                    continue;
                }
            }
            out.upsert(json.row(change));
        }
        true
    }
}

fn write_of(record: &Record, part: u32, out: &mut Vec<u8>, columns: &[usize], row: u32) {
    out.clear();
    record.parts[part as usize].write(out, columns, row);
}

/// What these epochs are together, by key: what the client has before the first, and what is to be
/// there after the last.
fn net_of(view: &View, due: &[Due]) -> Vec<Net> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut net: Vec<Net> = Vec::new();
    let has_key = view.info.key.is_some();
    for (epoch, of_epoch) in due.iter().enumerate() {
        for Hit { part, change, was, is } in of_epoch.hits() {
            let held = &of_epoch.record.parts[part as usize];
            let of = held.changes[change as usize];
            let at = *places.entry(held.keys.row(change as usize)).or_insert(net.len());
            if at == net.len() {
                let old = of.old.filter(|_| was).map(|row| (epoch, part, row));
                net.push(Net { old, new: None, by: 0 });
            }
            let of_key = &mut net[at];
            of_key.by += of.by;
            of_key.new = if has_key {
                of.new.filter(|_| is).map(|row| ((epoch, part, row), change))
            } else {
                Some(((epoch, part, of.new.or(of.old).unwrap_or_default()), change))
            };
        }
    }
    if !has_key {
        net.retain(|of_row| of_row.by != 0);
    }
    net
}

/// What a session's subscriptions are owed, as messages of bounded size.
pub struct Diff {
    stamp: Arc<Moment>,
    rows_max: usize,
    part_bytes: usize,
    /// Under the client's names.
    changes: Vec<(Arc<str>, Changes)>,
    at: usize,
    is_done: bool,
    /// Whether a message has gone out.
    is_begun: bool,
}

impl Diff {
    /// A diff that brings these to `stamp`, in messages of about so many rows and bytes.
    #[must_use]
    pub fn new(stamp: Arc<Moment>, changes: Vec<(Arc<str>, Changes)>, rows_max: usize, part_bytes: usize) -> Diff {
        Diff { stamp, rows_max, part_bytes, changes, at: 0, is_done: false, is_begun: false }
    }

    /// Whether the last message has been made.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The next message; `None` after the last, or when nothing has changed after all.
    pub fn next_message(&mut self) -> Option<Message> {
        if self.is_done {
            return None;
        }
        let mut diffs: Vec<u8> = Vec::new();
        let (mut members, mut rows) = (Members::default(), 0);
        while let Some((id, changes)) = self.changes.get_mut(self.at) {
            let is_written = changes.write(&mut members, self.part_bytes, self.rows_max.saturating_sub(rows));
            if members.rows > 0 {
                rows += members.rows;
                diffs.extend_from_slice(if diffs.is_empty() { br#"{"id":"# } else { br#",{"id":"# });
                write_string(&mut diffs, id);
                members.write(&mut diffs);
                diffs.push(b'}');
            }
            if is_written {
                self.at += 1;
            }
            if !is_written || diffs.len() >= self.part_bytes || rows >= self.rows_max {
                break;
            }
        }
        let is_last = self.at == self.changes.len();
        self.is_done = is_last;
        if diffs.is_empty() && !self.is_begun {
            return None;
        }
        self.is_begun = true;
        let mut out = Draft::new();
        out.reserve(diffs.len() + 256);
        out.extend_from_slice(br#"{"op":"diff","#);
        out.extend_from_slice(if is_last { self.stamp.json() } else { self.stamp.json_halfway() });
        out.extend_from_slice(br#","diffs":["#);
        out.extend_from_slice(&diffs);
        out.extend_from_slice(if is_last { br#"],"last":true}"# } else { br#"],"last":false}"# });
        Some(out.finish())
    }
}

/// Which message it is: of which subscriptions, from where to where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// A diff, or how an image begins.
    pub kind: &'static str,
    /// Client's name, view, and the first epoch that concerns it, or that an image is of.
    pub subscriptions: Vec<(Arc<str>, u64, Epoch)>,
    /// The epoch that it leads to.
    pub to: Epoch,
    /// Rows that it may have.
    pub rows_max: usize,
}

/// Messages that several clients are sent, made by the first of them.
#[derive(Debug, Default)]
pub struct Frames(Mutex<KeptFrames>);

#[derive(Debug, Default)]
struct KeptFrames {
    by_key: HashMap<FrameKey, Frame>,
    order: VecDeque<FrameKey>,
}

/// A message once it is made: `None` when it does not fit into one, and of nothing when nothing has
/// changed after all.
type Frame = Arc<OnceLock<Option<Option<Message>>>>;

/// Messages that are kept for the next client.
const FRAMES_KEPT_MAX: usize = 64;

impl Frames {
    /// The message of this kind, if anything has changed. `None` when it does not fit into one: then each client's is made
    /// in parts, for itself.
    pub fn get(&self, key: FrameKey, make: impl FnOnce() -> Option<Option<Message>>) -> Option<Option<Message>> {
        let frame = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.by_key.get(&key) {
                Some(frame) => Arc::clone(frame),
                None => {
                    let frame = Arc::default();
                    kept.by_key.insert(key.clone(), Arc::clone(&frame));
                    kept.order.push_back(key);
                    if kept.order.len() > FRAMES_KEPT_MAX
                        && let Some(oldest) = kept.order.pop_front()
                    {
                        kept.by_key.remove(&oldest);
                    }
                    frame
                }
            }
        };
        frame.get_or_init(make).clone()
    }
}

/// "Complete up to here."
#[must_use]
pub fn heartbeat(stamp: &Moment) -> Message {
    let mut out = br#"{"op":"heartbeat","#.to_vec();
    out.extend_from_slice(stamp.json());
    out.push(b'}');
    out.into()
}
