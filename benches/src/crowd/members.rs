//! The clients: one thread, a buffer for all, and of a frame no more looked at than its length and the
//! numbers of commits in it.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use memchr::{memchr, memmem};
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Heard, Plan, unix_nanos};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
const COMMAND: Token = Token(usize::MAX);
/// Clients that connect before what has come is read.
const CONNECTED_AT_ONCE: usize = 64;
/// How long all of them may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// The process: connects, says `ready`, and answers commands until there are no more.
///
/// # Errors
/// When a client can't connect, or is never ready.
pub fn run(plan: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(plan)?;
    let mut crowd = Members::connect(&plan)?;
    // Closed with its last owner, and what it told is forgotten then.
    let waker = Arc::new(Waker::new(crowd.poll.registry(), COMMAND)?);
    let commands = commands(Arc::clone(&waker));
    answer("ready");
    if !plan.reads {
        crowd.listen_no_more()?;
    }
    loop {
        crowd.turn(None)?;
        while let Ok(command) = commands.try_recv() {
            match command.as_str() {
                "begin" => {
                    crowd.heard = Heard::default();
                    answer("begun");
                }
                "told" => answer(&crowd.heard.told.to_string()),
                "end" => answer(&serde_json::to_string(&crowd.heard)?),
                _ => return Ok(()),
            }
        }
    }
}

fn answer(line: &str) {
    // Who asked may be gone, which the next command tells.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Lines of the standard input; an empty one at its end.
fn commands(waker: Arc<Waker>) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok).chain([String::new()]) {
            if tell.send(line).is_err() || waker.wake().is_err() {
                return;
            }
        }
    });
    told
}

struct Members {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    members: Vec<Member>,
    ready: usize,
    heard: Heard,
    plan: Plan,
}

struct Member {
    socket: mio::net::TcpStream,
    /// What came of a frame that has not come whole.
    partial: Vec<u8>,
    is_ready: bool,
    is_closed: bool,
}

impl Members {
    fn connect(plan: &Plan) -> Result<Members> {
        let mut crowd = Members {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            members: Vec::with_capacity(plan.clients),
            ready: 0,
            heard: Heard::default(),
            plan: plan.clone(),
        };
        for i in 0..plan.clients {
            let (socket, early) = open(plan, i).with_context(|| format!("client {i}"))?;
            let mut socket = mio::net::TcpStream::from_std(socket);
            crowd.poll.registry().register(&mut socket, Token(i), Interest::READABLE)?;
            let is_ready = plan.ready.is_empty();
            crowd.ready += usize::from(is_ready);
            crowd.members.push(Member { socket, partial: Vec::new(), is_ready, is_closed: false });
            crowd.take(i, &early)?;
            if i % CONNECTED_AT_ONCE == 0 {
                crowd.turn(Some(Duration::ZERO))?;
            }
        }
        let started = Instant::now();
        while crowd.ready < plan.clients {
            crowd.turn(Some(Duration::from_millis(100)))?;
            ensure!(crowd.heard.closed == 0, "a connection ended");
            ensure!(started.elapsed() < READY_TIMEOUT, "{} of {} clients are ready", crowd.ready, plan.clients);
        }
        Ok(crowd)
    }

    fn listen_no_more(&mut self) -> Result<()> {
        for member in &mut self.members {
            self.poll.registry().deregister(&mut member.socket)?;
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error.into()) };
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let read = events.iter().filter(|event| event.token() != COMMAND).try_for_each(|event| {
            let Token(i) = event.token();
            self.read(i)
        });
        self.events = events;
        read
    }

    fn read(&mut self, i: usize) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.members[i].socket.read(&mut buffer) {
                Ok(0) => self.close(i),
                Ok(bytes) => {
                    self.take(i, &buffer[..bytes])?;
                    // More than there was room for: only then is there more.
                    if bytes == buffer.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.close(i),
            }
            self.buffer = buffer;
            return Ok(());
        }
    }

    fn close(&mut self, i: usize) {
        let member = &mut self.members[i];
        if !std::mem::replace(&mut member.is_closed, true) {
            self.heard.closed += 1;
            let _ = self.poll.registry().deregister(&mut member.socket);
        }
    }

    fn take(&mut self, i: usize, bytes: &[u8]) -> Result<()> {
        let mut gathered = std::mem::take(&mut self.members[i].partial);
        let mut rest = bytes;
        if !gathered.is_empty() {
            gathered.extend_from_slice(bytes);
            rest = &gathered;
        }
        while let Some((opcode, payload, after)) = next_frame(rest) {
            match opcode {
                0..=2 => self.message(i, payload)?,
                8 => self.close(i),
                9 => self.members[i].socket.write_all(&masked(10, payload))?,
                _ => {}
            }
            rest = after;
        }
        self.members[i].partial = rest.to_vec();
        Ok(())
    }

    fn message(&mut self, i: usize, payload: &[u8]) -> Result<()> {
        let member = &mut self.members[i];
        if !member.is_ready {
            if memmem::find(payload, br#""op":"error""#).is_some() {
                bail!("a client is refused: {}", String::from_utf8_lossy(payload));
            }
            if memmem::find(payload, self.plan.ready.as_bytes()).is_some() {
                member.is_ready = true;
                self.ready += 1;
            }
            return Ok(());
        }
        let (now, half) = (unix_nanos(), (self.plan.clients as u64).div_ceil(2));
        let told = self.heard.told;
        let heard = &mut self.heard;
        numbers(payload, self.plan.column, |number| {
            heard.told += 1;
            let arrival = heard.commits.entry(number).or_default();
            arrival.clients += 1;
            arrival.last = now;
            if arrival.clients == half {
                arrival.half = now;
            }
        });
        if heard.told > told {
            heard.messages += 1;
            heard.bytes += payload.len() as u64;
            if heard.sample.is_empty() {
                heard.sample = String::from_utf8_lossy(payload).into_owned();
            }
        }
        Ok(())
    }
}

/// Shakes hands and sends the opening. Returns what came behind the answer too.
fn open(plan: &Plan, i: usize) -> Result<(TcpStream, Vec<u8>)> {
    let mut socket = TcpStream::connect(&plan.address)?;
    socket.set_nodelay(true)?;
    let Plan { address, path, .. } = plan;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let end = loop {
        let mut more = [0; 4096];
        let bytes = socket.read(&mut more)?;
        ensure!(bytes > 0, "the server closed");
        answer.extend_from_slice(&more[..bytes]);
        if let Some(end) = memmem::find(&answer, b"\r\n\r\n") {
            break end + 4;
        }
    };
    ensure!(answer.starts_with(b"HTTP/1.1 101"), "the server answers {}", String::from_utf8_lossy(&answer));
    for message in &plan.opening {
        let opcode = if plan.is_binary { 2 } else { 1 };
        socket.write_all(&masked(opcode, message.replace("{i}", &i.to_string()).as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    Ok((socket, answer.split_off(end)))
}

/// A client's frame. Its mask is of zeros, so the payload stands in it as it is.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The first frame of what came, if it has come whole: opcode, payload, what follows.
fn next_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match second & 0x7F {
        126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        length => (u64::from(length), rest),
    };
    let length = usize::try_from(length).ok()?;
    (rest.len() >= length).then(|| (first & 0x0F, &rest[..length], &rest[length..]))
}

/// Numbers of commits: of each row of an upsert the value in this column. There is no comma or bracket
/// in texts of benches.
fn numbers(message: &[u8], column: usize, mut each: impl FnMut(u64)) {
    const ROWS: &[u8] = br#""upsert":[["#;
    let mut rest = message;
    while let Some(at) = memmem::find(rest, ROWS) {
        rest = &rest[at + ROWS.len()..];
        while let Some(end) = memchr(b']', rest) {
            let value = rest[..end].split(|&byte| byte == b',').nth(column).unwrap_or_default();
            if let Some(number) = number(value) {
                each(number);
            }
            rest = &rest[end + 1..];
            match rest {
                [b',', b'[', more @ ..] => rest = more,
                _ => break,
            }
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_found_in_messages() {
        let found = |text: &str, column| {
            let mut found = Vec::new();
            numbers(text.as_bytes(), column, |number| found.push(number));
            found
        };
        assert_eq!(found(r#"{"diffs":[{"id":"a","upsert":[[7,12],[8,13]]}],"last":true}"#, 1), [12, 13]);
        assert_eq!(found(r#"{"upsert":[[7,"x",5,"1.0"]]}MSG 1{"upsert":[[8,"y",6,"1.0"]]}"#, 2), [5, 6]);
        assert!(found(r#"{"op":"heartbeat","epoch":3}"#, 1).is_empty());
    }

    #[test]
    fn frames_are_cut_where_they_end() {
        let bytes = [&[0x81, 2][..], b"hi", &[0x82, 126, 0, 3], b"abc", &[0x81, 5], b"12"].concat();
        let (opcode, payload, rest) = next_frame(&bytes).expect("a frame");
        assert_eq!((opcode, payload), (1, &b"hi"[..]));
        let (opcode, payload, rest) = next_frame(rest).expect("a frame");
        assert_eq!((opcode, payload), (2, &b"abc"[..]));
        assert!(next_frame(rest).is_none());
    }
}
