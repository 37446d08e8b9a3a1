//! `cargo xtask bench rivals`: the same message to as many clients, by servers of others.
//!
//! | | what it is | driven by |
//! |---|---|---|
//! | Deltafront | the whole server, from the replication stream to sockets | commits in Postgres |
//! | Nchan | nginx with a module in C, one worker | a publisher over HTTP, kept alive |
//! | NATS | nats-server in Go, its WebSocket listener | a publisher over TCP |
//! | broadcast | a channel and a task a client, over `tokio-websockets` | a publisher over TCP |
//!
//! Each is a process of its own beside the same clients (`crowd`), and is sent one of our own diff
//! messages as it is. They take turns, several each, and medians are told: on a shared machine the ratio
//! between neighbours says more than any time. Latency of ours has a commit in it, that of the others
//! does not.
//!
//! `BASELINE=program` has another build of Deltafront take turns too, over a table of its own: before and
//! after of the same run.

mod broadcast; // the plainest one
mod nats;
mod nchan;

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

pub use broadcast::serve as broadcast;

use crate::commits::Sent;
use crate::crowd::{Crowd, Plan, Turn};
use crate::fanout::{Bench, MARK, ROWS, TOCKS, plan};
use crate::numbers::{figure, percentile};
use crate::process::{Process, ServerProcess};

const CLIENTS: u64 = 1000;
/// Messages a second, and for how long.
const RATES: [(u64, u64); 2] = [(20, 8), (100, 5)];
const TURNS: usize = 5;
/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that is told what to tell its clients.
struct Rival {
    name: &'static str,
    process: Process,
    publisher: Publisher,
    /// Its clients.
    plan: Plan,
    /// Where it keeps its files, until it has ended.
    _folder: Option<TempDir>,
}

/// A connection over which messages are published.
struct Publisher {
    socket: TcpStream,
    /// What goes out for a payload.
    envelope: fn(&str) -> Vec<u8>,
    /// Whether each is answered.
    is_answered: bool,
}

/// The clients of a rival that sends to whoever connects.
fn audience(port: impl Display, path: &str) -> Plan {
    Plan {
        address: format!("127.0.0.1:{port}"),
        path: path.to_owned(),
        clients: CLIENTS as usize,
        opening: Vec::new(),
        is_binary: false,
        ready: String::new(),
        column: MARK,
        reads: true,
    }
}

/// Measures all in turns.
///
/// # Errors
/// When one does not start, or does not tell its clients.
pub fn run() -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<()> {
    let mut bench = Bench::start().await?;
    let server = bench.server().await?;
    let mut ours = Crowd::start(&plan(&server, CLIENTS, None))?;
    let sample = ours.turn(&server.process, CLIENTS, ROWS, bench.commit(ROWS, 20, 1)).await?.heard.sample;
    println!("{CLIENTS} clients are sent {} bytes: {sample}", sample.len());
    let mut rivals = Vec::new();
    for rival in [Some(nchan::start()?), nats::start()?, Some(broadcast::start()?)].into_iter().flatten() {
        let crowd = Crowd::start(&rival.plan)?;
        rivals.push((rival, crowd));
    }
    let mut baseline = match std::env::var_os("BASELINE") {
        Some(program) => {
            let server = ServerProcess::start_program(program.as_ref(), &bench.project(TOCKS)?).await?;
            let crowd = Crowd::start(&plan(&server, CLIENTS, None))?;
            Some((server, crowd))
        }
        None => None,
    };
    let message = Payload::new(&sample)?;
    let mut number = 9_000_000;
    println!(
        "{:>7} {:>12} {:>10} {:>10} {:>12} {:>14} {:>14}",
        "msg/s", "", "µs a msg", "of Nchan's", "msg/core-s", "half p50 p99", "last p50 p99"
    );
    for (rate, seconds) in RATES {
        let mut turns: Vec<Vec<Turn>> = (0..=rivals.len()).map(|_| Vec::new()).collect();
        let mut of_baseline = Vec::new();
        for _ in 0..TURNS {
            turns[0].push(ours.turn(&server.process, CLIENTS, ROWS, bench.commit(ROWS, rate, seconds)).await?);
            for ((rival, crowd), turns) in rivals.iter_mut().zip(&mut turns[1..]) {
                let sending = rival.publisher.publish(&message, number, rate, seconds);
                turns.push(crowd.turn(&rival.process, CLIENTS, ROWS, sending).await?);
                number += rate * seconds;
            }
            if let Some((server, crowd)) = &mut baseline {
                let sending = bench.commit_to(TOCKS, ROWS, rate, seconds);
                of_baseline.push(crowd.turn(&server.process, CLIENTS, ROWS, sending).await?);
            }
        }
        let names = std::iter::once("deltafront").chain(rivals.iter().map(|(rival, _)| rival.name));
        let mut all: Vec<(&str, Vec<Turn>)> = names.zip(turns).collect();
        if baseline.is_some() {
            all.push(("baseline", of_baseline));
        }
        tell(rate, &all);
    }
    Ok(())
}

fn tell(rate: u64, all: &[(&str, Vec<Turn>)]) {
    let median =
        |turns: &[Turn], of: &dyn Fn(&Turn) -> f64| percentile(&turns.iter().map(of).collect::<Vec<_>>(), 50.0);
    let micros = |turn: &Turn| turn.micros_a_message();
    let cost =
        |name: &str| all.iter().find(|(of, _)| *of == name).map_or(f64::NAN, |(_, turns)| median(turns, &micros));
    for (name, turns) in all {
        let p = |of: fn(&Turn) -> &[f64], percent| median(turns, &|turn| percentile(of(turn), percent));
        println!(
            "{rate:>7} {name:>12} {:>10.2} {:>10.2} {:>12.0} {:>6.1} {:>7.1} {:>6.1} {:>7.1}",
            cost(name),
            cost(name) / cost("nchan"),
            median(turns, &Turn::messages_a_core_second),
            p(|turn| &turn.half, 50.0),
            p(|turn| &turn.half, 99.0),
            p(|turn| &turn.last, 50.0),
            p(|turn| &turn.last, 99.0),
        );
    }
    for (name, _) in all {
        figure(&format!("fanout_us_per_message_{name}_at_{rate}"), cost(name), "us");
    }
    // Of neighbours, which the machine treated alike.
    let ratios: Vec<f64> = all[0].1.iter().zip(&all[1].1).map(|(ours, nchan)| micros(ours) / micros(nchan)).collect();
    figure(&format!("fanout_cpu_over_nchan_at_{rate}"), percentile(&ratios, 50.0), "ratio");
    if rate == RATES[0].0 {
        figure("fanout_cpu_over_nchan", percentile(&ratios, 50.0), "ratio");
    }
}

/// One of our messages, with another commit's number in it.
struct Payload {
    before: String,
    after: String,
}

impl Payload {
    fn new(sample: &str) -> Result<Payload> {
        let rows = r#""upsert":[["#;
        let row = sample.find(rows).context("rows")? + rows.len();
        let start = row + sample[row..].match_indices(',').nth(MARK - 1).context("the number's column")?.0 + 1;
        let end = start + sample[start..].find([',', ']']).context("the row's end")?;
        Ok(Payload { before: sample[..start].to_owned(), after: sample[end..].to_owned() })
    }

    fn of(&self, number: u64) -> String {
        format!("{}{number}{}", self.before, self.after)
    }
}

impl Publisher {
    /// Waits until somebody listens there.
    fn connect(port: u16, envelope: fn(&str) -> Vec<u8>, is_answered: bool) -> Result<Publisher> {
        let started = Instant::now();
        let socket = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(socket) => break socket,
                Err(error) if started.elapsed() > START_TIMEOUT => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        socket.set_nodelay(true)?;
        Ok(Publisher { socket, envelope, is_answered })
    }

    /// Messages at a rate, with numbers from `first` on.
    async fn publish(&mut self, payload: &Payload, first: u64, rate: u64, seconds: u64) -> Result<Sent> {
        let started = Instant::now();
        let mut sent = Sent::new();
        for i in 0..rate * seconds {
            tokio::time::sleep_until((started + Duration::from_secs_f64(i as f64 / rate as f64)).into()).await;
            let bytes = (self.envelope)(&payload.of(first + i));
            sent.push((first + i, Instant::now()));
            self.socket.write_all(&bytes)?;
            if self.is_answered {
                // One read has all of a short answer.
                anyhow::ensure!(self.socket.read(&mut [0; 4096])? > 0, "a publisher's connection has ended");
            }
        }
        Ok(sent)
    }
}
