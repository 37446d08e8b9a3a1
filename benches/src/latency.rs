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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use connectors::postgres::Target;
use connectors::postgres::message::{Message, Value};
use connectors::postgres::replication::{Frame, Reading, Replication, STATUS_INTERVAL};
use futures_util::{SinkExt, StreamExt};
use tests::{ProjectFolder, connect, postgres};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{ClientBuilder, Message as WsMessage, ServerBuilder};

use crate::numbers::{figure, percentile};
use crate::process::ServerProcess;

const ORDERS: u64 = 10_000;
/// Transactions a second, and for how long.
const RATES: [(u64, u64); 4] = [(1, 15), (50, 10), (200, 15), (1000, 10)];
const WRITERS: u64 = 4;

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
    let mut at_200 = (f64::NAN, f64::NAN);
    let mark = Arc::new(AtomicU64::new(1000));
    for (rate, seconds) in RATES {
        let (ours, bare) = one_rate(&postgres, &server, rate, rate * seconds, &mark).await?;
        let floor: Vec<f64> = bare.iter().enumerate().map(|(i, commit)| commit + hop[(i * 7919) % hop.len()]).collect();
        let p = |samples: &[f64], percent| percentile(samples, percent);
        let over = (p(&ours, 50.0) / p(&floor, 50.0), p(&ours, 99.0) / p(&floor, 99.0));
        println!(
            "{rate:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.2} {:>8.2}",
            p(&ours, 50.0),
            p(&ours, 95.0),
            p(&ours, 99.0),
            p(&floor, 50.0),
            p(&floor, 95.0),
            p(&floor, 99.0),
            over.0,
            over.1
        );
        figure(&format!("latency_p50_at_{rate}"), p(&ours, 50.0), "ms");
        figure(&format!("latency_p99_at_{rate}"), p(&ours, 99.0), "ms");
        if rate == 200 {
            at_200 = over;
        }
    }
    figure("latency_p50_over_floor_at_200", at_200.0, "ratio");
    figure("latency_p99_over_floor_at_200", at_200.1, "ratio");
    Ok(())
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

/// Commits so many transactions at a rate; returns milliseconds to our client and to the bare one.
async fn one_rate(
    postgres: &tests::PrivatePostgres,
    server: &ServerProcess,
    rate: u64,
    count: u64,
    mark: &Arc<AtomicU64>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let first = mark.load(Ordering::Relaxed);
    let stop = Arc::new(AtomicBool::new(false));
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("open_orders").await;
    let ours = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut arrived: HashMap<u64, Instant> = HashMap::new();
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
                    if let Some(mark) = row[3].as_u64() {
                        arrived.entry(mark).or_insert(now);
                    }
                }
            }
            arrived
        })
    };
    let bare = tokio::spawn(bare_client(postgres.url("shop"), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = connect(postgres, "shop").await;
        let statement = client.prepare("UPDATE order_lines SET quantity = $1 WHERE order_id = $2 AND line = 1").await?;
        writers.push(tokio::spawn(async move {
            let mut sent: Vec<(u64, Instant)> = Vec::new();
            for i in (writer..count).step_by(WRITERS as usize) {
                tokio::time::sleep_until((started + Duration::from_secs_f64(i as f64 / rate as f64)).into()).await;
                let number = first + i;
                sent.push((number, Instant::now()));
                let (quantity, order) = (number.cast_signed(), (number % ORDERS).cast_signed());
                client.execute(&statement, &[&quantity, &order]).await.expect("an update");
            }
            sent
        }));
    }
    let mut sent = Vec::new();
    for writer in writers {
        sent.extend(writer.await?);
    }
    mark.fetch_add(count, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (ours, bare) = (ours.await?, bare.await??);
    let since = |arrived: &HashMap<u64, Instant>| -> Vec<f64> {
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
