//! Postgres: catalog, snapshot, and logical replication by `pgoutput`.

pub mod source; // one database: copy, stream, and again after a loss
pub mod options; // what a project says of a table, and which tables are read together
pub mod catalog; // tables as the database has them, and what stands in the way of reading them
pub mod publication; // what the server is asked to tell, and under whose name
pub mod connect; // sockets, TLS, sign-in
pub mod replication; // the replication connection: commands, frames, deadlines
pub mod snapshot; // the first copy, at the slot's consistent point
pub mod message; // the messages of pgoutput
pub mod decode; // messages into changes of our tables
pub mod text; // Postgres's text form of values into Arrow builders
pub mod error; // what can go wrong, and whose move it is

pub use catalog::{DiscoveredTable, TableRequest, discover};
pub use connect::Target;
pub use error::{Response, SourceError, chain, response_to};
pub use options::CONNECTOR;
