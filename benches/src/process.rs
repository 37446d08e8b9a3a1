//! Programs that a bench starts beside itself.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tests::{PATIENCE, ProjectFolder, Subscriber};
use tokio::time::Instant;

/// The program `deltafront` that was built with this one.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("deltafront");
    anyhow::ensure!(program.exists(), "there is no {}; `cargo xtask bench` builds it", program.display());
    Ok(program)
}

/// A server in a process of its own, as its users run it.
pub struct ServerProcess {
    child: Child,
    address: String,
}

impl ServerProcess {
    /// Starts a server and waits until it has copied everything.
    ///
    /// # Errors
    /// When it does not start or does not get ready.
    pub async fn start(project: &ProjectFolder) -> Result<ServerProcess> {
        // Free a moment ago: on a machine that measures, nobody else takes it in between.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(program()?)
            .arg("run")
            .arg(project.path())
            .args(["--listen", &address])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .context("can't start deltafront")?;
        let mut server = ServerProcess { child, address };
        let started = Instant::now();
        while !server.is_ready().await {
            if let Some(status) = server.child.try_wait()? {
                bail!("deltafront ended by itself ({status})");
            }
            anyhow::ensure!(started.elapsed() < PATIENCE, "deltafront does not get ready");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        // The harness's client panics where nobody listens; until the server does, that is no mistake.
        tokio::net::TcpStream::connect(&self.address).await.is_ok()
            && tests::http::get(&self.address, "/readyz").await.0 == 200
    }

    /// A client of this server.
    pub async fn subscriber(&self) -> Subscriber {
        Subscriber::connect(&self.address).await
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
