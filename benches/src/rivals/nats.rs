//! NATS: its server's WebSocket listener, whose clients speak the lines of NATS in messages of bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use xtask::target_folder;

use super::{Publisher, Rival, audience};
use crate::crowd::Plan;
use crate::process::{Process, free_port};

/// Starts it, and builds it where it is missing; `None` without Go.
///
/// # Errors
/// When it can't be built or started.
pub fn start() -> Result<Option<Rival>> {
    let Some(program) = program()? else {
        println!("nats-server is left out: there is no Go to build it with");
        return Ok(None);
    };
    let folder = tempfile::Builder::new().prefix("deltafront-nats-").tempdir()?;
    let (port, sockets) = (free_port()?, free_port()?);
    let configuration = folder.path().join("nats.conf");
    let conf = format!(
        "listen: \"127.0.0.1:{port}\"
         max_connections: 65536
         ping_interval: \"1h\"
         websocket {{ listen: \"127.0.0.1:{sockets}\", no_tls: true }}"
    );
    fs::write(&configuration, conf)?;
    let process = Process::start(
        Command::new(program)
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let mut publisher = Publisher::connect(port, envelope, false)?;
    std::io::Write::write_all(&mut publisher.socket, b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
    // The other listener may be later.
    drop(Publisher::connect(sockets, envelope, false)?);
    let plan = Plan {
        opening: vec!["CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB ticks 1\r\nPING\r\n".to_owned()],
        is_binary: true,
        ready: "PONG".to_owned(),
        ..audience(sockets, "/")
    };
    Ok(Some(Rival { name: "nats", process, publisher, plan, _folder: Some(folder) }))
}

fn envelope(payload: &str) -> Vec<u8> {
    format!("PUB ticks {}\r\n{payload}\r\n", payload.len()).into_bytes()
}

fn program() -> Result<Option<PathBuf>> {
    let folder = target_folder().join("rivals");
    let program = folder.join("nats-server");
    if program.exists() {
        return Ok(Some(program));
    }
    let there = |go: &&Path| Command::new(go).arg("version").output().is_ok_and(|output| output.status.success());
    let Some(go) = [Path::new("go"), Path::new("/usr/local/go/bin/go")].into_iter().find(there) else {
        return Ok(None);
    };
    eprintln!("building nats-server");
    let built = Command::new(go)
        .args(["install", "github.com/nats-io/nats-server/v2@latest"])
        .env("GOBIN", std::path::absolute(&folder)?)
        .status()?;
    ensure!(built.success(), "nats-server can't be built");
    Ok(Some(program))
}
