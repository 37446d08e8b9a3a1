//! Many clients in a process of their own, so that what a server costs is told apart from what it costs
//! to have clients.
//!
//! ```text
//!  bench ── Plan ──────────► crowd::members (one thread)   ◄──── frames ──── the server that is measured
//!        ── begin, end ───►
//!        ◄── Heard ────────  when half of the clients had a commit, when the last had it
//! ```
//!
//! A commit is known by the number that stands in the rows of the message.

mod members; // the process itself

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::commits::Sent;
use crate::process::Process;
pub use members::run;

/// What the clients are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `host:port` of the server.
    pub address: String,
    /// Where its WebSocket is.
    pub path: String,
    /// How many.
    pub clients: usize,
    /// Messages that each sends first; `{i}` stands for its number, from 0 on.
    pub opening: Vec<String>,
    /// Whether these are messages of bytes.
    pub is_binary: bool,
    /// Words of a message after which a client has all that it waited for; none, when it need not wait.
    pub ready: String,
    /// In which column of a row the commit's number is.
    pub column: usize,
    /// Whether anything is read once all are ready.
    pub reads: bool,
}

impl Plan {
    /// Clients of Deltafront that subscribe to a projection whose rows have the number in this column.
    /// `filter` is the `where` of each.
    pub fn of_deltafront(address: &str, clients: usize, projection: &str, filter: Option<&str>, column: usize) -> Plan {
        let filter = filter.map_or_else(String::new, |filter| format!(r#","where":{filter}"#));
        Plan {
            address: address.to_owned(),
            path: "/v1/socket".to_owned(),
            clients,
            opening: vec![format!(r#"{{"op":"subscribe","id":"a","projection":"{projection}"{filter}}}"#)],
            is_binary: false,
            ready: r#""last":true"#.to_owned(),
            column,
            reads: true,
        }
    }
}

/// What the clients were sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Frames that told of commits.
    pub messages: u64,
    /// Their bytes, headers left out.
    pub bytes: u64,
    /// How often a client was told of a commit.
    pub told: u64,
    /// Clients whose connections have ended.
    pub closed: u64,
    /// By the numbers of the commits.
    pub commits: HashMap<u64, Arrival>,
    /// The last message that told of a commit.
    pub sample: String,
}

/// When a commit came to the clients, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Arrival {
    /// How many have it.
    pub clients: u64,
    /// When half of all had it.
    pub half: u64,
    /// When the last of those who have it had it.
    pub last: u64,
}

/// The bench's end of the process.
pub struct Crowd {
    /// The process.
    process: Process,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    clock: Clock,
}

/// Commits at a rate, and what came of them.
#[derive(Debug, Default)]
pub struct Turn {
    /// What the server took.
    pub cpu: Duration,
    /// What the clients took.
    pub clients_cpu: Duration,
    /// From the first commit until the last client had the last.
    pub elapsed: Duration,
    /// What the clients were sent.
    pub heard: Heard,
    /// How many there were.
    pub commits: u64,
    /// Those that not all who were to be told were told of, since a later one of the same row came to them.
    pub overtaken: u64,
    /// Milliseconds of each commit until half of the clients had it.
    pub half: Vec<f64>,
    /// And until the last had it.
    pub last: Vec<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
impl Turn {
    /// Of how many CPUs all of this time is.
    pub fn cores(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// Server CPU a message, in µs.
    pub fn micros_a_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.heard.messages as f64
    }

    /// Messages for each second of the server's CPU.
    pub fn messages_a_core_second(&self) -> f64 {
        self.heard.messages as f64 / self.cpu.as_secs_f64()
    }

    /// Messages a second of the clock.
    pub fn messages_a_second(&self) -> f64 {
        self.heard.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// Server CPU a commit, in µs.
    pub fn micros_a_commit(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.commits as f64
    }

    /// Bytes of a message.
    pub fn bytes_a_message(&self) -> f64 {
        self.heard.bytes as f64 / self.heard.messages as f64
    }
}

/// Makes times of another process comparable with [`Instant`]s of this one.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    nanos: u64,
}

/// Nanoseconds since 1970, a clock that processes share.
fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Crowd {
    /// Starts the clients, and waits until all are ready.
    ///
    /// # Errors
    /// When one can't connect, or is refused what it asks for.
    pub fn start(plan: &Plan) -> Result<Crowd> {
        let mut process = Process::start(
            Command::new(std::env::current_exe()?)
                .args(["crowd", &serde_json::to_string(plan)?])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        let commands = process.child().stdin.take().context("a pipe")?;
        let answers = BufReader::new(process.child().stdout.take().context("a pipe")?);
        let clock = Clock { instant: Instant::now(), nanos: unix_nanos() };
        let mut crowd = Crowd { process, commands, answers, clock };
        let told = crowd.answer()?;
        anyhow::ensure!(told == "ready", "the clients say `{told}`");
        Ok(crowd)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the clients have ended");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        self.answer()
    }

    /// Forgets what was heard.
    ///
    /// # Errors
    /// When the clients have ended.
    pub fn begin(&mut self) -> Result<()> {
        self.ask("begin").map(drop)
    }

    /// Waits until clients were told of commits so often, or nothing more comes.
    ///
    /// # Errors
    /// When the clients have ended.
    pub async fn settle(&mut self, told: u64) -> Result<()> {
        let (mut before, mut silent) = (0, Instant::now());
        while before < told && silent.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.ask("told")?.parse()?;
            if now > before {
                (before, silent) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// What was heard since [`Crowd::begin`].
    ///
    /// # Errors
    /// When the clients have ended.
    pub fn end(&mut self) -> Result<Heard> {
        Ok(serde_json::from_str(&self.ask("end")?)?)
    }

    /// Has commits sent, and measures what that costs a server and how long it takes. Each is to be told
    /// so often as `concerned` says, or one of the same row after it, which is `rows` numbers later.
    ///
    /// # Errors
    /// When they can't be sent, or the clients have ended.
    pub async fn turn(
        &mut self,
        server: &Process,
        concerned: u64,
        rows: u64,
        sending: impl Future<Output = Result<Sent>>,
    ) -> Result<Turn> {
        self.begin()?;
        let (before, clients_before, started) = (server.cpu()?, self.process.cpu()?, Instant::now());
        let sent = sending.await?;
        self.settle(sent.len() as u64 * concerned).await?;
        let (cpu, elapsed) = (server.cpu()?.saturating_sub(before), started.elapsed());
        let clients_cpu = self.process.cpu()?.saturating_sub(clients_before);
        let heard = self.end()?;
        let mut turn = Turn { cpu, clients_cpu, elapsed, ..Turn::default() };
        let end = sent.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        for (number, at) in &sent {
            // Merged with a later commit of the same row, it came when that did.
            let those = (*number..end).step_by(usize::try_from(rows)?).filter_map(|number| heard.commits.get(&number));
            let mut clients = 0;
            let arrivals: Vec<&Arrival> = those
                .take_while(|arrival| {
                    let is_wanted = clients < concerned;
                    clients += arrival.clients;
                    is_wanted
                })
                .collect();
            anyhow::ensure!(clients >= concerned, "of {concerned} clients {clients} were told of a commit");
            turn.overtaken += u64::from(arrivals.len() > 1 || !heard.commits.contains_key(number));
            let since = |nanos| self.instant(nanos).saturating_duration_since(*at).as_secs_f64() * 1e3;
            turn.half.extend(arrivals.iter().map(|arrival| arrival.half).find(|half| *half > 0).map(since));
            turn.last.extend(arrivals.iter().map(|arrival| arrival.last).max().map(since));
        }
        (turn.heard, turn.commits) = (heard, sent.len() as u64);
        Ok(turn)
    }

    /// A time of the clients'.
    pub fn instant(&self, nanos: u64) -> Instant {
        self.clock.instant + Duration::from_nanos(nanos.saturating_sub(self.clock.nanos))
    }
}
