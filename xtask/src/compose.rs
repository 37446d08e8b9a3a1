//! `cargo xtask test compose`

use anyhow::Result;

use crate::process::{cargo_on_all, run};

/// Builds the image, brings compose up, and watches a change come through. Needs a Docker engine
/// (`DOCKER_HOST` is heeded).
///
/// # Errors
/// When no engine answers, or a step fails.
pub fn test() -> Result<()> {
    run(cargo_on_all("test").args(["--test", "compose", "--", "--ignored", "--nocapture"]))
}
