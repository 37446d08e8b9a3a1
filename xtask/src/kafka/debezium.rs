//! A private Debezium.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use tempfile::TempDir;

use super::jars::{Part, fetch};
use super::java::{End, Running, find_or_install_java};
use super::{PrivateKafka, filled_in, free_ports, java_program};
use crate::postgres::PrivatePostgres;

/// Debezium in Kafka Connect's standalone worker: the changes of some tables of a Postgres as messages of a Kafka, gone
/// when it is dropped. What it leaves behind is as in practice: topics, a slot and a publication.
#[derive(Debug)]
pub struct PrivateDebezium {
    java: PathBuf,
    jars: PathBuf,
    prefix: String,
    running: Option<Running>,
    folder: TempDir,
}

impl PrivateDebezium {
    /// Starts it for tables such as `public.orders` of a database, all when there is none named, and waits until it
    /// streams: the messages of its snapshot have been sent then, or are under way.
    ///
    /// Options are the connector's, such as `tombstones.on.delete=false` or `value.converter.schemas.enable=true`, the
    /// last of a name counting; `tests/kafka/debezium.properties` has the others.
    ///
    /// # Errors
    /// When it can't be had, does not start, or its connector fails, with its log.
    pub fn start(
        kafka: &PrivateKafka,
        postgres: &PrivatePostgres,
        database: &str,
        tables: &[&str],
        options: &[&str],
    ) -> Result<PrivateDebezium> {
        let folder = tempfile::Builder::new().prefix("deltafront-debezium-").tempdir()?;
        let [rest] = free_ports()?;
        let worker = [
            ("BOOTSTRAP", kafka.bootstrap().to_owned()),
            ("REST", rest.to_string()),
            ("FOLDER", folder.path().display().to_string()),
        ];
        fs::write(folder.path().join("connect.properties"), filled_in("connect.properties", &worker)?)?;
        let connector =
            [("PORT", postgres.port().to_string()), ("DATABASE", database.to_owned()), ("TABLES", tables.join(","))];
        let connector = filled_in("debezium.properties", &connector)? + &options.join("\n");
        fs::write(folder.path().join("debezium.properties"), connector)?;
        let prefix = options.iter().rev().find_map(|option| option.strip_prefix("topic.prefix=")).unwrap_or(database);
        let mut debezium = PrivateDebezium {
            java: find_or_install_java()?.program,
            jars: fetch(Part::Debezium)?,
            prefix: prefix.to_owned(),
            running: None,
            folder,
        };
        debezium.start_again()?;
        Ok(debezium)
    }

    /// The topic of a table such as `public.orders`: `DATABASE.public.orders`.
    #[must_use]
    pub fn topic(&self, table: &str) -> String {
        format!("{}.{table}", self.prefix)
    }

    /// Kills it as a power cut would: what it has sent since it noted its position last, it sends again.
    pub fn kill(&mut self) {
        self.end(End::Kill);
    }

    /// Lets it stop in good order.
    pub fn stop(&mut self) {
        self.end(End::Ask(super::STOP_PATIENCE));
    }

    /// Starts it again where it had got to, and waits until it streams.
    ///
    /// # Errors
    /// When it still runs, does not start, or its connector fails.
    pub fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(|running| !running.has_ended()) {
            bail!("Debezium runs");
        }
        let mut command = java_program(&self.java, &self.jars)?;
        command.arg("org.apache.kafka.connect.cli.ConnectStandalone");
        command.args(["connect.properties", "debezium.properties"].map(|file| self.folder.path().join(file)));
        let mut running = Running::start(&mut command, &self.folder.path().join("log"))?;
        running.wait(
            "Debezium",
            |said| said.contains("Starting replication stream"),
            |said| {
                // Connect itself goes on when its only connector fails.
                said.contains("unrecoverable exception") || said.contains("Failed to create connector")
            },
        )?;
        self.running = Some(running);
        Ok(())
    }

    /// What it has said since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.as_ref().map(Running::said).unwrap_or_default()
    }

    fn end(&mut self, end: End) {
        if let Some(mut running) = self.running.take() {
            running.end(end);
        }
    }
}
