//! What one would write in an afternoon: a channel of messages, and a task for each client that sends
//! them on.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{Receiver, Sender};
use tokio_websockets::{Message, ServerBuilder};

use super::{Publisher, Rival, audience};
use crate::process::Process;

/// Starts it in a process of its own.
///
/// # Errors
/// When that fails.
pub fn start() -> Result<Rival> {
    let mut process = Process::start(
        Command::new(std::env::current_exe()?).arg("broadcast").stdin(Stdio::null()).stdout(Stdio::piped()),
    )?;
    let mut ports = String::new();
    BufReader::new(process.child().stdout.take().context("a pipe")?).read_line(&mut ports)?;
    let (clients, publisher) = ports.trim().split_once(' ').context("two ports")?;
    let publisher = Publisher::connect(publisher.parse()?, |payload| format!("{payload}\n").into_bytes(), false)?;
    let plan = audience(clients, "/");
    Ok(Rival { name: "broadcast", process, publisher, plan, _folder: None })
}

/// The process: tells its ports, and serves until it is ended.
///
/// # Errors
/// When it can't listen.
pub fn serve() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let (clients, publisher) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        println!("{} {}", clients.local_addr()?.port(), publisher.local_addr()?.port());
        let messages = Sender::new(1024);
        tokio::spawn(publish(publisher, messages.clone()));
        loop {
            let (socket, _) = clients.accept().await?;
            tokio::spawn(send_on(socket, messages.subscribe()));
        }
    })
}

async fn publish(listener: TcpListener, messages: Sender<Message>) -> Result<()> {
    let (socket, _) = listener.accept().await?;
    let mut lines = tokio::io::BufReader::new(socket).lines();
    while let Some(line) = lines.next_line().await? {
        // There may be no client, which is nobody's mistake.
        let _ = messages.send(Message::text(line));
    }
    Ok(())
}

async fn send_on(socket: TcpStream, mut messages: Receiver<Message>) -> Result<()> {
    socket.set_nodelay(true)?;
    let (_, mut socket) = ServerBuilder::new().accept(socket).await?;
    loop {
        tokio::select! {
            message = messages.recv() => socket.send(message?).await?,
            heard = socket.next() => if !matches!(heard, Some(Ok(_))) { return Ok(()) },
        }
    }
}
