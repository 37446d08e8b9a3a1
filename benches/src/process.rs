//! Programs that a bench starts beside itself, and what they cost: time of the CPU and memory, as the
//! kernel tells them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::{PATIENCE, ProjectFolder, Subscriber};
use tokio::time::Instant;

/// The program `deltafront` that was built with this one.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("deltafront");
    anyhow::ensure!(program.exists(), "there is no {}; `cargo xtask bench` builds it", program.display());
    Ok(program)
}

/// A port that was free a moment ago: on a machine that measures, nobody else takes it in between.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A program that runs beside the bench, with the processes that it started itself. Ends with this.
pub struct Process(Child);

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(command: &mut Command) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        Ok(Process(command.spawn().with_context(|| format!("can't start {name}"))?))
    }

    /// Its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Time of the CPU that it has had, over all threads and processes of it: user and system.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(self.0.id())
    }

    /// Bytes of its memory that are resident, without those of processes that it started.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn resident(&self) -> Result<u64> {
        memory(&self.0.id().to_string(), "VmRSS")
    }

    /// # Errors
    /// When it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("a program ended by itself ({status})"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// Nanoseconds on a CPU, summed over threads: `/proc/PID/stat` counts in hundredths of a second.
fn cpu(pid: u32) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("CPU is measured on Linux")? {
        let task = task?.path();
        // A thread may end meanwhile.
        let told = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        let nanos = told.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        all += Duration::from_nanos(nanos);
        let children = fs::read_to_string(task.join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            all += cpu(child.parse()?)?;
        }
    }
    Ok(all)
}

/// Bytes of a process's memory (`self`, or its number), by the kernel's name for them.
pub fn memory(process: &str, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("memory is measured on Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).context("no such figure")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A server in a process of its own, as its users run it.
pub struct ServerProcess {
    /// What it costs.
    pub process: Process,
    /// `host:port`.
    pub address: String,
}

impl ServerProcess {
    /// Starts a server and waits until it has copied everything.
    ///
    /// # Errors
    /// When it does not start or does not get ready.
    pub async fn start(project: &ProjectFolder) -> Result<ServerProcess> {
        ServerProcess::start_program(&program()?, project).await
    }

    /// As [`ServerProcess::start`], of another build.
    ///
    /// # Errors
    /// As there.
    pub async fn start_program(program: &Path, project: &ProjectFolder) -> Result<ServerProcess> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let process = Process::start(
            Command::new(program)
                .arg("run")
                .arg(project.path())
                .args(["--listen", &address])
                .env("RUST_LOG", "warn")
                .stdin(Stdio::null()),
        )?;
        let mut server = ServerProcess { process, address };
        let started = Instant::now();
        while !server.is_ready().await {
            server.process.check()?;
            anyhow::ensure!(started.elapsed() < PATIENCE, "deltafront does not get ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        // The harness's client panics where nobody listens; until the server does, that is no mistake.
        tokio::net::TcpStream::connect(&self.address).await.is_ok()
            && tests::http::get(&self.address, "/readyz").await.0 == 200
    }

    /// Sessions now, as its metrics tell.
    ///
    /// # Errors
    /// When they do not.
    pub async fn sessions(&self) -> Result<u64> {
        let (_, page) = tests::http::get(&self.address, "/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix("deltafront_sessions ")).context("no such metric")?;
        Ok(line.trim().parse()?)
    }

    /// A client of this server.
    pub async fn subscriber(&self) -> Subscriber {
        Subscriber::connect(&self.address).await
    }
}
