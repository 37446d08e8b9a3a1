//! What can go wrong, and whose move it is.

use std::error::Error;

use fluvio::FluvioError;
use fluvio::dataplane::link::ErrorCode;

use crate::source::Problem;

/// Why something was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It passes.
    #[error("{0}")]
    Passing(String),
    /// There is no such topic, or no such partition of it.
    #[error("there is no such topic now")]
    NoTopic,
    /// The topic was deleted while it was read.
    #[error("the topic was deleted")]
    Deleted,
    /// What was asked for is not kept any more.
    #[error("the oldest record is {next} now")]
    Evicted {
        /// The oldest that is.
        next: i64,
    },
    /// What was asked for is behind the end of the partition.
    #[error("the partition ends before this place")]
    Beyond,
    /// The operator's move.
    #[error("{error}")]
    Refused {
        /// Why.
        error: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl Failure {
    /// What an error of the client comes to: the first in its chain that says something.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Failure {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(code) = error.downcast_ref::<ErrorCode>() {
                return Failure::from(code);
            }
            match error.downcast_ref::<FluvioError>() {
                Some(FluvioError::TopicNotFound(_) | FluvioError::PartitionNotFound(..)) => return Failure::NoTopic,
                Some(error @ FluvioError::MinimumPlatformVersion { .. }) => {
                    let remedy = "upgrade the cluster";
                    return Failure::Refused { error: error.to_string(), remedy };
                }
                _ => cause = error.source(),
            }
        }
        Failure::Passing(error.to_string())
    }
}

/// One table from what a server says to what it means for us.
impl From<&ErrorCode> for Failure {
    fn from(code: &ErrorCode) -> Failure {
        match code {
            ErrorCode::OffsetEvicted { next_available, .. } => Failure::Evicted { next: *next_available },
            ErrorCode::OffsetOutOfRange => Failure::Beyond,
            // Servers of 0.50 have no code for it. One that says it in other words is trouble, no loss.
            ErrorCode::Other(text) if text.contains("is greater than leo") => Failure::Beyond,
            ErrorCode::TopicDeleted => Failure::Deleted,
            ErrorCode::TopicNotFound => Failure::NoTopic,
            ErrorCode::PermissionDenied => {
                Failure::Refused { error: code.to_string(), remedy: "let the user read and write the topic" }
            }
            ErrorCode::MessageTooLarge => Failure::Refused {
                error: code.to_string(),
                remedy: "raise the topic's max batch size, or write smaller rows",
            },
            code => Failure::Passing(code.to_string()),
        }
    }
}

/// What is wrong before anything is read or written, and what to do.
#[must_use]
pub fn problem(table: &str, topic: &str, endpoint: &str, failure: &Failure) -> Problem {
    let (what, remedy) = match failure {
        Failure::NoTopic | Failure::Deleted => {
            (format!("{endpoint} has no topic `{topic}`"), "make the topic, or check its name")
        }
        Failure::Refused { error, remedy } => (format!("{endpoint}: {error}"), *remedy),
        failure => (
            format!("no Fluvio cluster answers at {endpoint}: {failure}"),
            "start the cluster, or check the endpoint (its controller's public address, usually port 9003) and the tls options; `check --offline` asks nobody",
        ),
    };
    Problem { table: Some(table.to_owned()), what, remedy: remedy.to_owned() }
}
