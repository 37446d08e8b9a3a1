//! Runs a seed and compares.

use std::collections::BTreeMap;

use fastrand::Rng;
use pipeline::table::Identity;
use pipeline::{Changes, DiffPart, Program, ProjectionId, Published, TableId};
use sql::{Diagnostics, Project, TableShape};

use crate::batch::{Batch, Counts, show};
use crate::change::Changing;
use crate::generate::{Queries, Query, TABLES, WORLDS, in_world};
use crate::tables::{Mood, Tables, schema_of, split};

/// Queries planned into one program, so that they share what they can.
const QUERIES_PER_SEED: usize = 3;
/// Of each so many transactions in a seed with faults, the last [`MENDED_FOR`] are without.
const PHASE: u64 = 10;
const MENDED_FOR: u64 = 4;

/// The queries of a seed; `can_fail` lets expressions fail for some rows.
pub fn queries_of(seed: u64, can_fail: bool) -> Vec<Query> {
    let mut generator = Queries::new(seed, can_fail);
    let query = |i| {
        // One that can't fail beside some that can: they share what they can, too. Where rows only
        // add up it is easy to be right, so that one of them is of another kind.
        let is_wanted = |query: &Query| match i {
            0 => true,
            1 => !can_fail || query.can_fail(),
            _ => !can_fail || (query.can_fail() && !query.is_monotone()),
        };
        // Which columns are unique shows in few queries, so that every other seed has such a one.
        if i == 0 && seed.is_multiple_of(2) {
            return generator.keyed();
        }
        std::iter::repeat_with(|| generator.query()).find(is_wanted).expect("an endless stream")
    };
    (0..QUERIES_PER_SEED).map(query).collect()
}

/// So often the rows served are made again from state.
const IMAGE_EVERY: u64 = 7;
/// So often state is written, and read by a fresh program that goes on.
const REOPEN_EVERY: u64 = 25;
/// So often the program that changes is given other queries.
const CHANGE_EVERY: u64 = 9;

/// Whether DataFusion in batch has a plan for the query in every world: some subqueries it can't take
/// apart once a value stands in the place of what fails. Those are still played, and compared with
/// the programs beside.
fn can_judge(batch: &mut Batch, query: &Query) -> bool {
    WORLDS.iter().all(|world| match batch.answer(&in_world(&query.sql, *world)) {
        Ok(_) => true,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("not implemented"), "{text}\n{}", query.sql);
            false
        }
    })
}

/// Runs a series of transactions.
pub fn simulate(seed: u64, transactions: u64, can_fail: bool) {
    let queries = queries_of(seed, can_fail);
    let mut rng = Rng::with_seed(seed ^ 0x5EED);
    let mut single = Live::new(&queries, seed);
    let mut merged = Live::new(&queries, seed);
    let mut another = Changing::new(&queries, seed);
    let mut tables = Tables::default();
    let mut batch = Batch::new();
    let is_judged: Vec<bool> = queries.iter().map(|query| can_judge(&mut batch, query)).collect();
    let changing = if queries.iter().any(|query| query.reads("v")) { TABLES.len() } else { TABLES.len() - 1 };
    for transaction in 0..transactions {
        let story = |what: &str| format!("seed {seed}, transaction {transaction}: {what}");
        let mood = match transaction % PHASE {
            _ if !can_fail => Mood::Plain,
            at if at >= PHASE - MENDED_FOR => Mood::Mending,
            _ => Mood::Failing,
        };
        let changes = tables.random_transaction(&mut rng, mood, changing);
        single.apply(std::slice::from_ref(&changes));
        single.publish(&story("one epoch a transaction"));
        if transaction % IMAGE_EVERY == 0 {
            single.is_its_image(&story("made again from state"));
        }
        if transaction % REOPEN_EVERY == REOPEN_EVERY - 1 && !single.in_conflict.contains(&true) {
            single = single.reopened(&queries, seed);
        }
        another.apply(std::slice::from_ref(&changes));
        another.publish(&single, &story("the program that changes"));
        if transaction % CHANGE_EVERY == CHANGE_EVERY - 1 {
            another.change(&mut rng);
            another.publish(&single, &story("the program that has just changed"));
        }
        // Cut anywhere, even inside a transaction, and published every so often.
        let cut = changes
            .iter()
            .flat_map(|(table, changes)| split(&mut rng, changes).into_iter().map(|part| vec![(*table, part)]))
            .collect::<Vec<_>>();
        merged.apply(&cut);
        if rng.u32(..4) == 0 {
            merged.publish(&story("cut and merged"));
            for (i, query) in queries.iter().enumerate() {
                let what = || format!("{}\n{}", story("cut and merged differs"), query.live());
                assert_eq!(merged.in_conflict[i], single.in_conflict[i], "{}", what());
                assert!(
                    single.in_conflict[i] || merged.rows[i] == single.rows[i],
                    "{}: {:?}\n{:?}",
                    what(),
                    merged.rows[i],
                    single.rows[i]
                );
            }
        }
        batch.load(&tables);
        for (i, query) in queries.iter().enumerate().filter(|(i, _)| is_judged[*i]) {
            let served = Served {
                story: &story("live differs from batch"),
                query,
                rows: &single.rows[i],
                in_conflict: single.in_conflict[i],
                withheld: single.program.withheld(single.ids[i]).rows,
                explain: &|| single.program.explain(single.ids[i]),
            };
            let may_fail_now = query.can_fail()
                && (0..TABLES.len()).any(|table| query.reads(TABLES[table].0) && tables.is_failing(table));
            if !may_fail_now {
                served.is_the_answer(&mut batch);
            } else {
                served.holds_in_every_world(&mut batch, &tables);
            }
        }
    }
}

/// What a projection serves after a transaction.
struct Served<'a> {
    story: &'a str,
    query: &'a Query,
    rows: &'a Counts,
    in_conflict: bool,
    /// How many rows are withheld.
    withheld: i64,
    explain: &'a dyn Fn() -> String,
}

impl Served<'_> {
    /// Where nothing fails, the answer is that of the batch, and nothing is withheld.
    fn is_the_answer(&self, batch: &mut Batch) {
        let sql = in_world(&self.query.sql, WORLDS[0]);
        let expected = self.ask(batch, &sql);
        assert_eq!(self.withheld, 0, "{}", self.tell("rows are withheld though nothing fails", &sql));
        // A declared key that two rows have: the client is told so, and shown neither.
        let key = self.query.key.as_ref();
        let is_conflict = key.is_some_and(|key| has_duplicates(&expected, key));
        assert_eq!(
            self.in_conflict,
            is_conflict,
            "{}",
            self.tell("a conflict of the declared key is to be told when there is one", &sql)
        );
        if is_conflict {
            return;
        }
        let Some(window) = &self.query.window else {
            assert!(*self.rows == expected, "{}\nbatch {expected:?}", self.tell("another answer", &sql));
            return;
        };
        // Ties at the edge of LIMIT: the sorted values are certain, which rows bring them is not.
        let all = self.ask(batch, &in_world(&window.unlimited, WORLDS[0]));
        assert!(
            by_columns(self.rows, &window.order) == by_columns(&expected, &window.order),
            "{}",
            self.tell("another window", &sql)
        );
        self.stands_in(&all, &sql);
    }

    /// Where something fails, what is served is right whatever the answer of what failed would be,
    /// and what all these answers have in common is either served or visibly withheld.
    fn holds_in_every_world(&self, batch: &mut Batch, tables: &Tables) {
        let sql = self.query.window.as_ref().map_or(&self.query.sql, |window| &window.unlimited);
        assert!(!self.in_conflict, "{}", self.tell("only keys that hold are declared where something fails", sql));
        let mut certain: Option<Counts> = None;
        for world in WORLDS {
            let sql = in_world(sql, world);
            let answer = self.ask(batch, &sql);
            self.stands_in(&answer, &sql);
            certain = Some(match certain {
                None => answer,
                Some(certain) => certain
                    .into_iter()
                    .filter_map(|(row, count)| answer.get(&row).map(|other| (row, count.min(*other))))
                    .collect(),
            });
        }
        let certain = certain.unwrap_or_default();
        // Which rows of the unlimited answer belong into a window is left open.
        if self.query.window.is_none() && self.withheld == 0 {
            assert!(
                *self.rows == certain,
                "{}\ncertain {certain:?}",
                self.tell("missing, and nothing is withheld", sql)
            );
        }
        if self.query.is_exact {
            assert!(*self.rows == certain, "{}\ncertain {certain:?}", self.tell("a sum in its range is withheld", sql));
        }
        if self.query.is_monotone() {
            batch.load(&tables.without_failing(self.query.failing_columns().as_deref()));
            let least = self.ask(batch, &in_world(sql, WORLDS[0]));
            batch.load(tables);
            for (row, count) in &least {
                assert!(
                    self.rows.get(row) >= Some(count),
                    "{}",
                    self.tell(&format!("{row:?} is of rows that do not fail"), sql)
                );
            }
        }
    }

    /// Every row served is a row of this answer.
    fn stands_in(&self, answer: &Counts, sql: &str) {
        for (row, count) in self.rows {
            assert!(
                answer.get(row) >= Some(count),
                "{}\nbatch {answer:?}",
                self.tell(&format!("{row:?} is not in this answer"), sql)
            );
        }
    }

    fn ask(&self, batch: &mut Batch, sql: &str) -> Counts {
        batch.answer(sql).unwrap_or_else(|error| panic!("{}: {error}\n{sql}", self.story))
    }

    fn tell(&self, what: &str, batch: &str) -> String {
        let Served { story, query, rows, withheld, .. } = self;
        let live = query.live();
        format!(
            "{story}: {what}\nlive:  {live}\nbatch: {batch}\n{}served {rows:?}, {withheld} withheld",
            (self.explain)()
        )
    }
}

fn has_duplicates(rows: &Counts, key: &[usize]) -> bool {
    by_columns(rows, key).values().any(|count| *count > 1)
}

fn by_columns(rows: &Counts, columns: &[usize]) -> Counts {
    let mut counts = Counts::new();
    for (row, count) in rows {
        *counts.entry(columns.iter().map(|&column| row[column].clone()).collect()).or_default() += count;
    }
    counts
}

/// A program and what its clients would hold.
pub struct Live {
    program: Program,
    tables: [TableId; TABLES.len()],
    ids: Vec<ProjectionId>,
    keys: Vec<Option<Vec<usize>>>,
    pub rows: Vec<Counts>,
    /// Two rows have the declared key: clients keep what they have.
    pub in_conflict: Vec<bool>,
}

impl Live {
    fn new(queries: &[Query], seed: u64) -> Live {
        let all: Vec<(usize, &Query)> = queries.iter().enumerate().collect();
        let (project, shapes) = project_of(&all, seed);
        let mut wrong = Diagnostics::default();
        let plan = sql::plan(&project, &shapes, &mut wrong);
        assert!(wrong.is_empty(), "seed {seed}: {wrong}");
        let keys = plan.projections.iter().map(|projection| projection.key.columns().map(<[usize]>::to_vec)).collect();
        Live {
            tables: TABLES.map(|(name, ..)| plan.tables[name]),
            ids: plan
                .projections
                .iter()
                .filter_map(|projection| plan.program.projection_id(&projection.name))
                .collect(),
            keys,
            rows: vec![Counts::new(); queries.len()],
            in_conflict: vec![false; queries.len()],
            program: plan.program,
        }
    }

    fn apply(&mut self, steps: &[Vec<(usize, Changes)>]) {
        for step in steps {
            let step: Vec<(TableId, Changes)> =
                step.iter().map(|(table, changes)| (self.tables[*table], changes.clone())).collect();
            self.program.apply(&step).expect("data never fails a step");
        }
    }

    /// What state has, put together anew, is what was served.
    fn is_its_image(&mut self, story: &str) {
        for (i, id) in self.ids.clone().into_iter().enumerate().filter(|(i, _)| !self.in_conflict[*i]) {
            let mut image = Counts::new();
            for delta in self.program.image(id).expect("an image") {
                for (row, weight) in show(&delta.batch).into_iter().zip(&delta.weights) {
                    *image.entry(row).or_default() += weight;
                }
            }
            image.retain(|_, count| *count != 0);
            assert_eq!(image, self.rows[i], "{story}\n{}", self.program.explain(id));
        }
    }

    /// A fresh program with this one's state goes on where this one was.
    fn reopened(mut self, queries: &[Query], seed: u64) -> Live {
        let mut state = Vec::new();
        self.program.write_state(&mut state).expect("between epochs");
        let mut fresh = Live::new(queries, seed);
        fresh.program.read_state(&state).expect("state of the same dataflow");
        fresh.rows = self.rows;
        let withheld = |program: &Program, ids: &[ProjectionId]| -> Vec<i64> {
            ids.iter().map(|id| program.withheld(*id).rows).collect()
        };
        assert_eq!(
            withheld(&fresh.program, &fresh.ids),
            withheld(&self.program, &self.ids),
            "seed {seed}: rows withheld"
        );
        fresh
    }

    /// Ends an epoch and holds the diffs to their promises.
    fn publish(&mut self, story: &str) {
        for (id, published) in self.program.publish().expect("no row counts less than zero times") {
            let i = self.ids.iter().position(|known| *known == id).expect("a known projection");
            let parts = parts_of(published);
            self.in_conflict[i] = parts.is_none();
            let mut seen = Counts::new();
            for part in parts.iter().flatten() {
                for (row, weight) in show(&part.batch).into_iter().zip(&part.weights) {
                    assert_ne!(*weight, 0, "{story}: a change of nothing");
                    assert!(
                        seen.insert(row.clone(), *weight).is_none(),
                        "{story}: a diff is consolidated, but has {row:?} twice"
                    );
                    *self.rows[i].entry(row).or_default() += weight;
                }
            }
            let rows = &mut self.rows[i];
            rows.retain(|_, count| *count != 0);
            assert!(rows.values().all(|count| *count > 0), "{story}: {rows:?}");
            if let Some(key) = &self.keys[i] {
                assert!(
                    !has_duplicates(rows, key),
                    "{story}: two rows with the same {key:?} in {rows:?}\n{}",
                    self.program.explain(id)
                );
            }
        }
    }
}

/// The parts of a diff; `None` when two rows have the declared key.
pub fn parts_of(published: Published) -> Option<Vec<DiffPart>> {
    match published {
        Published::Diff(parts) => Some(parts),
        Published::KeyConflict { .. } => None,
    }
}

/// The project of some of the queries, each under the name of its number.
pub fn project_of(queries: &[(usize, &Query)], seed: u64) -> (Project, BTreeMap<String, TableShape>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    for (table, ..) in TABLES {
        text += &format!("CREATE TABLE {table} WITH (connector = 'postgres', url = 'postgres://nowhere/x');\n");
    }
    for (i, query) in queries {
        let key = query.key.as_ref().map_or_else(String::new, |key| {
            let names: Vec<&str> = key.iter().map(|&column| query.columns[column].name.as_str()).collect();
            format!("WITH (key = '{}') ", names.join(", "))
        });
        text += &format!("CREATE MATERIALIZED VIEW v{i} {key}AS {};\n", query.live());
    }
    std::fs::write(folder.path().join("project.sql"), text).expect("a file");
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &|_| None, &mut wrong);
    assert!(wrong.is_empty(), "seed {seed}: {wrong}");
    let shape = |(name, has_key, _): &(&str, bool, _)| {
        let identity = if *has_key { Identity::Key(vec![0]) } else { Identity::WholeRow };
        ((*name).to_owned(), TableShape { schema: schema_of(name), identity })
    };
    (project, TABLES.iter().map(shape).collect())
}
