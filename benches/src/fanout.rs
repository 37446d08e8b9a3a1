//! `cargo xtask bench fanout`: what a client costs a real server, with the clients in a process of their
//! own.
//!
//! *CPU* is the server process's, user and system, as the scheduler counts it: the pipeline that makes a
//! diff of a commit is in it, and so is what the kernel does to carry a message over loopback, on the
//! receiver's side too. *Latency* is counted from just before a commit is sent to Postgres until a client
//! has read its message. Server, Postgres and clients share the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tests::{PrivatePostgres, ProjectFolder, connect, postgres};

use crate::commits::{Commits, Sent};
use crate::crowd::{Crowd, Plan, Turn};
use crate::numbers::{figure, percentile};
use crate::process::ServerProcess;

/// Rows that are changed in turn.
pub const ROWS: u64 = 1000;
/// A table that changes.
#[derive(Clone, Copy)]
pub struct Table {
    name: &'static str,
    statement: &'static str,
}

/// What all commits change,
pub const TICKS: Table = Table { name: "ticks", statement: "UPDATE ticks SET mark = $1 WHERE id = $2" };
/// and what another server beside it serves.
pub const TOCKS: Table = Table { name: "tocks", statement: "UPDATE tocks SET mark = $1 WHERE id = $2" };
/// Where a commit's number is in a row.
pub const MARK: usize = 1;
/// Clients of the same subscription, commits a second, for how many seconds.
const WRITES: [(u64, [(u64, u64); 2]); 2] = [(1000, [(20, 10), (100, 10)]), (10_000, [(5, 10), (20, 10)])];
/// Which of these is the figure: a server at work, and not at its end.
const BUSY: (u64, u64) = (1000, 100);
/// Clients that wait for nothing.
const IDLE: u64 = 10_000;
/// A multiple of the time after which a silent client is sent a heartbeat, so that each is sent as many.
const WINDOW: Duration = Duration::from_secs(15);
const TURNS: usize = 3;

/// Measures all, or one part.
///
/// # Errors
/// When there is no such part, or a client does not get what it should.
pub fn run(part: Option<&str>) -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut bench = Bench::start().await?;
        match part {
            Some("writes") => bench.writes().await,
            Some("memory") => bench.idle_memory().await,
            Some("idle") => bench.idle_cpu().await,
            Some("filters") => bench.filters().await,
            Some("mute") => bench.mute().await,
            Some(other) => bail!("fanout has no part `{other}`; it has writes, memory, idle, filters and mute"),
            None => {
                bench.writes().await?;
                bench.idle_memory().await?;
                bench.idle_cpu().await?;
                bench.filters().await?;
                bench.mute().await
            }
        }
    })
}

/// A database with a table that changes, and one that does not.
pub struct Bench {
    postgres: PrivatePostgres,
    /// The next commit's number: of as many digits as all others.
    mark: u64,
}

impl Bench {
    /// Makes it.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn start() -> Result<Bench> {
        let postgres = postgres();
        connect(&postgres, "shop")
            .await
            .batch_execute(&format!(
                "CREATE TABLE ticks (id bigint PRIMARY KEY, mark bigint NOT NULL);
                 CREATE TABLE tocks (id bigint PRIMARY KEY, mark bigint NOT NULL);
                 CREATE TABLE quiet (id bigint PRIMARY KEY, note text NOT NULL);
                 INSERT INTO ticks SELECT n, 0 FROM generate_series(0, {ROWS} - 1) n;
                 INSERT INTO tocks SELECT * FROM ticks;
                 INSERT INTO quiet VALUES (1, 'nothing happens here');"
            ))
            .await?;
        Ok(Bench { postgres, mark: 1_000_000 })
    }

    /// A server that has room for all clients.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn server(&self) -> Result<ServerProcess> {
        ServerProcess::start(&self.project(TICKS)?).await
    }

    /// What serves a table.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn project(&self, table: Table) -> Result<ProjectFolder> {
        let name = table.name;
        let project = ProjectFolder::new(
            &self.postgres,
            &format!(
                "CREATE TABLE {name} WITH (connector = 'postgres', url = '$DB');
                 CREATE TABLE quiet WITH (connector = 'postgres', url = '$DB');
                 CREATE MATERIALIZED VIEW live WITH (key = 'id') AS SELECT id, mark FROM {name};
                 CREATE MATERIALIZED VIEW still WITH (key = 'id') AS SELECT id, note FROM quiet;"
            ),
        );
        let settings = format!("[project]\nname = \"{name}\"\n\n[limits]\nconnections = 100000\n");
        fs::write(project.path().join("deltafront.toml"), settings)?;
        Ok(project)
    }

    /// Commits at a rate, to rows that change in turn.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn commit(&mut self, rows: u64, rate: u64, seconds: u64) -> Result<Sent> {
        self.commit_to(TICKS, rows, rate, seconds).await
    }

    /// As [`Bench::commit`], to another table.
    ///
    /// # Errors
    /// As there.
    pub async fn commit_to(&mut self, table: Table, rows: u64, rate: u64, seconds: u64) -> Result<Sent> {
        let commits = Commits { statement: table.statement, rows, rate, seconds };
        let first = self.mark;
        self.mark += commits.count();
        commits.run(&self.postgres, first).await
    }

    /// Messages for each second of CPU, and when the last client has a commit.
    async fn writes(&mut self) -> Result<()> {
        println!("clients of one subscription; messages are socket writes, one a commit and client unless merged");
        println!(
            "{:>8} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9} {:>9} {:>12} {:>14} {:>14}",
            "clients",
            "commits/s",
            "msg/s",
            "cores",
            "theirs",
            "bytes",
            "merged",
            "µs a msg",
            "msg/core-s",
            "half p50 p99",
            "last p50 p99"
        );
        let server = self.server().await?;
        for (clients, rates) in WRITES {
            let mut crowd = Crowd::start(&plan(&server, clients, None))?;
            for (rate, seconds) in rates {
                let turn = crowd.turn(&server.process, clients, ROWS, self.commit(ROWS, rate, seconds)).await?;
                tell_writes(clients, rate, &turn);
            }
        }
        Ok(())
    }

    /// What a connection costs in which nothing happens.
    async fn idle_memory(&mut self) -> Result<()> {
        println!("{IDLE} clients of a projection in which nothing happens: resident bytes of the server, each");
        let server = self.server().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = server.process.resident()?;
        let idle = Plan::of_deltafront(&server.address, usize::try_from(IDLE)?, "still", None, MARK);
        let crowd = Crowd::start(&idle)?;
        let mut each = Vec::new();
        for (wait, when) in [(3, "3 s after the last came"), (30, "after two heartbeats more")] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let bytes = server.process.resident()?.saturating_sub(before);
            each.push(bytes as f64 / IDLE as f64);
            println!("{:>10.0} {when}", bytes as f64 / IDLE as f64);
        }
        ensure!(server.sessions().await? == IDLE, "all of them are there");
        drop(crowd);
        figure("idle_connection_bytes_real", each[0], "bytes");
        Ok(())
    }

    /// What a commit costs for each client that it does not concern: with such clients and without, less what
    /// they cost when nothing is committed.
    async fn idle_cpu(&mut self) -> Result<()> {
        const RATE: u64 = 200;
        println!("µs of server CPU a commit at {RATE} a second, without clients and with {IDLE} of other filters");
        let server = self.server().await?;
        let mut samples = Vec::new();
        for _ in 0..TURNS {
            let (alone_silent, alone) = self.window(&server, RATE).await?;
            let crowd = Crowd::start(&plan(&server, IDLE, Some(r#"{"id":{"_eq":9{i}}}"#)))?;
            // What connecting costs afterwards is not of this.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (beside_silent, beside) = self.window(&server, RATE).await?;
            drop(crowd);
            while server.sessions().await? > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let commits = (RATE * WINDOW.as_secs()) as f64;
            let micros = |time: f64| time * 1e6 / commits;
            let more = (beside - beside_silent) - (alone - alone_silent);
            println!(
                "{:>8.1} without, {:>8.1} with, of which {:>8.1} are spent when nothing is committed: {:>7.2} ns a client",
                micros(alone - alone_silent),
                micros(beside),
                micros(beside_silent),
                micros(more) * 1e3 / IDLE as f64
            );
            samples.push(micros(more) * 1e3 / IDLE as f64);
        }
        figure("idle_session_ns_per_epoch_real", percentile(&samples, 50.0), "ns");
        Ok(())
    }

    /// Seconds of CPU of two windows: in one nothing is committed.
    async fn window(&mut self, server: &ServerProcess, rate: u64) -> Result<(f64, f64)> {
        let before = server.process.cpu()?;
        tokio::time::sleep(WINDOW).await;
        let silent = server.process.cpu()?;
        // Rows that no filter of the idle asks for.
        self.commit(1, rate, WINDOW.as_secs()).await?;
        let after = server.process.cpu()?;
        Ok(((silent - before).as_secs_f64(), (after - silent).as_secs_f64()))
    }

    /// Clients with a filter each, of which a commit concerns one.
    async fn filters(&mut self) -> Result<()> {
        println!(
            "clients with a filter each; a commit concerns one of them, and milliseconds are until that one has it"
        );
        println!("{:>8} {:>9} {:>8} {:>8} {:>12} {:>7}", "clients", "commits/s", "p50", "p99", "µs a commit", "cores");
        let server = self.server().await?;
        for clients in [50, 1000] {
            let mut crowd = Crowd::start(&plan(&server, clients, Some(r#"{"id":{"_eq":{i}}}"#)))?;
            for rate in [200, 1000] {
                let turn = crowd.turn(&server.process, 1, clients, self.commit(clients, rate, 10)).await?;
                let (p50, p99) = (percentile(&turn.last, 50.0), percentile(&turn.last, 99.0));
                let cores = turn.cores(turn.cpu);
                println!("{clients:>8} {rate:>9} {p50:>8.2} {p99:>8.2} {:>12.1} {cores:>7.3}", turn.micros_a_commit());
                figure(&format!("filtered_p50_ms_{clients}_clients_at_{rate}"), p50, "ms");
                figure(&format!("filtered_p99_ms_{clients}_clients_at_{rate}"), p99, "ms");
                figure(
                    &format!("filtered_cpu_us_per_commit_{clients}_clients_at_{rate}"),
                    turn.micros_a_commit(),
                    "us",
                );
            }
        }
        Ok(())
    }

    /// Clients that subscribe and then read nothing: first the kernel takes what they are sent, then nobody does.
    async fn mute(&mut self) -> Result<()> {
        const MUTE: u64 = 500;
        const OTHERS: u64 = 100;
        const RATE: u64 = 200;
        /// Twice this is less than the time after which who takes nothing is dropped.
        const SECONDS: u64 = 14;
        println!("{OTHERS} clients at {RATE} commits a second, and {MUTE} that never read beside them");
        let server = self.server().await?;
        let mut others = Crowd::start(&plan(&server, OTHERS, None))?;
        // What a server needs in any case.
        others.turn(&server.process, OTHERS, ROWS, self.commit(ROWS, RATE, 5)).await?;
        let mut mute: Option<Crowd> = None;
        let (mut p99, mut resident) = (Vec::new(), Vec::new());
        for phase in ["without", "with, their buffers fill", "with, full buffers", "without again"] {
            if phase.starts_with("with,") && mute.is_none() {
                mute = Some(Crowd::start(&Plan { reads: false, ..plan(&server, MUTE, None) })?);
            } else if phase == "without again" {
                mute = None;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = server.process.resident()?;
            let turn = others.turn(&server.process, OTHERS, ROWS, self.commit(ROWS, RATE, SECONDS)).await?;
            let after = server.process.resident()?;
            println!(
                "{phase:>25}: last p50 {:>6.2} ms, p99 {:>6.2} ms, {:>6.3} cores, resident {:>6.1} to {:>6.1} MB, {} sessions",
                percentile(&turn.last, 50.0),
                percentile(&turn.last, 99.0),
                turn.cores(turn.cpu),
                before as f64 / 1e6,
                after as f64 / 1e6,
                server.sessions().await?
            );
            p99.push(percentile(&turn.last, 99.0));
            resident.push(after as f64 - before as f64);
        }
        figure("never_reading_bytes_each", (resident[1] + resident[2] - 2.0 * resident[0]) / MUTE as f64, "bytes");
        figure("never_reading_others_p99_ratio", 2.0 * p99[2] / (p99[0] + p99[3]), "ratio");
        Ok(())
    }
}

/// Clients of what changes.
pub fn plan(server: &ServerProcess, clients: u64, filter: Option<&str>) -> Plan {
    let clients = usize::try_from(clients).unwrap_or(usize::MAX);
    Plan::of_deltafront(&server.address, clients, "live", filter, MARK)
}

fn tell_writes(clients: u64, rate: u64, turn: &Turn) {
    let p = percentile;
    let due = turn.commits * clients;
    println!(
        "{clients:>8} {rate:>9} {:>9.0} {:>7.3} {:>7.3} {:>6.0} {:>8.1}% {:>9.2} {:>12.0} {:>6.1} {:>7.1} {:>6.1} {:>7.1}{}",
        turn.messages_a_second(),
        turn.cores(turn.cpu),
        turn.cores(turn.clients_cpu),
        turn.bytes_a_message(),
        100.0 * (1.0 - turn.heard.messages as f64 / due as f64),
        turn.micros_a_message(),
        turn.messages_a_core_second(),
        p(&turn.half, 50.0),
        p(&turn.half, 99.0),
        p(&turn.last, 50.0),
        p(&turn.last, 99.0),
        if turn.overtaken > 0 { format!(" ({} overtaken)", turn.overtaken) } else { String::new() }
    );
    if (clients, rate) == BUSY {
        figure("fanout_writes_per_core_second", turn.messages_a_core_second(), "messages");
    }
    let name = format!("{clients}_clients_at_{rate}");
    figure(&format!("fanout_writes_per_core_second_{name}"), turn.messages_a_core_second(), "messages");
    figure(&format!("fanout_last_p50_ms_{name}"), p(&turn.last, 50.0), "ms");
    figure(&format!("fanout_last_p99_ms_{name}"), p(&turn.last, 99.0), "ms");
}
