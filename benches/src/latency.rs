//! `cargo xtask bench latency`: commit to client, next to the floor of the same run.
//!
//! Single-row transactions through a three-way join with aggregate. Time is counted from just
//! before the statement is sent (so the commit's own time on the server is in every figure) until
//! the WebSocket client has the new row parsed out of its frame. The server is a process of its own,
//! so it shares no thread of an executor with the writers and clients that measure it.
//!
//! The *floor*: in the same run a bare replication client on a slot of its own reads frames and
//! decodes nothing; a transaction is its when the commit's frame is in its hands. To that comes one
//! loopback WebSocket hop, measured beforehand on this machine.
//!
//! Then the same with 1,000 clients in a process of their own, each of which asked for one order: time
//! is counted until the one that a commit concerns has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use connectors::postgres::Target;
use connectors::postgres::message::{Message, Value};
use connectors::postgres::replication::{Frame, Reading, Replication, STATUS_INTERVAL};
use futures_util::{SinkExt, StreamExt};
use tests::{PrivatePostgres, ProjectFolder, Subscriber, connect, postgres};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{ClientBuilder, Message as WsMessage, ServerBuilder};

use crate::commits::Commits;
use crate::crowd::{Crowd, Plan};
use crate::numbers::{figure, percentile};
use crate::process::ServerProcess;

const ORDERS: u64 = 10_000;
/// Transactions a second, and for how long.
const RATES: [(u64, u64); 4] = [(1, 15), (50, 10), (200, 15), (1000, 10)];
/// Clients with a filter of their own.
const FILTERS: u64 = 1000;
const STATEMENT: &str = "UPDATE order_lines SET quantity = $1 WHERE order_id = $2 AND line = 1";
/// Where a commit's number is in a row.
const MARK: usize = 3;

pub fn run() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<()> {
    let postgres = postgres();
    let control = connect(&postgres, "shop").await;
    control
        .batch_execute(&format!(
            "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, region text NOT NULL);
             CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL);
             CREATE TABLE order_lines (order_id bigint, line int, quantity bigint NOT NULL, price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));
             INSERT INTO customers SELECT n, 'customer ' || n, 'region ' || n % 10 FROM generate_series(0, 999) n;
             INSERT INTO orders SELECT n, n % 1000, 'open' FROM generate_series(0, {ORDERS} - 1) n;
             INSERT INTO order_lines SELECT o, l, 1, 9.99 FROM generate_series(0, {ORDERS} - 1) o, generate_series(1, 3) l;"
        ))
        .await?;
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE customers WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE orders WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE order_lines WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW open_orders WITH (key = 'id') AS
           SELECT o.id, c.name, c.region, max(l.quantity) AS mark, sum(l.quantity * l.price) AS total
           FROM orders o JOIN customers c ON c.id = o.customer_id JOIN order_lines l ON l.order_id = o.id
           WHERE o.status = 'open' GROUP BY o.id, c.name, c.region;",
    );
    let server = ServerProcess::start(&project).await?;
    let hop = hops().await?;
    println!("one loopback WebSocket hop: p50 {:.3} ms, p99 {:.3} ms", percentile(&hop, 50.0), percentile(&hop, 99.0));
    println!("{:>6} {:>26} {:>26} {:>26}", "", "commit to client, ms", "floor, ms", "over the floor");
    println!(
        "{:>6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "tx/s", "p50", "p95", "p99", "p50", "p95", "p99", "p50", "p99"
    );
    let mut bench = Bench { server, postgres, hop, mark: 1000 };
    for (rate, seconds) in RATES {
        let commits = Commits { statement: STATEMENT, rows: ORDERS, rate, seconds };
        let mut subscriber = bench.server.subscriber().await;
        subscriber.subscribe("open_orders").await;
        let over = bench.one_rate(&rate.to_string(), commits, Audience::Whole(Box::new(subscriber))).await?;
        if rate == 200 {
            figure("latency_p50_over_floor_at_200", over.0, "ratio");
            figure("latency_p99_over_floor_at_200", over.1, "ratio");
        }
    }
    println!("{FILTERS} clients, each with a filter of its own; the one that a commit concerns:");
    let filter = r#"{"id":{"_eq":{i}}}"#;
    let plan = Plan::of_deltafront(&bench.server.address, usize::try_from(FILTERS)?, "open_orders", Some(filter), MARK);
    let crowd = Crowd::start(&plan)?;
    let commits = Commits { statement: STATEMENT, rows: FILTERS, rate: 200, seconds: 15 };
    let over = bench.one_rate("200_of_1000_filters", commits, Audience::Each(crowd)).await?;
    figure("latency_p50_over_floor_1000_filters_at_200", over.0, "ratio");
    figure("latency_p99_over_floor_1000_filters_at_200", over.1, "ratio");
    Ok(())
}

/// What all rates are measured on.
struct Bench {
    /// Ends before the database that it reads.
    server: ServerProcess,
    postgres: PrivatePostgres,
    /// Milliseconds of a loopback hop.
    hop: Vec<f64>,
    /// The next commit's number.
    mark: u64,
}

/// Who waits for the commits.
enum Audience {
    /// One client of the whole projection, in this process.
    Whole(Box<Subscriber>),
    /// Many in a process of their own, each commit concerning one of them.
    Each(Crowd),
}

/// When each commit came, by its number.
type Arrived = HashMap<u64, Instant>;

impl Bench {
    /// Measures at one rate and prints a line and figures of this name. Returns the ratio to the floor: p50, p99.
    async fn one_rate(&mut self, name: &str, commits: Commits, audience: Audience) -> Result<(f64, f64)> {
        let (ours, bare) = self.samples(commits, audience).await?;
        let hop = &self.hop;
        let floor: Vec<f64> = bare.iter().enumerate().map(|(i, commit)| commit + hop[(i * 7919) % hop.len()]).collect();
        let p = percentile;
        let over = (p(&ours, 50.0) / p(&floor, 50.0), p(&ours, 99.0) / p(&floor, 99.0));
        println!(
            "{:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.2} {:>8.2}",
            commits.rate,
            p(&ours, 50.0),
            p(&ours, 95.0),
            p(&ours, 99.0),
            p(&floor, 50.0),
            p(&floor, 95.0),
            p(&floor, 99.0),
            over.0,
            over.1
        );
        figure(&format!("latency_p50_at_{name}"), p(&ours, 50.0), "ms");
        figure(&format!("latency_p99_at_{name}"), p(&ours, 99.0), "ms");
        Ok(over)
    }

    /// Commits, and returns milliseconds to our clients and to the bare one.
    async fn samples(&mut self, commits: Commits, audience: Audience) -> Result<(Vec<f64>, Vec<f64>)> {
        let stop = Arc::new(AtomicBool::new(false));
        let ours = match audience {
            Audience::Whole(subscriber) => tokio::spawn(whole(subscriber, Arc::clone(&stop))),
            Audience::Each(crowd) => tokio::spawn(each(crowd, Arc::clone(&stop))),
        };
        let bare = tokio::spawn(bare_client(self.postgres.url("shop"), Arc::clone(&stop)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = commits.run(&self.postgres, self.mark).await?;
        self.mark += commits.count();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Relaxed);
        let (ours, bare) = (ours.await??, bare.await??);
        let since = |arrived: &Arrived| -> Vec<f64> {
            sent.iter().filter_map(|(number, at)| Some((*arrived.get(number)? - *at).as_secs_f64() * 1e3)).collect()
        };
        let (ours, bare) = (since(&ours), since(&bare));
        anyhow::ensure!(
            ours.len() == sent.len() && bare.len() == sent.len(),
            "{} sent, {} came to us and {} to the bare client",
            sent.len(),
            ours.len(),
            bare.len()
        );
        Ok((ours, bare))
    }
}

/// When a client in this process had each commit's row.
async fn whole(mut subscriber: Box<Subscriber>, stop: Arc<AtomicBool>) -> Result<Arrived> {
    let mut arrived = Arrived::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(message) = tokio::time::timeout(Duration::from_millis(200), subscriber.message()).await else {
            continue;
        };
        let now = Instant::now();
        for row in message["diffs"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|diff| diff["upsert"].as_array().cloned().unwrap_or_default())
        {
            if let Some(mark) = row[MARK].as_u64() {
                arrived.entry(mark).or_insert(now);
            }
        }
    }
    Ok(arrived)
}

/// When the client of many that a commit concerns had it.
async fn each(mut crowd: Crowd, stop: Arc<AtomicBool>) -> Result<Arrived> {
    crowd.begin().context("the clients")?;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let heard = crowd.end()?;
    Ok(heard.commits.iter().map(|(number, arrival)| (*number, crowd.instant(arrival.last))).collect())
}

/// Milliseconds that a message of 200 bytes takes over a loopback WebSocket.
async fn hops() -> Result<Vec<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let epoch = Instant::now();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a client");
        socket.set_nodelay(true).expect("an option");
        let (_, mut socket) = ServerBuilder::new().accept(socket).await.expect("a handshake");
        for _ in 0..2000 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let text = format!("{:200}", epoch.elapsed().as_nanos());
            socket.send(WsMessage::text(text)).await.expect("sent");
        }
    });
    let socket = TcpStream::connect(address).await?;
    let (mut socket, _) = ClientBuilder::new().uri(&format!("ws://{address}/"))?.connect_on(socket).await?;
    let mut samples = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let received = epoch.elapsed();
        if let Some(sent) = message.as_text().and_then(|text| text.trim().parse::<u64>().ok()) {
            samples.push((received - Duration::from_nanos(sent)).as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

/// Reads frames and notes when each transaction's commit came. What was in it is looked at later.
async fn bare_client(url: String, stop: Arc<AtomicBool>) -> Result<HashMap<u64, Instant>> {
    let target = Target::parse(&url)?;
    let mut replication = Replication::connect(&target).await?;
    let slot = replication.create_temporary_slot(&format!("bare_{}", std::process::id())).await?;
    replication.start(&slot, "deltafront_test").await?;
    let mut status = tokio::time::interval(STATUS_INTERVAL);
    let mut transactions = Vec::new();
    let mut frames = Vec::new();
    let mut end = slot.consistent_point;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            frame = replication.next() => match frame? {
                Frame::Data(bytes) if bytes.first() == Some(&b'C') => transactions.push((Instant::now(), std::mem::take(&mut frames))),
                Frame::Data(bytes) => frames.push(bytes),
                Frame::Keepalive { wal_end, .. } => end = wal_end,
            },
            _ = status.tick() => replication.send_status(end, Reading::Goes).await?,
        }
    }
    let mut arrived = HashMap::new();
    for (at, frames) in transactions {
        for frame in frames {
            if let Ok(Message::Update { new, .. }) = Message::decode(&frame)
                && let Some(Value::Text(quantity)) = new.values().nth(2)
                && let Ok(number) = std::str::from_utf8(quantity).unwrap_or_default().parse()
            {
                arrived.insert(number, at);
            }
        }
    }
    Ok(arrived)
}
