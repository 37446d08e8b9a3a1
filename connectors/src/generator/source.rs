//! A world, told at its pace.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::error::ArrowError;
use futures_util::future::BoxFuture;
use pipeline::position::Offsets;
use pipeline::table::Identity;
use pipeline::{Changes, Mark};
use tokio::time::sleep;

use crate::source::{Link, Problem, ReaderGone, Source, SourceEvent, SourceState, SourceTable};

use super::pace::Pace;
use super::rows::{Change, Columns, Row};
use super::shape::{Shape, World};

/// Rows of a copy that go in one piece.
const COPY_ROWS: usize = 8192;

/// Longest sleep: a rate may be next to nothing, and timers do not take every number.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// What makes a world what it is, and how it is told.
#[derive(Clone, Copy, Debug)]
pub struct Making {
    /// What kind of world.
    pub shape: &'static Shape,
    /// What decides it.
    pub seed: u64,
    /// Transactions a second; 0 for as fast as it goes.
    pub rate: f64,
    /// How large it begins, in what the shape counts.
    pub rows: u64,
    /// Told before it comes to rest; `None` for ever.
    pub transactions: Option<u64>,
}

impl PartialEq for Making {
    fn eq(&self, other: &Making) -> bool {
        (self.shape.name, self.seed, self.rate, self.rows, self.transactions)
            == (other.shape.name, other.seed, other.rate, other.rows, other.transactions)
    }
}

/// A table of the world that a project reads.
#[derive(Clone, Debug)]
pub struct GeneratedTable {
    /// Its name in the project.
    pub name: String,
    /// Its place in the shape.
    pub place: usize,
    /// The columns that are read.
    pub columns: Columns,
    /// What tells its rows apart.
    pub identity: Identity,
}

impl GeneratedTable {
    /// As whoever reads it sees it.
    fn shape(&self) -> SourceTable {
        SourceTable { name: self.name.clone(), schema: self.columns.schema.clone(), identity: self.identity.clone() }
    }
}

/// A world, and the tables that a project reads of it.
pub struct Generator {
    /// Which world.
    pub making: Making,
    /// The tables.
    pub tables: Vec<GeneratedTable>,
}

impl Source for Generator {
    fn name(&self) -> &str {
        self.making.shape.name
    }

    fn table_names(&self) -> Vec<&str> {
        self.tables.iter().map(|table| table.name.as_str()).collect()
    }

    fn declared(&self) -> Vec<Option<SourceTable>> {
        self.tables.iter().map(|table| Some(table.shape())).collect()
    }

    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>> {
        let tables = self.tables.iter().map(GeneratedTable::shape).collect();
        Box::pin(async move { Ok(tables) })
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        let Generator { making, tables } = *self;
        Box::pin(async move {
            let world = (making.shape.make)(making.seed, making.rows);
            match (Telling { making, tables, world, told: 0, link: &link }).run().await {
                Ok(()) | Err(Ended::ReaderGone) => {}
                Err(Ended::Mistaken(error)) => {
                    let remedy = "please report this with the seed";
                    tracing::error!(source = &*link.name, %error, remedy, "source stopped");
                    let state = SourceState::Stopped { error: error.to_string(), remedy: remedy.to_owned() };
                    link.state.send_replace(state);
                }
            }
        })
    }
}

/// A world being told.
struct Telling<'a> {
    making: Making,
    tables: Vec<GeneratedTable>,
    world: Box<dyn World>,
    /// Transactions so far.
    told: u64,
    link: &'a Link,
}

enum Ended {
    ReaderGone,
    /// A row that its table can't hold: a mistake of the shape's.
    Mistaken(ArrowError),
}

impl From<ReaderGone> for Ended {
    fn from(_: ReaderGone) -> Ended {
        Ended::ReaderGone
    }
}

impl From<ArrowError> for Ended {
    fn from(error: ArrowError) -> Ended {
        Ended::Mistaken(error)
    }
}

impl Telling<'_> {
    async fn run(mut self) -> Result<(), Ended> {
        self.begin().await?;
        let Making { rate, transactions, seed, .. } = self.making;
        tracing::info!(source = &*self.link.name, seed, rate, "generating");
        self.link.state.send_replace(SourceState::Streaming);
        let mut pace = Pace::new(rate, Instant::now());
        let end = transactions.map(|count| count.saturating_add(self.told));
        while end.is_none_or(|end| self.told < end) {
            self.wait(pace.next(Instant::now())).await?;
            self.transact().await?;
        }
        self.link.events.closed().await;
        Ok(())
    }

    /// Copies what has rows; what is only appended to is read from its beginning.
    async fn begin(&mut self) -> Result<(), Ended> {
        let copies = self.tables.iter().any(|table| table.identity != Identity::AppendOnly);
        if copies {
            self.link.events.send(SourceEvent::CopyBegun).await?;
            for i in 0..self.tables.len() {
                self.copy(i).await?;
            }
        }
        while self.told < self.world.past() {
            self.transact().await?;
        }
        Ok(self.link.events.send(SourceEvent::CopyDone { position: position(self.told) }).await?)
    }

    async fn copy(&self, i: usize) -> Result<(), Ended> {
        let table = &self.tables[i];
        let mut rows = self.world.rows(table.place);
        let mut copied = 0;
        loop {
            let state = SourceState::Copying { table: table.name.clone(), rows: copied, estimated_rows: None };
            self.link.state.send_replace(state);
            let piece: Vec<Row> = rows.by_ref().take(COPY_ROWS).collect();
            if piece.is_empty() {
                return Ok(());
            }
            copied += piece.len() as u64;
            let rows = table.columns.batch(&piece.iter().collect::<Vec<_>>())?;
            self.link.events.send(SourceEvent::RowsCopied { table: i, rows }).await?;
        }
    }

    /// Tells the next transaction, once there is room for it. One that changes no table that is read
    /// counts, and is not told.
    async fn transact(&mut self) -> Result<(), Ended> {
        let transaction = self.world.transact();
        self.told += 1;
        let changes = self.changes(&transaction)?;
        if changes.is_empty() {
            // Nothing waits here otherwise, and this may be one of many.
            tokio::task::consume_budget().await;
            return Ok(());
        }
        let event = SourceEvent::Transaction { changes, position: position(self.told), commit_time: unix_micros() };
        Ok(self.link.events.send(event).await?)
    }

    fn changes(&self, transaction: &[Change]) -> Result<Vec<(usize, Changes)>, ArrowError> {
        let of_table = |(i, table): (usize, &GeneratedTable)| {
            let changes = table.columns.changes(table.place, transaction).transpose()?;
            Some(changes.map(|changes| (i, changes)))
        };
        self.tables.iter().enumerate().filter_map(of_table).collect()
    }

    async fn wait(&self, time: Duration) -> Result<(), ReaderGone> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = sleep(time.min(SLEEP_MAX)) => Ok(()),
            () = self.link.events.closed() => Err(ReaderGone),
        }
    }
}

/// Transactions so far, as a log of one partition has it.
fn position(told: u64) -> Mark {
    Mark::Offsets(Offsets::from_iter([("generator", 0, told.cast_signed())]))
}

/// When a transaction is committed: now. It is no part of its rows.
fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use tokio::sync::watch;

    use crate::generator::CONNECTOR;
    use crate::source::{EventReceiver, TableRequest, event_queue};

    /// A world's tables, told into a queue of so many bytes.
    fn tell(tables: &[&str], options: &[(&str, &str)], room: u32) -> (EventReceiver, watch::Receiver<SourceState>) {
        let options = options.iter().map(|&(option, value)| (option.to_owned(), value.to_owned()));
        let options: std::collections::BTreeMap<_, _> = options.collect();
        let request = |name: &&str| TableRequest {
            name: (*name).to_owned(),
            options: options.clone(),
            columns: None,
            key: Vec::new(),
        };
        let opened = (CONNECTOR.open)("test", tables.iter().map(request).collect());
        let [source] = <[_; 1]>::try_from(opened.sources).ok().expect("one source");
        let (events, receiver) = event_queue(room);
        let (state_sender, state) = watch::channel(SourceState::Connecting);
        let (_, durable) = watch::channel(None);
        tokio::spawn(source.run(Link {
            name: Arc::from("it"),
            events,
            state: state_sender,
            durable,
            dead_letters: Default::default(),
            counters: Default::default(),
        }));
        (receiver, state)
    }

    /// What it tells up to a transaction, without the times of commits.
    async fn told_until(events: &mut EventReceiver, end: u64) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(delivery) = events.recv().await {
            let is_end = matches!(&delivery.event, SourceEvent::Transaction { position: at, .. } | SourceEvent::CopyDone { position: at } if *at == position(end));
            told.push(match delivery.event {
                SourceEvent::Transaction { changes, position, .. } => format!("{position} {changes:?}"),
                other => format!("{other:?}"),
            });
            if is_end {
                break;
            }
        }
        told
    }

    const SHOP: [&str; 4] = ["customers", "order_lines", "orders", "products"];

    #[tokio::test]
    async fn a_seed_tells_the_same_at_any_rate_and_in_any_room() {
        for (tables, shape) in [(&SHOP[..], "storefront"), (&["bid", "auction", "person"][..], "nexmark")] {
            let options = [("shape", shape), ("seed", "7"), ("rate", "0"), ("rows", "100")];
            let end = if shape == "nexmark" { 300 } else { 200 };
            let mut fast = tell(tables, &options, 64 << 20).0;
            let mut slow = tell(tables, &[&options[..2], &[("rate", "2000"), ("rows", "100")]].concat(), 1).0;
            let told = told_until(&mut fast, end).await;
            assert_eq!(told, told_until(&mut slow, end).await);
            assert!(told.len() >= 200, "{}", told.len());
            let mut other =
                tell(tables, &[&options[..1], &[("seed", "8"), ("rate", "0"), ("rows", "100")]].concat(), 1).0;
            assert_ne!(told, told_until(&mut other, end).await);
        }
    }

    /// What a table has does not depend on which others are read beside it.
    #[tokio::test]
    async fn a_table_alone_is_told_the_same_and_others_transactions_count() {
        let options = [("shape", "storefront"), ("rate", "0"), ("transactions", "100")];
        let (mut events, mut state) = tell(&["products"], &options, 1);
        let rest = state.wait_for(|state| *state == SourceState::Streaming);
        let (mut told, _) = tokio::join!(told_until(&mut events, 0), rest);
        while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(300), events.recv()).await {
            let SourceEvent::Transaction { changes, position, .. } = delivery.event else { panic!("a transaction") };
            assert_eq!((changes.len(), changes[0].0), (1, 0));
            told.push(position.to_string());
        }
        assert!((2..30).contains(&(told.len() - 3)), "{told:?}");
        assert_eq!(*state.borrow(), SourceState::Streaming, "it has come to rest");
    }

    #[tokio::test]
    async fn it_keeps_to_its_number_and_rests() {
        let options = [("shape", "nexmark"), ("rate", "0"), ("rows", "60"), ("transactions", "40")];
        let (mut events, state) = tell(&["bid", "auction", "person"], &options, 1 << 20);
        let told = told_until(&mut events, 100).await;
        assert_eq!(told.len(), 101);
        assert_eq!(
            told.iter().position(|line| line.starts_with("CopyDone")),
            Some(60),
            "what was before is told before"
        );
        assert!(tokio::time::timeout(Duration::from_millis(100), events.recv()).await.is_err(), "no more, and no end");
        assert_eq!(*state.borrow(), SourceState::Streaming);
    }

    /// Whether it waits for room, for its time, or for nothing.
    #[tokio::test]
    async fn it_ends_when_nobody_listens() {
        for (rate, transactions) in [("0", "1000000000"), ("0.00001", "10"), ("0", "0")] {
            let options = [("shape", "storefront"), ("rate", rate), ("transactions", transactions)];
            let (mut events, mut state) = tell(&SHOP, &options, 1000);
            told_until(&mut events, 0).await;
            drop(events);
            let ended = async { while state.changed().await.is_ok() {} };
            tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ends");
        }
    }

    #[tokio::test]
    async fn it_awaits_room() {
        let (mut events, _state) = tell(&SHOP, &[("shape", "storefront"), ("rate", "0")], 200_000);
        told_until(&mut events, 0).await;
        sleep(Duration::from_millis(100)).await;
        let mut waiting = Vec::new();
        while let Ok(delivery) = events.try_recv() {
            waiting.push(delivery);
        }
        let bytes: usize = waiting.iter().map(|delivery| delivery.event.bytes()).sum();
        assert!((100_000..=200_000).contains(&bytes), "{bytes}");
    }

    #[tokio::test]
    async fn what_is_declared_is_what_is_found() {
        let table = TableRequest {
            name: "p".to_owned(),
            options: [("shape", "storefront"), ("table", "products")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            columns: None,
            key: Vec::new(),
        };
        let mut opened = (CONNECTOR.open)("test", vec![table]);
        let source = &mut opened.sources[0];
        let declared: Vec<_> = source.declared().into_iter().flatten().map(|table| table.schema).collect();
        let found: Vec<_> = source.discover().await.expect("a table").into_iter().map(|table| table.schema).collect();
        assert_eq!(declared, found);
        assert_eq!(declared.len(), 1);
    }
}
