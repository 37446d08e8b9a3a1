//! Commits at a rate, each with a number that clients find again in what they are sent.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::{PrivatePostgres, connect};

const WRITERS: u64 = 4;

/// What is committed, and how often.
#[derive(Clone, Copy)]
pub struct Commits {
    /// One row's change: `$1` is the number, `$2` the row.
    pub statement: &'static str,
    /// Rows that are changed in turn, from 0 on.
    pub rows: u64,
    /// Commits a second.
    pub rate: u64,
    /// For how long.
    pub seconds: u64,
}

/// When each number was about to be sent.
pub type Sent = Vec<(u64, Instant)>;

impl Commits {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.rate * self.seconds
    }

    /// Commits them, with numbers from `first` on.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn run(&self, postgres: &PrivatePostgres, first: u64) -> Result<Sent> {
        let Commits { statement, rows, rate, .. } = *self;
        let count = self.count();
        let mut clients = Vec::new();
        for _ in 0..WRITERS {
            let client = connect(postgres, "shop").await;
            let statement = client.prepare(statement).await?;
            clients.push((client, statement));
        }
        let started = Instant::now();
        let mut writers = Vec::new();
        for (writer, (client, statement)) in (0..).zip(clients) {
            writers.push(tokio::spawn(async move {
                let mut sent = Vec::new();
                for i in (writer..count).step_by(WRITERS as usize) {
                    tokio::time::sleep_until((started + Duration::from_secs_f64(i as f64 / rate as f64)).into()).await;
                    let number = first + i;
                    sent.push((number, Instant::now()));
                    let row = (number % rows).cast_signed();
                    client.execute(&statement, &[&number.cast_signed(), &row]).await.expect("an update");
                }
                sent
            }));
        }
        let mut sent = Vec::new();
        for writer in writers {
            sent.extend(writer.await?);
        }
        Ok(sent)
    }
}
