//! A real Kafka broker, and what stands around one.

mod client; // topics, producers and consumers of a test
mod broker; // what the other tests take for granted: the broker, the registry and Debezium themselves
mod sources; // topics as tables
mod sinks; // projections as topics
mod joined; // both in one query
mod formats; // what the bytes of messages mean
mod debezium; // a database read through Debezium, beside itself
mod killed; // a server that is killed
