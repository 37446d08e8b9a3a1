//! What can go wrong, and whose move it is.

use std::io;
use std::time::Duration;

use pipeline::Lsn;

/// Why a source stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection broke, or the server went away.
    #[error("connection to {server} lost")]
    Disconnected {
        /// Host and port.
        server: String,
        /// How.
        #[source]
        cause: io::Error,
    },
    /// Nothing was heard for too long.
    #[error("nothing heard from {server} for {silence:?}")]
    Silent {
        /// Host and port.
        server: String,
        /// For how long.
        silence: Duration,
    },
    /// The server refused.
    #[error("{server} refused: {message} (SQLSTATE {code}){}", detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}")))]
    Refused {
        /// Host and port.
        server: String,
        /// SQLSTATE.
        code: String,
        /// Its message.
        message: String,
        /// Its detail or hint.
        detail: Option<String>,
    },
    /// Something must be changed in the database or the project first.
    #[error("{what}")]
    NotReady {
        /// What stands in the way.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// A value that can't be taken without loss.
    #[error("column {column} of {table} holds {value}, which is no {wanted}")]
    BadValue {
        /// The table, as in Postgres.
        table: String,
        /// The column.
        column: String,
        /// The value, shortened.
        value: String,
        /// The type that it should be.
        wanted: String,
    },
    /// A table is no longer what it was when the source started.
    #[error("table {table} changed: {what}")]
    SchemaChanged {
        /// The table, as in Postgres.
        table: String,
        /// How.
        what: String,
    },
    /// Some of a table's partitions were emptied, and which of its rows those were is not told.
    #[error("some partitions of {table} were truncated")]
    PartitionTruncated {
        /// The table, as in Postgres.
        table: String,
    },
    /// The publication is gone; newer servers then leave rows out in silence.
    #[error("the server no longer knows the publication: {notice}")]
    PublicationGone {
        /// What the server said.
        notice: String,
    },
    /// The server said what the protocol does not allow, or we misread it.
    #[error("server sent {message} while {stage}")]
    PeerMisbehaved {
        /// What.
        message: String,
        /// When.
        stage: &'static str,
    },
    /// A transaction ended before the one it follows.
    #[error("a transaction ends at {end}, behind {last}")]
    WentBack {
        /// The last one's end.
        last: Lsn,
        /// This one's end.
        end: Lsn,
    },
}

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Connect again, waiting longer each time.
    Retry,
    /// Wait for the operator, with the remedy.
    Stop(String),
}

/// One table from error to response.
#[must_use]
pub fn response_to(error: &SourceError) -> Response {
    match error {
        SourceError::Disconnected { .. } | SourceError::Silent { .. } => Response::Retry,
        SourceError::Refused { code, .. } => response_to_sqlstate(code),
        SourceError::NotReady { remedy, .. } => Response::Stop(remedy.clone()),
        SourceError::BadValue { column, .. } => Response::Stop(format!(
            "declare the column in CREATE TABLE as `{column} TEXT` to take values as Postgres prints them, or with enough digits"
        )),
        SourceError::SchemaChanged { .. } => Response::Stop("adjust the project to the table, then restart".to_owned()),
        SourceError::PublicationGone { .. } => Response::Retry,
        // Starting over copies the tables, and only what differs goes on.
        SourceError::PartitionTruncated { .. } => Response::Retry,
        SourceError::PeerMisbehaved { .. } | SourceError::WentBack { .. } => {
            Response::Stop("please report this with the log".to_owned())
        }
    }
}

fn response_to_sqlstate(code: &str) -> Response {
    let stop = |remedy: &str| Response::Stop(remedy.to_owned());
    match code {
        "28P01" | "28000" => stop("check user, password and pg_hba.conf"),
        "3D000" => stop("check the name of the database in the url"),
        "42501" => stop("grant the missing permission: see docs/postgres.md"),
        "42P01" => stop("check the name of the table"),
        // Slots and senders used up; a server that starts or stops; a slot still in use.
        "53300" | "53400" | "55006" | "57P01" | "57P02" | "57P03" => Response::Retry,
        // Another of us made the publication at the same moment; a snapshot that is gone.
        "42710" | "XX000" | "22023" => Response::Retry,
        _ if code.starts_with("40") || code.starts_with("53") => Response::Retry,
        _ if code.starts_with("08") || code.starts_with("57") || code.starts_with("58") => Response::Retry,
        // A slot or publication that was dropped under us: start over with new ones.
        "42704" | "55000" => Response::Retry,
        _ => stop("see the server's message"),
    }
}

/// An error with its causes, each said once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        source = cause.source();
    }
    text
}
