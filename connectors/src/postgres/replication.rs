//! The replication connection: commands, frames, deadlines.
//!
//! Two things are easy to get wrong here, and each loses a source in practice. Feedback must not
//! wait for a read (a 60 MB row over a slow link takes longer than `wal_sender_timeout`), nor for
//! our own reader being busy. And silence must end: a half-open socket says nothing for ever, so
//! the server is asked for a sign of life, and given up when none comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pgwire_replication::protocol::framing::{BackendMessage, MessageReader, write_copy_data, write_query};
use pgwire_replication::protocol::messages::ErrorFields;
use pgwire_replication::protocol::replication::{
    ReplicationCopyData, encode_standby_status_update, parse_copy_data, unix_to_pg_timestamp,
};
use pgwire_replication::tls::rustls::MaybeTlsStream;
use pipeline::Lsn;
use tokio::io::{AsyncRead, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::catalog::quote;
use super::connect::Target;
use super::error::SourceError;

/// How often the server hears how far we are. Well below any sensible `wal_sender_timeout`.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// After this much silence the server is asked for an answer.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// After this much silence the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A command that takes longer than this has no one at the other end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Creating a slot waits for every transaction that is open on the server. Giving up early would
/// leave a sender behind that holds a slot until they end, and the next try another.
const SLOT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the stream brings.
#[derive(Debug)]
pub enum Frame {
    /// A message of `pgoutput`.
    Data(Bytes),
    /// A sign of life.
    Keepalive {
        /// How far the server has sent its log.
        wal_end: Lsn,
        /// Whether it wants to hear from us now.
        reply_requested: bool,
    },
}

/// Whether frames are being read while a status is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Yes: silence is the server's.
    Goes,
    /// No, since what was read has no room yet.
    Paused,
}

/// A slot and the point from which it streams.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Transactions that commit after this come by the stream; those before are in the snapshot.
    pub consistent_point: Lsn,
    /// The snapshot to copy from, valid until the next command on this connection.
    pub snapshot: String,
}

/// A connection in replication mode.
pub struct Replication {
    target: Target,
    reader: MessageReader,
    read: Heard<ReadHalf<MaybeTlsStream>>,
    write: WriteHalf<MaybeTlsStream>,
    heard: Arc<AtomicU64>,
    started: Instant,
}

/// Notes when bytes last came, so that a long message counts as a sign of life while it arrives.
struct Heard<R> {
    inner: R,
    last_ms: Arc<AtomicU64>,
    started: Instant,
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.last_ms.store(millis(self.started.elapsed()), Ordering::Relaxed);
        }
        poll
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Replication {
    /// Connects and signs in.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub async fn connect(target: &Target) -> Result<Replication, SourceError> {
        let (socket, reader) = target.replication().await?;
        let (read, write) = tokio::io::split(socket);
        let heard = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let read = Heard { inner: read, last_ms: Arc::clone(&heard), started };
        Ok(Replication { target: target.clone(), reader, read, write, heard, started })
    }

    /// Creates a temporary slot, which goes with this connection, and exports the snapshot of its
    /// consistent point. Waits for transactions that are open on the server to end.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_temporary_slot(&mut self, name: &str) -> Result<Slot, SourceError> {
        let command = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')", quote(name));
        // Servers before 15 know only the older form.
        let row = match self.command(&command, SLOT_TIMEOUT).await {
            Err(SourceError::Refused { code, .. }) if code == "42601" => {
                self.command(
                    &format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", quote(name)),
                    SLOT_TIMEOUT,
                )
                .await?
            }
            answer => answer?,
        };
        let misbehaved =
            || SourceError::PeerMisbehaved { message: "no consistent point".to_owned(), stage: "creating a slot" };
        let [_, Some(point), Some(snapshot), ..] = &row[..] else { return Err(misbehaved()) };
        let consistent_point = point.parse().map_err(|_| misbehaved())?;
        Ok(Slot { name: name.to_owned(), consistent_point, snapshot: snapshot.clone() })
    }

    /// Starts streaming. From here on only [`Replication::next`] and [`Replication::send_status`].
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn start(&mut self, slot: &Slot, publication: &str) -> Result<(), SourceError> {
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            quote(&slot.name),
            slot.consistent_point,
            super::catalog::quote_literal(&quote(publication)),
        );
        write_query(&mut self.write, &command).await.map_err(|error| self.target.lost(io::Error::other(error)))?;
        loop {
            let message = self.answer(ANSWER_TIMEOUT).await?;
            match message.tag {
                b'W' => return Ok(()),
                b'E' => return Err(self.target.refused(&message.payload)),
                b'N' => self.notice(&message)?,
                _ => {}
            }
        }
    }

    /// Runs a command and returns the first row of its answer.
    async fn command(&mut self, command: &str, limit: Duration) -> Result<Vec<Option<String>>, SourceError> {
        write_query(&mut self.write, command).await.map_err(|error| self.target.lost(io::Error::other(error)))?;
        let mut row = Vec::new();
        let mut refused = None;
        loop {
            let message = self.answer(limit).await?;
            match message.tag {
                b'D' if row.is_empty() => row = data_row(&message.payload),
                b'E' => refused = Some(self.target.refused(&message.payload)),
                b'Z' => break,
                _ => {}
            }
        }
        refused.map_or(Ok(row), Err)
    }

    async fn answer(&mut self, limit: Duration) -> Result<BackendMessage, SourceError> {
        match timeout(limit, self.reader.read(&mut self.read)).await {
            Ok(message) => message.map_err(|error| self.target.lost(io::Error::other(error))),
            Err(_) => Err(SourceError::Silent { server: self.target.server(), silence: limit }),
        }
    }

    /// The next frame of the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection broke, or the server ended the stream.
    pub async fn next(&mut self) -> Result<Frame, SourceError> {
        loop {
            let message =
                self.reader.read(&mut self.read).await.map_err(|error| self.target.lost(io::Error::other(error)))?;
            match message.tag {
                b'd' => {
                    let data = parse_copy_data(message.payload).map_err(|error| SourceError::PeerMisbehaved {
                        message: error.to_string(),
                        stage: "streaming",
                    })?;
                    return Ok(match data {
                        ReplicationCopyData::XLogData { data, .. } => Frame::Data(data),
                        ReplicationCopyData::KeepAlive { wal_end, reply_requested, .. } => {
                            Frame::Keepalive { wal_end: Lsn(wal_end.0), reply_requested }
                        }
                    });
                }
                b'E' => return Err(self.target.refused(&message.payload)),
                b'N' => self.notice(&message)?,
                b'c' => {
                    return Err(self
                        .target
                        .lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the stream")));
                }
                _ => {}
            }
        }
    }

    /// Postgres 18 leaves rows out and says so only in a notice when a publication is gone.
    fn notice(&self, message: &BackendMessage) -> Result<(), SourceError> {
        let text = ErrorFields::parse(&message.payload).message.unwrap_or_default();
        if text.contains("publication") {
            return Err(SourceError::PublicationGone { notice: text });
        }
        tracing::warn!(server = self.target.server(), notice = text, "the server has a notice");
        Ok(())
    }

    /// Tells the server that the log up to `durable` is not needed any more. Asks for an answer
    /// when the server has been quiet.
    ///
    /// # Errors
    /// When the server has been silent for too long, or the connection broke.
    pub async fn send_status(&mut self, durable: Lsn, reading: Reading) -> Result<(), SourceError> {
        if reading == Reading::Paused {
            // Who does not read can't tell silence from a full socket.
            self.heard.store(millis(self.started.elapsed()), Ordering::Relaxed);
        }
        let silence = self.started.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)));
        if silence > SILENCE_MAX {
            return Err(SourceError::Silent { server: self.target.server(), silence });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = unix_to_pg_timestamp(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        let status = encode_standby_status_update(pgwire_replication::Lsn(durable.0), now, silence > QUIET_MAX);
        match timeout(SILENCE_MAX, write_copy_data(&mut self.write, &status)).await {
            Ok(sent) => sent.map_err(|error| self.target.lost(io::Error::other(error))),
            Err(_) => Err(SourceError::Silent { server: self.target.server(), silence: SILENCE_MAX }),
        }
    }
}

/// The texts of a DataRow.
fn data_row(payload: &[u8]) -> Vec<Option<String>> {
    let mut rest = payload.get(2..).unwrap_or_default();
    let mut row = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                row.push(None);
                rest = after;
            }
            Ok(length) => {
                let Some((value, after)) = after.split_at_checked(length) else { break };
                row.push(Some(String::from_utf8_lossy(value).into_owned()));
                rest = after;
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_texts() {
        assert_eq!(
            data_row(b"\0\x03\0\0\0\x01a\xFF\xFF\xFF\xFF\0\0\0\0"),
            [Some("a".to_owned()), None, Some(String::new())]
        );
        assert_eq!(data_row(b"\0\x01\0\0\0\x09a"), []);
        assert_eq!(data_row(b""), []);
    }
}
