//! Measurements: `cargo xtask bench NAME`. Each ends with lines `figure NAME VALUE UNIT`.

mod commits; // changes at a rate
mod copy;
mod crowd; // many clients, in a process of their own
mod engine;
mod fanout;
mod filters;
#[cfg(feature = "kafka")]
mod kafka;
mod latency;
mod memory;
mod numbers;
mod process; // programs that a bench starts beside itself
mod rivals;

fn main() -> anyhow::Result<()> {
    let argument = |i| std::env::args().nth(i);
    match argument(1).as_deref() {
        Some("engine") => engine::run(),
        Some("latency") => latency::run(),
        Some("memory") => match argument(2) {
            // A process of its own, started by the one without this word.
            Some(holding) => memory::hold(&holding),
            None => memory::run(),
        },
        Some("copy") => copy::run(),
        Some("fanout") => fanout::run(argument(2).as_deref()),
        Some("filters") => filters::run(),
        Some("rivals") => rivals::run(),
        #[cfg(feature = "kafka")]
        Some("kafka") => kafka::run(argument(2).as_deref()),
        // Processes of their own, started by the others.
        Some("crowd") => crowd::run(&argument(2).unwrap_or_default()),
        Some("broadcast") => rivals::broadcast(),
        other => anyhow::bail!(
            "there is no bench `{}`; there are latency, engine, filters, memory, copy, fanout, kafka and rivals",
            other.unwrap_or_default()
        ),
    }
}
