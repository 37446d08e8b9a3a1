//! End to end: a real Postgres, the server, and WebSocket clients.

mod answers; // what a client accumulates is what Postgres answers
mod atomic; // transactions are atomic to the eye
mod changes; // keys, large values, truncation, whole-row identity
mod generator; // rows that are made up
mod handover; // from the copy to the stream
mod http; // REST, health, metrics
mod mistakes; // databases that can't be read, and data that can't be served
mod partitions; // a table several times, a partition beside its root
mod policies; // who sees what
mod recover; // lost connections
mod socket; // what clients should not send
mod sources; // what the server makes of what sources tell
mod types; // every type, from snapshot and from stream, to JSON
