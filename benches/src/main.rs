//! Measurements: `cargo xtask bench NAME`. Each ends with lines `figure NAME VALUE UNIT`.

mod copy;
mod engine;
mod filters;
mod latency;
mod memory;
mod numbers;
mod process; // programs that a bench starts beside itself

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("engine") => engine::run(),
        Some("latency") => latency::run(),
        Some("memory") => match std::env::args().nth(2) {
            // A process of its own, started by the one without this word.
            Some(holding) => memory::hold(&holding),
            None => memory::run(),
        },
        Some("copy") => copy::run(),
        Some("filters") => filters::run(),
        other => anyhow::bail!(
            "there is no bench `{}`; there are latency, engine, filters, memory and copy",
            other.unwrap_or_default()
        ),
    }
}
