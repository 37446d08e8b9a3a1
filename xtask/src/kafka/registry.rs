//! A private schema registry.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::free_ports;
use super::jars::{Part, fetch};
use super::java::{End, Running, find_or_install_java};

/// Where Apicurio speaks as Confluent's registry does, version 7.
const API: &str = "/apis/ccompat/v7";

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Apicurio Registry, which speaks Confluent's API (`/subjects`, `/schemas/ids/N`, `/config`), gone when it is dropped.
/// Its schemas are in memory: one that starts again has none.
#[derive(Debug)]
pub struct PrivateRegistry {
    java: PathBuf,
    jars: PathBuf,
    port: u16,
    running: Option<Running>,
    folder: TempDir,
}

impl PrivateRegistry {
    /// Starts a registry on a free loopback port, with Confluent's default compatibility, BACKWARD.
    ///
    /// # Errors
    /// When it can't be had or does not start, with its log.
    pub fn start() -> Result<PrivateRegistry> {
        let folder = tempfile::Builder::new().prefix("deltafront-registry-").tempdir()?;
        let [port] = free_ports()?;
        let java = find_or_install_java()?.program;
        let mut registry = PrivateRegistry { java, jars: fetch(Part::Registry)?, port, running: None, folder };
        registry.start_again()?;
        Ok(registry)
    }

    /// Where clients find it: `http://127.0.0.1:PORT/apis/ccompat/v7`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{API}", self.port)
    }

    /// Asks it something: a method, a path below its URL, and JSON, or nothing. Returns the status and the JSON that it
    /// answers.
    ///
    /// # Errors
    /// When there is no answer, or it is not HTTP.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        // HTTP/1.0: an answer is whole when the connection ends, and is not in chunks.
        write!(
            socket,
            "{method} {API}{path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the registry's answer is no HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("the registry's answer has no status")?, body.to_owned()))
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.end(End::Kill);
    }

    /// Lets it stop in good order.
    pub fn stop(&mut self) {
        self.end(End::Ask(super::STOP_PATIENCE));
    }

    /// Starts it again on the same port, without a schema.
    ///
    /// # Errors
    /// When it still runs or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(|running| !running.has_ended()) {
            bail!("the registry runs");
        }
        let mut command = Command::new(&self.java);
        command.args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(["-Dquarkus.http.host=127.0.0.1", &format!("-Dquarkus.http.port={}", self.port)]);
        command.arg("-jar").arg(self.program()?).current_dir(&self.jars);
        let mut running = Running::start(&mut command, &self.folder.path().join("log"))?;
        running.wait(
            "the schema registry",
            |_| self.ask("GET", "/subjects", "").is_ok_and(|(status, _)| status == 200),
            |_| false,
        )?;
        self.running = Some(running);
        let (status, answer) = self.ask("PUT", "/config", r#"{"compatibility":"BACKWARD"}"#)?;
        if status != 200 {
            bail!("the schema registry refuses to be compatible: {status} {answer}");
        }
        Ok(())
    }

    /// The jar that names all others.
    fn program(&self) -> Result<PathBuf> {
        let files = std::fs::read_dir(&self.jars)?.flatten().map(|entry| entry.path());
        let mut programs = files.filter(|path| path.to_string_lossy().ends_with("-runner.jar"));
        programs.next().with_context(|| format!("{} holds no registry", self.jars.display()))
    }

    fn end(&mut self, end: End) {
        if let Some(mut running) = self.running.take() {
            running.end(end);
        }
    }
}
