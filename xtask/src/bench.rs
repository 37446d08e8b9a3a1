//! `cargo xtask bench`

use std::process::Command;

use anyhow::{Result, bail};
use xtask::{root, target_folder};

use crate::process::{cargo_on_all, run};

const BENCHES: [&str; 8] = ["latency", "engine", "filters", "memory", "copy", "fanout", "kafka", "rivals"];

/// Builds with full optimisation and measures.
///
/// # Errors
/// When there is no such bench, or it fails.
pub fn bench(what: &str, arguments: &[String]) -> Result<()> {
    if !BENCHES.contains(&what) {
        bail!("there is no bench `{what}`; there are {}", BENCHES.join(", "));
    }
    // The server too: what is measured from outside runs as it does for its users.
    run(cargo_on_all("build").args(["--release", "--bin", "benches", "--bin", "deltafront"]))?;
    let program = target_folder().join("release").join("benches");
    run(Command::new(program).current_dir(root()).arg(what).args(arguments))
}
