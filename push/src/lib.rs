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
mod tree; // a persistent map, packed
pub mod rows; // a projection's rows, by key
pub mod record; // what an epoch changed
pub mod signal; // how a session hears that something concerns it
pub mod view; // what some clients see of a projection
pub mod window; // the first rows of a view in an order
pub mod route; // which views a change concerns
mod index; // where the rows are that have certain values
pub mod image; // all rows of a view, in pieces
pub mod viewer; // who looks, and what policies let them see
pub mod ask; // what a client asks of a projection, as far as it may see it
pub mod session; // what one client is owed; decides, and knows no socket
pub mod protocol; // what clients ask
pub mod wire; // what clients are sent
mod random; // numbers that nobody knows before
pub mod held; // what waits for sockets, in bytes
pub mod message; // one message, shared by all who are sent it
pub mod json; // rows as JSON, exact
pub mod serve; // hyper: the socket side of it all
pub mod metrics; // what operators watch
#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;

pub use hub::{Hub, Projection, ProjectionId};
pub use serve::{Health, ServeOptions, WithheldNow, serve};
