//! Clients against the whole truth: whatever happens, what a client has taken in is what the
//! projection, seen through its policy and its filter, was at the epoch that it was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use filter::{Access, ClaimPath, Operand, Operator, Policy, Template, access::Roles};
use pipeline::DiffPart;
use pipeline::projection::Pair;
use serde_json::{Map, Value, json};

use crate::hub::{Hub, Projection, ProjectionId, Publication};
use crate::session::Session;
use crate::testing::stamp;
use crate::viewer::Viewer;

/// A row of an `id`, an `owner` and an `n`.
pub type Row = (i64, Option<&'static str>, Option<i64>);
/// The rows of both projections; in the second one a row may stand several times.
type Rows = [BTreeMap<Row, i64>; 2];

const OWNERS: [Option<&str>; 4] = [Some("ann"), Some("bob"), Some("eve"), None];

/// A generator of numbers that is the same everywhere. Source: G. Marsaglia, "Xorshift RNGs".
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn row(&mut self) -> Row {
        let n = (!self.one_in(5)).then(|| i64::try_from(self.below(6)).unwrap_or(0));
        let owner = OWNERS[usize::try_from(self.below(4)).unwrap_or(0)];
        (i64::try_from(self.below(12)).unwrap_or(0), owner, n)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("owner", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ]))
}

/// Two projections, `keyed` and `bag`, in which a client sees the rows of its own subject.
pub fn hub(log_bytes_max: usize) -> Arc<Hub> {
    let own = |schema: &SchemaRef| {
        let claim = ClaimPath::parse("sub").map(Operand::claim).expect("a path");
        let using = Template::compare(Operand::Column(1), Operator::Eq, claim, schema).expect("two texts");
        let text = "owner = claim('sub')".to_owned();
        let roles = Roles::Named(["authenticated".to_owned()].into());
        Policy { name: "own".to_owned(), is_restrictive: false, roles, using, text }
    };
    let all = || {
        let roles = Roles::Named(["admin".to_owned()].into());
        let using = Template::all();
        Policy { name: "all".to_owned(), is_restrictive: false, roles, using, text: "true".to_owned() }
    };
    let projection = |name: &str, key| {
        let access = Access { policies: vec![own(&schema()), all()], ..Access::default() };
        Projection { access, ..Projection::new(name, schema(), key).expect("columns that can be held") }
    };
    Arc::new(Hub::with_log(vec![projection("keyed", Some(vec![0])), projection("bag", None)], log_bytes_max))
}

/// Who a client is: the owner whose rows it sees, or everybody's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Owner(&'static str),
    Admin,
    Nobody,
}

impl Who {
    fn viewer(self) -> Viewer {
        match self {
            Who::Owner(name) => {
                let claims: Map<String, Value> = [("sub".to_owned(), json!(name))].into_iter().collect();
                Viewer::new(["authenticated".to_owned()].into(), claims)
            }
            Who::Admin => Viewer::new(["admin".to_owned()].into(), Map::new()),
            Who::Nobody => Viewer::default(),
        }
    }

    fn sees(self, row: &Row) -> bool {
        match self {
            Who::Owner(name) => row.1 == Some(name),
            Who::Admin => true,
            Who::Nobody => false,
        }
    }
}

/// What a client asks for: as it writes it, and as it is meant.
#[derive(Clone)]
struct Asked {
    projection: usize,
    filter: usize,
    columns: Vec<usize>,
    limit: Option<(u64, bool)>,
}

/// Filters, and what they mean.
type Meaning = (Value, fn(&Row) -> bool);

fn filters() -> Vec<Meaning> {
    vec![
        (json!({}), |_| true),
        (json!({"n": {"_eq": 3}}), |row| row.2 == Some(3)),
        (json!({"owner": {"_eq": "ann"}, "n": {"_gt": 1}}), |row| row.1 == Some("ann") && row.2 > Some(1)),
        (json!({"n": {"_in": [1, 2]}}), |row| matches!(row.2, Some(1 | 2))),
        (json!({"_not": {"n": {"_lt": 3}}}), |row| row.2.is_some_and(|n| n >= 3)),
        (json!({"_or": [{"n": {"_is_null": true}}, {"id": {"_lte": 4}}]}), |row| row.2.is_none() || row.0 <= 4),
        (json!({"owner": {"_neq": "bob"}}), |row| row.1.is_some_and(|owner| owner != "bob")),
        (json!({"id": {"_in": [1, 5, 9]}, "n": {"_lt": 5}}), |row| {
            [1, 5, 9].contains(&row.0) && row.2.is_some_and(|n| n < 5)
        }),
    ]
}

/// A client's books: what it has taken in, as any client would.
struct Client {
    session: Session,
    who: Who,
    /// Who it was, as long as something may be on its way that was for that one.
    was: Who,
    subscriptions: BTreeMap<String, Held>,
    cursor: String,
    next_id: u64,
    /// Messages of a diff whose last one has not come.
    half: Vec<Value>,
}

#[derive(Clone)]
struct Held {
    asked: Asked,
    view: String,
    /// By key or by whole row, as told, and how often.
    rows: BTreeMap<String, (Value, i64)>,
    is_whole: bool,
}

impl Client {
    fn new(hub: &Arc<Hub>, who: Who) -> Client {
        let mut session = Session::new(Arc::clone(hub));
        session.set_viewer(who.viewer());
        Client {
            session,
            who,
            was: who,
            subscriptions: BTreeMap::new(),
            cursor: String::new(),
            next_id: 0,
            half: Vec::new(),
        }
    }

    fn subscribe(&mut self, asked: &Asked, resume: Option<(&str, &str)>, keep: Option<Held>) {
        self.next_id += 1;
        let id = format!("s{}", self.next_id);
        let (names, projection) = (["id", "owner", "n"], ["keyed", "bag"][asked.projection]);
        let mut message = json!({
            "op": "subscribe", "id": id, "projection": projection,
            "where": filters()[asked.filter].0,
            "columns": asked.columns.iter().map(|&column| names[column]).collect::<Vec<_>>(),
        });
        if let Some((limit, descending)) = asked.limit {
            message["limit"] = limit.into();
            message["order"] = json!([{"column": "n", "descending": descending}]);
        }
        if let Some((cursor, view)) = resume {
            message["resume"] = json!({"cursor": cursor, "view": view});
        }
        self.session.receive(&message.to_string());
        let fresh = Held { asked: asked.clone(), view: String::new(), rows: BTreeMap::new(), is_whole: false };
        self.subscriptions.insert(id, keep.unwrap_or(fresh));
    }

    /// Takes in at most so many messages, and checks after each that leaves nothing half told.
    fn take_in(&mut self, at_most: usize, history: &[Rows]) -> usize {
        let mut taken = 0;
        for _ in 0..at_most * 50 {
            if taken == at_most || !self.session.has_next() {
                break;
            }
            let Some(message) = self.session.next_message() else { continue };
            taken += 1;
            let message: Value = serde_json::from_slice(message.json()).expect("JSON");
            self.take(&message, history);
        }
        if !self.session.has_next() {
            self.was = self.who;
        }
        taken
    }

    fn take(&mut self, message: &Value, history: &[Rows]) {
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
        match message["op"].as_str().expect("an op") {
            "image" => {
                let id = message["id"].as_str().expect("an id");
                let (who, was) = (self.who, self.was);
                let held = self.subscriptions.get_mut(id).unwrap_or_else(|| panic!("no {id}: {message}"));
                if let Some(view) = message["view"].as_str() {
                    held.view = view.to_owned();
                    if message["resumed"] != true {
                        held.rows.clear();
                    }
                }
                let rows = message["rows"].as_array().expect("rows").clone();
                rows.iter().for_each(|row| held.put(row, who, was, message));
                held.change(message, who, was, message);
                held.is_whole = message["last"] == true;
            }
            "diff" => {
                self.half.push(message.clone());
                if message["last"] != true {
                    return;
                }
                let whole = std::mem::take(&mut self.half);
                for diff in whole.iter().flat_map(|part| part["diffs"].as_array().expect("diffs")) {
                    let id = diff["id"].as_str().expect("an id");
                    let (who, was) = (self.who, self.was);
                    let held = self.subscriptions.get_mut(id).unwrap_or_else(|| panic!("no {id}: {message}"));
                    assert!(held.is_whole, "a diff before the image is whole: {message}");
                    held.change(diff, who, was, message);
                }
            }
            "heartbeat" => {}
            "unsubscribed" => {
                self.subscriptions.remove(message["id"].as_str().expect("an id"));
                return;
            }
            "error" if message["code"] == "unknown_id" => return, // it had been asked for twice
            other => panic!("{other}: {message}"),
        }
        // All that is whole is as it was at this epoch.
        let Some(epoch) = message["epoch"].as_u64() else { return };
        if self.who != self.was {
            return; // some are of who it was, others of who it is
        }
        let truth = &history[usize::try_from(epoch).expect("an epoch")];
        for (id, held) in self.subscriptions.iter().filter(|(_, held)| held.is_whole) {
            held.check(id, truth, self.who, message);
        }
    }
}

impl Held {
    fn key_of(&self, row: &Value) -> String {
        if self.asked.projection == 0 { json!([row[0]]).to_string() } else { row.to_string() }
    }

    fn put(&mut self, row: &Value, who: Who, was: Who, message: &Value) {
        self.check_allowed(row, who, was, message);
        let key = self.key_of(row);
        let entry = self.rows.entry(key).or_insert((row.clone(), 0));
        entry.0 = row.clone();
        entry.1 = if self.asked.projection == 0 { 1 } else { entry.1 + 1 };
    }

    fn change(&mut self, members: &Value, who: Who, was: Who, message: &Value) {
        for key in members["delete"].as_array().into_iter().flatten() {
            assert!(self.rows.remove(&key.to_string()).is_some(), "{key} was never there: {message}");
        }
        for row in members["upsert"].as_array().into_iter().flatten() {
            let is_equal = self.rows.get(&self.key_of(row)).is_some_and(|(held, _)| held == row);
            assert!(!is_equal || !self.is_whole, "{row} is there already: {message}");
            self.put(row, who, was, message);
        }
        for change in members["count"].as_array().into_iter().flatten() {
            let (by, row) = (change[0].as_i64().expect("a number"), &change[1]);
            self.check_allowed(row, who, was, message);
            let entry = self.rows.entry(row.to_string()).or_insert((row.clone(), 0));
            entry.1 += by;
            assert!(entry.1 >= 0, "{row} less than never: {message}");
            if entry.1 == 0 {
                self.rows.remove(&row.to_string());
            }
        }
    }

    /// A row that is sent is one that the client may see, or might a moment ago. Only where the owner
    /// is among the columns can that be told.
    fn check_allowed(&self, row: &Value, who: Who, was: Who, message: &Value) {
        let shown = self.shown();
        let Some(at) = shown.iter().position(|column| *column == 1) else { return };
        let owner = OWNERS.iter().copied().find(|owner| json!(owner) == row[at]).expect("an owner");
        let row = (0, owner, None);
        assert!(who.sees(&row) || was.sees(&row), "{who:?} is sent {row:?}: {message}");
    }

    fn shown(&self) -> Vec<usize> {
        let mut shown = self.asked.columns.clone();
        if self.asked.projection == 0 {
            shown.push(0);
        }
        shown.sort_unstable();
        shown.dedup();
        shown
    }

    fn check(&self, id: &str, truth: &Rows, who: Who, message: &Value) {
        let shown = self.shown();
        let mut rows: Vec<(&Row, i64)> = truth[self.asked.projection]
            .iter()
            .filter(|(row, _)| who.sees(row) && filters()[self.asked.filter].1(row))
            .map(|(row, count)| (row, *count))
            .collect();
        if let Some((limit, descending)) = self.asked.limit {
            // NULL is the largest; ties by key, which here is the row.
            let rank = |row: &Row| (row.2.is_none(), row.2);
            rows.sort_by(|(a, _), (b, _)| {
                let order = rank(a).cmp(&rank(b));
                (if descending { order.reverse() } else { order }).then(a.0.cmp(&b.0))
            });
            let mut room = i64::try_from(limit).unwrap_or(i64::MAX);
            for (_, count) in &mut rows {
                *count = (*count).min(room);
                room -= *count;
            }
        }
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for (row, count) in rows.into_iter().filter(|(_, count)| *count > 0) {
            let all = [json!(row.0), json!(row.1), json!(row.2)];
            let row: Vec<&Value> = shown.iter().map(|&column| &all[column]).collect();
            *expected.entry(json!(row).to_string()).or_default() += count;
        }
        let mut held: BTreeMap<String, i64> = BTreeMap::new();
        for (row, count) in self.rows.values() {
            *held.entry(row.to_string()).or_default() += count;
        }
        assert_eq!(held, expected, "{id} (filter {}, {:?}) after {message}", self.asked.filter, self.asked.limit);
    }
}

/// Makes an epoch of it that these rows of `keyed` come, and those of these ids that were there go.
pub fn publish(hub: &Hub, epoch: u64, gone: &[Row], come: &[Row]) {
    let changed: Vec<(Row, i64)> = gone.iter().map(|row| (*row, -1)).chain(come.iter().map(|row| (*row, 1))).collect();
    let publications = vec![(ProjectionId(0), publication(0, &changed)), (ProjectionId(1), publication(1, &[]))];
    hub.publish(stamp(epoch), publications).expect("their columns");
}

fn publication(projection: usize, changed: &[(Row, i64)]) -> Publication {
    let ids: ArrayRef = Arc::new(changed.iter().map(|(row, _)| Some(row.0)).collect::<Int64Array>());
    let owners: ArrayRef = Arc::new(changed.iter().map(|(row, _)| row.1).collect::<StringArray>());
    let ns: ArrayRef = Arc::new(changed.iter().map(|(row, _)| row.2).collect::<Int64Array>());
    let batch = RecordBatch::try_new(schema(), vec![ids, owners, ns]).expect("three columns");
    let mut pairs: BTreeMap<i64, Pair> = BTreeMap::new();
    for (at, (row, by)) in (0..).zip(changed).filter(|_| projection == 0) {
        let pair = pairs.entry(row.0).or_insert(Pair { old: None, new: None });
        *(if *by < 0 { &mut pair.old } else { &mut pair.new }) = Some(at);
    }
    let weights = changed.iter().map(|(_, by)| *by).collect();
    Publication::Diff(vec![DiffPart { batch, weights, pairs: pairs.into_values().collect() }])
}

/// Changes some rows of both projections at random.
fn change(random: &mut Random, rows: &mut Rows) -> Vec<(ProjectionId, Publication)> {
    let mut publications = Vec::new();
    for (projection, after) in rows.iter_mut().enumerate() {
        let before = after.clone();
        for _ in 0..random.below(4) {
            let row = random.row();
            if projection == 0 {
                after.retain(|held, _| held.0 != row.0);
                if !random.one_in(3) {
                    after.insert(row, 1);
                }
            } else if random.one_in(2) {
                *after.entry(row).or_default() += 1;
            } else if let Some(row) = after.keys().next().copied() {
                let count = after.get_mut(&row).expect("it is there");
                *count -= 1;
                after.retain(|_, count| *count > 0);
            }
        }
        let mut changed: Vec<(Row, i64)> = Vec::new();
        for row in before.keys().chain(after.keys()) {
            let by = after.get(row).unwrap_or(&0) - before.get(row).unwrap_or(&0);
            if by != 0 && !changed.contains(&(*row, by)) {
                changed.push((*row, by));
            }
        }
        if changed.is_empty() && !random.one_in(4) {
            continue;
        }
        publications.push((ProjectionId(projection), publication(projection, &changed)));
    }
    publications
}

fn asked(random: &mut Random) -> Asked {
    let projection = usize::from(random.one_in(3));
    let limit = random.one_in(3).then(|| (1 + random.below(4), random.one_in(2)));
    let columns = match random.below(3) {
        0 => vec![0, 2],
        1 => vec![1],
        _ => vec![0, 1, 2],
    };
    // The order of equal rows is by the whole row, which is seen only where all columns are.
    let columns = if limit.is_some() && projection == 1 { vec![0, 1, 2] } else { columns };
    let filter = usize::try_from(random.below(filters().len() as u64)).unwrap_or(0);
    Asked { projection, filter, columns, limit: limit.filter(|_| projection == 0) }
}

fn play(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let log_bytes_max = [0, 3_000, 1 << 20][usize::try_from(random.below(3)).unwrap_or(0)];
    let hub = hub(log_bytes_max);
    if random.one_in(2) {
        hub.index_at_once(random.below(8).cast_signed());
    }
    let mut rows = Rows::default();
    let mut history = vec![rows.clone()];
    let publish = |random: &mut Random, rows: &mut Rows, history: &mut Vec<Rows>| {
        let publications = change(random, rows);
        history.push(rows.clone());
        hub.publish(stamp(history.len() as u64 - 1), publications).expect("their columns");
    };
    // Both are ready before anybody looks.
    let ready = (0..2).map(|i| (ProjectionId(i), Publication::Diff(Vec::new()))).collect();
    history.push(rows.clone());
    hub.publish(stamp(1), ready).expect("nothing");
    let whos = [Who::Owner("ann"), Who::Owner("bob"), Who::Admin, Who::Nobody];
    let who = |random: &mut Random| whos[usize::try_from(random.below(4)).unwrap_or(0)];
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&hub, who(&mut random))).collect();
    for _ in 0..120 {
        for _ in 0..random.below(3) {
            publish(&mut random, &mut rows, &mut history);
        }
        for client in &mut clients {
            match random.below(12) {
                0 | 1 if client.subscriptions.len() < 5 => {
                    let asked = asked(&mut random);
                    client.subscribe(&asked, None, None);
                }
                2 => {
                    if let Some(id) = client.subscriptions.keys().next().cloned() {
                        client.session.receive(&json!({"op": "unsubscribe", "id": id}).to_string());
                    }
                }
                3 => {
                    let mode = if random.one_in(2) { "every" } else { "latest" };
                    let rows_max = if random.one_in(2) { 1 } else { 1000 };
                    let batch = json!({"op": "batch", "mode": mode, "rows_max": rows_max});
                    client.session.receive(&batch.to_string());
                    let answer = loop {
                        // What is on its way comes first.
                        let message = client.session.next_message();
                        let Some(message) = message else { continue };
                        let message: Value = serde_json::from_slice(message.json()).expect("JSON");
                        if message["op"] == "batch" {
                            break message;
                        }
                        client.take(&message, &history);
                    };
                    assert_eq!(answer["mode"], mode);
                }
                4 if client.was == client.who => {
                    client.who = who(&mut random);
                    client.session.set_viewer(client.who.viewer());
                }
                5 if client.was == client.who && !client.cursor.is_empty() => {
                    // The connection breaks. What was whole is taken up again, all at once.
                    let held: Vec<Held> = std::mem::take(&mut client.subscriptions).into_values().collect();
                    let (cursor, next_id) = (client.cursor.clone(), client.next_id);
                    *client = Client::new(&hub, client.who);
                    client.next_id = next_id;
                    for of in held.into_iter().filter(|held| held.is_whole) {
                        let (asked, view) = (of.asked.clone(), of.view.clone());
                        let keep = Held { is_whole: false, ..of };
                        client.subscribe(&asked, Some((&cursor, &view)), Some(keep));
                    }
                    client.cursor = String::new();
                }
                _ => client.session.advance(),
            }
            let at_most = if random.one_in(3) { 1 } else { 1000 };
            client.take_in(at_most, &history);
        }
    }
    // In the end all are where the hub is.
    for client in &mut clients {
        client.take_in(10_000, &history);
        client.session.receive(r#"{"op":"ping"}"#);
        client.take_in(10_000, &history);
        assert!(client.subscriptions.values().all(|held| held.is_whole));
        assert!(client.cursor.ends_with(&format!("-{}", history.len() - 1)), "{}", client.cursor);
    }
}

/// `PUSH_SEED=n` plays one story again.
#[test]
fn what_clients_hold_is_the_filtered_truth() {
    if let Some(seed) = std::env::var("PUSH_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return play(seed);
    }
    for seed in 1..=200 {
        if std::panic::catch_unwind(|| play(seed)).is_err() {
            panic!("seed {seed}: PUSH_SEED={seed} plays it again");
        }
    }
}
