//! Projections to clients.
//!
//! ```text
//!  publish(epoch, diffs) ──► hub: rows, and a bounded log of diffs, each encoded once
//!                             ▲ ▲ ▲
//!                             │ │ └── session: a cursor into the log, no queue
//!                             │ └──── session          (decides; knows no socket)
//!                             └────── REST             serve: hyper, sockets, deadlines
//! ```
//!
//! A client that is slow holds nothing but its cursor: when its socket takes bytes again, what
//! changed since is merged by key and sent as one message. One that fell off the log is sent its
//! images anew, and told so.

pub mod hub; // what is served now, and how it came to be
pub mod session; // what one client is owed; decides, and knows no socket
pub mod protocol; // the messages of a session
pub mod message; // one text for clients, and its frames
pub mod json; // rows as JSON, exact
pub mod serve; // hyper: the socket side of it all
pub mod metrics; // what operators watch
#[cfg(test)]
mod testing;

pub use hub::{Hub, Projection, ProjectionId};
pub use message::Message;
pub use serve::{Health, ServeOptions, WithheldNow, serve};
